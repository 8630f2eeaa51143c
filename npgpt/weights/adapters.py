"""LoRA's matrices added to a model, and read and written as peft does it.

A folder in peft's format holds ``adapter_config.json`` (the rank, the layers, and the name of the
model that is changed) and ``adapter_model.safetensors`` (the matrices).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import no_grad
from autograd.escape import brief
from autograd.files import together, write_json, write_tensors
from autograd.reading import SMALL, read_json
from autograd.schema import fit, nearest
from npgpt.errors import UserError
from npgpt.hub import ADAPTER
from npgpt.models.gpt import GPT
from npgpt.models.layers import Linear
from npgpt.models.lora import LoraConfig, LowRank, adapted_layers
from npgpt.models.registry import architecture_of
from npgpt.module import Parameter
from npgpt.weights.names import name_there
from npgpt.weights.safetensors import open_safetensors

USUAL = {
    "gpt2": ("c_attn",),
    "openai-gpt": ("c_attn",),
    "npgpt": ("c_attn",),
    "vision-gpt": ("c_attn",),
    "llama": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "qwen2": ("q_proj", "v_proj"),
    "bert": ("query", "value"),
    "marian": ("q_proj", "v_proj"),
    "encoder-decoder": ("q_proj", "v_proj"),
}
"""The layers that are changed if a configuration names none, by the model type.

They are those of peft, which has none for encoder-decoders.
"""

TASKS = {"bert": None, "marian": "SEQ_2_SEQ_LM", "encoder-decoder": None}
"""What peft calls the task of a model, where it is not to continue a text."""

WEIGHTS = "adapter_model.safetensors"
FIRST = "base_model.model."  # what peft puts before the names of transformers

REFUSED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layers_to_transform": (None, []),
    "exclude_modules": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "lora_bias": (None, False),
}
"""Fields of ``adapter_config.json`` that change what a model computes, and their known values."""


def add_lora(model: GPT, config: LoraConfig, seed: int = 0) -> GPT:
    """Give a model's linear layers a change of low rank, and freeze all other parameters.

    Parameters
    ----------
    model : GPT
        It is changed in place, and returned.
    config : LoraConfig
    seed : int
        The seed of A's first values. B's are zeros.

    Raises
    ------
    UserError
        If the model has such changes already, or no linear layer, or no head, has a name that is
        asked for.

    Examples
    --------
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> model = add_lora(model, LoraConfig(r=2))
    >>> [name for name, p in model.named_parameters() if p.requires_grad][:2]
    ['transformer.h.0.attn.c_attn.adapter.lora_A', 'transformer.h.0.attn.c_attn.adapter.lora_B']
    """
    if any(adapted_layers(model)):
        raise UserError("the model has LoRA's matrices already: merge and remove these first")
    chosen = choose_layers(model, config.target_modules)
    saved = choose_heads(model, config.modules_to_save)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    draw = np.random.default_rng(seed)
    for layer in chosen.values():
        n_in, n_out = layer.shape
        dtype = model.parameters()[0].dtype
        layer.adapter = LowRank(n_in, n_out, config, dtype, draw)
        layer.adapter.train(layer._training)
    for parameter in saved.values():
        parameter.requires_grad_()
    model.lora_config = config
    return model


def choose_layers(model: GPT, targets: tuple[str, ...] | str | None) -> dict[str, Linear]:
    """Return the linear layers that a configuration names, by their names in Hugging Face's files.

    Raises
    ------
    UserError
        If a name is that of no linear layer.
    """
    layers = {
        layer_in_files(name, model): module
        for name, module in model.named_modules()
        if isinstance(module, Linear) and module.part != "head"
    }
    targets = targets or USUAL[model.config.model_type]
    if targets == "all-linear":
        return layers
    if isinstance(targets, str):
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise UserError(
                f"target_modules is the regular expression {targets!r}, which is wrong: {error}"
            ) from None
        found = {name: layer for name, layer in layers.items() if pattern.fullmatch(name)}
        missing = [] if found else [targets]
    else:
        ends = {target: f".{target}" for target in targets}
        found = {
            name: layer for name, layer in layers.items() if f".{name}".endswith((*ends.values(),))
        }
        missing = [t for t, end in ends.items() if not any(f".{n}".endswith(end) for n in found)]
    if missing:
        known = sorted({name.rpartition(".")[2] for name in layers})
        raise UserError(
            f"no linear layer of the model has the name {missing[0]!r} (its layers are "
            f"{', '.join(known)}){nearest(missing[0], known)}"
        )
    return found


def choose_heads(model: GPT, names: tuple[str, ...]) -> dict[str, Parameter]:
    """Return the parameters of the heads that ``modules_to_save`` names, by their names in files.

    A head is named by one of the words of its name in Hugging Face's files, such as ``pooler`` for
    ``bert.pooler.dense``. A parameter that is stored transposed has ``.T`` at the end of its name.

    Raises
    ------
    UserError
        If there are names, and none is that of a head.
    """
    table = architecture_of(model.config).names
    heads = {
        name_there(name, table) or name: parameter
        for name, parameter in model.named_parameters()
        if not name.startswith("transformer.")
    }
    found = {
        name: parameter for name, parameter in heads.items() if {*names} & {*name.split(".")[:-1]}
    }
    if names and not found:
        known = sorted({name.removesuffix(".T").rpartition(".")[0] for name in heads})
        raise UserError(
            f"modules_to_save is {brief(names)}, and no head of the model has such a name: "
            f"{'its heads are ' + ', '.join(known) if known else 'it has no head of its own'}"
        )
    return found


def layer_in_files(name: str, model: GPT) -> str:
    """Return the name of a linear layer in Hugging Face's files.

    Examples
    --------
    >>> from npgpt.models.llama import Llama, LlamaConfig
    >>> model = Llama(LlamaConfig(vocab_size=9, n_positions=4, n_embd=8, n_layer=1, n_head=2))
    >>> layer_in_files("transformer.h.0.self_attn.q_proj", model)
    'model.layers.0.self_attn.q_proj'
    """
    whole = f"{name}.weight"
    theirs = name_there(whole, architecture_of(model.config).names) or whole
    return theirs.removesuffix(".T").removesuffix(".weight")


def save_adapter(model: GPT, folder: str | Path, base: str = "") -> None:
    """Write LoRA's matrices of a model, and nothing else of it, in peft's format.

    Parameters
    ----------
    model : GPT
        With LoRA's matrices, merged or not.
    folder : str or Path
        It is made if it is not there.
    base : str
        The name, or the folder, of the model that is changed: `load_model` looks for it there.

    Raises
    ------
    UserError
        If the model has no such matrices.
    """
    layers = {layer_in_files(name, model): adapter for name, _, adapter in adapted_layers(model)}
    if not layers:
        raise UserError("the model has no LoRA matrices to write; save_pretrained writes a model")
    config = model.lora_config
    kind = model.config.model_type
    targets = config.target_modules or USUAL[kind]
    tensors: dict[str, ndarray] = {}
    for name, adapter in layers.items():
        for key, matrix in (("lora_A", adapter.lora_A), ("lora_B", adapter.lora_B)):
            tensors[f"{FIRST}{name}.{key}.weight"] = np.ascontiguousarray(matrix.numpy().T)
    for name, head in choose_heads(model, config.modules_to_save).items():
        array = head.numpy().T if name.endswith(".T") else head.numpy()
        tensors[f"{FIRST}{name.removesuffix('.T')}"] = np.ascontiguousarray(array)
    values = {
        "peft_type": "LORA",
        "task_type": task_type(model),
        "base_model_name_or_path": base or None,
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        "target_modules": targets if isinstance(targets, str) else list(targets),
        # whether transformers stores the layers of this model as (in, out), as GPT-2's
        "fan_in_fan_out": kind in ("gpt2", "openai-gpt", "npgpt"),
        "bias": "none",
        "modules_to_save": list(config.modules_to_save) or None,
        "inference_mode": True,
    }
    folder = Path(folder)
    with together(folder):
        write_json(folder / ADAPTER, values)
        write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})


def task_type(model: GPT) -> str | None:
    """Return what peft calls the task of a model."""
    if model.span_head is not None:
        return "QUESTION_ANS"
    return "SEQ_CLS" if model.config.labels else TASKS.get(model.config.model_type, "CAUSAL_LM")


def load_adapter(model: GPT, folder: str | Path) -> GPT:
    """Give a model the LoRA matrices of a folder in peft's format; all else is frozen.

    Raises
    ------
    UserError
        If a file is missing or damaged, a field asks for what is not known here, or the matrices
        do not fit the model, which is then as it was before.
    """
    folder = Path(folder)
    config = read_lora_config(folder)
    layers = choose_layers(model, config.target_modules)
    heads = choose_heads(model, config.modules_to_save)
    tensors = dict(open_safetensors(folder / WEIGHTS))
    expected: dict[str, tuple[int, ...]] = {
        f"{FIRST}{name.removesuffix('.T')}": head.shape[:: -1 if name.endswith(".T") else 1]
        for name, head in heads.items()
    }
    for name, layer in layers.items():
        n_in, n_out = layer.shape
        expected[f"{FIRST}{name}.lora_A.weight"] = (config.r, n_in)
        expected[f"{FIRST}{name}.lora_B.weight"] = (n_out, config.r)
    for name in sorted(expected.keys() ^ tensors.keys()):
        what = "is missing" if name in expected else "is of no layer that is changed"
        raise UserError(f"{folder / WEIGHTS}: {brief(name)} {what}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(
                f"{folder / WEIGHTS}: {name} has shape {list(tensors[name].shape)}; expected "
                f"{list(shape)}"
            )
    add_lora(model, config)
    for name, _, adapter in adapted_layers(model):
        theirs = f"{FIRST}{layer_in_files(name, model)}"
        dtype = adapter.lora_A.dtype
        for key in ("lora_A", "lora_B"):
            matrix = tensors[f"{theirs}.{key}.weight"].read(dtype)
            setattr(adapter, key, Parameter(np.ascontiguousarray(matrix.T)))
    with no_grad():
        for name, head in heads.items():
            stored = tensors[f"{FIRST}{name.removesuffix('.T')}"].read(head.dtype)
            head[...] = stored.T if name.endswith(".T") else stored
    return model


def read_lora_config(folder: Path) -> LoraConfig:
    """Read ``adapter_config.json``; refuse fields that ask for what is not known here."""
    path = folder / ADAPTER
    values = read_json(path, limit=SMALL)
    for key, known in REFUSED.items():
        if key in values and values[key] not in known:
            raise UserError(
                f"{path}: {key} is {brief(values[key])}, which is not known here; expected "
                f"{known[0] if known[0] is not None else 'no value'}"
            )
    fields = ("r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "modules_to_save")
    found = {key: values[key] for key in fields if values.get(key) is not None}
    try:
        if not isinstance(found.get("target_modules"), str):
            found["target_modules"] = (
                tuple(fit(found.get("target_modules", []), list[str], "target_modules")) or None
            )
        return LoraConfig(**found)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
