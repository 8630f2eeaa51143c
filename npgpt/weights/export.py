"""Export a model and its tokenizer: to a folder for transformers, or to a file for llama.cpp."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from autograd.files import together
from npgpt.errors import UserError
from npgpt.hub import find_model, make_config
from npgpt.models.gpt import GPT
from npgpt.models.lora import remove_lora
from npgpt.module import unallocated
from npgpt.tokenizers import Tokenizer, load_tokenizer
from npgpt.tokenizers.gguf import describe_for_gguf
from npgpt.tokenizers.huggingface import write_hugging_face
from npgpt.weights.gguf import GGUF, Unwritten, type_of_rows, write_gguf
from npgpt.weights.gguf_model import describe_for_gguf_model, name_for_gguf, read_config
from npgpt.weights.load import load_model

END = "<|endoftext|>"


def export(source: str | Path, folder: str | Path) -> None:
    """Write a folder that transformers opens: the class in ``config.json``, and ``AutoTokenizer``.

    A Marian is opened by ``AutoModelForSeq2SeqLM``.

    Parameters
    ----------
    source : str or Path
        A run folder, or another folder with a model and a tokenizer, or a name on the hub, as
        `npgpt.load_model` and `npgpt.load_tokenizer` take them.
    folder : str or Path
        The folder to write to. It is created if it does not exist. It gets ``config.json``,
        ``model.safetensors``, ``tokenizer.json`` and ``tokenizer_config.json``, and also
        ``generation_config.json`` if the model has options of generation, such as the token that
        ends a text.

    Raises
    ------
    UserError
        If the folder is not empty, transformers has no model or tokenizer that computes the same,
        or the tokenizer has more tokens than the model. Then nothing is written.

    Examples
    --------
    >>> import tempfile
    >>> from npgpt import GPT, GPTConfig
    >>> from npgpt.tokenizers import ByteTokenizer, save_tokenizer
    >>> model = GPT(GPTConfig(vocab_size=256, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> with tempfile.TemporaryDirectory() as run:
    ...     model.save_pretrained(run)
    ...     save_tokenizer(ByteTokenizer(), run)
    ...     export(run, Path(run) / "exported")
    ...     len(list((Path(run) / "exported").iterdir()))
    4
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir() or folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"{folder} exists and is not an empty folder; export to an empty or a new folder"
        )
    model, tokenizer = open_both(source)
    config = model.config
    if config.model_type not in config.hugging_face:
        what = f"of the type {config.model_type}"
        if config.model_type == "npgpt":
            what = "with this window_size, norm_position and activation_function together"
        elif config.model_type == "encoder-decoder":
            what += "; train with --model_type marian"
        raise UserError(f"{source} cannot be exported: transformers has no model {what}")
    end = tokenizer.special_tokens.get(END)
    if end is not None:
        ends = {"eos_token_id": end, "pad_token_id": end}
        model.generation_config = ends | model.generation_config
    with together(folder):
        write_hugging_face(tokenizer, folder, config.n_positions)
        model.save_pretrained(folder)


def open_both(source: str | Path) -> tuple[GPT, Tokenizer]:
    """Return the model of a source, in the form of files, and the tokenizer.

    LoRA's change is in its weights, and heads that a GPT has lost by pruning are there as zeros.

    Raises
    ------
    UserError
        If the tokenizer has more tokens than the model.
    """
    path = find_model(source)
    model, tokenizer = restore_heads(remove_lora(load_model(path))), load_tokenizer(path)
    if tokenizer.n_vocab > model.config.vocab_size:
        raise UserError(
            f"{source} has a tokenizer of {tokenizer.n_vocab:,} tokens, and its model has a "
            f"vocabulary of only {model.config.vocab_size:,}; export a model with its own tokenizer"
        )
    return model, tokenizer


def restore_heads(model: GPT) -> GPT:
    """Return a GPT with as many heads as ``n_embd / head_size``: those that it lost are zeros.

    The model computes the same. It has the form that transformers and llama.cpp know, in which the
    heads of a GPT-2 have ``n_embd`` channels together.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, n_positions=4, n_embd=8, n_head=1, head_dim=4)).eval()
    >>> restore_heads(model).config.n_head
    2
    >>> ids = np.array([[1, 2, 3]])
    >>> bool(np.allclose(model(ids)[0], restore_heads(model)(ids)[0]))
    True
    """
    config: Any = model.config
    if type(model) is not GPT or config.head_dim is None:
        return model
    width, n = config.n_head * config.head_dim, config.n_embd
    state = dict(model.state_dict())
    for layer in range(config.n_layer):
        prefix = f"transformer.h.{layer}.attn."
        for key in (f"{prefix}c_attn.weight", f"{prefix}c_attn.bias"):
            if key in state:
                parts = state[key].reshape(*state[key].shape[:-1], 3, width)
                end = [(0, 0)] * (parts.ndim - 1) + [(0, n - width)]
                state[key] = np.pad(parts, end).reshape(*parts.shape[:-2], 3 * n)
        key = f"{prefix}c_proj.weight"
        state[key] = np.pad(state[key], [(0, n - width), (0, 0)])
    with unallocated():
        whole = GPT(dataclasses.replace(config, n_head=n // config.head_dim, head_dim=None),
                    dtype=model.transformer.wte.weight.dtype)  # fmt: skip
    whole.adopt_state_dict(state)
    whole.generation_config = model.generation_config
    whole.eval()
    return whole


# The types of matrices, and the number that says in a file which one most tensors have.
GGUF_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7}
# Fields that a GGUF file lacks: they matter for training only, or follow from the tensors.
UNSAID = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "initializer_range", "bias", "pad_token_id",
          "position_embedding", "model_type", "reorder_and_upcast_attn")  # fmt: skip


def export_gguf(source: str | Path, path: str | Path, kind: str = "F32") -> None:
    """Write a GGUF file, with the model and its tokenizer, that llama.cpp opens.

    Parameters
    ----------
    source : str or Path
        As in `export`: a GPT-2, or a Llama, a Mistral without a window, or a Qwen2.
    path : str or Path
        The new file.
    kind : {"F32", "F16", "Q8_0", "Q4_1", "Q4_0"}
        The type of matrices. F32 keeps all numbers as they are. A matrix whose rows have no
        multiple of 32 numbers cannot be quantized, and is of type F16. Vectors and the table of
        positions are of type F32.

    Raises
    ------
    UserError
        If the file exists, or such a file cannot hold the model or the tokenizer, or a number is
        too large for the type. Then nothing is written.

    Examples
    --------
    >>> import tempfile
    >>> from npgpt import GPT, GPTConfig
    >>> from npgpt.tokenizers import ByteTokenizer, save_tokenizer
    >>> model = GPT(GPTConfig(vocab_size=256, n_positions=8, n_embd=32, n_layer=2, n_head=2))
    >>> with tempfile.TemporaryDirectory() as run:
    ...     model.save_pretrained(run)
    ...     save_tokenizer(ByteTokenizer(), run)
    ...     export_gguf(run, Path(run) / "model.gguf", "Q8_0")
    ...     load_model(Path(run) / "model.gguf").n_parameters() == model.n_parameters()
    True
    """
    if kind not in GGUF_TYPES:
        raise UserError(f"the type is {kind!r}; known are {', '.join(GGUF_TYPES)}")
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists; export to a new file")
    model, tokenizer = open_both(source)
    config = model.config
    architecture = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "gpt2": "gpt2"}.get(
        config.model_type
    )
    if architecture is None:
        raise UserError(
            f"{source} cannot be exported: it is a {config.model_type} model, and a GGUF file can "
            "hold a gpt2, a llama, a mistral or a qwen2 here"
        )
    if config.labels:
        raise UserError(
            f"{source} cannot be exported: it judges texts, and a GGUF file here has a head for "
            "tokens; without --gguf, transformers opens it"
        )
    tensors = {
        name: Unwritten(_type_of(name, make().shape, kind), make().shape, make)
        for name, make in name_for_gguf(model, architecture)
    }
    metadata = describe_for_gguf_model(config, architecture)
    metadata |= {
        "general.name": find_model(source).resolve().stem,
        "general.file_type": GGUF_TYPES[kind],
    }
    if kind.startswith("Q"):
        metadata["general.quantization_version"] = 2
    again = make_config(read_config(GGUF(path, metadata, dict(tensors))), path)
    differ = [
        f"{name} {ours!r}"
        for name, ours in dataclasses.asdict(config).items()
        if name not in UNSAID
        and ours != getattr(again, name)
        and not (name == "n_inner" and config.mlp_width == again.mlp_width)
    ]
    if differ:
        raise UserError(
            f"{source} cannot be exported: a GGUF file of a {architecture} has no place for its "
            f"{', '.join(differ)}"
        )
    metadata |= describe_for_gguf(tokenizer, config.vocab_size, _special_ids(model))
    write_gguf(path, metadata, tensors)


def _type_of(name: str, shape: tuple[int, ...], kind: str) -> str:
    if len(shape) == 1 or name == "position_embd.weight":
        return "F32"
    return type_of_rows(shape[-1], kind)


def _special_ids(model: GPT) -> dict[str, int]:
    """Return the ids of special tokens that the options of generation name."""
    options = model.generation_config
    ends = options.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    names = {
        "bos": options.get("bos_token_id"),
        "padding": options.get("pad_token_id"),
        **dict(zip(("eos", "eot"), ends, strict=False)),
    }
    return {name: i for name, i in names.items() if isinstance(i, int)}
