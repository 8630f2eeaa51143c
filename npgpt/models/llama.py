"""Llama, and the models that differ from it in one or two fields: Mistral and Qwen2.

A block is that of GPT-2 with four changes (Touvron et al. 2023, arXiv:2302.13971, section 2.2):

    positions   queries and keys are rotated, and no vector is added to the embedding
    norm        RMS norm: no mean, no bias
    MLP         w_down (silu(x w_gate) * (x w_up))     SwiGLU, Shazeer 2020, arXiv:2002.05202
    attention   fewer heads of keys than of queries    Ainslie et al. 2023, arXiv:2305.13245

Mistral looks at a window of the last tokens only; Qwen2 has biases on queries, keys and values.
Shapes: B sequences, T positions, C = n_embd channels, H heads of queries and K of keys, D channels
of a head, F = mlp_width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NotRequired, Self, TypedDict

from numpy import ndarray
from numpy.typing import DTypeLike

from autograd import Tensor, nn
from autograd.escape import brief
from autograd.schema import Range, fit, fit_fields
from npgpt.errors import UserError
from npgpt.models.attention import SelfAttention
from npgpt.models.config import (
    ALIASES,
    Activation,
    Fraction,
    Layers,
    ModelConfig,
    Positive,
    Size,
    TokenId,
    read_labels,
    takes_block_size,
    translate,
)
from npgpt.models.context import ALONE, Context
from npgpt.models.gpt import GPT, Transformer
from npgpt.models.layers import ACTIVATIONS, Dropout, Embedding, Linear, RMSNorm
from npgpt.models.positions import RotaryEmbedding
from npgpt.module import Module, Traced

# ---- the configuration

Factor = Annotated[float, Range(1, 2**20)]
Turns = Annotated[float, Range(2**-20, 2**20)]


class LinearScaling(TypedDict):
    """The keys of ``rope_scaling`` for linear and for dynamic scaling."""

    factor: Factor


class BandScaling(TypedDict):
    """The keys of ``rope_scaling`` for Llama 3's scaling."""

    factor: Factor
    low_freq_factor: Turns
    high_freq_factor: Turns
    original_max_position_embeddings: NotRequired[Size | None]


class RampScaling(TypedDict):
    """The keys of ``rope_scaling`` for YaRN."""

    factor: Factor
    original_max_position_embeddings: NotRequired[Size | None]
    attention_factor: NotRequired[Turns | None]
    beta_fast: NotRequired[Turns | None]
    beta_slow: NotRequired[Turns | None]
    mscale: NotRequired[Turns | None]
    mscale_all_dim: NotRequired[Turns | None]
    truncate: NotRequired[bool]


SCALING_KEYS: dict[str, Any] = {
    "linear": LinearScaling,
    "dynamic": LinearScaling,
    "llama3": BandScaling,
    "yarn": RampScaling,
}

NAMES = ALIASES | {  # in files, beside those that a GPT's file may have as well
    "attention_dropout": "attn_pdrop",
    "hidden_act": "activation_function",
    "intermediate_size": "n_inner",
    "num_key_value_heads": "n_kv_head",
    "sliding_window": "window_size",
}
ABSENT: dict[str, dict[str, Any]] = {  # what transformers takes where a file says nothing
    "llama": dict(n_inner=11008),
    "mistral": dict(n_inner=14336, n_kv_head=8, n_positions=131072, window_size=4096),
    "qwen2": dict(n_inner=22016, n_positions=32768, vocab_size=151936, window_size=4096,
                  max_window_layers=28),
}  # fmt: skip


@takes_block_size
@dataclass
class LlamaConfig(ModelConfig):
    """The architecture of a Llama, a Mistral or a Qwen2, with the values of the first Llama.

    Parameters
    ----------
    vocab_size, n_positions, n_embd, n_layer, n_head, activation_function, resid_pdrop, embd_pdrop
    attn_pdrop, initializer_range, tie_word_embeddings
        As in `GPTConfig`. A ``config.json`` has Hugging Face's names for Llama, such as
        ``hidden_size``; `from_dict` and `to_dict` know both.
    model_type : {"llama", "mistral", "qwen2"}
        Qwen2 has biases on queries, keys and values. Mistral and Qwen2 may have a window.
    n_kv_head : int, optional
        Heads of keys and values, each of which ``n_head / n_kv_head`` heads of queries share;
        `n_head` if not given.
    head_dim : int, optional
        Channels of a head; ``n_embd / n_head`` if not given.
    n_inner : int, optional
        Width of the MLP. If not given, the multiple of 8 from ``8 / 3 n_embd`` on: the MLP, which
        has three matrices, then has as many parameters as that of a GPT.
    rms_norm_eps : float
    rope_theta : float
        The base of the rotation's frequencies; see `npgpt.models.positions.RotaryEmbedding`.
    rope_scaling : dict, optional
        How the frequencies are changed for long texts, with the keys of Hugging Face's files:
        ``rope_type`` is "linear", "dynamic", "llama3" or "yarn". Dynamic scaling begins beyond
        `n_positions`, so it changes nothing here.
    window_size : int, optional
        A position sees only itself and the ``window_size - 1`` positions before it.
    max_window_layers : int
        The number of layers, from the first on, that see everything although there is a window.
    attention_bias, mlp_bias : bool
        Whether a Llama's linear layers of attention, and of the MLP, have biases.
    pad_token_id : int, optional
        The token that fills up shorter rows. As in transformers, its embedding gets no gradient
        where it is looked up.

    Raises
    ------
    UserError
        If a field has another type than its annotation says, or a number is out of its range; if
        sizes do not fit each other; or if the model type has no such window or bias.

    Examples
    --------
    >>> config = LlamaConfig.preset("smollm2-135m")
    >>> config.n_head, config.n_kv_head, config.head_size
    (9, 3, 64)
    >>> LlamaConfig(model_type="mistral", n_embd=96, n_head=4, window_size=32).mlp_width
    256
    """

    hugging_face: ClassVar[dict[str, str]] = {
        "llama": "LlamaForCausalLM",
        "mistral": "MistralForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
    }
    fixed: ClassVar[dict[str, tuple[Any, str]]] = {
        "is_encoder_decoder": (False, "the model has no encoder"),
        "partial_rotary_factor": (1, "all channels of a head are rotated"),
    }

    vocab_size: Size = 32000
    n_positions: Size = 2048
    n_embd: Size = 4096
    n_layer: Layers = 32
    n_head: Size = 32
    activation_function: Activation = "silu"
    resid_pdrop: Fraction = 0.0
    tie_word_embeddings: bool = False
    model_type: Literal["llama", "mistral", "qwen2"] = "llama"
    n_kv_head: Size | None = None
    head_dim: Size | None = None
    rms_norm_eps: Positive = 1e-6
    rope_theta: Annotated[float, Range(1, 2**53, excluded=1)] = 10000.0
    rope_scaling: dict[str, Any] | None = None
    max_window_layers: Annotated[int, Range(0, 2**20)] = 0
    attention_bias: bool = False
    mlp_bias: bool = False
    pad_token_id: TokenId | None = None

    def __post_init__(self) -> None:
        fit_fields(self)
        if self.head_dim is None and self.n_embd % self.n_head:
            raise UserError(
                f"n_embd is {self.n_embd} and n_head {self.n_head}: a head has n_embd / n_head "
                "channels, so n_embd must be a multiple of n_head, or head_dim be given"
            )
        if self.head_size % 2:
            raise UserError(
                f"a head has {self.head_size} channels; rotary positions turn pairs of channels, "
                "so their number must be even"
            )
        if self.n_head % self.n_key_heads:
            raise UserError(
                f"n_head is {self.n_head} and n_kv_head {self.n_kv_head}: heads share keys in "
                "groups of n_head / n_kv_head, so n_head must be a multiple of n_kv_head"
            )
        is_llama = self.model_type == "llama"
        if is_llama and self.window_size is not None:
            raise UserError("model_type llama has no window_size; mistral and qwen2 have")
        if not is_llama and (self.attention_bias or self.mlp_bias):
            raise UserError(
                f"attention_bias or mlp_bias is true, and model_type {self.model_type} does not "
                "choose its biases; llama does, and qwen2 has those of queries, keys and values"
            )
        if self.window_size is None or self.max_window_layers >= self.n_layer:
            self.window_size, self.max_window_layers = None, 0
        if self.model_type != "qwen2" and self.max_window_layers:
            raise UserError(f"model_type {self.model_type} has no max_window_layers; qwen2 has")
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise UserError(
                f"pad_token_id is {self.pad_token_id}, and the vocabulary has {self.vocab_size} "
                "tokens"
            )
        self.rope_scaling = complete_scaling(self.rope_scaling, self.n_positions)
        # A size that follows from others is None, so that a configuration equals that of its file.
        self.n_kv_head = None if self.n_kv_head == self.n_head else self.n_kv_head
        self.head_dim = None if self.head_dim == self.n_embd / self.n_head else self.head_dim
        self.n_inner = None if self.n_inner == self._usual_width else self.n_inner

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a configuration of the fields of a Hugging Face ``config.json``."""
        cls.demand_fixed(values)
        values = translate(values, NAMES)
        kind = values.get("model_type", "llama")
        # the newer name of the two; transformers, too, prefers the older one if a file has both
        name = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
        if values.get(name) is not None:
            rotary = fit(values[name], dict[str, Any], name)
            cls.demand_fixed(rotary)
            if per_layer := [key for key, each in rotary.items() if isinstance(each, dict)]:
                raise UserError(
                    f"rope_parameters has values of its own for {brief(per_layer[0])}; expected "
                    "one set of values for all layers"
                )
            values["rope_scaling"] = rotary
            values["rope_theta"] = rotary.get("rope_theta", values.get("rope_theta", 10000.0))
        values = ABSENT.get(kind, {}) | values
        layer_types = values.get("layer_types")
        if kind == "qwen2":
            if not values.get("use_sliding_window"):
                values["window_size"] = None
            elif layer_types is not None:
                values["max_window_layers"] = first_windowed(layer_types)
        elif kind == "llama":
            values["window_size"] = None  # transformers' Llama has none, whatever the file says
        if kind != "qwen2":
            values["max_window_layers"] = 0
        values["pad_token_id"] = find_padding(values)
        values["labels"] = read_labels(values)
        config = cls.from_names(values, {})  # all have our names already
        if layer_types is not None:
            config.demand_layer_types(layer_types)
        return config

    def demand_layer_types(self, found: Any) -> None:
        """Refuse the ``layer_types`` of a ``config.json`` that are not those of the model."""
        found = fit(found, list[Any], "layer_types")
        if len(found) != self.n_layer:
            raise UserError(f"layer_types has {len(found)} layers, and the model {self.n_layer}")
        for layer, kind in enumerate(found):
            is_dense = self.window_of(layer) is None
            expected = "full_attention" if is_dense else "sliding_attention"
            if kind != expected:
                raise UserError(
                    f"layer_types has {brief(kind)} for layer {layer}; expected {expected!r}, "
                    f"which follows from the other fields of this {self.model_type}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of a Hugging Face ``config.json``."""
        fields = self.to_names(NAMES)
        fields |= dict(
            architectures=[self.hugging_face[self.model_type]],
            intermediate_size=self.mlp_width,
            head_dim=self.head_size,
            num_key_value_heads=self.n_key_heads,
            use_sliding_window=self.window_size is not None,
            bos_token_id=None,  # transformers would take 1 and 2, which are any tokens here
            eos_token_id=None,
        )
        if self.model_type != "qwen2":
            del fields["use_sliding_window"], fields["max_window_layers"]
        if self.model_type != "llama":
            del fields["attention_bias"], fields["mlp_bias"]
        del fields["labels"]
        return fields | self.labelled() if self.labels else fields

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def mlp_width(self) -> int:
        """Channels between the linear layers of an MLP."""
        return self.n_inner or self._usual_width

    @property
    def _usual_width(self) -> int:
        return 8 * -(-self.n_embd // 3)

    @property
    def n_key_heads(self) -> int:
        """Heads of keys, and of values."""
        return self.n_kv_head or self.n_head

    def window_of(self, layer: int) -> int | None:
        """Return how many tokens a position sees in a layer; None for all before it."""
        return self.window_size if layer >= self.max_window_layers else None

    def described(self) -> dict[str, str]:
        """Return what `npgpt info` says of the parts of a block."""
        window, first = self.window_size, self.max_window_layers
        seen = "dense" if window is None else f"last {window:,}"
        scaling = f", {self.rope_scaling['rope_type']}" if self.rope_scaling else ""
        biases = {"qwen2": "query, key, value"}.get(self.model_type, "no")
        chosen = {"attention": self.attention_bias, "MLP": self.mlp_bias}
        shared = "" if self.n_kv_head is None else f", {self.n_kv_head} of keys"
        return {
            "heads": f"{self.n_head} of {self.head_size}{shared}",
            "MLP": f"{self.mlp_width:,}, gated {self.activation_function}",
            "norm": "pre, RMS",
            "attention": f"dense {first} layers, {seen}" if first else seen,
            "positions": f"{self.n_positions:,}, rotary {self.rope_theta:,.0f}{scaling}",
            "biases": ", ".join(part for part, there in chosen.items() if there) or biases,
        }


def complete_scaling(scaling: dict[str, Any] | None, n_positions: int) -> dict[str, Any] | None:
    """Return a checked ``rope_scaling`` with a value for each of its keys; None if it is default.

    Examples
    --------
    >>> complete_scaling({"type": "linear", "factor": 4}, n_positions=2048)
    {'rope_type': 'linear', 'factor': 4.0}
    """
    if scaling is None:
        return None
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return None
    if not isinstance(kind, str) or kind not in SCALING_KEYS:
        raise UserError(
            f"rope_scaling has the rope_type {brief(kind)}; known are {', '.join(SCALING_KEYS)}"
        )
    keys = SCALING_KEYS[kind]
    given = {key: scaling[key] for key in keys.__annotations__ if scaling.get(key) is not None}
    given = fit(given, keys, "rope_scaling")
    original = "original_max_position_embeddings"
    if kind == "llama3" and given["low_freq_factor"] >= given["high_freq_factor"]:
        raise UserError(
            f"rope_scaling has a low_freq_factor of {given['low_freq_factor']:g} and a "
            f"high_freq_factor of {given['high_freq_factor']:g}; expected a larger second"
        )
    if kind in ("llama3", "yarn"):
        given.setdefault(original, n_positions)
    if kind == "yarn":
        scales = [given.pop(key, 0) for key in ("mscale", "mscale_all_dim")]
        numerator, denominator = (
            0.1 * m * math.log(given["factor"]) + 1 for m in (scales if all(scales) else (1, 0))
        )
        given.setdefault("attention_factor", numerator / denominator)
        given = dict(beta_fast=32.0, beta_slow=1.0, truncate=True) | given
    return {"rope_type": kind, **given}


def first_windowed(layer_types: Any) -> int:
    """Return the number of layers before those with a window; all others must come after it."""
    kinds = fit(layer_types, list[Literal["full_attention", "sliding_attention"]], "layer_types")
    first = kinds.count("full_attention")
    if "full_attention" in kinds[first:]:
        raise UserError("layer_types has full_attention after sliding_attention, as no Qwen2 has")
    return first


def find_padding(values: dict[str, Any]) -> Any:
    """Return ``pad_token_id``; None if no token has this id, which may count from the end."""
    found, size = values.get("pad_token_id"), values.get("vocab_size", LlamaConfig.vocab_size)
    if type(found) is not int or type(size) is not int:
        return found
    return found % size if -size <= found < size else None


# ---- the model


class GroupedAttention(SelfAttention):
    """Self-attention with rotated queries and keys, in which groups of heads share their keys."""

    def __init__(self, config: LlamaConfig, layer: int, dtype: DTypeLike):
        super().__init__(config, layer)
        C, D = config.n_embd, config.head_size
        queries, keys = D * config.n_head, D * config.n_key_heads
        bias = config.attention_bias or config.model_type == "qwen2"
        self.head_size = D
        self.q_proj = Linear(C, queries, bias, dtype)
        self.k_proj = Linear(C, keys, bias, dtype)
        self.v_proj = Linear(C, keys, bias, dtype)
        self.o_proj = Linear(queries, C, config.attention_bias, dtype)

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Let every position look at itself and at those before it: ``(B, T, C) -> (B, T, C)``."""
        query, key, value = self.heads(x, context)
        y = self.attend(query, key, value, context)  # (B, T, H D)
        return self.resid_dropout(self.o_proj(y))

    def trace(self, x: Traced, context: Context = ALONE) -> Traced:
        """Trace the pass of one token, after those whose keys and values are in the cache."""
        query = self.q_proj(x).rotate(self.head_size)
        key = self.k_proj(x).rotate(self.head_size)
        y = self.trace_attend(query, key, self.v_proj(x))
        return self.resid_dropout(self.o_proj(y))

    def heads(self, x: Tensor, context: Context) -> tuple[Any, ...]:
        """Return rotated queries (B, H, T, D), rotated keys and values, (B, K, T, D) each."""
        if context.rotation is None:
            raise ValueError("a Llama's attention needs context.rotation: Transformer.rotation")
        B, T, _ = x.shape
        query, key, value = (
            projection(x).reshape(B, T, -1, self.head_size)  # (B, T, H D) -> (B, T, H, D)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = nn.rope(query, *context.rotation), nn.rope(key, *context.rotation)
        return tuple(part.swapaxes(1, 2) for part in (query, key, value))


class GatedMLP(Module):
    """Two linear layers, of which one decides how much of the other passes, and a third one."""

    part = "MLPs"

    def __init__(self, config: LlamaConfig, dtype: DTypeLike):
        C, F = config.n_embd, config.mlp_width
        self.gate_proj = Linear(C, F, config.mlp_bias, dtype)
        self.up_proj = Linear(C, F, config.mlp_bias, dtype)
        self.down_proj = Linear(F, C, config.mlp_bias, dtype)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, T, C) -> (B, T, F) -> (B, T, C)``."""
        return self.dropout(self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x)))

    def trace(self, x: Traced) -> Traced:
        """Trace the same; the activation is a function, and takes numbers only."""
        gate = self.gate_proj(x).activation(self.activation)
        return self.dropout(self.down_proj(gate * self.up_proj(x)))


class LlamaBlock(Module):
    """Attention, then an MLP: each reads a norm, and its result is added to what the norm read."""

    def __init__(self, config: LlamaConfig, layer: int, dtype: DTypeLike):
        self.input_layernorm = RMSNorm(config.n_embd, config.rms_norm_eps, dtype)
        self.self_attn = GroupedAttention(config, layer, dtype)
        self.post_attention_layernorm = RMSNorm(config.n_embd, config.rms_norm_eps, dtype)
        self.mlp = GatedMLP(config, dtype)

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Map ``(B, T, C) -> (B, T, C)``, or to ``(B, 1, C)`` with ``context.only_last``."""
        x = context.wanted(x) + self.self_attn(self.input_layernorm(x), context)
        return x + self.mlp(self.post_attention_layernorm(x))

    trace = forward


class LlamaTransformer(Transformer):
    """Embeddings, blocks and the final norm; positions are angles, not vectors that are added."""

    def __init__(
        self, config: LlamaConfig, dtype: DTypeLike, block: Callable[..., Module] = LlamaBlock
    ):
        self.vocab_size, self.n_positions = config.vocab_size, config.n_positions
        self.wte = Embedding(config.vocab_size, config.n_embd, dtype, config.pad_token_id)
        self.drop = Dropout(config.embd_pdrop)
        self.h = [block(config, layer, dtype) for layer in range(config.n_layer)]
        self.ln_f = RMSNorm(config.n_embd, config.rms_norm_eps, dtype)
        self.rotary = RotaryEmbedding(config.head_size, config.rope_theta, config.rope_scaling)
        self.dtype = dtype

    def embed(self, input_ids: ndarray, position_ids: ndarray) -> Tensor:
        """Map ``(B, T)`` ids to ``(B, T, C)``: the vectors of the tokens."""
        return self.drop(self.wte(input_ids))

    def rotation(self, position_ids: ndarray) -> tuple[ndarray, ndarray]:
        """Return the cosines and sines of positions, (T, 1, D / 2) or (B, T, 1, D / 2) each."""
        return self.rotary(position_ids, self.dtype)


class Llama(GPT):
    """A Llama, a Mistral or a Qwen2, depending on the configuration; it does all that a GPT does.

    Parameters
    ----------
    config : LlamaConfig
    seed : int
        The seed of the initialization.
    dtype : dtype_like
        The dtype of the parameters: float32, or float64 for checking.

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt import generate
    >>> config = LlamaConfig(
    ...     vocab_size=65, n_positions=32, n_embd=24, n_layer=2, n_head=6, n_kv_head=2
    ... )
    >>> model = Llama(config).eval()
    >>> ids = np.array([[1, 2, 3, 4]])
    >>> logits, loss = model(ids[:, :-1], targets=ids[:, 1:])
    >>> logits.shape
    (1, 3, 65)
    >>> loss.backward()
    >>> model.transformer.h[0].self_attn.k_proj.weight.grad.shape
    (24, 8)
    >>> generate(model, ids, max_new_tokens=3).shape
    (1, 7)
    """

    configuration = LlamaConfig
    body = LlamaTransformer
    block = LlamaBlock
    branch_ends = ("o_proj.weight", "down_proj.weight")


NAMES_IN_FILES = {
    "transformer.wte.*": "model.embed_tokens.*",
    "transformer.h.*_proj.weight": "model.layers.*_proj.weight.T",
    "transformer.h.*": "model.layers.*",
    "transformer.ln_f.*": "model.norm.*",
    "label_head.weight": "score.weight",
}

_smollm2 = LlamaConfig(
    vocab_size=49152, n_positions=8192, n_embd=576, n_inner=1536, n_layer=30, n_head=9,
    n_kv_head=3, rms_norm_eps=1e-5, rope_theta=1e5, tie_word_embeddings=True,
)  # fmt: skip
_llama3 = LlamaConfig(
    vocab_size=128256, n_positions=131072, n_embd=2048, n_inner=8192, n_layer=16, n_head=32,
    n_kv_head=8, rms_norm_eps=1e-5, rope_theta=5e5, tie_word_embeddings=True,
    rope_scaling=dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                      original_max_position_embeddings=8192),
)  # fmt: skip

LLAMA_PRESETS = {
    "llama-7b": LlamaConfig(n_inner=11008),
    "llama3.2-1b": _llama3,
    "mistral-7b": LlamaConfig(
        model_type="mistral", n_positions=32768, n_inner=14336, n_kv_head=8, rms_norm_eps=1e-5,
        window_size=4096,
    ),
    "qwen2-0.5b": LlamaConfig(
        model_type="qwen2", vocab_size=151936, n_positions=131072, n_embd=896, n_inner=4864,
        n_layer=24, n_head=14, n_kv_head=2, rope_theta=1e6, tie_word_embeddings=True,
    ),
    "smollm2-135m": _smollm2,
}  # fmt: skip
LlamaConfig.presets = LLAMA_PRESETS
