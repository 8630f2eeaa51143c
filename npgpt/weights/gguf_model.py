"""The model in a GGUF file: its configuration and its tensors, as Hugging Face's files have them.

llama.cpp has its own names: ``llama.block_count`` is ``num_hidden_layers``, and ``blk.0.attn_q`` is
``model.layers.0.self_attn.q_proj``. A file is translated when it is opened, so that everything else
knows one set of names.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from autograd.escape import brief
from autograd.schema import Range, fit
from npgpt.errors import UserError
from npgpt.models.config import Layers, Size
from npgpt.tokenizers.base import TokenId
from npgpt.weights.gguf import GGUF, SplitHeads
from npgpt.weights.names import name_there
from npgpt.weights.safetensors import Stored

# Whether the rows of queries and keys are in the order that `SplitHeads` undoes. Files of Mistral
# are of the architecture llama.
ARCHITECTURES = {"llama": True, "qwen2": False}
NAMES = {
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
EMBEDDING, FREQUENCIES = "token_embd.weight", "rope_freqs.weight"
Number = Annotated[float, Range(0)]


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
        known = " and ".join(ARCHITECTURES)
        raise UserError(f"its architecture is {brief(kind)}; known here are {known}")

    def field(name: str, annotation: Any, *default: Any) -> Any:
        key = f"{kind}.{name}"
        if key not in file.metadata and not default:
            raise UserError(f"its metadata lack {key}")
        value = fit(file.metadata.get(key, *default), annotation, key)
        # float32 has 7 digits: 1e-5 comes as 9.999999747378752e-06
        return float(f"{value:.7g}") if isinstance(value, float) else value

    n_head, width = field("attention.head_count", Size), field("embedding_length", Size)
    if experts := field("expert_count", int, 0):
        raise UserError(f"it has {experts} experts; a mixture of experts is not known here")
    head_dim = field("attention.key_length", Size, max(width // n_head, 1))
    for name in ("attention.value_length", "rope.dimension_count"):
        if (n := field(name, Size, head_dim)) != head_dim:
            raise UserError(
                f"{kind}.{name} is {n}, and a head has {head_dim} channels; expected the same"
            )
    embedding = file.tensors.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise UserError(f"it lacks the tensor {EMBEDDING}, (tokens, channels)")
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
    scaling = field("rope.scaling.type", str, "none")
    if scaling != "none":
        values["rope_scaling"] = {
            "rope_type": scaling,
            "factor": field("rope.scaling.factor", Number),
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
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    tensors: dict[str, Stored] = {}
    for name, stored in file.tensors.items():
        if name == FREQUENCIES:
            continue
        theirs = name_there(name, NAMES) or name
        n_head = heads.get("".join(theirs.split(".")[-2:-1]))
        if n_head and ARCHITECTURES[config["model_type"]]:
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
