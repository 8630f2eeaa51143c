"""All that a new run begins with, read and checked before anything is written: `plan`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.errors import UserError
from npgpt.generation import resolve_options as resolve_generation_options
from npgpt.hub import find_config, find_model
from npgpt.models.config import ModelConfig
from npgpt.models.gpt import GPT
from npgpt.models.registry import architecture_of
from npgpt.tokenizers import Tokenizer, load_tokenizer, make_tokenizer
from npgpt.training.config import TrainConfig, keys_of
from npgpt.training.data import (
    TOKEN_FILES,
    Source,
    Tokens,
    open_tokens,
    tokenizer_of_tokens,
)
from npgpt.training.distillation import Distillation, load_distillation
from npgpt.training.memory import demand_memory
from npgpt.training.registry import TASKS
from npgpt.training.task import SAMPLING, Task
from npgpt.training.trainable import choose_trainable
from npgpt.weights.forms import fake_quantize, keep_zeros
from npgpt.weights.load import load_base
from npgpt.weights.packed import PackedGPT
from npgpt.weights.part import Base, fitted_state, refit
from npgpt.weights.vocabulary import add_special_tokens


@dataclass
class Plan:
    """All that a new run begins with, before anything is written."""

    config: TrainConfig
    model: GPT
    task: Task
    distillation: Distillation | None
    sources: list[Source]  # of the data, and of the validation data if there is any
    base: Base | None  # that has the frozen parameters, if there are any


def plan(config: TrainConfig, given: Collection[str] = ()) -> Plan:
    """Read and check all that a new run needs.

    Parameters
    ----------
    config : TrainConfig
        A model to start from (`init_from`) and a token file determine some of its keys: those may
        be left at their defaults.
    given : collection of str
        The keys that were given by the user, should they have their default value.

    Raises
    ------
    UserError
        If a file is missing or damaged, if the text is too short, or if the configuration
        contradicts the model or the token file.
    MemoryError
        If the model cannot be trained in the memory of this machine.
    """
    path = origin = None if config.init_from == "scratch" else find_model(config.init_from)
    base = None if path is None else find_config(path)
    config = resolve_model_type(config, base, given)
    sources = read_sources(config)
    config = TASKS[config.task].complete(config, sources)
    if base is None and config.teacher:
        origin = find_model(config.teacher)
    tokenizer = None if origin is None else load_tokenizer(origin)
    tokenizer = tokenizer_for(config, sources, tokenizer, origin)
    if config.add_tokens:
        tokenizer = add_special_tokens(tokenizer, config.add_tokens)
    tokenizer = TASKS[config.task].prepare_tokenizer(tokenizer, config)
    data = {}
    for name, source in zip(TOKEN_FILES, sources, strict=False):
        if source.file is None:
            data[name] = Tokens(TASKS[config.task].encode(source, tokenizer, config), Path(), "")
        else:
            array, info = open_tokens(source.file, tokenizer)
            if info.n_levels and config.task != "images":
                raise UserError(f"{source.file} holds images: add --task images, which reads them")
            data[name] = Tokens(array, source.file, info.sha256)
            config = dataclasses.replace(config, documents=config.documents or info.documents)
    files = [source.file for source in sources if source.file]
    if origin is not None or files:
        what = f"the token file {files[0]}" if origin is None else f"the model {origin}"
        config = resolve_options(config, base, tokenizer, given, what)
    task = TASKS[config.task](config, tokenizer, data)
    architecture = task.architecture(base)
    demand_memory_of(config, architecture, task)
    model = initial_model(architecture, config, path)
    model.generation_config = {**model.generation_config, **task.generation_config()}
    demand_generation(model, tokenizer)
    distillation = load_distillation(config, model, tokenizer)
    if distillation is not None and task.objective(model) is not model:
        raise UserError(
            f"--teacher is for tasks whose loss is that of the model's targets, and --task "
            f"{config.task} has another here: leave it out"
        )
    task.begin(model)
    part_of = Base.of(config.init_from) if config.trains_part else None
    return Plan(config, model, task, distillation, sources, part_of)


def demand_generation(model: GPT, tokenizer: Tokenizer) -> None:
    """Refuse a model whose ``generation_config.json`` is wrong: samples could not be drawn.

    Without this check, the error would come after the training, with the last sample.
    """
    resolve_generation_options(model, SAMPLING, tokenizer)


# ---- data


def read_sources(config: TrainConfig) -> list[Source]:
    """Return the source of the data, and that of the validation data if there is any."""
    task = TASKS[config.task]
    sources = [task.read(config.data, config, True)]
    if config.val_data:
        sources.append(task.read(config.val_data, config, False))
    return sources


def tokenizer_for(
    config: TrainConfig, sources: list[Source], tokenizer: Tokenizer | None, origin: object
) -> Tokenizer:
    """Return the tokenizer of a run.

    It is the tokenizer of the model to start from (then it is given, and `origin` is the model), or
    of a token file. Otherwise a new one is made, as the configuration says.

    Raises
    ------
    UserError
        If a token file was made with another tokenizer than that of the model, or of the other
        token file; if the text has only one character.
    """
    special = TASKS[config.task].special_tokens(config)
    for source in sources:
        if source.file is None:
            continue
        if source.file.with_suffix(".json").is_file():
            own = tokenizer_of_tokens(source.file, open_tokens(source.file)[1])
            if tokenizer is not None and tokenizer.to_dict() != own.to_dict():
                raise UserError(
                    f"{source.file} was made with another tokenizer than that of {origin}"
                )
            tokenizer, origin = own, source.file
        elif tokenizer is None and config.tokenizer != "char":
            tokenizer = make_tokenizer(config.tokenizer, special_tokens=special)
            origin = f"--tokenizer {config.tokenizer}"
        else:
            open_tokens(source.file, tokenizer)  # which says what is missing
    if tokenizer is None:
        texts = ["".join(source.text) for source in sources]
        tokenizer = make_tokenizer(config.tokenizer, "".join(texts), special)
        if tokenizer.n_vocab - len(special) < 2:
            raise UserError(
                f"the text consists of one character, {texts[0][:1]!r}: there is nothing to learn"
            )
    return tokenizer


# ---- the model


def demand_memory_of(config: TrainConfig, architecture: ModelConfig, task: Task) -> None:
    """Refuse a run that does not fit into the memory of this machine; see `demand_memory`.

    Frozen parameters have no gradient and no means, and may be packed, so they are not counted.
    """
    demand_memory(
        architecture, task.largest_batch, config.checkpoint_activations, not config.trains_part
    )


def initial_model(
    architecture: ModelConfig, config: TrainConfig, path: Path | None, packed: bool = True
) -> GPT:
    """Make the model that a run begins with: a new one, or one with the weights of another.

    What the run does not train is frozen, and weights have the form in which the run uses them.

    Parameters
    ----------
    architecture : ModelConfig
    config : TrainConfig
    path : Path or None
        Where the model is whose weights are taken.
    packed : bool
        Whether weights may stay packed where LoRA's matrices are trained beside them.
    """
    if path is None:
        model = architecture_of(architecture).model(architecture, seed=config.seed)
    else:  # the loss of the texts' tokens needs the embeddings as a parameter
        packed = packed and bool(config.lora_r) and not config.lm_loss
        base = load_base(path, architecture, packed)
        if isinstance(base, PackedGPT):
            model = refit(base, architecture)
            draw_head(model, config.seed)
        else:
            model = architecture_of(architecture).model(architecture, seed=config.seed)
            known = model.state_dict()  # a task may add a head to the model, or take one off
            model.load_state_dict(known | fitted_state(base, architecture, known))
            model.generation_config = base.generation_config
    if config.fake_quantize:
        fake_quantize(model, config.fake_quantize)
    if config.keep_zeros:
        keep_zeros(model)
    return choose_trainable(model, config)


def draw_head(model: GPT, seed: int) -> None:
    """Draw the weights of the head of labels of a model that has got such a head, if it has."""
    if model.label_head is not None:
        weight = model.label_head.weight
        draw = np.random.default_rng([seed, 8]).standard_normal(weight.shape, np.float32)
        weight.data = draw * np.float32(model.config.initializer_range)


# ---- options that a task, a model or a token file determines


def resolve_model_type(
    config: TrainConfig, base: ModelConfig | None, given: Collection[str] = ()
) -> TrainConfig:
    """Return the configuration with a type of models that its task trains.

    If the user gave no model type, a new model gets the first of the task. A model to start from,
    whose configuration is `base`, keeps its own (`resolve_options`).

    Raises
    ------
    UserError
        If the task does not train such models.
    """
    known = TASKS[config.task].model_types
    model_type: Any = config.model_type
    if base is not None:
        model_type = keys_of(base)["model_type"]
    elif "model_type" not in given and model_type == TrainConfig.model_type:
        model_type = known[0]
    if model_type not in known:
        others = [name for name, task in TASKS.items() if model_type in task.model_types]
        advice = f": a model of this type learns by --task {others[0]}" if others else ""
        raise UserError(
            f"the model_type is {model_type}, and --task {config.task} trains "
            f"{', '.join(known)}{advice}"
        )
    return config if base is not None else dataclasses.replace(config, model_type=model_type)


def resolve_options(
    config: TrainConfig,
    base: ModelConfig | None,
    tokenizer: Tokenizer,
    given: Collection[str],
    origin: str,
) -> TrainConfig:
    """Return the configuration with the options that a model and a tokenizer determine.

    A model that the run starts from determines, for example, `n_layer`. A user who gives another
    `n_layer` gets an error; the context alone may be shorter than the model's.

    Parameters
    ----------
    config : TrainConfig
    base : ModelConfig or None
        That of the model to start from.
    tokenizer : Tokenizer
    given : collection of str
        Keys that the user gave, should they have their default value.
    origin : str
        Where model and tokenizer come from, for the error.
    """
    said = {*given, *(f.name for f in fields(config) if getattr(config, f.name) != f.default)}
    values = {} if base is None else keys_of(base)
    if "block_size" in said and base is not None:
        values["block_size"] = min(config.block_size, values["block_size"])
    name = config.tokenizer
    is_named = name == tokenizer.kind or (
        "tokenizer" in said and make_tokenizer(name).tokens == tokenizer.tokens
    )
    values["tokenizer"] = name if is_named else tokenizer.kind
    for key, value in values.items():
        if key in said and value != getattr(config, key):
            raise UserError(
                f"{key} is {getattr(config, key)}, and {origin} has {value}, which it keeps: "
                f"leave {key} out"
            )
    return dataclasses.replace(config, **values)
