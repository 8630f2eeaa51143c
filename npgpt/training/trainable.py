"""What a run trains of its model: all parameters, the last layers, the head, or LoRA's matrices."""

from __future__ import annotations

from typing import Any

from npgpt.errors import UserError
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.models.gpt import GPT
from npgpt.models.lora import LoraConfig
from npgpt.training.config import TrainConfig
from npgpt.weights.adapters import add_lora
from npgpt.weights.packed import PackedGPT

HEADS = ("score", "classifier", "pooler", "qa_outputs")
"""The heads of tasks, by their names in files: they are trained beside LoRA's matrices."""


def choose_trainable(model: GPT, config: TrainConfig) -> GPT:
    """Freeze the parameters that a run does not train; for LoRA, add the matrices that it trains.

    A frozen parameter is a constant on the tape. So its gradient is not computed, the backward
    pass ends at the first layer that is trained, and the optimizer has no means for it.

    Parameters
    ----------
    model : GPT
        It is changed in place, and returned.
    config : TrainConfig
        Its keys `train_layers`, `lora_r` and those of LoRA.

    Raises
    ------
    UserError
        If the model has fewer layers than `train_layers`, if it has no layer of LoRA's target
        modules, or if no parameter would be trained.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(65, 8, n_embd=16, n_layer=2, n_head=2, labels=("bad", "good")))
    >>> config = TrainConfig(init_from="a model", train_layers=0)
    >>> model = choose_trainable(model, config)
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['label_head.weight']
    """
    if config.lora_r:
        return add_lora(model, lora_config(model, config), config.seed)
    if config.train_layers is None:
        return model
    n = model.config.n_layer
    if isinstance(model, EncoderDecoder):
        raise UserError(
            "--train_layers needs a model with one stack of layers, and this model has an encoder "
            "and a decoder: leave it out"
        )
    if config.train_layers > n:
        raise UserError(
            f"--train_layers is {config.train_layers}, and the model has {n} layers: give {n} or "
            "fewer"
        )
    last = [f"transformer.h.{layer}." for layer in range(n - config.train_layers, n)]
    last += ["transformer.ln_f."] if last else []
    for name, parameter in model.named_parameters():
        is_trained = not name.startswith("transformer.") or name.startswith(tuple(last))
        parameter.requires_grad_(is_trained)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            "--train_layers 0 trains the head alone, and the head of this model is its token "
            "embedding: train one layer or more"
        )
    return model


def lora_config(model: GPT, config: TrainConfig) -> LoraConfig:
    """Return the configuration of the LoRA that a run trains, with the head of its task."""
    targets: Any = config.target_modules or None
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if targets == ("all-linear",) else targets,
        modules_to_save=HEADS if model.label_head or model.span_head else (),
    )


def describe_trainable(model: GPT) -> str:
    """Return a line that says what is trained of a model, and how many parameters are frozen.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(65, 8, n_embd=16, n_layer=2, n_head=2, labels=("bad", "good")))
    >>> config = TrainConfig(init_from="a model", train_layers=1)
    >>> describe_trainable(choose_trainable(model, config))
    'trained: 3,344 parameters (transformer.h.1, transformer.ln_f, label_head); frozen: 4,448'
    """
    trained = {n: p.size for n, p in model.named_parameters() if p.requires_grad}
    groups = dict.fromkeys(map(_group, trained))
    n = sum(trained.values())
    frozen = f"{model.n_parameters() - n:,}"
    if isinstance(model, PackedGPT):
        frozen += ", packed in few bits as in the file of the model"
    return f"trained: {n:,} parameters ({', '.join(groups)}); frozen: {frozen}"


def _group(name: str) -> str:
    """Return the name of the layer, the head or the kind of LoRA's matrices of a parameter."""
    layer, adapter, _ = name.partition(".adapter.")
    if adapter:
        return f"LoRA of {layer.rpartition('.')[2]}"
    words = name.split(".")
    return ".".join(words[:3] if name.startswith("transformer.h.") else words[:-1])
