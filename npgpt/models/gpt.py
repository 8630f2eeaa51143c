"""GPT-1, GPT-2 and GPT-3: from token ids to the logits of the next token, top to bottom.

Shapes: B sequences, T positions, C = n_embd channels, H heads of D = C / H channels, V tokens.
Parameters have the names of Hugging Face's GPT-2: ``transformer.h.0.attn.c_attn.weight`` and so on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from autograd import Tensor
from autograd.functional import checkpoint
from npgpt.errors import UserError
from npgpt.models.blocks import Block
from npgpt.models.cache import KVCache, Memory
from npgpt.models.config import GPTConfig, ModelConfig
from npgpt.models.context import ALONE, Activations, Context
from npgpt.models.heads import (
    Head,
    check_labels,
    check_targets,
    label_loss,
    last_of,
    next_token_loss,
)
from npgpt.models.layers import Dropout, Embedding, LayerNorm
from npgpt.models.positions import PositionEmbedding, SinusoidalEmbedding
from npgpt.module import Module, Parameter, check_ids, is_unallocated


class Transformer(Module):
    """Embeddings, blocks and the final norm: everything but the head.

    Attributes
    ----------
    checkpoint_activations : bool
        Keep only the input of each block for the backward pass, which then runs the block again:
        the same gradients, bit for bit, in less memory and more time (Chen et al. 2016).
    """

    checkpoint_activations = False

    def __init__(self, config: GPTConfig, dtype: DTypeLike, block: Callable[..., Module] = Block):
        self.vocab_size, self.n_positions = config.vocab_size, config.n_positions
        self.wte = Embedding(config.vocab_size, config.n_embd, dtype)
        self.wpe: Module = (
            PositionEmbedding(config.n_positions, config.n_embd, dtype)
            if config.position_embedding == "learned"
            else SinusoidalEmbedding(config.n_embd, dtype)
        )
        self.drop = Dropout(config.embd_pdrop)
        self.h = [block(config, layer, dtype) for layer in range(config.n_layer)]
        self.ln_f: (
            Module | None
        ) = (  # the last block of a post-norm model ends with a norm as it is
            LayerNorm(config.n_embd, config.bias, config.layer_norm_epsilon, dtype)
            if config.norm_position == "pre"
            else None
        )

    def forward(
        self,
        input_ids: ndarray,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
        capture: Activations | None = None,
        cache: KVCache | None = None,
        memory: Memory | None = None,
        only_last: bool = False,
        **more: Any,
    ) -> Tensor:
        """Map ``(B, T)`` token ids to ``(B, T, C)`` hidden states; see `GPT.forward`.

        With `only_last`, the result is that of the last position alone, (B, 1, C). A model with a
        source reads it in `memory`, which `EncoderDecoder.encode` makes. `more` is what `embed` of
        this model takes beside ids and positions, such as segments.
        """
        if input_ids.ndim != 2 or not input_ids.shape[1]:
            raise UserError(f"input_ids must have shape (B, T), T > 0, and has {input_ids.shape}")
        check_ids("input_ids", input_ids, self.vocab_size, "the vocabulary has {} tokens")
        B, T = input_ids.shape
        past = 0 if cache is None else cache.length
        S = past + T
        if self.n_positions < S:
            raise ValueError(f"{S} tokens do not fit the context of {self.n_positions}")
        if cache is not None:
            cache.make_room(B, T)
        position_ids = np.arange(past, S) if position_ids is None else np.asarray(position_ids)
        check_ids("position_ids", position_ids, self.n_positions, "the context has {} positions")
        mask = None if attention_mask is None else mask_of(attention_mask, B, T, past)
        x = self.embed(input_ids, position_ids, **more)
        rotation = self.rotation(position_ids)
        x = self.apply_blocks(x, Context(mask, capture, cache, rotation, memory, only_last))
        if cache is not None:
            cache.length = S
        return x

    def first_layers(self) -> list[Module]:
        """Return a block of each kind; all blocks of a kind have the same parameters."""
        return self.h[:1]

    def embed(self, input_ids: ndarray, position_ids: ndarray) -> Tensor:
        """Map ``(B, T)`` ids to ``(B, T, C)``: the sum of a token's and of a position's vector."""
        return self.drop(self.wte(input_ids) + self.wpe(position_ids))

    def rotation(self, position_ids: ndarray) -> tuple[ndarray, ndarray] | None:
        """Return what turns queries and keys at these positions; GPTs add a vector instead."""
        return None

    def apply_blocks(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Apply the blocks and the last norm: ``(B, T, C) -> (B, T, C)``, or ``(B, 1, C)``."""
        capture = context.capture
        for block, given in context.for_blocks(self.h):
            if capture is not None:
                capture.hidden_states.append(x)
            x = (checkpoint(block) if self.checkpoint_activations else block)(x, given)
        if self.ln_f is not None:
            x = self.ln_f(x)
        if capture is not None:
            capture.hidden_states.append(x)
        return x

    trace = apply_blocks  # what is traced begins with hidden states


def mask_of(attention_mask: ndarray, B: int, T: int, past: int) -> ndarray:
    """Return the mask of all heads, (B, 1, 1 or T, S) of bool, with S = past + T."""
    try:
        mask = np.asarray(attention_mask)
    except ValueError:
        raise ValueError(
            f"the rows of attention_mask differ in length; input_ids is {(B, T)}"
        ) from None
    if mask.shape not in ((B, past + T), (B, T, past + T)):
        after = f", after {past} tokens in the cache" if past else ""
        raise ValueError(f"attention_mask has shape {mask.shape}, and input_ids {(B, T)}{after}")
    if not (mask.dtype == bool or np.isin(mask, (0, 1)).all()):
        raise ValueError(
            "attention_mask holds other numbers than 0 and 1; give 1 for a token that is seen, and "
            "0 for one that is not"
        )
    if mask.ndim == 2:
        mask = mask[:, None]  # (B, S) -> (B, 1, S): the same for all queries
    return mask[:, None] != 0


class GPT(Module):
    """A GPT language model: GPT-1, GPT-2 or GPT-3, depending on the configuration.

    Parameters
    ----------
    config : GPTConfig
    seed : int
        The seed of the initialization.
    dtype : dtype_like
        The dtype of the parameters: float32, or float64 for checking.

    Attributes
    ----------
    generation_config : dict
        Defaults for the options of `generate`, from ``generation_config.json``.
    label_smoothing : float
        In training, the part of each target's probability that is spread over all tokens (Szegedy
        et al. 2015, arXiv:1512.00567, section 7). Without training, as dropout, it is off.
    lora_config : LoraConfig or None
        How the linear layers are changed while the rest is frozen (`npgpt.weights.adapters`).

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> ids = np.array([[1, 2, 3, 4]])
    >>> logits, loss = model(ids[:, :-1], targets=ids[:, 1:])
    >>> logits.shape
    (1, 3, 65)
    >>> loss.backward()
    >>> model.transformer.wte.weight.grad.shape
    (65, 16)
    """

    configuration: ClassVar[type[ModelConfig]] = GPTConfig
    body: ClassVar[Callable[..., Transformer]] = Transformer  # made as body(config, dtype, block)
    block: ClassVar[Callable[..., Module]] = Block  # made as block(config, layer, dtype)
    branch_ends: ClassVar[tuple[str, ...]] = ("c_proj.weight",)  # the last matrices of branches
    optional_tensors: ClassVar[tuple[str, ...]] = ()  # of other heads: how their names begin

    label_smoothing = 0.0
    lm_head: Any = None
    label_head: Any = None
    span_head: Any = None

    # What generates, loads and saves is built on top of the model, and so is not imported here:
    # npgpt/__init__.py makes `npgpt.generate`, `load_model` and `save_pretrained` methods.
    generate: ClassVar[Callable[..., Any]]
    from_pretrained: ClassVar[Callable[..., GPT]]
    save_pretrained: ClassVar[Callable[..., None]]

    def __init__(self, config: ModelConfig, seed: int = 0, dtype: DTypeLike = np.float32):
        if not isinstance(config, self.configuration):
            raise UserError(
                f"{type(self).__name__} takes a {self.configuration.__name__}, and this is a "
                f"{type(config).__name__}; npgpt.models.registry.architecture_of(config).model has "
                "the class of its models"
            )
        self.config = config
        self.generation_config: dict[str, Any] = {}  # defaults of `generate`
        self.lora_config: Any = None
        self.transformer = self.body(config, dtype, self.block)
        self.make_heads(dtype)
        if not is_unallocated():
            self._initialize(np.random.default_rng(seed))

    def make_heads(self, dtype: DTypeLike) -> None:
        """Make the modules that read the last hidden states."""
        config, table = self.config, self.transformer.wte.weight

        def new(n: int) -> Parameter:
            return Parameter.full((n, config.n_embd), 0, dtype)

        if config.labels:
            self.label_head = Head(new(len(config.labels)))
        else:
            self.lm_head = Head(table if config.tie_word_embeddings else new(config.vocab_size))

    def _initialize(self, generator: np.random.Generator) -> None:
        """Draw the weights: matrices are normal, with a standard deviation of 0.02.

        A matrix at the end of a residual branch is divided by the root of the number of branches.
        The sum of all branches then does not grow with depth (Radford et al. 2019, section 2.3).
        GPT-1 normalizes this sum, and so does not divide.
        """
        config = self.config
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue  # biases are 0, the weights of norms 1
            shrink = math.sqrt(config.n_branches) if name.endswith(self.branch_ends) else 1
            draw = generator.standard_normal(parameter.shape, np.float32)
            draw *= config.initializer_range / shrink  # in place: a table can be a third of a model
            parameter.data[...] = draw

    @property
    def predicts_tokens(self) -> bool:
        """Whether the head predicts the next token; a model with labels judges a text instead."""
        return not self.config.labels

    @property
    def smoothing(self) -> float:
        """The label smoothing of the next loss: `label_smoothing` in training, and else 0."""
        return self.label_smoothing if self.training else 0.0

    def forward(
        self,
        input_ids: ndarray,
        targets: ndarray | None = None,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and with targets the mean cross-entropy.

        Parameters
        ----------
        input_ids : ndarray of int, (B, T)
        targets : ndarray of int, (B, T), optional
            The token that follows each position. A target of -100 does not count in the loss. A
            model with labels takes the label of each text instead, (B,), or a number if it has
            only one label.
        attention_mask : ndarray, (B, T) or (B, T, T), optional
            0 for padding. No position looks at padding, and the logits at padding have no meaning.
            With three axes, entry (b, i, j) says whether position i of sequence b may look at
            position j. With a cache, the last axis has cache.length + T entries, since it covers
            the tokens that were read earlier, too. Whatever the mask says, no position looks at
            those after it.
        position_ids : ndarray of int, (T,) or (B, T), optional
            The positions of the tokens: 0, 1, 2, ... if not given. With a cache, they begin with
            its length.
        cache : KVCache, optional
            The keys and values of tokens that were read earlier. The new tokens see these, and are
            added to the cache. A cache holds no tape, so it is for use under `autograd.no_grad`.

        Returns
        -------
        logits : Tensor, (B, T, V)
            Of a model with labels, (B, labels), from the state of each text's last token
            (Radford et al. 2018, section 3.2).
        loss : Tensor or None

        Raises
        ------
        UserError
            If `input_ids` is not of shape (B, T) with T > 0; if an id or a target is no integer, or
            not in the vocabulary; or if a position is not in the context.
        ValueError
            If the tokens do not fit the context or the cache, or the mask has another shape.
        """
        input_ids = np.asarray(input_ids)
        if targets is not None and self.label_head is None:
            targets = check_targets(targets, self.config.vocab_size)
        elif targets is not None:
            targets = check_labels(targets, len(input_ids), len(self.config.labels))
        x = self.transformer(input_ids, attention_mask, position_ids, cache=cache)  # (B, T, C)
        return self.predict(x, targets, attention_mask)

    def predict(
        self, x: Tensor, targets: ndarray | None = None, attention_mask: ndarray | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits of the last hidden states (B, T, C), and with targets the mean loss.

        The arguments are those of `forward`, which checks them.
        """
        if self.label_head is not None:
            logits = self.judge(x, attention_mask)
            return logits, None if targets is None else label_loss(logits, targets, self.smoothing)
        logits = self.lm_head(x)
        if targets is None:
            return logits, None
        return logits, next_token_loss(logits, targets, self.smoothing)

    def judge(self, x: Tensor, attention_mask: ndarray | None = None) -> Tensor:
        """Return the logits of labels, (B, labels), from the last hidden states (B, T, C).

        They come from the state of each text's last token, and so T may be 1 if this is given.
        """
        return self.label_head(last_of(x, attention_mask))

    def activations(
        self,
        input_ids: ndarray,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
    ) -> Activations:
        """Return every hidden state, and the weights of every attention head; see `forward`.

        Examples
        --------
        >>> import numpy as np
        >>> from npgpt import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
        >>> inside = model.activations(np.array([[1, 2, 3]]))
        >>> len(inside.hidden_states), inside.attentions[0].shape
        (3, (1, 2, 3, 3))
        """
        capture = Activations()
        self.transformer(np.asarray(input_ids), attention_mask, position_ids, capture)
        return capture

    def n_parameters(self) -> int:
        """Return the number of parameters, tied ones counted once."""
        return sum(parameter.size for parameter in self.parameters())
