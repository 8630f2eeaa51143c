"""The model in a GGUF file: its configuration and its tensors, as Hugging Face's files have them.

llama.cpp has its own names: ``llama.block_count`` is ``num_hidden_layers``, and ``blk.0.attn_q`` is
``model.layers.0.self_attn.q_proj``. A file is translated when it is opened, so that everything else
knows one set of names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import numpy as np
from numpy import ndarray

from autograd.escape import brief
from autograd.schema import Range, fit
from npgpt.errors import UserError
from npgpt.models.config import GPTConfig, Layers, ModelConfig, Size
from npgpt.models.gpt import GPT
from npgpt.models.llama import LlamaConfig
from npgpt.models.positions import RotaryEmbedding
from npgpt.models.registry import architecture_of
from npgpt.tokenizers.base import TokenId
from npgpt.weights.gguf import GGUF, SplitHeads, order_in_file
from npgpt.weights.names import implied, name_there
from npgpt.weights.safetensors import Stored, Transposed

# Whether the rows of queries and keys are in the order that `SplitHeads` undoes. Files of Mistral
# are of the architecture llama.
ARCHITECTURES = {"llama": True, "qwen2": False, "gpt2": False}
GPT2_NAMES = {  # with .T where Hugging Face's file has the matrix transposed
    "token_embd.*": "transformer.wte.*",
    "position_embd.*": "transformer.wpe.*",
    "output_norm.*": "transformer.ln_f.*",
    "output.*": "lm_head.*",
    "blk.*.attn_norm.*": "transformer.h.*.ln_1.*",
    "blk.*.attn_qkv.weight": "transformer.h.*.attn.c_attn.weight.T",
    "blk.*.attn_qkv.bias": "transformer.h.*.attn.c_attn.bias",
    "blk.*.attn_output.weight": "transformer.h.*.attn.c_proj.weight.T",
    "blk.*.attn_output.bias": "transformer.h.*.attn.c_proj.bias",
    "blk.*.ffn_norm.*": "transformer.h.*.ln_2.*",
    "blk.*.ffn_up.weight": "transformer.h.*.mlp.c_fc.weight.T",
    "blk.*.ffn_up.bias": "transformer.h.*.mlp.c_fc.bias",
    "blk.*.ffn_down.weight": "transformer.h.*.mlp.c_proj.weight.T",
    "blk.*.ffn_down.bias": "transformer.h.*.mlp.c_proj.bias",
}
LLAMA_NAMES = {
    "token_embd.*": "model.embed_tokens.*",
    "output_norm.*": "model.norm.*",
    "output.*": "lm_head.*",
    "blk.*.attn_norm.*": "model.layers.*.input_layernorm.*",
    "blk.*.attn_q.*": "model.layers.*.self_attn.q_proj.*",
    "blk.*.attn_k.*": "model.layers.*.self_attn.k_proj.*",
    "blk.*.attn_v.*": "model.layers.*.self_attn.v_proj.*",
    "blk.*.attn_output.*": "model.layers.*.self_attn.o_proj.*",
    "blk.*.ffn_norm.*": "model.layers.*.post_attention_layernorm.*",
    "blk.*.ffn_gate.*": "model.layers.*.mlp.gate_proj.*",
    "blk.*.ffn_up.*": "model.layers.*.mlp.up_proj.*",
    "blk.*.ffn_down.*": "model.layers.*.mlp.down_proj.*",
}
NAMES = {"llama": LLAMA_NAMES, "qwen2": LLAMA_NAMES, "gpt2": GPT2_NAMES}
EMBEDDING, FREQUENCIES = "token_embd.weight", "rope_freqs.weight"
Number = Annotated[float, Range(0)]
# Metadata that change what is computed, and the only value with which it is computed here. 0 also
# says that there is no such thing.
FIXED: dict[str, Any] = {
    "expert_count": 0,
    "attention.causal": True,
    "attention.clamp_kqv": 0,
    "attention.max_alibi_bias": 0,
    "attention.scale": 0,
    "attention.sliding_window": 0,
    "attn_logit_softcapping": 0,
    "final_logit_softcapping": 0,
    "embedding_scale": 0,
    "logit_scale": 0,
    "residual_scale": 0,
    "rope.scaling.attn_factor": 1,
    "rope.scaling.yarn_attn_factor": 1,
    "rope.scaling.yarn_beta_fast": 32,
    "rope.scaling.yarn_beta_slow": 1,
    "rope.scaling.yarn_ext_factor": 1,
    "use_parallel_residual": False,
}


def read_config(file: GGUF) -> dict[str, Any]:
    """Return the fields of the ``config.json`` that Hugging Face would have for the model.

    Raises
    ------
    UserError
        If the architecture is not known here, a field lacks or has a wrong value, or the model has
        a part that is not known here, such as experts.
    """
    try:
        return _read_config(file)
    except ValueError as error:
        raise UserError(f"{file.path}: {error!s:.400}") from None


def _read_config(file: GGUF) -> dict[str, Any]:
    kind = file.metadata.get("general.architecture")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"its architecture is {brief(kind)}; known here are {known}")

    def field(name: str, annotation: Any, *default: Any) -> Any:
        key = f"{kind}.{name}"
        if key not in file.metadata and not default:
            raise UserError(f"its metadata lack {key}")
        value = fit(file.metadata.get(key, *default), annotation, key)
        # float32 has 7 digits: 1e-5 comes as 9.999999747378752e-06
        return float(f"{value:.7g}") if isinstance(value, float) else value

    n_head, width = field("attention.head_count", Size), field("embedding_length", Size)
    for name, expected in FIXED.items():
        found = file.metadata.get(f"{kind}.{name}", expected)
        if isinstance(found, ndarray) or found != expected:
            raise UserError(
                f"its {kind}.{name} is {brief(found)}; only {brief(expected)} is known here"
            )
    embedding = file.tensors.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise UserError(f"it lacks the tensor {EMBEDDING}, (tokens, channels)")
    if kind == "gpt2":
        inner = field("feed_forward_length", Size)
        return {
            "model_type": kind,
            "vocab_size": embedding.shape[0],
            "n_positions": field("context_length", Size),
            "n_embd": width,
            "n_inner": None if inner == 4 * width else inner,  # as Hugging Face writes it
            "n_layer": field("block_count", Layers),
            "n_head": n_head,
            "layer_norm_epsilon": field("attention.layer_norm_epsilon", Number),
            "tie_word_embeddings": "output.weight" not in file.tensors,
        }
    head_dim = field("attention.key_length", Size, max(width // n_head, 1))
    for name in ("attention.value_length", "rope.dimension_count"):
        if (n := field(name, Size, head_dim)) != head_dim:
            raise UserError(
                f"{kind}.{name} is {n}, and a head has {head_dim} channels; expected the same"
            )
    theta = field("rope.freq_base", Number, 10000.0)
    values = {
        "model_type": kind,
        "vocab_size": embedding.shape[0],
        "max_position_embeddings": field("context_length", Size),
        "hidden_size": width,
        "intermediate_size": field("feed_forward_length", Size),
        "num_hidden_layers": field("block_count", Layers),
        "num_attention_heads": n_head,
        "num_key_value_heads": field("attention.head_count_kv", Size, n_head),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": field("attention.layer_norm_rms_epsilon", Number),
        "rope_theta": theta,
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    if kind == "llama":
        values["attention_bias"] = "blk.0.attn_output.bias" in file.tensors
        values["mlp_bias"] = "blk.0.ffn_down.bias" in file.tensors
    older = field("rope.scale_linear", Number, 0.0)
    factor = field("rope.scaling.factor", Number, older)
    scaling = field("rope.scaling.type", str, "linear" if factor else "none")
    if scaling != "none":
        values["rope_scaling"] = {
            "rope_type": scaling,
            "factor": factor,
            "original_max_position_embeddings": field(
                "rope.scaling.original_context_length", Size | None, None
            ),
        }
    elif FREQUENCIES in file.tensors:
        values["rope_scaling"] = find_llama3(file.tensors[FREQUENCIES], theta, head_dim)
    return values


# What Llama 3.1, 3.2 and 3.3 have in their config.json, beside the factor.
LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def find_llama3(stored: Stored, theta: float, head_dim: int) -> dict[str, Any]:
    """Return the ``rope_scaling`` of a Llama 3, whose file has only what follows from it.

    The tensor ``rope_freqs.weight`` has the number by which each pair's frequency is divided. In
    Llama 3's scaling, this number is 1 for the wavelengths that fit the original context four
    times, the factor for those that do not fit once, and between them

        1 / ((1 - s) / factor + s),   s = (original / wavelength - low) / (high - low).

    So the factor is the largest of the numbers, and all others must follow from it.

    Raises
    ------
    UserError
        If the numbers are not those of Llama 3's scaling.
    """
    found = stored.read(np.float64).reshape(-1)
    low, high, original = 1.0, 4.0, 8192
    if len(found) == head_dim // 2 and np.isfinite(found).all() and theta > 0:
        factor = float(f"{found.max():.7g}")
        wavelengths = 2 * math.pi * theta ** (2 * np.arange(head_dim // 2) / head_dim)
        s = np.clip((original / wavelengths - low) / (high - low), 0, 1)
        if factor >= 1 and np.allclose(found, 1 / ((1 - s) / factor + s), rtol=1e-4):
            return LLAMA3 | {"factor": factor}
    raise UserError(f"its {FREQUENCIES} are not those of Llama 3; other scalings by a table of "
                    "frequencies are not known here")  # fmt: skip


def name_tensors(file: GGUF, config: dict[str, Any]) -> dict[str, Stored]:
    """Return the tensors under Hugging Face's names, with rows in Hugging Face's order.

    `config` has the fields that `read_config` returns. A tensor whose name is not known keeps this
    name, so that the message about a tensor without a place in the model can name the tensor.
    """
    kind = config["model_type"]
    heads = (
        {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        if ARCHITECTURES[kind]
        else {}
    )
    tensors: dict[str, Stored] = {}
    for name, stored in file.tensors.items():
        if name == FREQUENCIES:
            continue
        theirs = name_there(name, NAMES[kind]) or name
        if theirs.endswith(".T"):
            stored, theirs = Transposed(stored), theirs.removesuffix(".T")
        if n_head := heads.get("".join(theirs.split(".")[-2:-1])):
            if not stored.shape or stored.shape[0] % (2 * n_head):
                raise UserError(
                    f"{file.path}: {name} has the shape {stored.shape}, which has no even number "
                    f"of rows for each of {n_head} heads"
                )
            stored = SplitHeads(stored, n_head)
        tensors[theirs] = stored
    return tensors


def read_token_ids(file: GGUF) -> dict[str, Any]:
    """Return the options of generation that a file has: the ids of special tokens.

    A model for conversations may end its turn with another token than a text
    (``tokenizer.ggml.eot_token_id``), so there may be two ids that end a text.
    """
    found: dict[str, Any] = {}
    for name in ("bos", "eos", "eot", "padding"):
        key = f"tokenizer.ggml.{name}_token_id"
        if key in file.metadata:
            try:
                found[name] = fit(file.metadata[key], TokenId, key)
            except UserError as error:
                raise UserError(f"{file.path}: {error}") from None
    ends = list(dict.fromkeys(found[name] for name in ("eos", "eot") if name in found))
    options = {"bos_token_id": found.get("bos"), "pad_token_id": found.get("padding")}
    options["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    return {name: value for name, value in options.items() if value is not None}


# ---- writing


def describe_for_gguf_model(config: ModelConfig, architecture: str) -> dict[str, Any]:
    """Return the metadata of a file that describe a model: what `read_config` reads."""
    found: dict[str, Any] = {
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "feed_forward_length": config.mlp_width,
        "block_count": config.n_layer,
        "attention.head_count": config.n_head,
    }
    if isinstance(config, LlamaConfig):
        found |= {
            "attention.head_count_kv": config.n_key_heads,
            "attention.key_length": config.head_size,
            "attention.value_length": config.head_size,
            "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            "rope.dimension_count": config.head_size,
            "rope.freq_base": config.rope_theta,
        }
        scaling = config.rope_scaling or {}
        if scaling.get("rope_type") in ("linear", "yarn"):
            found["rope.scaling.type"] = scaling["rope_type"]
            found["rope.scaling.factor"] = scaling["factor"]
        if scaling.get("rope_type") == "yarn":
            length = scaling["original_max_position_embeddings"]
            found["rope.scaling.original_context_length"] = length
    elif isinstance(config, GPTConfig):
        found["attention.layer_norm_epsilon"] = config.layer_norm_epsilon
    return {"general.architecture": architecture} | {
        f"{architecture}.{key}": value for key, value in found.items()
    }


def name_for_gguf(model: GPT, architecture: str) -> Iterator[tuple[str, Callable[[], ndarray]]]:
    """Yield each tensor of a file: its name, and a function that returns its values.

    Matrices are (out, in), and rows of queries and keys have the order of `SplitHeads`.
    """
    config = model.config
    there = {theirs: ours for ours, theirs in NAMES[architecture].items()}
    names = architecture_of(config).names
    arrays: dict[str, Callable[[], ndarray]] = {
        name: parameter.numpy for name, parameter in model.named_parameters()
    }
    arrays |= {name: make for name, (_, make) in implied(model).items()}
    heads = (
        {"q_proj": config.n_head, "k_proj": config.n_key_heads}
        if isinstance(config, LlamaConfig) and ARCHITECTURES[architecture]
        else {}
    )
    for name, make in arrays.items():
        theirs = name_there(name, names) or name  # in Hugging Face's files
        is_transposed = theirs.endswith(".T")
        theirs = theirs.removesuffix(".T")
        found = name_there(theirs, there)
        if found is None:
            found, is_transposed = name_there(f"{theirs}.T", there), not is_transposed
        assert found is not None, f"{theirs} has no name in a GGUF file"
        n_head = heads.get("".join(theirs.split(".")[-2:-1]))
        yield found, partial(_arrange, make, is_transposed, n_head)
    if isinstance(config, LlamaConfig) and (config.rope_scaling or {}).get("rope_type") == "llama3":
        yield FREQUENCIES, partial(_divisors, config)


def _arrange(make: Callable[[], ndarray], is_transposed: bool, n_head: int | None) -> ndarray:
    """Return an array as a file has it."""
    array = make().T if is_transposed else make()
    return array if n_head is None else array[np.argsort(order_in_file(len(array), n_head))]


def _divisors(config: LlamaConfig) -> ndarray:
    """Return the numbers by which Llama 3's scaling divides frequencies; see `find_llama3`."""
    plain = RotaryEmbedding(config.head_size, config.rope_theta)
    scaled = RotaryEmbedding(config.head_size, config.rope_theta, config.rope_scaling)
    return (plain.frequencies / scaled.frequencies).astype(np.float32)
