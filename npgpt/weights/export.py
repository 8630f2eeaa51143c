"""Export a model and its tokenizer to a folder that transformers opens."""

from __future__ import annotations

from pathlib import Path

from autograd.files import together
from npgpt.errors import UserError
from npgpt.hub import find_model
from npgpt.tokenizers import load_tokenizer
from npgpt.tokenizers.huggingface import write_hugging_face
from npgpt.weights.load import load_model

END = "<|endoftext|>"


def export(source: str | Path, folder: str | Path) -> None:
    """Write a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` of transformers open.

    Parameters
    ----------
    source : str or Path
        A run folder, or another folder with a model and a tokenizer, or a name on the hub, as
        `npgpt.load_model` and `npgpt.load_tokenizer` take them.
    folder : str or Path
        The folder to write to. It is created if it does not exist. It gets ``config.json``,
        ``model.safetensors``, ``tokenizer.json`` and ``tokenizer_config.json``, and also
        ``generation_config.json`` if the model has options of generation, such as the token that
        ends a text.

    Raises
    ------
    UserError
        If the folder is not empty, transformers has no model or tokenizer that computes the same,
        or the tokenizer has more tokens than the model. Then nothing is written.

    Examples
    --------
    >>> import tempfile
    >>> from npgpt import GPT, GPTConfig
    >>> from npgpt.tokenizers import ByteTokenizer, save_tokenizer
    >>> model = GPT(GPTConfig(vocab_size=256, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> with tempfile.TemporaryDirectory() as run:
    ...     model.save_pretrained(run)
    ...     save_tokenizer(ByteTokenizer(), run)
    ...     export(run, Path(run) / "exported")
    ...     len(list((Path(run) / "exported").iterdir()))
    4
    """
    path, folder = find_model(source), Path(folder)
    if folder.exists() and not folder.is_dir() or folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"{folder} exists and is not an empty folder; export to an empty or a new folder"
        )
    model, tokenizer = load_model(path), load_tokenizer(path)
    config = model.config
    if config.model_type not in config.hugging_face:
        raise UserError(
            f"{source} cannot be exported: transformers has no model with this window_size, "
            "norm_position and activation_function together"
        )
    if tokenizer.n_vocab > config.vocab_size:
        raise UserError(
            f"{source} has a tokenizer of {tokenizer.n_vocab:,} tokens, and its model has a "
            f"vocabulary of only {config.vocab_size:,}; export a model with its own tokenizer"
        )
    end = tokenizer.special_tokens.get(END)
    if end is not None:
        ends = {"eos_token_id": end, "pad_token_id": end}
        model.generation_config = ends | model.generation_config
    with together(folder):
        write_hugging_face(tokenizer, folder, config.n_positions)
        model.save_pretrained(folder)
