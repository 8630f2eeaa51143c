"""The encoder-decoder of "Attention Is All You Need", and Marian, which differs in its positions.

    encoder   reads the source, each position all others      x = norm(x + attention(x))
                                                              x = norm(x + mlp(x))
    decoder   reads the target as a GPT does, and             x = norm(x + attention(x))
              looks at the encoder's result (cross-           x = norm(x + attention(x to source))
              attention) in each layer                        x = norm(x + mlp(x))

One table of embeddings serves the source, the target and the head (Vaswani et al. 2017,
arXiv:1706.03762, sections 3.1 to 3.5). Shapes: B pairs, S positions of the source, T of the target,
C = n_embd channels, H heads of D = C / H channels, V tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike, DTypeLike

from autograd import Tensor, nn
from autograd.escape import brief
from autograd.functional import checkpoint
from autograd.schema import fit_fields
from npgpt.errors import UserError
from npgpt.models.attention import SelfAttention
from npgpt.models.cache import Memory
from npgpt.models.config import (
    Activation,
    Fraction,
    Layers,
    ModelConfig,
    Size,
    TokenId,
    takes_block_size,
)
from npgpt.models.context import ALONE, Activations, Context
from npgpt.models.gpt import GPT, Transformer, mask_of
from npgpt.models.heads import Head, check_targets
from npgpt.models.layers import ACTIVATIONS, Dropout, Embedding, LayerNorm, Linear
from npgpt.models.positions import SinusoidalEmbedding
from npgpt.module import Module, Parameter, Traced, check_ids

# ---- the configuration

NAMES = {  # in files
    "d_model": "n_embd",
    "max_position_embeddings": "n_positions",
    "encoder_layers": "n_layer",
    "encoder_attention_heads": "n_head",
    "encoder_ffn_dim": "n_inner",
    "init_std": "initializer_range",
    "dropout": "resid_pdrop",
    "attention_dropout": "attn_pdrop",
}
TWICE = {  # what files say of the decoder as well
    "decoder_layers": "encoder_layers",
    "decoder_attention_heads": "encoder_attention_heads",
    "decoder_ffn_dim": "encoder_ffn_dim",
    "decoder_vocab_size": "vocab_size",
}
ABSENT: dict[str, Any] = dict(  # what transformers takes where a file says nothing
    vocab_size=58101, max_position_embeddings=1024, d_model=1024, activation_function="gelu",
    encoder_layers=12, encoder_ffn_dim=4096, encoder_attention_heads=16, decoder_layers=12,
    decoder_ffn_dim=4096, decoder_attention_heads=16, dropout=0.1, scale_embedding=False,
    pad_token_id=58100, decoder_start_token_id=58100, eos_token_id=0,
)  # fmt: skip


@takes_block_size
@dataclass
class EncoderDecoderConfig(ModelConfig):
    """The architecture of an encoder-decoder, with the values of the paper's base model.

    Parameters
    ----------
    vocab_size, n_positions, n_embd, n_head, n_inner, activation_function, resid_pdrop, embd_pdrop
    attn_pdrop
        As in `GPTConfig`. A ``config.json`` has Hugging Face's names for Marian, such as
        ``d_model``; `from_dict` and `to_dict` translate them.
    n_layer : int
        Layers of the encoder, and of the decoder.
    model_type : {"encoder-decoder", "marian"}
        Where sines and cosines of positions stand. In the paper's model they alternate; in Marian
        the sines fill the first half of the channels, and the cosines the second.
    scale_embedding : bool
        Whether the vectors of tokens are multiplied by the root of `n_embd` (section 3.4).
    pad_token_id, eos_token_id, decoder_start_token_id : int
        The token that fills up shorter rows, the token that ends a text, and the token that the
        decoder reads first. As in transformers, the embedding of the padding gets no gradient
        where it is looked up.

    Raises
    ------
    UserError
        If a field has another type than its annotation says, or a number is out of its range; if
        `n_embd` is not a multiple of `n_head`, or is odd; or if a token is not in the vocabulary.

    Examples
    --------
    >>> EncoderDecoderConfig.preset("transformer-base").mlp_width
    2048
    """

    hugging_face: ClassVar[dict[str, str]] = {"marian": "MarianMTModel"}
    fixed: ClassVar[dict[str, tuple[Any, str]]] = {
        "is_encoder_decoder": (True, "the model has an encoder and a decoder"),
        "is_decoder": (False, "the model has an encoder and a decoder"),
        "share_encoder_decoder_embeddings": (True, "source and target share a table"),
        "encoder_layerdrop": (0, "training leaves out no layer"),
        "decoder_layerdrop": (0, "training leaves out no layer"),
        "activation_dropout": (0, "an MLP has no dropout between its two layers"),
    }

    vocab_size: Size = 37000
    n_positions: Size = 512
    n_embd: Size = 512
    n_layer: Layers = 6
    n_head: Size = 8
    activation_function: Activation = "relu"
    resid_pdrop: Fraction = 0.1
    embd_pdrop: Fraction = 0.1
    model_type: Literal["encoder-decoder", "marian"] = "encoder-decoder"
    scale_embedding: bool = True
    pad_token_id: TokenId = 0
    eos_token_id: TokenId = 0
    decoder_start_token_id: TokenId = 0

    def __post_init__(self) -> None:
        fit_fields(self)
        # the usual width is None, so that a configuration equals that of its file
        self.n_inner = None if self.n_inner == 4 * self.n_embd else self.n_inner
        if self.n_embd % self.n_head or self.n_embd % 2:
            raise UserError(
                f"n_embd is {self.n_embd} and n_head {self.n_head}: a head has n_embd / n_head "
                "channels, and sines and cosines come in pairs, so n_embd must be even and a "
                "multiple of n_head"
            )
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            if getattr(self, name) >= self.vocab_size:
                raise UserError(
                    f"{name} is {getattr(self, name)}, and the vocabulary has {self.vocab_size} "
                    "tokens"
                )
        if not self.tie_word_embeddings or self.window_size is not None or self.labels:
            raise UserError(
                "an encoder-decoder has tied embeddings (tie_word_embeddings), and neither "
                "window_size nor labels"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a configuration of the fields of a Hugging Face ``config.json``."""
        cls.demand_fixed(values)
        values = ABSENT | {key: value for key, value in values.items() if value is not None}
        for theirs, ours in TWICE.items():
            if values.get(theirs, values[ours]) != values[ours]:
                raise UserError(
                    f"{theirs} is {brief(values[theirs])} and {ours} is {brief(values[ours])}; "
                    "here encoder and decoder are of one size"
                )
        values.setdefault("embd_pdrop", values["dropout"])
        return cls.from_names(values, NAMES)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of a Hugging Face ``config.json``."""
        fields = self.to_names(NAMES)
        del fields["labels"]
        fields["encoder_ffn_dim"] = self.mlp_width
        fields |= {name: fields[other] for name, other in TWICE.items()}
        fields |= dict(
            is_encoder_decoder=True, bos_token_id=None, forced_eos_token_id=None,
            share_encoder_decoder_embeddings=True,
        )  # fmt: skip
        if self.model_type in self.hugging_face:
            fields["architectures"] = [self.hugging_face[self.model_type]]
        return fields

    @property
    def layout(self) -> Literal["interleaved", "halves"]:
        """Where sines and cosines of positions stand; see `SinusoidalEmbedding`."""
        return "halves" if self.model_type == "marian" else "interleaved"

    def described(self) -> dict[str, str]:
        """Return what `npgpt info` says of the parts of a block."""
        return {
            "layers": f"{self.n_layer} + {self.n_layer}",
            "heads": f"{self.n_head} of {self.head_size}",
            "MLP": f"{self.mlp_width:,}, {self.activation_function}",
            "norm": "post",
            "attention": "both ways, causal, cross",
            "positions": f"{self.n_positions:,}, sinusoidal, {self.layout}",
            "biases": "yes",
        }


# ---- the model


class ProjectedAttention(SelfAttention):
    """Self-attention with a linear layer each for queries, keys, values and the result.

    With `is_causal`, no position looks at those after it, as in the decoder.
    """

    def __init__(self, config: ModelConfig, layer: int, dtype: DTypeLike, is_causal: bool = False):
        super().__init__(config, layer)
        C = config.n_embd
        self.is_causal = is_causal
        self.q_proj = Linear(C, C, True, dtype)
        self.k_proj = Linear(C, C, True, dtype)
        self.v_proj = Linear(C, C, True, dtype)
        self.out_proj = Linear(C, C, True, dtype)

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Let every position look at the others: ``(B, T, C) -> (B, T, C)``."""
        query, key, value = (
            self.heads(part(x)) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = self.attend(query, key, value, context)  # (B, T, C)
        return self.resid_dropout(self.out_proj(y))

    def trace(self, x: Traced, context: Context = ALONE) -> Traced:
        """Trace the pass of one token."""
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.is_causal:
            y = self.trace_attend(query, key, value)
        else:
            y = query.attend_all(key, value, self.n_head)
        return self.resid_dropout(self.out_proj(y))

    def heads(self, x: Tensor) -> Tensor:
        """Divide channels into heads: ``(B, T, C) -> (B, H, T, D)``."""
        return x.reshape(*x.shape[:2], self.n_head, -1).swapaxes(1, 2)


class CrossAttention(ProjectedAttention):
    """Attention of the target's queries to the keys and values of the source (section 3.2.3)."""

    def forward(  # type: ignore[override]
        self, x: Tensor, states: Tensor, context: Context = ALONE
    ) -> Tensor:
        """Let ``x (B, T, C)`` look at the encoder's ``states (B, S, C)``: ``(B, T, C)``."""
        memory, capture = context.memory, context.capture
        if memory is None:
            raise ValueError("cross-attention needs context.memory: EncoderDecoder.encode")
        key, value = memory.heads(
            self.layer, lambda: (self.heads(self.k_proj(states)), self.heads(self.v_proj(states)))
        )
        seen = None if capture is None else Activations(attentions=capture.cross_attentions)
        y = self.attend(self.heads(self.q_proj(x)), key, value, Context(memory.mask, seen))
        return self.resid_dropout(self.out_proj(y))

    def trace(  # type: ignore[override]
        self, x: Traced, states: Traced, context: Context = ALONE
    ) -> Traced:
        """Trace the pass of one token, and of one token of the source."""
        key, value = self.k_proj(states), self.v_proj(states)
        y = self.q_proj(x).attend_all(key, value, self.n_head, cached=True)
        return self.resid_dropout(self.out_proj(y))


class FeedForward(Module):
    """Two linear layers with an activation between them, the same at every position."""

    part = "MLPs"

    def __init__(self, config: ModelConfig, dtype: DTypeLike):
        self.fc1 = Linear(config.n_embd, config.mlp_width, True, dtype)
        self.fc2 = Linear(config.mlp_width, config.n_embd, True, dtype)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, T, C) -> (B, T, mlp_width) -> (B, T, C)``."""
        return self.dropout(self.fc2(self.activation(self.fc1(x))))

    def trace(self, x: Traced) -> Traced:
        """Trace the same; the activation is a function, and takes numbers only."""
        return self.dropout(self.fc2(self.fc1(x).activation(self.activation)))


class EncoderLayer(Module):
    """Attention in both directions, then an MLP; each sum with what was read is normalized."""

    def __init__(self, config: ModelConfig, layer: int, dtype: DTypeLike):
        self.self_attn = ProjectedAttention(config, layer, dtype)
        self.self_attn_layer_norm = LayerNorm(config.n_embd, dtype=dtype)
        self.mlp = FeedForward(config, dtype)
        self.final_layer_norm = LayerNorm(config.n_embd, dtype=dtype)

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Map ``(B, S, C) -> (B, S, C)``, or to ``(B, 1, C)`` with ``context.only_last``."""
        x = self.self_attn_layer_norm(context.wanted(x) + self.self_attn(x, context))
        return self.final_layer_norm(x + self.mlp(x))

    trace = forward


class DecoderLayer(Module):
    """Causal attention, attention to the source, then an MLP; each sum is normalized."""

    def __init__(self, config: EncoderDecoderConfig, layer: int, dtype: DTypeLike):
        self.self_attn = ProjectedAttention(config, layer, dtype, is_causal=True)
        self.self_attn_layer_norm = LayerNorm(config.n_embd, dtype=dtype)
        self.encoder_attn = CrossAttention(config, layer, dtype)
        self.encoder_attn_layer_norm = LayerNorm(config.n_embd, dtype=dtype)
        self.mlp = FeedForward(config, dtype)
        self.final_layer_norm = LayerNorm(config.n_embd, dtype=dtype)

    def forward(self, x: Tensor, states: Tensor, context: Context = ALONE) -> Tensor:
        """Map ``x (B, T, C)``, with the encoder's ``states (B, S, C)``, to ``(B, T, C)``.

        With ``context.only_last``, the result is ``(B, 1, C)``.
        """
        x = self.self_attn_layer_norm(context.wanted(x) + self.self_attn(x, context))
        x = self.encoder_attn_layer_norm(x + self.encoder_attn(x, states, context))
        return self.final_layer_norm(x + self.mlp(x))

    trace = forward


class LayerPair(Module):
    """A layer of the encoder and one of the decoder: what `npgpt info` counts for two tokens.

    The costs are those of one token of the source and one token of the target together.
    """

    def __init__(self, config: EncoderDecoderConfig, layer: int, dtype: DTypeLike):
        self.encoder = EncoderLayer(config, layer, dtype)
        self.decoder = DecoderLayer(config, layer, dtype)

    def trace(self, x: Traced) -> Traced:
        """Trace one token of the source and one token of the target."""
        return self.decoder(x, self.encoder(x))

    def forward(self, x: Tensor) -> Tensor:
        """Refuse numbers: `Stacks` runs all layers of the encoder first."""
        raise TypeError("a LayerPair is for counting costs; Stacks runs the layers")


class Stack(Module):
    """The layers of the encoder, or of the decoder; both know the one table of embeddings."""

    def __init__(self, config: EncoderDecoderConfig, dtype: DTypeLike, table: Embedding, kind: Any):
        self.embed_tokens = table
        self.embed_positions = SinusoidalEmbedding(config.n_embd, dtype, config.layout)
        self.layers = [kind(config, layer, dtype) for layer in range(config.n_layer)]


class Stacks(Transformer):
    """Embeddings, encoder and decoder: everything but the head.

    `encode` reads the source. `forward` is the pass of the decoder over a target.
    """

    def __init__(
        self, config: EncoderDecoderConfig, dtype: DTypeLike, block: Callable[..., Module]
    ):
        self.vocab_size, self.n_positions = config.vocab_size, config.n_positions
        self.wte = Embedding(config.vocab_size, config.n_embd, dtype, config.pad_token_id)
        self.encoder = Stack(config, dtype, self.wte, EncoderLayer)
        self.decoder = Stack(config, dtype, self.wte, DecoderLayer)
        self.drop = Dropout(config.embd_pdrop)
        self.scale = math.sqrt(config.n_embd) if config.scale_embedding else 1.0

    def first_layers(self) -> list[Module]:
        """Return the first layer of each stack; all layers of a stack are alike."""
        return [self.encoder.layers[0], self.decoder.layers[0]]

    def embed(self, input_ids: ndarray, position_ids: ndarray) -> Tensor:
        """Map ``(B, T)`` ids to ``(B, T, C)``: the sum of a token's and of a position's vector."""
        return self.drop(
            self.wte(input_ids) * self.scale + self.decoder.embed_positions(position_ids)
        )

    def encode(
        self,
        input_ids: ndarray,
        attention_mask: ndarray | None = None,
        capture: Activations | None = None,
    ) -> Memory:
        """Read the source, ``(B, S)`` token ids; see `EncoderDecoder.encode`."""
        if input_ids.ndim != 2 or not input_ids.shape[1]:
            raise UserError(f"the source must have shape (B, S), S > 0, and has {input_ids.shape}")
        check_ids("the source", input_ids, self.vocab_size, "the vocabulary has {} tokens")
        B, S = input_ids.shape
        if self.n_positions < S:
            raise UserError(
                f"the source has {S} tokens, and the model reads at most {self.n_positions}: "
                "shorten it, or cut it into several"
            )
        mask = None if attention_mask is None else mask_of(attention_mask, B, S, 0)
        context = Context(mask, capture)
        x = self.embed(input_ids, np.arange(S))
        for layer in self.encoder.layers:
            if capture is not None:
                capture.hidden_states.append(x)
            x = (checkpoint(layer) if self.checkpoint_activations else layer)(x, context)
        if capture is not None:
            capture.hidden_states.append(x)
        return Memory(x, mask)

    def apply_blocks(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Apply the layers of the decoder, ``(B, T, C) -> (B, T, C)``."""
        capture, memory = context.capture, context.memory
        if memory is None:
            raise UserError(
                "an encoder-decoder needs a source: generate(model, source), or "
                "memory=model.encode(source)"
            )
        for layer, given in context.for_blocks(self.decoder.layers):
            if capture is not None:
                capture.hidden_states.append(x)
            run = checkpoint(layer) if self.checkpoint_activations else layer
            x = run(x, memory.states, given)
        if capture is not None:
            capture.hidden_states.append(x)
        return x


def check_rows(name: str, ids: ndarray, source: ArrayLike) -> None:
    """Refuse an array that is not of the shape (B, T), with a row for each source."""
    if ids.ndim != 2 or len(ids) != len(np.asarray(source)):
        raise UserError(
            f"{name} has shape {ids.shape}, and the source {np.shape(source)}: a row for each "
            "source is expected, (B, T)"
        )


class BiasedHead(Head):
    """The map from a hidden state to logits, with a bias for each token, as Marian has it."""

    def __init__(self, weight: Parameter):
        super().__init__(weight)
        self.bias = Parameter.full((1, weight.shape[0]), 0, weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., C) -> (..., V)``."""
        return nn.affine(x, self.weight.T, self.bias.reshape(-1))

    def trace(self, x: Traced) -> Traced:
        """Trace the product and the bias."""
        return x.linear(self.weight.numpy().T, self.bias)


class EncoderDecoder(GPT):
    """A model that reads a source and writes a target, such as a sentence and its translation.

    Parameters
    ----------
    config : EncoderDecoderConfig
    seed : int
        The seed of the initialization.
    dtype : dtype_like
        The dtype of the parameters: float32, or float64 for checking.

    Examples
    --------
    >>> import numpy as np
    >>> config = EncoderDecoderConfig(vocab_size=20, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    >>> model = EncoderDecoder(config).eval()
    >>> source, target = np.array([[3, 4, 5, 6]]), np.array([[7, 8, 0]])
    >>> logits, loss = model(source, target)
    >>> logits.shape
    (1, 3, 20)
    >>> loss.backward()
    >>> model.transformer.encoder.layers[0].self_attn.q_proj.weight.grad.shape
    (16, 16)
    """

    configuration = EncoderDecoderConfig
    body = Stacks
    block = LayerPair
    config: EncoderDecoderConfig
    transformer: Stacks

    def make_heads(self, dtype: DTypeLike) -> None:
        """Make the head, which has the table of embeddings for its weight."""
        self.lm_head = BiasedHead(self.transformer.wte.weight)

    def _initialize(self, generator: np.random.Generator) -> None:
        """Draw the weights, normal: a matrix with the variance 2 / (in + out), the table 1 / C.

        The first is that of Glorot and Bengio 2010. With the second, the vectors of tokens, which
        are multiplied by the root of C, are of the size of those of positions. Without this
        multiplication, `initializer_range` is the standard deviation of the table.
        """
        config, table = self.config, self.transformer.wte.weight
        for parameter in self.parameters():
            if parameter.ndim < 2:
                continue
            spread = math.sqrt(2 / sum(parameter.shape))
            if parameter is table:
                spread = config.initializer_range
                if config.scale_embedding:
                    spread = 1 / math.sqrt(config.n_embd)
            draw = generator.standard_normal(parameter.shape, np.float32)
            draw *= spread  # in place: a table can be a third of a model
            parameter.data[...] = draw
        table.data[config.pad_token_id] = 0

    def encode(self, input_ids: ndarray, attention_mask: ndarray | None = None) -> Memory:
        """Read the source once, for as many passes of the decoder as needed.

        Parameters
        ----------
        input_ids : ndarray of int, (B, S)
        attention_mask : ndarray, (B, S), optional
            0 for padding, at which nothing looks.

        Raises
        ------
        UserError
            If the source is not of shape (B, S) with S > 0, has an id that is not in the
            vocabulary, or has more tokens than the model has positions.
        ValueError
            If the mask has another shape.
        """
        return self.transformer.encode(np.asarray(input_ids), attention_mask)

    def forward(  # type: ignore[override]
        self,
        input_ids: ndarray,
        targets: ndarray | None = None,
        attention_mask: ndarray | None = None,
        decoder_input_ids: ndarray | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits of the target's tokens, and with targets the mean cross-entropy.

        Parameters
        ----------
        input_ids : ndarray of int, (B, S)
            The source.
        targets : ndarray of int, (B, T), optional
            The tokens to write. A target of -100 does not count in the loss.
        attention_mask : ndarray, (B, S), optional
            0 for padding of the source.
        decoder_input_ids : ndarray of int, (B, T), optional
            What the decoder reads. If not given, the targets moved by one: first
            `decoder_start_token_id`, then all targets but the last.

        Returns
        -------
        logits : Tensor, (B, T, V)
        loss : Tensor or None

        Raises
        ------
        UserError
            See `encode`; also if a target is not in the vocabulary, or there is neither a target
            nor `decoder_input_ids`.
        ValueError
            If a target has more tokens than the model has positions, or the mask another shape.
        """
        if targets is not None:
            targets = check_targets(targets, self.config.vocab_size)
            check_rows("targets", targets, input_ids)
        if decoder_input_ids is None:
            if targets is None:
                raise UserError(
                    "the decoder has nothing to read: give targets, or decoder_input_ids"
                )
            decoder_input_ids = self.shifted(targets)
        memory = self.encode(input_ids, attention_mask)
        decoder_input_ids = np.asarray(decoder_input_ids)
        check_rows("decoder_input_ids", decoder_input_ids, input_ids)
        x = self.transformer(decoder_input_ids, memory=memory)  # (B, T, C)
        return self.predict(x, targets)

    def shifted(self, targets: ndarray) -> ndarray:
        """Return what the decoder reads to predict targets: ``(B, T) -> (B, T)``.

        Examples
        --------
        >>> config = EncoderDecoderConfig(9, 8, 4, 1, 1, pad_token_id=1, decoder_start_token_id=2)
        >>> EncoderDecoder(config).shifted(np.array([[5, 6, 0, -100]]))
        array([[2, 5, 6, 0]])
        """
        start = np.full((len(targets), 1), self.config.decoder_start_token_id)
        moved = np.concatenate([start, targets[:, :-1]], axis=1)
        return np.where(moved == -100, self.config.pad_token_id, moved)

    def activations(
        self,
        input_ids: ndarray,
        attention_mask: ndarray | None = None,
        decoder_input_ids: ndarray | None = None,
    ) -> Activations:
        """Return every hidden state, and the weights of every attention head; see `forward`.

        The values are those of the decoder, with `cross_attentions`; `encoder` has the others.

        Examples
        --------
        >>> config = EncoderDecoderConfig(9, 8, 4, 1, 2)
        >>> source, read = np.array([[3, 4, 5]]), np.array([[0, 6]])
        >>> EncoderDecoder(config).activations(source, None, read).cross_attentions[0].shape
        (1, 2, 2, 3)
        """
        if decoder_input_ids is None:
            raise UserError("the decoder has nothing to read: give decoder_input_ids")
        capture = Activations(encoder=Activations())
        memory = self.transformer.encode(np.asarray(input_ids), attention_mask, capture.encoder)
        self.transformer(np.asarray(decoder_input_ids), capture=capture, memory=memory)
        return capture


NAMES_IN_FILES = {
    "lm_head.bias": "final_logits_bias",
    "transformer.wte.*": "model.shared.*",
    "transformer.*_proj.weight": "model.*_proj.weight.T",
    "transformer.*.mlp.fc*.weight": "model.*.fc*.weight.T",
    "transformer.*.mlp.fc*": "model.*.fc*",
    "transformer.*": "model.*",
}

ENCODER_DECODER_PRESETS = {  # Vaswani et al. 2017, table 3; the context is an assumption
    "transformer-base": EncoderDecoderConfig(n_inner=2048),
    "transformer-big": EncoderDecoderConfig(n_embd=1024, n_inner=4096, n_head=16, resid_pdrop=0.3,
                                            embd_pdrop=0.3),
}  # fmt: skip
EncoderDecoderConfig.presets = ENCODER_DECODER_PRESETS
