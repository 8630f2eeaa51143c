"""The architectures that npgpt knows, by the ``model_type`` of a ``config.json``.

An architecture is a class of configurations, a class of models, and a table of the names that its
files have. ``docs/adding_an_architecture.md`` adds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from npgpt.models import bert, encoder_decoder, llama, vision
from npgpt.models.config import GPTConfig, ModelConfig
from npgpt.models.gpt import GPT


@dataclass(frozen=True)
class Architecture:
    """What it takes to make a model of a file, and a file of a model.

    Parameters
    ----------
    config : type
        The class of its configurations, which reads and writes ``config.json``.
    model : type
        The class of its models: ``model(config, seed=0, dtype=np.float32)``.
    names : mapping of str to str, optional
        A parameter's name here, and its name in a file, where the two differ. A ``*`` stands for
        anything, the same in both; ``.T`` at the end says that the file has the matrix transposed.
    """

    config: type[ModelConfig]
    model: type[GPT]
    names: Mapping[str, str] = field(default_factory=dict)


LABELS = {"label_head.weight": "score.weight"}
GPT1_NAMES = LABELS | {
    "transformer.wte.*": "transformer.tokens_embed.*",
    "transformer.wpe.*": "transformer.positions_embed.*",
}

ARCHITECTURES = {
    "gpt2": Architecture(GPTConfig, GPT, LABELS),
    "openai-gpt": Architecture(GPTConfig, GPT, GPT1_NAMES),
    "npgpt": Architecture(GPTConfig, GPT, LABELS),  # a GPT that transformers has no model for
    **{
        model_type: Architecture(llama.LlamaConfig, llama.Llama, llama.NAMES_IN_FILES)
        for model_type in llama.LlamaConfig.hugging_face
    },
    "vision-gpt": Architecture(vision.VisionConfig, vision.VisionGPT),
    "bert": Architecture(bert.BertConfig, bert.Bert, bert.NAMES_IN_FILES),
    **{
        model_type: Architecture(
            encoder_decoder.EncoderDecoderConfig,
            encoder_decoder.EncoderDecoder,
            encoder_decoder.NAMES_IN_FILES,
        )
        for model_type in ("encoder-decoder", "marian")
    },
}


PRESETS: dict[str, ModelConfig] = {
    **GPTConfig.presets,
    **llama.LlamaConfig.presets,
    **encoder_decoder.EncoderDecoderConfig.presets,
    **bert.BertConfig.presets,
}


def architecture_of(config: ModelConfig) -> Architecture:
    """Return the architecture that a configuration belongs to.

    Examples
    --------
    >>> architecture_of(GPTConfig.preset("gpt1")).model.__name__
    'GPT'
    """
    return ARCHITECTURES[config.model_type]
