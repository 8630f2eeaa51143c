"""Finding a model: a folder, a file, or a name on a hub."""

from __future__ import annotations

import re
from pathlib import Path

from autograd.escape import brief
from autograd.reading import SMALL, read_json
from npgpt.errors import UserError
from npgpt.models.config import ModelConfig
from npgpt.models.registry import ARCHITECTURES
from npgpt.weights.release import is_release, release_config


def find_model(source: str | Path) -> Path:
    """Return the folder or file of a model.

    Parameters
    ----------
    source : str or Path
        A folder, a ``.safetensors`` file, or a name on the Hugging Face hub. A model of the hub is
        downloaded, or taken from the hub's cache on this machine.

    Raises
    ------
    UserError
        If there is no such folder or file, and no such name on the hub, or the package
        huggingface_hub is not installed.
    """
    path, name = Path(source), str(source)
    expected = f"{name or repr(name)} is no folder with a model (config.json and model.safetensors)"
    if name and path.is_dir() or path.suffix == ".safetensors" and path.is_file():
        return path
    if path.exists() or path.suffix == ".safetensors":
        raise UserError(expected)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or ("/" in name and path.parent.is_dir()):
        raise UserError(expected)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{name} is no folder with a model; to look for a model of this name on the Hugging "
            "Face hub: pip install 'npgpt[hub]'"
        ) from None
    files = ["config.json", "generation_config.json", "model.safetensors",
             "model.safetensors.index.json", "model-*.safetensors", "vocab.json", "merges.txt",
             "tokenizer*.json", "added_tokens.json", "special_tokens_map.json",
             "chat_template.jinja"]  # fmt: skip
    try:  # the library falls back on its cache without a network
        return Path(snapshot_download(name, allow_patterns=files))
    except Exception as error:  # the library's own errors, and those of its network libraries
        raise UserError(
            f"{name} is no folder with a model, and neither the Hugging Face hub nor its cache on "
            f"this machine gave a model of that name ({type(error).__name__})"
        ) from None


def find_config(path: Path) -> ModelConfig:
    """Return the configuration of the model in a folder, or beside a file; see `find_model`."""
    if is_release(path):
        return release_config(path)
    if path.is_dir() and not (path / "config.json").exists():
        raise UserError(f"{path} is no folder with a model (it has no config.json)")
    return load_config(path if path.is_dir() else path.parent)


def load_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` from a folder."""
    path = folder / "config.json"
    values = read_json(path, limit=SMALL)
    model_type = values.get("model_type", "gpt2")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = " or ".join(repr(each) for each in ARCHITECTURES if each != "npgpt")
        raise UserError(f"{path} is of a {brief(model_type)} model; expected {known}")
    try:
        return ARCHITECTURES[model_type].config.from_dict(values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error!s:.400}") from None
