"""BERT: an encoder that reads a text in both directions, and heads for what is asked of a text.

A block is that of GPT-1 without the causal mask: every position looks at all others (Devlin et al.
2018, arXiv:1810.04805). The model cannot write on, since each position has seen what comes after
it. It is trained to fill gaps instead, and its hidden states are read by small heads:

    BertModel                       pooler    tanh(linear(first hidden state))     (B, C)
    BertForMaskedLM                 lm_head   a token for each position            (B, T, V)
    BertForNextSentencePrediction   pooler, then a linear layer                    (B, 2)
    BertForSequenceClassification   pooler, dropout, then a linear layer           (B, labels)
    BertForQuestionAnswering        a linear layer: where an answer starts, ends   (B, T, 2)

Shapes: B texts, T positions, C = n_embd channels, H heads, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from autograd import Tensor
from autograd.escape import brief
from autograd.schema import fit_fields
from npgpt.errors import UserError
from npgpt.models.config import (
    ALIASES,
    Activation,
    Fraction,
    ModelConfig,
    Positive,
    Size,
    TokenId,
    read_labels,
    takes_block_size,
    unnamed,
)
from npgpt.models.context import Activations
from npgpt.models.encoder_decoder import EncoderLayer
from npgpt.models.gpt import GPT, Transformer
from npgpt.models.heads import (
    Head,
    check_labels,
    check_spans,
    check_targets,
    label_loss,
    next_token_loss,
    span_loss,
)
from npgpt.models.layers import ACTIVATIONS, Dropout, Embedding, LayerNorm, Linear
from npgpt.models.positions import PositionEmbedding
from npgpt.module import Module, Parameter, Traced, check_ids

# ---- the configuration

Kind = Literal[
    "BertModel",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
    "BertForQuestionAnswering",
]

NAMES = ALIASES | {  # in files
    "hidden_act": "activation_function",
    "intermediate_size": "n_inner",
    "hidden_dropout_prob": "resid_pdrop",
    "attention_probs_dropout_prob": "attn_pdrop",
    "layer_norm_eps": "layer_norm_epsilon",
}


@takes_block_size
@dataclass
class BertConfig(ModelConfig):
    """The architecture of a BERT, with the values of the base model of the paper.

    Parameters
    ----------
    vocab_size, n_positions, n_embd, n_layer, n_head, n_inner, activation_function, resid_pdrop
    embd_pdrop, attn_pdrop, layer_norm_epsilon, initializer_range
        As in `GPTConfig`. A ``config.json`` has Hugging Face's names for BERT, such as
        ``hidden_size``; `from_dict` and `to_dict` translate them.
    model_type : {"bert"}
    architecture : str
        The head, by the name of the class that transformers has for it: ``"BertModel"``,
        ``"BertForMaskedLM"``, ``"BertForNextSentencePrediction"``,
        ``"BertForSequenceClassification"`` or ``"BertForQuestionAnswering"``. The file of a model
        has the weights of one of these or of several; `npgpt.load_model` reads those that the
        architecture has.
    type_vocab_size : int
        Segments, such as the two sentences of a pair.
    labels : tuple of str
        The labels of a classification, as in `GPTConfig`; LABEL_0, LABEL_1 and so on, if not given.
    num_labels : int
        The number of labels, where they are not given.
    classifier_dropout : float, optional
        The probability of dropout before the classifier; `resid_pdrop` if not given.
    pad_token_id : int, optional
        The token that fills up shorter rows. As in transformers, its embedding gets no gradient
        where it is looked up.

    Raises
    ------
    UserError
        If a field has another type than its annotation says, or a number is out of its range; if
        `n_embd` is not a multiple of `n_head`; if the token is not in the vocabulary; or if the
        embeddings are not tied, or there is a `window_size`.

    Examples
    --------
    >>> config = BertConfig.preset("minilm-l6")
    >>> config.n_layer, config.n_embd, config.mlp_width
    (6, 384, 1536)
    """

    hugging_face: ClassVar[dict[str, str]] = {"bert": "BertForMaskedLM"}
    fixed: ClassVar[dict[str, tuple[Any, str]]] = {
        "is_decoder": (False, "a BERT here is an encoder"),
        "add_cross_attention": (False, "a BERT here is an encoder"),
        "is_encoder_decoder": (False, "a BERT here is an encoder alone"),
        "position_embedding_type": ("absolute", "each position has a vector of its own"),
    }

    vocab_size: Size = 30522
    n_positions: Size = 512
    activation_function: Activation = "gelu"
    resid_pdrop: Fraction = 0.1
    embd_pdrop: Fraction = 0.1
    attn_pdrop: Fraction = 0.1
    model_type: Literal["bert"] = "bert"
    architecture: Kind = "BertForMaskedLM"
    layer_norm_epsilon: Positive = 1e-12
    type_vocab_size: Size = 2
    num_labels: Size = 2
    labels: tuple[str, ...] = ()
    classifier_dropout: Fraction | None = None
    pad_token_id: TokenId | None = 0

    def __post_init__(self) -> None:
        fit_fields(self)
        # the usual width is None, so that a configuration equals that of its file
        self.n_inner = None if self.n_inner == 4 * self.n_embd else self.n_inner
        if self.n_embd % self.n_head:
            raise UserError(
                f"n_embd is {self.n_embd} and n_head {self.n_head}: a head has n_embd / n_head "
                "channels, so n_embd must be a multiple of n_head"
            )
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise UserError(
                f"pad_token_id is {self.pad_token_id}, and the vocabulary has {self.vocab_size} "
                "tokens"
            )
        if self.labels and len(self.labels) != self.num_labels:
            raise UserError(
                f"labels has {len(self.labels)} names, and num_labels is {self.num_labels}"
            )
        is_classifier = self.architecture == "BertForSequenceClassification"
        self.labels = self.labels or unnamed(self.num_labels) if is_classifier else ()
        if not self.tie_word_embeddings or self.window_size is not None:
            raise UserError("a BERT has tied embeddings (tie_word_embeddings), and no window_size")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a configuration of the fields of a Hugging Face ``config.json``."""
        cls.demand_fixed(values)
        values = {"hidden_dropout_prob": 0.1} | values
        values.setdefault("embd_pdrop", values["hidden_dropout_prob"])
        kinds = values.get("architectures") or ["BertModel"]
        name = kinds[0] if isinstance(kinds, list) else kinds
        values["architecture"] = "BertForMaskedLM" if name == "BertForPreTraining" else name
        if values["architecture"] not in get_args(Kind):
            raise UserError(
                f"architectures is {brief(kinds)}; known are {', '.join(get_args(Kind))}"
            )
        if isinstance(values.get("id2label"), dict):
            values["num_labels"] = len(values["id2label"])
        values["labels"] = read_labels(values)
        return cls.from_names(values, NAMES)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of a Hugging Face ``config.json``."""
        fields = self.to_names(NAMES)
        for name in ("architecture", "window_size", "labels"):
            del fields[name]
        if self.labels:
            del fields["num_labels"]  # which follows from the labels
            fields |= self.labelled()
        return fields | dict(architectures=[self.architecture], intermediate_size=self.mlp_width)

    @property
    def n_branches(self) -> int:
        """The number of residual branches whose results are added up without a norm."""
        return 1

    def described(self) -> dict[str, str]:
        """Return what `npgpt info` says of the parts of a block, and of the head."""
        heads = {
            "BertModel": "pooler",
            "BertForMaskedLM": "masked tokens, tied",
            "BertForNextSentencePrediction": "next sentence",
            "BertForSequenceClassification": f"{self.num_labels} labels",
            "BertForQuestionAnswering": "start and end of an answer",
        }
        return {
            "heads": f"{self.n_head} of {self.head_size}",
            "MLP": f"{self.mlp_width:,}, {self.activation_function}",
            "norm": "post",
            "attention": "both ways",
            "positions": f"{self.n_positions:,}, learned",
            "segments": f"{self.type_vocab_size}",
            "biases": "yes",
            "head": heads[self.architecture],
        }


# ---- the model


class BertBlock(EncoderLayer):
    """Attention in both directions, then an MLP; each sum with what was read is normalized."""

    def __init__(self, config: BertConfig, layer: int, dtype: DTypeLike):
        super().__init__(config, layer, dtype)
        self.self_attn_layer_norm.eps = self.final_layer_norm.eps = config.layer_norm_epsilon


class SegmentEmbedding(Embedding):
    """A table with one row for each segment."""

    part = "segment embedding"


class BertTransformer(Transformer):
    """Embeddings of tokens, positions and segments, their norm, and blocks."""

    def __init__(
        self, config: BertConfig, dtype: DTypeLike, block: Callable[..., Module] = BertBlock
    ):
        C = config.n_embd
        self.vocab_size, self.n_positions = config.vocab_size, config.n_positions
        self.type_vocab_size = config.type_vocab_size
        self.wte = Embedding(config.vocab_size, C, dtype, config.pad_token_id)
        self.wpe = PositionEmbedding(config.n_positions, C, dtype)
        self.wse = SegmentEmbedding(config.type_vocab_size, C, dtype)
        self.ln = LayerNorm(C, True, config.layer_norm_epsilon, dtype)
        self.drop = Dropout(config.embd_pdrop)
        self.h = [block(config, layer, dtype) for layer in range(config.n_layer)]
        self.ln_f = None  # the last block ends with a norm

    def embed(
        self,
        input_ids: ndarray,
        position_ids: ndarray,
        token_type_ids: ndarray | None = None,
    ) -> Tensor:
        """Map ``(B, T)`` ids to ``(B, T, C)``: the norm of the sum of three vectors."""
        return self.drop(self.ln(self.add_embeddings(input_ids, position_ids, token_type_ids)))

    def add_embeddings(
        self,
        input_ids: ndarray,
        position_ids: ndarray,
        token_type_ids: ndarray | None = None,
    ) -> Tensor:
        """Map ``(B, T)`` ids to the sum of the vectors of tokens, segments and positions."""
        if token_type_ids is None:
            token_type_ids = np.zeros_like(input_ids)
        token_type_ids = np.asarray(token_type_ids)
        if token_type_ids.shape != input_ids.shape:
            raise UserError(
                f"token_type_ids has shape {token_type_ids.shape}, and input_ids "
                f"{input_ids.shape}: a segment for each token is expected"
            )
        check_ids(
            "token_type_ids", token_type_ids, self.type_vocab_size, "the model has {} segments"
        )
        return self.wte(input_ids) + self.wse(token_type_ids) + self.wpe(position_ids)


class Pooler(Linear):
    """The summary of a text: ``tanh(linear(x))`` of its first position, [CLS]."""

    part = "head"

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, T, C) -> (B, C)``."""
        return ACTIVATIONS["tanh"](super().forward(x[:, 0]))


class Classifier(Linear):
    """The map from the pooler's result, or from hidden states, to the logits of labels."""

    part = "head"


class MaskedHead(Head):
    """The map from hidden states to the logits of the tokens at their positions."""

    def __init__(self, config: BertConfig, weight: Parameter, dtype: DTypeLike):
        super().__init__(weight)
        self.dense = Linear(config.n_embd, config.n_embd, True, dtype)
        self.activation = ACTIVATIONS[config.activation_function]
        self.ln = LayerNorm(config.n_embd, True, config.layer_norm_epsilon, dtype)
        self.bias = Parameter.full((config.vocab_size,), 0, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., C) -> (..., V)``."""
        return self.ln(self.activation(self.dense(x))) @ self.weight.T + self.bias

    def trace(self, x: Traced) -> Traced:
        """Trace the same; the activation is a function, and takes numbers only."""
        return self.trace_states(x).linear(self.weight.numpy().T, self.bias)

    def trace_states(self, x: Traced) -> Traced:
        """Trace what stands before the product with the table."""
        return self.ln(self.dense(x).activation(self.activation))


class Bert(GPT):
    """A BERT with the head that its configuration names.

    Parameters
    ----------
    config : BertConfig
    seed : int
        The seed of the initialization.
    dtype : dtype_like
        The dtype of the parameters: float32, or float64 for checking.

    Attributes
    ----------
    pooler : Pooler or None
        ``model.pooler(hidden)`` is the summary of a text, from hidden states (B, T, C).
    lm_head : MaskedHead or None
    sentence_head, label_head : Classifier or None
        The layers behind the pooler, for the next sentence and for labels.
    span_head : Classifier or None
        The layer that says of each token whether an answer starts, and ends, there.

    Examples
    --------
    >>> import numpy as np
    >>> config = BertConfig(vocab_size=20, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    >>> model = Bert(config).eval()
    >>> ids = np.array([[2, 7, 4, 3]])  # 4 stands for a gap, of which the loss asks
    >>> logits, loss = model(ids, targets=np.array([[-100, -100, 9, -100]]))
    >>> logits.shape
    (1, 4, 20)
    >>> loss.backward()
    >>> model.transformer.h[0].self_attn.q_proj.weight.grad.shape
    (16, 16)
    """

    configuration = BertConfig
    body = BertTransformer
    block = BertBlock
    branch_ends = ()
    optional_tensors = ("bert.pooler.", "pooler.", "cls.", "classifier.", "qa_outputs.")
    config: BertConfig
    transformer: BertTransformer
    lm_head: Any
    pooler: Pooler | None
    sentence_head: Classifier | None
    label_head: Classifier | None
    span_head: Classifier | None

    def make_heads(self, dtype: DTypeLike) -> None:
        """Make the modules that read the last hidden states."""
        config, C = self.config, self.config.n_embd
        kind = config.architecture
        is_masked = kind == "BertForMaskedLM"
        table = self.transformer.wte.weight
        self.lm_head = MaskedHead(config, table, dtype) if is_masked else None
        is_span = kind == "BertForQuestionAnswering"
        self.span_head = Classifier(C, 2, True, dtype) if is_span else None
        self.pooler = None if is_masked or is_span else Pooler(C, C, True, dtype)
        rate = config.classifier_dropout
        self.dropout = Dropout(config.resid_pdrop if rate is None else rate)
        self.sentence_head = (
            Classifier(C, 2, True, dtype) if kind == "BertForNextSentencePrediction" else None
        )
        self.label_head = (
            Classifier(C, config.num_labels, True, dtype)
            if kind == "BertForSequenceClassification"
            else None
        )

    @property
    def predicts_tokens(self) -> bool:
        """No: a position sees the tokens after it, too."""
        return False

    def forward(  # type: ignore[override]
        self,
        input_ids: ndarray,
        targets: ndarray | None = None,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
        token_type_ids: ndarray | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the result of the head, and with targets the mean loss.

        Parameters
        ----------
        input_ids : ndarray of int, (B, T)
        targets : ndarray, optional
            For masked tokens, the tokens that belong there, int (B, T); -100 where the loss does
            not ask. For the next sentence, 0 if the second segment follows the first, and 1 if not,
            int (B,). For labels, int (B,), or float (B,) if there is one label: the loss is then
            the mean square. For answers, the positions of the first and of the last token of each,
            int (B, 2); -100 where the loss does not ask.
        attention_mask : ndarray, (B, T) or (B, T, T), optional
            0 for padding, at which no position looks; see `GPT.forward`.
        position_ids : ndarray of int, (T,) or (B, T), optional
            The positions of the tokens: 0, 1, 2, ... if not given.
        token_type_ids : ndarray of int, (B, T), optional
            The segment of each token; the first if not given.

        Returns
        -------
        output : Tensor
            Logits, (B, T, V), (B, 2), (B, labels), or (B, T, 2) for the start and the end of an
            answer. Of a ``BertModel``, the hidden states
            (B, T, C).
        loss : Tensor or None

        Raises
        ------
        UserError
            If an array has another shape, or holds other values; see `GPT.forward`. If there are
            targets and no head that predicts.
        ValueError
            If the tokens do not fit the context, or the mask has another shape.
        """
        input_ids = np.asarray(input_ids)
        if targets is not None:
            targets = self._check_targets(np.asarray(targets), input_ids)
        more = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        x = self.transformer(input_ids, attention_mask, position_ids, **more)  # (B, T, C)
        if self.lm_head is not None:
            logits = self.lm_head(x)
        elif self.span_head is not None:
            logits = self.span_head(x)
        elif self.label_head is not None:
            logits = self.judge(x)
        elif self.sentence_head is not None and self.pooler is not None:
            logits = self.sentence_head(self.pooler(x))
        else:
            return x, None
        if targets is None:
            return logits, None
        if self.lm_head is not None:
            return logits, next_token_loss(logits, targets, self.smoothing)
        if self.span_head is not None:
            return logits, span_loss(logits, targets, self.smoothing)
        return logits, label_loss(logits, targets, self.smoothing)

    def judge(self, x: Tensor, attention_mask: ndarray | None = None) -> Tensor:
        """Return the logits of labels, (B, labels), from the last hidden states (B, T, C).

        They come from the state of each text's first token, and so T may be 1 if this is given.
        """
        head: Any = self.label_head
        return head(self.dropout(self.pooler(x)))  # type: ignore[misc]

    def _check_targets(self, targets: ndarray, input_ids: ndarray) -> ndarray:
        """Refuse targets of another shape or kind than the head predicts."""
        config, kind = self.config, self.config.architecture
        if kind == "BertModel":
            raise UserError(
                "a BertModel predicts nothing, so it has no loss: leave out targets, or make the "
                "model with another architecture, such as BertForMaskedLM"
            )
        if self.span_head is not None:
            return check_spans(targets, *input_ids.shape)
        if self.pooler is not None:
            n = len(config.labels) if self.label_head else 2
            return check_labels(targets, len(input_ids), n)
        if targets.shape != input_ids.shape:
            raise UserError(
                f"targets has shape {targets.shape}, and input_ids {input_ids.shape}: a {kind} "
                "expects a target for each token"
            )
        return check_targets(targets, config.vocab_size)

    def activations(
        self,
        input_ids: ndarray,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
        token_type_ids: ndarray | None = None,
    ) -> Activations:
        """Return every hidden state, and the weights of every attention head; see `forward`.

        Examples
        --------
        >>> import numpy as np
        >>> model = Bert(BertConfig(vocab_size=20, n_positions=8, n_embd=16, n_layer=2, n_head=2))
        >>> inside = model.activations(np.array([[2, 7, 3]]))
        >>> (inside.attentions[0].numpy() > 0).all()  # every position looks at all others
        np.True_
        """
        capture = Activations()
        more = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        self.transformer(np.asarray(input_ids), attention_mask, position_ids, capture, **more)
        return capture


_LAYER = "bert.encoder.layer.*"
NAMES_IN_FILES = {
    "transformer.wte.*": "bert.embeddings.word_embeddings.*",
    "transformer.wpe.*": "bert.embeddings.position_embeddings.*",
    "transformer.wse.*": "bert.embeddings.token_type_embeddings.*",
    "transformer.ln.*": "bert.embeddings.LayerNorm.*",
    "transformer.h.*.self_attn_layer_norm.*": f"{_LAYER}.attention.output.LayerNorm.*",
    "transformer.h.*.final_layer_norm.*": f"{_LAYER}.output.LayerNorm.*",
    **{
        f"transformer.h.*.{ours}.{kind}": f"{_LAYER}.{theirs}.{kind}{'.T' * (kind == 'weight')}"
        for ours, theirs in {
            "self_attn.q_proj": "attention.self.query",
            "self_attn.k_proj": "attention.self.key",
            "self_attn.v_proj": "attention.self.value",
            "self_attn.out_proj": "attention.output.dense",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        }.items()
        for kind in ("weight", "bias")
    },
    "pooler.weight": "bert.pooler.dense.weight.T",
    "pooler.bias": "bert.pooler.dense.bias",
    "lm_head.dense.weight": "cls.predictions.transform.dense.weight.T",
    "lm_head.dense.bias": "cls.predictions.transform.dense.bias",
    "lm_head.ln.*": "cls.predictions.transform.LayerNorm.*",
    "lm_head.weight": "cls.predictions.decoder.weight",
    "lm_head.bias": "cls.predictions.bias",
    "sentence_head.weight": "cls.seq_relationship.weight.T",
    "sentence_head.bias": "cls.seq_relationship.bias",
    "label_head.weight": "classifier.weight.T",
    "label_head.bias": "classifier.bias",
    "span_head.weight": "qa_outputs.weight.T",
    "span_head.bias": "qa_outputs.bias",
}

BERT_PRESETS = {
    "bert-base": BertConfig(),
    "bert-large": BertConfig(n_embd=1024, n_layer=24, n_head=16),
    "minilm-l6": BertConfig(n_embd=384, n_layer=6, architecture="BertModel"),
}
BertConfig.presets = BERT_PRESETS
