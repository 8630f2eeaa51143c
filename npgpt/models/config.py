"""What all configurations share, the configuration of a GPT, and the published sizes of GPTs."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from autograd.escape import brief
from autograd.schema import Range, fit, fit_fields, nearest
from npgpt.errors import UserError

Size = Annotated[int, Range(1, 2**28)]  # the product of two sizes fits a 64-bit integer
Layers = Annotated[int, Range(1, 2**20)]
Steps = Annotated[int, Range(0, 2**53)]
Interval = Annotated[int, Range(1, 2**53)]
Seed = Annotated[int, Range(0, 2**64 - 1)]
Positive = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1, excluded=1)]
TokenId = Annotated[int, Range(0, 2**28)]

Activation = Literal[
    "gelu_new", "gelu", "relu", "silu", "tanh",
    "gelu_pytorch_tanh", "gelu_fast", "gelu_python", "swish",
]  # fmt: skip
NormPosition = Literal["pre", "post"]
PositionEmbedding = Literal["learned", "sinusoidal"]

ALIASES = {  # names that transformers accepts as well
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
# Fields of a config.json that change what is computed, and the only value with which it is computed
# here (None: there must be no such field), and why. These are the fields of all architectures.
FIXED: dict[str, tuple[Any, str]] = {
    "quantization_config": (None, "weights are read in 16, 32 or 64 bits, floating point"),
}
GPT2_END = 50256  # transformers takes this id for the end of a text where no file says another


@dataclass
class ModelConfig(ABC):
    """The fields that all architectures have; `GPTConfig` says what each is.

    A subclass gives its own defaults, and adds fields. It says what stands in a ``config.json``
    (`from_dict`, `to_dict`), and by which name of the registry a model of it goes (`model_type`).
    """

    hugging_face: ClassVar[dict[str, str]] = {}  # the classes of transformers, by `model_type`
    presets: ClassVar[dict[str, Any]] = {}  # the published sizes, by name
    fixed: ClassVar[dict[str, tuple[Any, str]]] = {}  # beside those in `FIXED`

    vocab_size: Size = 50257
    n_positions: Size = 1024
    n_embd: Size = 768
    n_layer: Layers = 12
    n_head: Size = 12
    n_inner: Size | None = None
    activation_function: Activation = "gelu_new"
    resid_pdrop: Fraction = 0.0
    embd_pdrop: Fraction = 0.0
    attn_pdrop: Fraction = 0.0
    initializer_range: Positive = 0.02
    tie_word_embeddings: bool = True
    window_size: Size | None = None
    labels: tuple[str, ...] = ()

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return a published architecture, by a name of `presets`, with some fields changed."""
        if name not in cls.presets:
            raise UserError(f"unknown preset {name!r}{nearest(name, list(cls.presets))}")
        return dataclasses.replace(cls.presets[name], **changes)

    @classmethod
    @abstractmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a configuration of the fields of a Hugging Face ``config.json``.

        A field that changes what is computed is used, or is refused if it has another value than
        the one of `fixed`. All other fields are ignored.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the fields of a Hugging Face ``config.json``."""

    @property
    @abstractmethod
    def model_type(self) -> str:
        """The name in the registry, which stands in ``config.json``."""

    @classmethod
    def from_names(cls, values: dict[str, Any], names: Mapping[str, str]) -> Self:
        """Make a configuration of fields by other names, which a table translates to ours."""
        values = translate(values, names)
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    @classmethod
    def demand_fixed(cls, values: Mapping[str, Any]) -> None:
        """Refuse a field of a ``config.json`` that has another value than `fixed` says."""
        for name, (expected, why) in (FIXED | cls.fixed).items():
            value = values.get(name)
            if value is not None and value != expected:
                raise UserError(f"{name} is {_json(value)}; expected {_json(expected)}: {why}")

    def to_names(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Return all fields by the names that a table translates to ours; see `from_names`."""
        theirs = {ours: name for name, ours in names.items()}
        return {theirs.get(name, name): value for name, value in dataclasses.asdict(self).items()}

    def labelled(self) -> dict[str, Any]:
        """Return the fields of a ``config.json`` that name the labels, and the class with them."""
        fields: dict[str, Any] = {
            "id2label": {str(i): label for i, label in enumerate(self.labels)},
            "label2id": {label: i for i, label in enumerate(self.labels)},
        }
        if len(self.labels) == 1:
            fields["problem_type"] = "regression"
        if self.model_type in self.hugging_face:
            name = _CLASS_END.sub(CLASSIFIES, self.hugging_face[self.model_type])
            fields["architectures"] = [name]
        else:
            fields["architectures"] = [f"GPT{CLASSIFIES}"]
        return fields

    @property
    def block_size(self) -> int:
        """The context length, by nanoGPT's name."""
        return self.n_positions

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.n_embd // self.n_head

    @property
    def mlp_width(self) -> int:
        """Channels between the linear layers of an MLP."""
        return self.n_inner or 4 * self.n_embd

    @property
    def n_branches(self) -> int:
        """The number of residual branches whose results are added up without a norm."""
        return 2 * self.n_layer

    def window_of(self, layer: int) -> int | None:
        """Return how many tokens a position sees in a layer; None for all that no mask hides."""
        return None

    @abstractmethod
    def described(self) -> dict[str, str]:
        """Return what `npgpt info` says of the parts of a block."""


def translate(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return fields by our names, of fields by other names.

    Raises
    ------
    UserError
        If a field stands under two names, with different values.

    Examples
    --------
    >>> translate({"hidden_size": 8, "bias": True}, ALIASES)
    {'n_embd': 8, 'bias': True}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        ours = names.get(key, key)
        if ours in found and found[ours] != value:
            raise UserError(
                f"{key} is {brief(value)}, and another name of the same field has the value "
                f"{brief(found[ours])}; expected one of the two names"
            )
        found[ours] = value
    return found


def _json(value: Any) -> str:
    """Return a short form of a value, with the words of a JSON file."""
    words = {None: "no such field", True: "true", False: "false"}
    return words[value] if value is None or value is True or value is False else brief(value)


CLASSIFIES = "ForSequenceClassification"  # how transformers' classes with labels end
_CLASS_END = re.compile(r"(LMHeadModel|For[A-Z]\w*)$")


def read_labels(values: dict[str, Any]) -> tuple[str, ...]:
    """Return the labels that a Hugging Face ``config.json`` names; none if it classifies nothing.

    Examples
    --------
    >>> kind = {"architectures": ["GPT2ForSequenceClassification"]}
    >>> read_labels(kind | {"id2label": {"1": "good", "0": "bad"}})
    ('bad', 'good')
    >>> read_labels(kind), read_labels({"id2label": {"0": "bad"}})
    (('LABEL_0', 'LABEL_1'), ())
    """
    names = values.get("architectures") or []
    name = next(iter(names), "") if isinstance(names, list) else names
    if not str(name).endswith(CLASSIFIES):
        return ()
    if values.get("id2label") is None:
        labels = unnamed(fit(values.get("num_labels", 2), Size, "num_labels"))
    else:
        labels = read_names(values["id2label"])
    expected = "regression" if len(labels) == 1 else "single_label_classification"
    if (problem := values.get("problem_type")) not in (None, expected):
        raise UserError(
            f"problem_type is {brief(problem)}; with {len(labels)} labels, expected "
            f"{expected!r}: other losses are not computed here"
        )
    return labels


def read_names(id2label: Any) -> tuple[str, ...]:
    """Return the names of labels in the order of their numbers."""
    found = fit(id2label, dict[str, str], "id2label")
    numbers = [str(i) for i in range(len(found))]
    if sorted(found) != sorted(numbers):
        raise UserError(f"id2label has the keys {brief([*found])}; expected 0, 1, 2 and so on")
    return tuple(found[i] for i in numbers)


def unnamed(n: int) -> tuple[str, ...]:
    """Return transformers' names of n labels."""
    return tuple(f"LABEL_{i}" for i in range(n))


def takes_block_size(config: type) -> type:
    """Let a class of configurations take ``block_size`` as another name of ``n_positions``.

    ``block_size`` is no field: ``dataclasses.replace(config, n_positions=8)`` would pass on the old
    value of a field of that name.
    """
    init = config.__init__  # type: ignore[misc]

    @functools.wraps(init)
    def init_with_alias(
        self: Any, *args: Any, block_size: int | None = None, **fields: Any
    ) -> None:
        if block_size is not None:
            fields["n_positions"] = block_size
        init(self, *args, **fields)

    config.__init__ = init_with_alias  # type: ignore[misc]
    return config


@takes_block_size
@dataclass
class GPTConfig(ModelConfig):
    """The architecture of a GPT, with Hugging Face's field names and GPT-2's values.

    Parameters
    ----------
    vocab_size, n_positions, n_embd, n_layer, n_head : int
        ``block_size``, nanoGPT's name, is accepted for ``n_positions``, the context length.
    n_inner : int, optional
        Width of the MLP; four times ``n_embd`` if not given.
    activation_function : str
        ``"gelu_new"`` (the tanh form, GPT-1's and GPT-2's), ``"gelu"`` (exact), ``"relu"``,
        ``"silu"``, ``"tanh"``, or another name that Hugging Face has for one of these.
    resid_pdrop, embd_pdrop, attn_pdrop : float
        The probability of dropout: of each branch's result, of the embeddings, and of the attention
        weights.
    layer_norm_epsilon, initializer_range : float
    scale_attn_weights, scale_attn_by_inverse_layer_idx : bool
        The first divides the scores of attention by the root of a head's width, the second by the
        layer's number, counted from 1.
    reorder_and_upcast_attn : bool
        In transformers: compute attention in float32 under mixed precision. Parameters here are
        float32 or float64, so the field has no effect. It is kept for programs that read the file.
    tie_word_embeddings : bool
        Whether the weight of the head is that of the token embedding.
    bias : bool
        False leaves out the biases of all linear layers and norms, as nanoGPT's recipes do.
    norm_position : {"pre", "post"}
        Where a block normalizes. GPT-2 normalizes the input of each branch ("pre"), and once more
        after the last block. GPT-1 normalizes the sum of a branch and its input ("post").
    position_embedding : {"learned", "sinusoidal"}
        Whether the table of positions is learned, or that of Vaswani et al. 2017, section 3.5.
    window_size : int, optional
        In every other layer, a position sees only itself and the ``window_size - 1`` positions
        before it: GPT-3's locally banded attention, in alternation with dense attention.
    labels : tuple of str
        What the model chooses from, if it judges a text as a whole; one label stands for a number
        that the model predicts. Without labels, it predicts the next token.
    pad_token_id : int, optional
        The token that fills up shorter texts. Of a model with labels alone: transformers needs it
        to find the last token of each text.
    head_dim : int, optional
        Channels of a head; ``n_embd / n_head`` if not given. A model that has lost heads by pruning
        has fewer heads of the same size. transformers has no such GPT-2.

    Raises
    ------
    UserError
        If a field has another type than its annotation says, or a number is out of its range; if
        `n_embd` is not a multiple of `n_head`; or if the channels of all heads of `head_dim` are
        more than `n_embd`.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> GPTConfig(vocab_size=65, block_size=64, n_embd=128, n_layer=4, n_head=4).n_positions
    64
    >>> GPTConfig.preset("gpt1").norm_position
    'post'
    """

    hugging_face: ClassVar[dict[str, str]] = {  # the classes of transformers, by `model_type`
        "gpt2": "GPT2LMHeadModel",
        "openai-gpt": "OpenAIGPTLMHeadModel",
    }

    fixed: ClassVar[dict[str, tuple[Any, str]]] = {
        "add_cross_attention": (False, "this GPT has no cross-attention"),
        "is_encoder_decoder": (False, "a GPT has no encoder"),
    }

    resid_pdrop: Fraction = 0.1
    embd_pdrop: Fraction = 0.1
    attn_pdrop: Fraction = 0.1
    layer_norm_epsilon: Positive = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    bias: bool = True
    norm_position: NormPosition = "pre"
    position_embedding: PositionEmbedding = "learned"
    pad_token_id: TokenId | None = None
    head_dim: Size | None = None

    def __post_init__(self) -> None:
        fit_fields(self)
        if self.head_dim is None and self.n_embd % self.n_head:
            raise UserError(
                f"n_embd is {self.n_embd} and n_head {self.n_head}: a head has n_embd / n_head "
                "channels, so n_embd must be a multiple of n_head"
            )
        size = self.head_size
        if self.n_embd % size or self.n_head * size > self.n_embd:
            raise UserError(
                f"n_embd is {self.n_embd}, n_head {self.n_head} and head_dim {size}: a pruned GPT "
                "has some of the n_embd / head_dim heads that it had, so n_embd must be a multiple "
                "of head_dim, and n_head at most n_embd / head_dim"
            )
        # A size that follows from others is None, so that a configuration equals that of its file.
        self.head_dim = None if self.n_head * size == self.n_embd else size

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a configuration of the fields of a Hugging Face ``config.json``."""
        cls.demand_fixed(values)
        values = translate(values, ALIASES)
        is_gpt1 = values.get("model_type") == "openai-gpt"
        if is_gpt1 and "afn" in values:  # GPT-1 calls the tanh form "gelu"
            afn = values["afn"]
            values["activation_function"] = "gelu_new" if afn == "gelu" else afn
        known = {f.name for f in dataclasses.fields(cls)}
        values["labels"] = read_labels(values)
        values["pad_token_id"] = values.get("pad_token_id") if values["labels"] else None
        fields = {key: value for key, value in values.items() if key in known}
        base: Any = PRESETS["gpt1"] if is_gpt1 else cls()
        return dataclasses.replace(base, **fields)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of a Hugging Face ``config.json``."""
        fields = {"model_type": self.model_type, **dataclasses.asdict(self)}
        if self.model_type in self.hugging_face:
            fields["architectures"] = [self.hugging_face[self.model_type]]
        if self.model_type == "gpt2" and self.vocab_size <= GPT2_END:
            fields |= {"bos_token_id": None, "eos_token_id": None}
        if self.model_type == "openai-gpt":
            tanh_form = self.activation_function not in ("relu", "silu", "swish")
            fields["afn"] = "gelu" if tanh_form else self.activation_function
        del fields["labels"]
        if self.head_dim is None:
            del fields["head_dim"]
        return fields | self.labelled() if self.labels else fields

    @property
    def model_type(self) -> str:
        """The name in the registry: transformers' name of the same model, or ``"npgpt"``."""
        if self.window_size is not None or self.head_dim is not None:
            return "npgpt"
        if self.norm_position == "pre":
            return "gpt2"
        as_published = (
            self.mlp_width == 4 * self.n_embd
            and self.activation_function not in ("gelu", "gelu_python", "tanh")
            and self.scale_attn_weights
            and not self.scale_attn_by_inverse_layer_idx
        )
        return "openai-gpt" if as_published else "npgpt"

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def n_branches(self) -> int:
        """The number of residual branches whose results are added up without a norm."""
        return 2 * self.n_layer if self.norm_position == "pre" else 1

    def window_of(self, layer: int) -> int | None:
        """Return how many tokens a position sees in a layer; None for all before it."""
        return self.window_size if layer % 2 else None  # GPT-3: every other layer

    def described(self) -> dict[str, str]:
        """Return what `npgpt info` says of the parts of a block."""
        window = self.window_size
        return {
            "heads": f"{self.n_head} of {self.head_size}",
            "MLP": f"{self.mlp_width:,}, {self.activation_function}",
            "norm": self.norm_position,
            "attention": "dense" if window is None else f"dense, last {window:,} in turn",
            "positions": f"{self.n_positions:,}, {self.position_embedding}",
            "biases": "yes" if self.bias else "no",
        }


def path_of(name: str) -> str:
    """Return the path that a file's name stands for: ``~`` and ``file://`` are resolved.

    A name of bytes that are not UTF-8 becomes absolute, so that `uri_of` can write the name.
    """
    if name.startswith("file:///"):
        name = os.fsdecode(urllib.parse.unquote_to_bytes(name.removeprefix("file://")))
    name = os.path.expanduser(name)
    return name if name.isascii() or _is_utf8(name) else os.path.abspath(name)


def uri_of(value: Any) -> Any:
    """Return a value for a text file; of a file's name that is not UTF-8, the URI."""
    is_writable = not isinstance(value, str) or _is_utf8(value)
    return value if is_writable else f"file://{urllib.parse.quote(os.fsencode(value))}"


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in name)


def _gpt3(n_layer: int, n_embd: int, n_head: int) -> GPTConfig:
    # The paper does not say how wide the band is; 256 is an assumption (GPT-Neo's choice).
    return GPTConfig(
        n_positions=2048, n_layer=n_layer, n_embd=n_embd, n_head=n_head, window_size=256
    )


# GPT-3's are the rows of Brown et al. 2020, table 2.1. Two contradict themselves: 1.3B has 24 heads
# of 128 for 2,048 channels (taken as 16 heads), 13B 5,140 channels for 40 heads of 128 (5,120).
PRESETS = {
    "gpt1": GPTConfig(vocab_size=40478, n_positions=512, norm_position="post"),
    "gpt2": GPTConfig(),
    "gpt2-medium": GPTConfig(n_layer=24, n_embd=1024, n_head=16),
    "gpt2-large": GPTConfig(n_layer=36, n_embd=1280, n_head=20),
    "gpt2-xl": GPTConfig(n_layer=48, n_embd=1600, n_head=25),
    "gpt3-125m": _gpt3(12, 768, 12),
    "gpt3-350m": _gpt3(24, 1024, 16),
    "gpt3-760m": _gpt3(24, 1536, 16),
    "gpt3-1.3b": _gpt3(24, 2048, 16),
    "gpt3-2.7b": _gpt3(32, 2560, 32),
    "gpt3-6.7b": _gpt3(32, 4096, 32),
    "gpt3-13b": _gpt3(40, 5120, 40),
    "gpt3-175b": _gpt3(96, 12288, 96),
}
GPTConfig.presets = PRESETS
