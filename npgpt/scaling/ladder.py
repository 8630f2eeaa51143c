"""A ladder: small models of several sizes, each of which is an ordinary run in a folder of its own.

The folder of a ladder holds ``ladder.json`` (its rule), ``tokens.bin`` and ``val_tokens.bin`` (the
text, see `npgpt.training.data`), and in ``runs`` a folder for each model.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from autograd.files import make_folders, together, write_json
from autograd.reading import fit_file, read_json
from autograd.schema import FileName, Range
from npgpt.diagnostics.info import Cost
from npgpt.errors import UserError
from npgpt.models.config import Layers, Positive, Seed, Size
from npgpt.scaling.laws import demand_enough
from npgpt.training.config import TrainConfig
from npgpt.training.curve import read_final_loss
from npgpt.training.data import (
    TOKEN_FILES,
    Source,
    encode_text,
    library_texts,
    open_tokens,
    read_texts,
    write_tokens,
)
from npgpt.training.folder import RunFolder
from npgpt.training.prepare import tokenizer_for
from npgpt.training.run import Run, resume, start

RANGE = 16.0  # from the smallest budget of a model to the largest
SPREAD = 3.0  # how many times more or fewer tokens for a parameter the models aside have
WIDTH = 64  # of the model that trains with the learning rate of the rule
VALIDATION = 2**18  # characters at most; or a twentieth of the text
FEWEST = 20  # updates

Operations = Annotated[float, Range(1, 1e30)]
Factor = Annotated[float, Range(0, 1e6, excluded=0)]


@dataclass
class Rule:
    """How the models of a ladder are chosen; `plan` explains it."""

    budget: Operations = 3e12
    """Floating-point operations for all models of the ladder together, as npgpt info counts them:
    about 6 for each parameter and token."""
    n_budgets: Size = 7
    """How many budgets the models have, from the smallest to 16 times the smallest."""
    tokens_per_parameter: Factor = 30.0
    """Tokens that a model reads for each of its parameters. Some of the smaller budgets also have a
    model with a third of it, and one with three times as much."""
    data: tuple[FileName, ...] = ()
    """Files, folders or patterns of text; if not given, the whole of Python's library."""
    tokenizer: FileName = "char"
    """char, byte, gpt2, another that npgpt tokenizer list shows, or a file."""
    n_layer: Layers = 2
    n_head: Size = 2
    """Heads; the width is a multiple of it."""
    block_size: Size = 64
    """Context length, in tokens."""
    batch_size: Size = 8
    """Sequences in a batch."""
    learning_rate: Positive = 6e-3
    """Of a model of width 64, at its peak; the others have 64 / width times as much."""
    seed: Seed = 1337
    """Of the order of the text, and of the initialization."""


@dataclass(frozen=True)
class Rung:
    """One model of a ladder, and what it costs.

    Attributes
    ----------
    config : TrainConfig
        Its run, without folder and data.
    n_parameters, n_tokens : int
        All parameters, and the tokens that training reads.
    compute : float
        The operations of the training: those of the products (`npgpt.diagnostics.info.Cost`, which
        agrees with what `autograd.Ledger` counts).
    tokens_per_parameter : float
        As the rule says; the model has about as many.
    """

    config: TrainConfig
    n_parameters: int
    n_tokens: int
    compute: float
    tokens_per_parameter: float

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"width{self.config.n_embd}-tokens{self.n_tokens}"


# ---- the plan


def plan(rule: Rule, vocab_size: int) -> list[Rung]:
    """Return the models of a ladder, from the smallest budget to the largest.

    The budgets are a geometric sequence. Each has a model with as many tokens for a parameter as
    the rule says. Every second budget of the smaller half, where models are cheap, also has a model
    with a third of it, and one with three times as much: without these, the effects of N and of D
    could not be told apart.

    A model with N parameters and a budget C reads the D tokens that the budget pays for: ``C = 6 N
    D``, and in narrow models a noticeable part more for attention. All models have the same number
    of layers. The width, a multiple of the heads, is the one with which D comes closest to r N,
    where r is the number of tokens for a parameter. The learning rate is inverse to the width (as
    Yang et al. 2022, arXiv:2203.03466, table 3, have it for hidden layers). It rises for a tenth of
    the updates, and falls by a cosine to a tenth of its peak at the end of the model's own tokens
    (Hoffmann et al. 2022, section 3).

    Raises
    ------
    UserError
        If there are too few models for a fit, or the budget is too small for one of them.
    """
    multiples = RANGE ** (np.arange(rule.n_budgets) / max(1, rule.n_budgets - 1))
    ratio = rule.tokens_per_parameter
    wanted = [
        (multiple, each)
        for i, multiple in enumerate(multiples.tolist())
        for each in (ratio, ratio / SPREAD, ratio * SPREAD)
        if each == ratio or i % 2 == 0 and i < rule.n_budgets / 2
    ]
    smallest = rule.budget / sum(multiple for multiple, _ in wanted)
    rungs = [rung_at(rule, vocab_size, m * smallest, each) for m, each in wanted]
    rungs = [*{rung.name: rung for rung in reversed(rungs)}.values()][::-1]  # each model once
    demand_fit(rule, rungs)
    return rungs


def rung_at(rule: Rule, vocab_size: int, compute: float, tokens_per_parameter: float) -> Rung:
    """Return the model with a budget and a number of tokens for each parameter; see `plan`.

    Raises
    ------
    UserError
        If the budget is too small.
    """
    per_update = rule.batch_size * rule.block_size
    widths = [*range(rule.n_head, 2**16, rule.n_head)]

    def excess(width: int) -> float:
        """Return the logarithm of the parameters, over those that the model is to have."""
        cost = cost_of(rule, vocab_size, width)
        n_tokens = compute / cost.training_flops
        return math.log(tokens_per_parameter * cost.n_parameters / n_tokens)

    right = bisect.bisect_left(widths, 0.0, key=excess)
    width = min(widths[max(0, right - 1) : right + 1], key=lambda width: abs(excess(width)))
    cost = cost_of(rule, vocab_size, width)
    updates = int(compute / (cost.training_flops * per_update))
    if updates < FEWEST or excess(width) > math.log(2):
        raise UserError(
            f"--budget {rule.budget:g} leaves {compute:.3g} operations for a model, which pay for "
            f"{updates} updates of {per_update} tokens at width {width}; a model needs {FEWEST} "
            f"or more, and {tokens_per_parameter:.3g} tokens for a parameter: give a larger "
            "--budget"
        )
    rate = rule.learning_rate * WIDTH / width
    config = dataclasses.replace(
        config_of(rule, width),
        max_iters=updates,
        eval_interval=updates,
        warmup_iters=updates // 10,
        learning_rate=rate,
        min_lr=rate / 10,
    )
    n_tokens = updates * per_update
    return Rung(
        config, cost.n_parameters, n_tokens, cost.training_flops * n_tokens, tokens_per_parameter
    )


def config_of(rule: Rule, width: int) -> TrainConfig:
    """Return what all runs of a ladder have in common, and the width."""
    return TrainConfig(
        n_layer=rule.n_layer,
        n_head=rule.n_head,
        n_embd=width,
        block_size=rule.block_size,
        batch_size=rule.batch_size,
        seed=rule.seed,
        read_once=True,
        sample_tokens=0,
        eval_iters=5,
    )


def cost_of(rule: Rule, vocab_size: int, width: int) -> Cost:
    """Return what a model of a width costs."""
    architecture = config_of(rule, width).model(vocab_size)
    return Cost(architecture, rule.batch_size, rule.block_size)


def middle(rule: Rule, rungs: list[Rung]) -> list[Rung]:
    """Return the models that have the rule's own number of tokens for each parameter."""
    return [rung for rung in rungs if rung.tokens_per_parameter == rule.tokens_per_parameter]


def variables(rungs: list[Rung], *names: str) -> dict[str, Any]:
    """Return the values of some of C, N and D for each model, by their names."""
    found = {
        "C": [rung.compute for rung in rungs],
        "N": [float(rung.n_parameters) for rung in rungs],
        "D": [float(rung.n_tokens) for rung in rungs],
    }
    return {name: np.array(found[name]) for name in names}


def demand_fit(rule: Rule, rungs: list[Rung]) -> None:
    """Refuse a ladder to which the laws cannot be fitted, before it is trained."""
    try:
        for some, names in ((middle(rule, rungs), "C"), (rungs, "ND")):
            demand_enough(np.ones(len(some)), variables(some, *names))
    except UserError as error:
        raise UserError(
            f"the ladder is too small to fit: {error}; give a larger --n_budgets or --budget"
        ) from None


def demand_text(rungs: list[Rung], n_tokens: int) -> None:
    """Refuse models of which one would read more tokens than the text has."""
    rung = max(rungs, key=lambda rung: rung.n_tokens)
    if rung.n_tokens >= n_tokens:
        raise UserError(
            f"the model of width {rung.config.n_embd} reads {rung.n_tokens:,} tokens, none of them "
            f"twice, and {n_tokens:,} of the text train: give more text, or smaller budgets"
        )


# ---- the folder


@dataclass
class Ladder:
    """The folder of a ladder.

    Attributes
    ----------
    path : Path
    rule : Rule
    """

    path: Path
    rule: Rule

    @classmethod
    def make(cls, path: Path, rule: Rule) -> Ladder:
        """Make the folder of a ladder: its rule and its text.

        The files of the text are put into a random order, so that what validates, the end of the
        text, is of the same kind as what trains.

        Raises
        ------
        UserError
            If the folder holds something else, or the text is too short.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} is no empty folder, and holds no ladder: give another")
        texts, names = read_texts(rule.data) if rule.data else library_texts(whole=True)
        order = np.random.default_rng(rule.seed).permutation(len(texts))
        text = "\n".join(texts[i] for i in order)
        source = Source(text=text)
        tokenizer = tokenizer_for(TrainConfig(tokenizer=rule.tokenizer), [source], None, None)
        end = len(text) - min(VALIDATION, len(text) // 20)
        parts = dict(zip(TOKEN_FILES, (text[:end], text[end:]), strict=True))
        ids = {name: encode_text(part, tokenizer) for name, part in parts.items()}
        demand_text(plan(rule, tokenizer.n_vocab), len(ids[TOKEN_FILES[0]]))
        try:
            make_folders(path)
            with together(path):
                for name, part in parts.items():
                    write_tokens(path / f"{name}.bin", part, tokenizer, names, ids[name])
                write_json(path / "ladder.json", dataclasses.asdict(rule), indent=1)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"the folder {path} cannot be written: {reason}") from None
        return cls(path, rule)

    @classmethod
    def open(cls, path: Path, given: Mapping[str, Any]) -> Ladder:
        """Open the folder of a ladder; refuse options that say something else than its rule."""
        file = path / "ladder.json"
        rule: Rule = fit_file(read_json(file), Rule, file)
        for name, value in given.items():
            if value != (known := getattr(rule, name)):
                raise UserError(
                    f"{path} is the folder of another ladder: --{name} is {value}, and {known} "
                    "there; leave it out, or give another folder"
                )
        return cls(path, rule)

    @cached_property
    def text(self) -> tuple[int, int]:
        """The size of the vocabulary, and how many tokens there are to train on."""
        _, info = open_tokens(self.path / "tokens.bin")
        return info.n_vocab, info.n_tokens

    @cached_property
    def rungs(self) -> list[Rung]:
        """The models of the ladder."""
        return plan(self.rule, self.text[0])

    def folder_of(self, rung: Rung) -> Path:
        """Return the run folder of a model."""
        return self.path / "runs" / rung.name

    def loss_of(self, rung: Rung, folder: Path) -> float | None:
        """Return the loss of a model over the validation text; None if it is not trained.

        Raises
        ------
        UserError
            If its folder holds another run.
        """
        files = RunFolder(folder)
        if not files.recipe.is_file():
            return None
        found = TrainConfig.from_toml(files.recipe)
        for key, value in vars(rung.config).items():
            if key not in ("data", "val_data", "out_dir", "tokenizer", "model_type"):
                if (other := getattr(found, key)) != value:
                    raise UserError(
                        f"{files.path} is a run of another ladder: {key} is {other}, and {value} "
                        "here; move the folder away"
                    )
        return read_final_loss(files.path) if files.metrics.is_file() else None

    def open_run(self, rung: Rung, folder: Path) -> Run:
        """Begin the run of a model, or take it up where it was interrupted."""
        if RunFolder(folder).state.is_file():
            return resume(folder, {})
        make_folders(folder.parent)
        data, val_data = ((str(self.path / f"{name}.bin"),) for name in TOKEN_FILES)
        config = dataclasses.replace(rung.config, data=data, val_data=val_data, out_dir=str(folder))
        return start(config)
