"""The configuration of a training run."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from autograd.escape import brief
from autograd.reading import read_toml
from autograd.schema import FileName, Range, fit_fields, nearest
from npgpt.errors import UserError
from npgpt.models.config import (
    Activation,
    Fraction,
    GPTConfig,
    Interval,
    Layers,
    ModelConfig,
    NormPosition,
    PositionEmbedding,
    Positive,
    Seed,
    Size,
    Steps,
    path_of,
    uri_of,
)
from npgpt.models.registry import ARCHITECTURES
from npgpt.options import FOREIGN

ModelType = Literal[
    "gpt", "llama", "mistral", "qwen2", "encoder-decoder", "marian", "bert", "vision-gpt"
]
TaskName = Literal[
    "language_modelling",
    "pairs",
    "masked",
    "classification",
    "regression",
    "similarity",
    "spans",
    "instructions",
    "preferences",
    "images",
]
"""The names of the tasks (`npgpt.training.registry.TASKS`)."""


@dataclass
class DataKeys:
    """The keys of a run that say what is read, what is learned, and what the run begins with."""

    task: TaskName = "language_modelling"
    """What the model learns: language_modelling predicts each token from the tokens before it;
    pairs writes the target of a source, such as a translation; masked fills gaps in the text, as
    BERT does; classification names the label of a text or a pair; regression gives a number to it;
    similarity turns two texts into vectors, whose cosine is the number; spans finds the answer to a
    question in a context; instructions answers as an assistant; preferences prefers the better of
    two answers; images writes the text of an image."""
    data: tuple[FileName, ...] = ()
    """Files, folders, patterns of text, - (standard input), or one .bin; none: Python's library.
    Images are in .npz files."""
    val_data: tuple[FileName, ...] = ()
    """Validate on these; if not given, on the last 10 % of data."""
    documents: bool = False
    """Put the end token after each document (file), and let generation stop there."""
    separator: str = ""
    """What separates documents inside a file; backslash and n stand for a line break."""
    separate: bool = False
    """Keep documents that share a context apart: none looks at, or predicts, another."""
    read_once: bool = False
    """Read no token of the text twice: training takes the windows of the text in a random order, in
    place of windows at random places, and ends before the text does."""
    text_column: str = ""
    """For examples: the column with the texts; if not given, text or input, or the first."""
    text_pair_column: str = ""
    """For pairs of texts: the column with the second texts."""
    label_column: str = ""
    """For examples: the column with the labels; if not given, label or output, or the second."""
    labels: tuple[str, ...] = ()
    """For examples: the labels; if not given, those in the data."""
    form: Literal["csv", "tsv", "jsonl", "trec"] | None = None
    """For examples: the form of the file; if not given, the end of its name decides."""
    encoding: str = "utf-8"
    """For examples: the encoding of the file, such as latin-1."""
    stride: Size = 128
    """For spans: each window of a long context begins so many tokens after the window before."""
    template: FileName = ""
    """For instructions: the chat template, plain, alpaca, chatml or a file in the language of
    Jinja2; if not given, the model's own, or plain if it has none."""
    pack: bool = False
    """For instructions: put several short examples into one row, in which no example attends to
    another. This saves padding, and the gradient is the same."""
    dpo_beta: Annotated[float, Range(0, 2**20, excluded=0)] = 0.1
    """For preferences: the factor of the change of an answer's log-probability; with a small value,
    the model may change more."""
    tokenizer: FileName = "char"
    """char, byte, gpt1, gpt2, another that npgpt tokenizer list shows, or a file."""
    add_tokens: tuple[str, ...] = ()
    """Special tokens to add to the tokenizer, such as those of a chat template. The model's
    embeddings get a new row for each: the mean of the other rows."""
    init_from: FileName = "scratch"
    """scratch, or a folder with a model to start from (tokenizer and architecture come along)."""
    seed: Seed = 1337
    """Of the initialization, the batches and dropout."""


@dataclass
class ModelKeys:
    """The keys of a run that say what its model is.

    A key is a field of the same name of the model's configuration, except for those in `FIELDS_OF`.
    A new key needs one line here: the model's configuration, the check of a model to start from,
    and the check of a resumed run follow from the fields of this class.
    """

    model_type: ModelType = "gpt"
    """gpt is GPT-1, 2 or 3, as the keys below say. If not given, the first that the task takes."""
    n_layer: Layers = 4
    n_head: Size = 4
    n_kv_head: Size | None = None
    """Heads of keys and values; as many as n_head, if not given. Not of gpt."""
    n_embd: Size = 128
    n_inner: Size | None = None
    """Width of an MLP; if not given, what is usual for the model_type: 4 n_embd for gpt."""
    block_size: Size = 64
    """Context length, in tokens; with init_from the model's, or less."""
    dropout: Fraction = 0.0
    bias: bool = False
    """Whether linear layers and norms have biases."""
    activation_function: Activation | None = None
    """gelu_new for gpt, gelu for bert and silu for the others, if not given."""
    norm_position: NormPosition = "pre"
    """pre normalizes what a branch reads (GPT-2), post the sum after it (GPT-1). Of gpt alone."""
    position_embedding: PositionEmbedding = "learned"
    """Of gpt alone: the others have rotary positions, and bert has learned ones."""
    window_size: Size | None = None
    """Tokens that every other layer sees (GPT-3), or every layer of mistral and qwen2; all, if not
    given."""
    image_size: Size | None = None
    """For vision-gpt: pixels on a side of an image; if not given, the size of the data's images."""
    patch_size: Size | None = None
    """For vision-gpt: pixels on a side of a patch; if not given, 16."""
    num_channels: Size | None = None
    """For vision-gpt: 1 for gray images, 3 for colours; if not given, as in the data."""

    def model(self, vocab_size: int, base: ModelConfig | None = None) -> ModelConfig:
        """Return the configuration of the model that these keys describe.

        With `base`, the configuration of a model to start from, the result is `base` with the
        values of these keys; the vocabulary stays that of `base`, unless `vocab_size` is larger.
        """
        known = {} if base is None else keys_of(base)
        if base is None:
            kind = GPTConfig if self.model_type == "gpt" else ARCHITECTURES[self.model_type].config
            base = kind(vocab_size=vocab_size)
        values: dict[str, Any] = {"vocab_size": max(base.vocab_size, vocab_size)}
        for key, default in MODEL_KEYS.items():
            value, names = getattr(self, key), fields_of(key, base)
            if value is not None and value != known.get(key):
                values |= dict.fromkeys(names, value)
            if not names and value != default:
                raise UserError(
                    f"{key} is {value}, and a model of model_type {self.model_type} has no such "
                    f"choice: leave {key} out"
                )
        return dataclasses.replace(base, **values)


FIELDS_OF = {  # the keys that have other names in the model's configuration
    "bias": ("bias", "attention_bias", "mlp_bias"),
    "block_size": ("n_positions",),
    "dropout": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
}
MODEL_KEYS = {f.name: f.default for f in dataclasses.fields(ModelKeys)}


def fields_of(key: str, config: ModelConfig) -> list[str]:
    """Return the fields of a configuration that a key decides; none if it has no such fields.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> fields_of("dropout", GPTConfig()), fields_of("n_kv_head", GPTConfig())
    (['resid_pdrop', 'embd_pdrop', 'attn_pdrop'], [])
    """
    known = {f.name for f in dataclasses.fields(config)}
    return [name for name in FIELDS_OF.get(key, (key,)) if name in known]


FIXED = tuple(f.name for f in (*dataclasses.fields(DataKeys), *dataclasses.fields(ModelKeys)))
"""The keys that a resumed run cannot change."""
PLACES = "batch_size", "gradient_accumulation_steps", "max_iters"
"""The keys that say how far a run with `read_once` has read at a step: these are fixed as well."""


def keys_of(config: ModelConfig) -> dict[str, Any]:
    """Return the training keys that a model to start from decides: all of its own but dropout.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> keys_of(GPTConfig(n_layer=2))["n_layer"], keys_of(GPTConfig())["block_size"]
    (2, 1024)
    """
    found = {key: fields_of(key, config) for key in MODEL_KEYS if key != "dropout"}
    return {
        key: getattr(config, names[0]) if names else MODEL_KEYS[key] for key, names in found.items()
    }


@dataclass
class TrainableKeys:
    """The keys of a run that say which parameters of a model to start from are trained."""

    train_layers: Steps | None = None
    """Train only the head and this number of last layers; 0 trains only the head. If not given, all
    parameters are trained."""
    lora_r: Steps = 0
    """Train only LoRA's matrices, of this rank, and the head of the task; 0 trains without LoRA."""
    lora_alpha: Positive = 16.0
    """The change by LoRA is multiplied by lora_alpha / lora_r."""
    lora_dropout: Fraction = 0.0
    target_modules: tuple[str, ...] = ()
    """The linear layers that LoRA changes, such as q_proj v_proj, or all-linear; if not given,
    those that are usual for the model."""

    def check_trainable(self, init_from: str) -> None:
        """Refuse keys that contradict each other, or that need a model to start from."""
        if self.lora_r and self.train_layers is not None:
            raise UserError(
                "--lora_r and --train_layers each say what is trained: drop one of them"
            )
        for key, default in TRAINABLE_KEYS.items():
            value = getattr(self, key)
            if value == default:
                continue
            if init_from == "scratch":
                raise UserError(
                    f"--{key} freezes a model to start from, and this one is new: name a model"
                )
            if key.startswith(("lora", "target")) and not self.lora_r:
                raise UserError(f"--{key} is about LoRA: add --lora_r, its rank, or leave it out")


@dataclass
class TeacherKeys:
    """The keys of a run that name a teacher, and how the model learns from it."""

    teacher: FileName = ""
    """A folder with a model, or a name: training also learns its probabilities (distillation)."""
    teacher_temperature: Annotated[float, Range(0, excluded=0)] = 2.0
    """The logits of teacher and student are divided by this before they are compared."""
    teacher_share: Annotated[float, Range(0, 1)] = 0.5
    """The part of the loss that compares with the teacher; the rest is the loss of the data."""
    teacher_hidden: Positive = 0.0
    """The weight of the distance to the teacher's hidden states, if both have the same n_embd."""

    def check_teacher(self) -> None:
        """Refuse keys about a teacher if no teacher is given."""
        for f in dataclasses.fields(TeacherKeys)[1:]:
            if getattr(self, f.name) != f.default and not self.teacher:
                raise UserError(f"--{f.name} is about a teacher: add --teacher, or leave it out")


FIXED += tuple(f.name for f in dataclasses.fields(TeacherKeys))


@dataclass
class FormKeys:
    """The keys of a run that say in which form the model uses its weights."""

    fake_quantize: Literal["Q8_0", "Q4_1", "Q4_0"] | None = None
    """Compute with matrices that are rounded as npgpt export --gguf --type rounds them, so that the
    file computes as the trained model does (quantization-aware training)."""
    keep_zeros: bool = False
    """Let the weights of linear layers that are zero stay zero."""

    def check_forms(self, lora_r: int) -> None:
        """Refuse a form of whole weights if LoRA trains a change of them."""
        for key in (f.name for f in dataclasses.fields(FormKeys)):
            if getattr(self, key) and lora_r:
                raise UserError(
                    f"--{key} is about whole weights, and --lora_r trains a change of them: drop "
                    "one of the two"
                )


FIXED += tuple(f.name for f in dataclasses.fields(FormKeys))
TRAINABLE_KEYS = {f.name: f.default for f in dataclasses.fields(TrainableKeys)}
FIXED += (*TRAINABLE_KEYS,)


@dataclass
class TrainConfig(
    FormKeys, TeacherKeys, TrainableKeys, ModelKeys, DataKeys
):  # the last one's fields first
    """A training run, with nanoGPT's names: the keys of a TOML file and of the command line.

    The defaults train a character-level GPT on the interpreter's own library in about two minutes.
    """

    out_dir: FileName = ""
    """The run folder; if empty, a new numbered one under out/."""
    batch_size: Size = 12
    """Sequences in a batch."""
    gradient_accumulation_steps: Size = 1
    """Batches to an update."""
    max_iters: Steps = 2000
    """Updates."""
    epochs: Positive = 0.0
    """For examples: how often each is read. This sets max_iters and, if eval_interval is not given,
    an evaluation after each epoch."""
    learning_rate: Positive = 3e-3
    min_lr: Positive = 1e-4
    """Where the cosine ends."""
    warmup_iters: Steps = 100
    lr_decay_iters: Steps | None = None
    """When the cosine ends; max_iters if not given."""
    lr_schedule: Literal["cosine", "inverse_sqrt"] = "cosine"
    """How the rate falls after the warm-up: to min_lr by a cosine, or with the root of the number
    of updates (Vaswani et al. 2017)."""
    decay_lr: bool = True
    """With False, the rate is learning_rate from the first update on."""
    lm_loss: Positive = 0.0
    """For a classification by a GPT: the weight of the loss of the texts' tokens; 0.5 in GPT-1."""
    label_smoothing: Fraction = 0.0
    """The part of each target's probability that training spreads over all tokens."""
    weight_decay: Positive = 0.1
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    grad_clip: Positive = 1.0
    """Largest global norm of the gradient; 0 is off."""
    checkpoint_activations: bool = False
    """Compute each block again in the backward pass: less memory, more time, the same result."""

    eval_interval: Interval = 250
    """Updates between evaluations, each of which saves a checkpoint."""
    eval_iters: Interval = 20
    """Batches to an evaluation."""
    log_interval: Interval = 10
    """Updates between lines of metrics.jsonl."""
    checkpoint_interval: Steps = 0
    """Updates between numbered checkpoints that are kept; 0 is off."""
    patience: Steps = 0
    """Stop after so many evaluations without a better validation loss; 0 is off."""
    sample_tokens: Steps = 64
    """Tokens of a sample that is shown at each evaluation; 0 is off."""
    eval_only: bool = False
    """Print the losses of the model, and neither train nor write anything."""

    @property
    def trains_part(self) -> bool:
        """Whether frozen parameters are those of the model to start from, so that none is saved.

        With `fake_quantize`, they are used, and so saved, in another form.
        """
        is_frozen = bool(self.lora_r) or self.train_layers is not None
        return is_frozen and self.fake_quantize is None

    def __post_init__(self) -> None:
        for name in ("data", "val_data"):
            value = getattr(self, name)
            if isinstance(value, str | list | tuple):
                setattr(self, name, (value,) if isinstance(value, str) else tuple(value))
        fit_fields(self)
        self.data, self.val_data = (
            tuple(map(path_of, self.data)),
            tuple(map(path_of, self.val_data)),
        )
        for name in ("tokenizer", "out_dir", "init_from", "template", "teacher"):
            setattr(self, name, path_of(getattr(self, name)))
        self.check_trainable(self.init_from)
        self.check_teacher()
        if self.add_tokens and (self.lora_r or self.train_layers is not None):
            raise UserError(
                "--add_tokens adds rows to the embeddings, which --lora_r and --train_layers "
                "freeze: leave one of them out"
            )
        self.check_forms(self.lora_r)
        for name in ("separator", "separate"):
            if getattr(self, name) and not self.documents:
                raise UserError(f"--{name} is about documents: add --documents, or leave it out")
        if self.read_once and self.task != "language_modelling":
            raise UserError(f"--read_once is for --task language_modelling, and not {self.task}")

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a TOML file of these keys; of a command's options, which extend them, no others."""
        values = read_toml(path)
        names = [f.name for f in dataclasses.fields(TrainConfig)]
        for key in values:
            if key not in names:
                if key in FOREIGN:
                    raise UserError(f"{path}: {FOREIGN[key]}: leave out {key}")
                raise UserError(f"{path}: unknown key {brief(key)}{nearest(key, names)}")
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def to_toml(self) -> str:
        """Return a TOML file of all keys that have a value."""
        values = {
            key: [uri_of(name) for name in value] if isinstance(value, tuple) else uri_of(value)
            for key, value in vars(self).items()
        }
        return "".join(
            f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
            for key, value in values.items()
            if value is not None
        )
