"""Models in folders: ``config.json`` and ``model.safetensors``, in Hugging Face's layout."""

from __future__ import annotations

import json
from pathlib import Path

from npgpt.config import GPTConfig
from npgpt.errors import UserError
from npgpt.files import read_json, read_tensors, write_tensors, write_text
from npgpt.model import GPT


def save_config(config: GPTConfig, folder: Path) -> None:
    """Write ``config.json`` to a folder."""
    write_text(folder / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")


def load_config(folder: Path) -> GPTConfig:
    """Read ``config.json`` from a folder."""
    path = folder / "config.json"
    values = read_json(path)
    if values.get("model_type", "gpt2") != "gpt2":
        raise UserError(f"{path} is of a {values['model_type']!r} model; expected 'gpt2'")
    try:
        return GPTConfig.from_dict(values)
    except (UserError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None


def save_weights(model: GPT, path: Path) -> None:
    """Write a model's parameters to a safetensors file."""
    write_tensors(path, model.state_dict(), {"format": "pt"})


def load_weights(model: GPT, path: Path) -> None:
    """Read a model's parameters; all of them, or the model stays as it was."""
    tensors, _ = read_tensors(path)
    try:
        model.load_state_dict(tensors)
    except ValueError as error:
        raise UserError(f"{path} does not fit its config.json: {error}") from None


def save_pretrained(model: GPT, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` to a folder, made if it is not there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(model.config, folder)
    save_weights(model, folder / "model.safetensors")


def load_pretrained(folder: str | Path) -> GPT:
    """Make the model that a folder holds, ready to use: dropout is off."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder with a model (config.json and model.safetensors)")
    model = GPT(load_config(folder))
    load_weights(model, folder / "model.safetensors")
    model.eval()
    return model
