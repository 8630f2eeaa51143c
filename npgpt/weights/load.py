"""Weights in and out: folders as Hugging Face writes them, OpenAI's GPT-1, and our runs.

Before any weight is read, names, shapes, types and the layout of the file are checked against the
configuration. Float32 weights are then mapped into memory, not copied: a page of the file is read
when it is first used, and a change to a parameter never reaches the file.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from autograd.escape import brief
from autograd.files import read_together, remove, together, write_json, write_tensors
from autograd.reading import SMALL, read_json
from npgpt.errors import UserError
from npgpt.generation.options import options_in_config
from npgpt.hub import (
    PART,
    find_base,
    find_config,
    find_model,
    is_adapter,
    is_part,
    load_config,
    make_config,
)
from npgpt.models.config import ModelConfig
from npgpt.models.gpt import GPT
from npgpt.models.lora import adapted_layers, merged_state, remove_lora
from npgpt.models.registry import architecture_of
from npgpt.module import unallocated
from npgpt.weights.adapters import load_adapter
from npgpt.weights.gguf import open_gguf
from npgpt.weights.gguf_model import name_tensors, read_config, read_token_ids
from npgpt.weights.names import fitted, implied, renamed
from npgpt.weights.packed import PackedGPT, pack_stored
from npgpt.weights.part import load_part
from npgpt.weights.release import is_release, open_release
from npgpt.weights.safetensors import Index, Stored, open_safetensors


def load_model(
    source: str | Path,
    *,
    config: ModelConfig | None = None,
    mapping: Mapping[str, str] | None = None,
    dtype: DTypeLike = np.float32,
    packed: bool = False,
) -> GPT:
    """Make the model that a folder, a file or a name stands for, ready to use: dropout is off.

    Parameters
    ----------
    source : str or Path
        A folder in Hugging Face's layout (``config.json`` and ``model.safetensors``, or several
        files and their index) of a GPT-2 or GPT-1, a run folder (also one with only the part of a
        model that was trained, see `npgpt.weights.part`), OpenAI's GPT-1 release
        (``params_shapes.json`` and ``params_*.npy``), LoRA's matrices in peft's format
        (``adapter_config.json``, which names the model that they change), one ``.safetensors``
        file, a ``.gguf`` file, the name of a model that ``npgpt models add`` has added, or the name
        of a model on the Hugging Face hub.
    config : ModelConfig, optional
        Instead of the source's own ``config.json``.
    mapping : mapping of str to str, optional
        For files with other names than those of the architecture (see `npgpt.models.registry`): a
        parameter's name here, and its name in the file, with ``.T`` at the end if the file has the
        matrix transposed. A ``*`` stands for anything, the same in both names. A parameter that the
        mapping does not name keeps its name. `npgpt.weights.names.MINGPT` is such a mapping.
    dtype : dtype_like
        The dtype of the parameters; the file may hold float16, bfloat16, float32 or float64.
    packed : bool
        Whether matrices with rows of few bits stay as the file has them: see
        `npgpt.weights.packed`. Such a model needs less memory and writes faster, and computes the
        same but for rounding. Of such a model, only LoRA's matrices can be trained. All else is in
        `dtype`, which must be float32.

    Returns
    -------
    GPT
        Of the class that the registry has for the ``model_type`` of the configuration. With
        `packed`, a `PackedGPT` if the file has a matrix that can stay packed.

    Raises
    ------
    UserError
        If a file or a tensor is missing, damaged or does not fit the configuration. The message
        names what does not fit, and nothing is loaded.

    Examples
    --------
    >>> import tempfile
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save_pretrained(folder)
    ...     GPT.from_pretrained(folder).n_parameters() == model.n_parameters()
    True
    """
    if is_adapter(path := find_model(source)):
        base = load_model(
            find_base(path), config=config, mapping=mapping, dtype=dtype, packed=packed
        )
        return load_adapter(base, path)
    if is_part(path):

        def load_whole() -> GPT:
            return load_part(
                path, config or load_config(path),
                lambda base, whole: load_base(base, whole, packed, mapping=mapping, dtype=dtype),
            )  # fmt: skip

        model = read_together(path, _is_of_model, load_whole)
        model.generation_config = read_generation_config(path, is_own=config is None)
        return model
    model, tensors, what = fit_model(path, config=config, mapping=mapping, dtype=dtype)

    def fill(but: Collection[str] = ()) -> None:
        model.adopt_state_dict(
            {name: t.read(dtype) for name, t in tensors.items() if name not in but}, but
        )

    try:
        if packed and np.dtype(dtype) == np.float32:
            return pack_stored(model, tensors, fill)
        fill()
    except ValueError as error:
        raise UserError(f"{what} does not fit its configuration: {error}") from None
    return model


def load_base(path: Path, config: ModelConfig, packed: bool, **options: Any) -> GPT:
    """Return the model that another of a configuration begins with, without LoRA's matrices.

    With `packed`, its weights stay packed unless they must change: for LoRA's change of an earlier
    run, for more tokens, or for a head of labels, which is trained. `options` are those of
    `load_model`.
    """
    base = load_model(path, packed=packed, **options)
    if isinstance(base, PackedGPT):
        has_room = config.vocab_size <= base.config.vocab_size
        if has_room and not base.config.labels and not any(adapted_layers(base)):
            return base
        base = load_model(path, **options)
    return remove_lora(base)


def fit_model(
    source: str | Path,
    *,
    config: ModelConfig | None = None,
    mapping: Mapping[str, str] | None = None,
    dtype: DTypeLike = np.float32,
) -> tuple[GPT, dict[str, Stored], str]:
    """Return the model of `load_model` without memory, its tensors, and the path for messages.

    No tensor is read. Names and shapes are checked as `load_model` checks them.
    """
    path = find_model(source)
    config, tensors, what, defaults = read_model(path, config)
    if config.n_layer > FEW:  # before a model of so many layers is made
        needed = config.n_layer * count_of_layer(config)
        if needed > len(tensors):
            raise UserError(
                f"{what} has {len(tensors)} tensors, too few for the {config.n_layer} layers of "
                f"its configuration, which have {needed:,}"
            )
    try:
        with unallocated():
            model = architecture_of(config).model(config, dtype=dtype)
        tensors = fitted(model, tensors, mapping or {})
        model.check_shapes({name: tensor.shape for name, tensor in tensors.items()})
    except ValueError as error:
        raise UserError(f"{what} does not fit its configuration: {error}") from None
    model.eval()
    model.generation_config = defaults
    return model, tensors, what


FEW = 100  # a model of so many layers is quickly made


def count_of_layer(config: ModelConfig) -> int:
    """Return the number of parameters, each of them an array, that one layer has."""
    with unallocated():
        model = architecture_of(config).model(dataclasses.replace(config, n_layer=1))
    layers = model.transformer.first_layers()
    return sum(1 for layer in layers for _ in layer.named_parameters())


def read_model(
    path: Path, config: ModelConfig | None = None
) -> tuple[ModelConfig, dict[str, Stored], str, dict[str, Any]]:
    """Return what a folder or a file holds, of whatever layout.

    Parameters
    ----------
    path : Path
    config : ModelConfig, optional
        Instead of that of the folder or file.

    Returns
    -------
    tuple
        The configuration, the tensors by their names in Hugging Face's files, the path for
        messages, and the defaults of generation.
    """
    if path.suffix == ".gguf":
        file = open_gguf(path)
        fields = read_config(file)
        config = config or make_config(fields, path)
        return config, name_tensors(file, fields), str(path), read_token_ids(file)
    folder = path if path.is_dir() else path.parent

    def opened() -> tuple[ModelConfig, dict[str, Stored], str, dict[str, Any]]:
        found = read_generation_config(folder, is_own=config is None)
        return config or find_config(path), *open_weights(path), found

    return read_together(folder, _is_of_model, opened)


def read_generation_config(folder: Path, is_own: bool = True) -> dict[str, Any]:
    """Read ``generation_config.json``, the defaults of generation; empty if there is no such file.

    Older models have these options in ``config.json``. It counts unless the model is loaded with
    another configuration than its own.
    """
    if (path := folder / "generation_config.json").is_file():
        return read_json(path, limit=SMALL)
    if is_own and (path := folder / "config.json").is_file():
        return options_in_config(read_json(path, limit=SMALL))
    return {}


def _is_of_model(name: str) -> bool:
    """Return whether a file of this name is one of those that are written together."""
    return name in ("config.json", "generation_config.json", "model.safetensors", PART)


def save_pretrained(model: GPT, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` to a folder, made if it is not there.

    transformers loads the folder and computes the same, if it has such a model
    (`GPTConfig.hugging_face`). For this, biases that the model does not have are written as zeros,
    and sinusoidal positions as a table. A weight that its layer uses in another form, such as
    rounded to 4 bits, is written in this form. ``model.generation_config`` is written to
    ``generation_config.json``.
    """
    if any(adapted_layers(model)):
        raise UserError(
            "the model has LoRA's matrices apart from its weights: write these alone with "
            "npgpt.weights.adapters.save_adapter, or put them into the weights first, with "
            "npgpt.models.lora.remove_lora"
        )
    folder = Path(folder)
    tensors = merged_state(model)
    if model.config.model_type in model.config.hugging_face:
        tensors |= {name: make() for name, (_, make) in implied(model).items()}
    tensors = renamed(tensors, architecture_of(model.config).names)
    with together(folder):
        save_config(model.config, folder)
        save_generation_config(model, folder)
        write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})


def save_weights(model: GPT, path: Path) -> None:
    """Write a model's parameters to a safetensors file, with LoRA's changes in the weights."""
    write_tensors(path, merged_state(model), {"format": "pt"})


def save_config(config: ModelConfig, folder: Path) -> None:
    """Write ``config.json`` to a folder."""
    write_json(folder / "config.json", config.to_dict(), indent=2)


def save_generation_config(model: GPT, folder: Path) -> None:
    """Write ``generation_config.json`` to a folder; remove it if the model has no defaults."""
    path = folder / "generation_config.json"
    if model.generation_config:
        write_json(path, model.generation_config, indent=2)
    else:
        remove(path)


def open_weights(path: Path) -> tuple[dict[str, Stored], str]:
    """Return the tensors of a file or of a folder's files, and the path for messages."""
    index = path / "model.safetensors.index.json"
    if is_release(path):
        return open_release(path), str(path)
    if is_part(path):
        raise UserError(
            f"{path} holds only the part of a model that was trained ({PART}): npgpt export writes "
            "a folder with the whole model"
        )
    if path.is_file():
        return dict(open_safetensors(path)), str(path)
    if (path / "model.safetensors").is_file() or not index.is_file():
        if (path / "pytorch_model.bin").is_file() and not (path / "model.safetensors").is_file():
            raise UserError(
                f"{path} holds pytorch_model.bin only, a pickle: to load it would be to run what "
                "is in it. Save it as safetensors with transformers (save_pretrained)"
            )
        return dict(open_safetensors(path / "model.safetensors")), f"{path / 'model.safetensors'}"
    where = read_json(index, Index, SMALL)["weight_map"]
    tensors: dict[str, Stored] = {}
    for file in sorted(set(where.values())):
        if Path(file).name != file or "\\" in file or "\0" in file:
            raise UserError(f"{index} names {brief(file)}, which is not a file beside it")
        for name, tensor in open_safetensors(path / file).items():
            if where.get(name) != file:
                raise UserError(f"{path / file} holds {name}, which {index.name} does not say")
            tensors[name] = tensor
    for name in where:
        if name not in tensors:
            raise UserError(f"{path / where[name]} does not hold {name}, as {index.name} says")
    return tensors, str(index)


def __getattr__(name: str) -> Any:
    if name == "load_pretrained":
        warnings.warn("load_pretrained is now load_model", DeprecationWarning, stacklevel=2)
        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
