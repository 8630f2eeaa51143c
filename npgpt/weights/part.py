"""A part of a model in a file: the parameters that a run has trained beside frozen weights.

A run that trains LoRA's matrices, the head or the last layers leaves all other weights as they are
in the model with which it began, its *base*. So the folder of the run has ``trained.safetensors``
in the place of ``model.safetensors``. The file holds the trained parameters alone, and says where
the base is and which hash its weights have. The base is read again when the part is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from autograd.escape import brief
from autograd.files import write_tensors
from autograd.reading import hash_file, parse_json, read_tensors
from autograd.schema import FileName, fit
from npgpt.errors import UserError
from npgpt.hub import PART, find_base, find_model, is_adapter, is_part
from npgpt.models.config import ModelConfig
from npgpt.models.gpt import GPT
from npgpt.models.lora import LoraConfig, remove_lora
from npgpt.models.registry import architecture_of
from npgpt.module import unallocated
from npgpt.weights.adapters import WEIGHTS, add_lora
from npgpt.weights.packed import PackedEmbedding, PackedGPT, PackedLinear, repack
from npgpt.weights.vocabulary import resize_token_embeddings


@dataclass
class Base:
    """The model with which a run began, to be found again.

    Attributes
    ----------
    name : str
        What the run's configuration calls it: a name, a folder or a file.
    path : str
        Where it was, as an absolute path.
    sha256 : str
        The hash of its weights (`hash_weights`).
    """

    name: FileName
    path: FileName
    sha256: str

    @classmethod
    def of(cls, name: str) -> Base:
        """Return the base of a run that begins with the model of this name."""
        path = find_model(name).absolute()
        return cls(name, str(path), hash_weights(path))

    def find(self) -> Path:
        """Return the folder or file of the model.

        Raises
        ------
        UserError
            If it is not there any more, or has other weights.
        """
        what = f"the model {self.name}, of which only a part was trained and saved"
        path = Path(self.path)
        if not path.exists():
            try:
                path = find_model(self.name)
            except UserError:
                raise UserError(
                    f"{what}, is not there any more: put it back at {self.path}"
                ) from None
        if hash_weights(path) != self.sha256:
            raise UserError(
                f"{what}, was changed: {path} has other weights than when the training began. Put "
                "the old ones back, or train again"
            )
        return path


def hash_weights(path: Path) -> str:
    """Return the SHA-256 of the hashes of all files with the weights of a model."""
    digest = hashlib.sha256()
    for file in weight_files(path):
        digest.update(hash_file(file).encode())
    return digest.hexdigest()


def weight_files(path: Path) -> list[Path]:
    """Return the files with the weights of a model: a file, or those in a folder."""
    if path.is_file():
        return [path]
    if is_adapter(path):
        return [path / WEIGHTS, *weight_files(find_base(path))]
    if is_part(path):
        return [path / PART]  # with the hash of its base in it
    return sorted(path.glob("model*.safetensors")) or sorted(path.glob("params_*.npy"))


def save_part(model: GPT, base: Base, path: Path) -> None:
    """Write the parameters of a model that are trained, with what `load_part` needs besides."""
    metadata = {"format": "pt", "base": json.dumps(asdict(base))}
    if model.lora_config is not None:
        metadata["lora"] = json.dumps(asdict(model.lora_config))
    tensors = {n: p.numpy() for n, p in model.named_parameters() if p.requires_grad}
    write_tensors(path, tensors, metadata)


def load_part(
    folder: Path, config: ModelConfig, load_base: Callable[[Path, ModelConfig], GPT]
) -> GPT:
    """Return the whole model of a folder with a part, with LoRA's changes in its weights.

    If the base has packed weights, which can hold no change, LoRA's matrices stay beside them.

    Parameters
    ----------
    folder : Path
    config : ModelConfig
        That of the whole model.
    load_base : callable
        Loads the base from its path, for a model of a configuration.

    Raises
    ------
    UserError
        If the part is damaged, or its base was lost or changed.
    """
    path = folder / PART
    tensors, found, lora = read_part(path)
    base = load_base(found.find(), config)
    model = refit(base, config)
    if lora is not None:
        add_lora(model, lora)
    put(model, tensors, path, model.state_dict().keys() - base.state_dict().keys())
    if not isinstance(model, PackedGPT):
        model = remove_lora(model)
    model.eval()
    return model


def read_part(path: Path) -> tuple[dict[str, ndarray], Base, LoraConfig | None]:
    """Return the parameters in a file, their base, and how LoRA is configured if there is any."""
    tensors, metadata = read_tensors(path)
    try:
        if "base" not in metadata:
            raise UserError("it does not name the model that it is a part of")
        base = fit(parse_json(metadata["base"], "base"), Base, "base")
        lora = None
        if "lora" in metadata:
            lora = LoraConfig(**fit(parse_json(metadata["lora"], "lora"), dict, "lora"))
    except (UserError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return tensors, base, lora


def with_bases(path: Path) -> list[Path]:
    """Return the path of a model, and the paths of all models that it is a part of."""
    found = [path]
    while is_part(found[-1]):
        found.append(read_part(found[-1] / PART)[1].find())
    return found


def put(model: GPT, tensors: dict[str, ndarray], path: Path, needed: Collection[str]) -> None:
    """Put the tensors of a file into a model; refuse others, and a file without those needed."""
    parameters = dict(model.named_parameters())
    for name in sorted({*needed} - tensors.keys()):
        raise UserError(f"{path} lacks {brief(name)}")
    for name, array in tensors.items():
        if name not in parameters or parameters[name].shape != array.shape:
            raise UserError(
                f"{path}: {brief(name)} with shape {list(array.shape)} does not fit the model"
            )
        parameters[name].data = array.astype(parameters[name].dtype, copy=False)


def refit(base: GPT, config: ModelConfig) -> GPT:
    """Return a model of a configuration with the weights of another, packed if those are.

    Parameters
    ----------
    base : GPT
        Without LoRA's matrices. Its arrays are not copied.
    config : ModelConfig
        It may have other labels, fewer positions or (if no weight is packed) more tokens.

    Returns
    -------
    GPT
        Heads that `base` does not have are zeros.
    """
    dtype = base.parameters()[0].dtype
    with unallocated():
        model = architecture_of(config).model(config, dtype=dtype)
    matrices = {
        name: module.weight
        for name, module in base.named_modules()
        if isinstance(module, PackedLinear | PackedEmbedding)
    }
    shapes = {
        name: parameter.shape
        for name, parameter in model.named_parameters()
        if name.removesuffix(".weight") not in matrices
    }
    state = {name: np.zeros(shape, dtype) for name, shape in shapes.items()}
    model.adopt_state_dict(
        state | fitted_state(base, config, shapes),
        {f"{name}.weight" for name in matrices},
    )
    if matrices:
        names = {module: name for name, module in model.named_modules()}
        model = repack(model, lambda module: matrices.get(names[module]), PackedGPT)
    model.generation_config = base.generation_config
    return model


def fitted_state(base: GPT, config: ModelConfig, names: Collection[str]) -> dict[str, ndarray]:
    """Return the parameters of a model for one of another configuration, as far as it has them.

    Parameters
    ----------
    base : GPT
    config : ModelConfig
        See `refit`.
    names : collection of str
        The names of parameters that are wanted.
    """
    if config.vocab_size > base.config.vocab_size:
        base = resize_token_embeddings(base, config.vocab_size)
    state = base.state_dict()
    table = "transformer.wpe.weight"
    if table in state:  # a shorter context than that of `base`: the first positions only
        state[table] = state[table][: config.n_positions]
    has_own_head = config.labels != base.config.labels
    return {
        name: array
        for name, array in state.items()
        if name in names and not (has_own_head and name.startswith("label_head."))
    }
