"""Sentences to vectors: the mean of a model's hidden states, as sentence-transformers computes it.

Two sentences of one meaning get vectors of one direction (Reimers and Gurevych 2019,
arXiv:1908.10084). A folder of sentence-transformers says in ``modules.json`` how the hidden states
of a text become a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypedDict

import numpy as np
from numpy import ndarray

from autograd import no_grad
from autograd.escape import brief
from autograd.reading import SMALL, fit_file, read_json
from autograd.schema import Range, fit
from npgpt.errors import UserError
from npgpt.hub import find_model, is_model_name
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.tokenizers import Tokenizer, load_tokenizer
from npgpt.weights.load import load_model

BATCH = 2048  # tokens that are read at once, at most
POOLINGS = {  # in the order in which sentence-transformers puts several side by side
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
}


class Step(TypedDict):
    """An entry of ``modules.json``."""

    type: str
    path: str


class SentenceEncoder:
    """A model that makes vectors of sentences.

    Parameters
    ----------
    model : GPT
        A `Bert`, or another model, such as a GPT that was trained here.
    tokenizer : Tokenizer
    poolings : sequence of str
        How the hidden states of a text become one vector: ``"mean"``, ``"max"``, ``"cls"`` (that
        of the first token) or ``"mean_sqrt_len"`` (the sum, divided by the root of the length).
        Several are put side by side.
    normalize : bool
        Whether each vector is divided by its length, so that the product of two is their cosine.
    max_length : int, optional
        The most tokens of a text, whose end is cut off; as many as the model reads, if not given.
    lowercase : bool
        Whether texts are lower-cased first.

    Raises
    ------
    UserError
        If the model does not read so many tokens, or there is no such pooling.

    Examples
    --------
    >>> from npgpt.models.bert import Bert, BertConfig
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> config = BertConfig(vocab_size=256, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    >>> encoder = SentenceEncoder(Bert(config), ByteTokenizer())
    >>> vectors = encoder.encode(["a cat", "a dog", "a cat"])
    >>> vectors.shape
    (3, 8)
    >>> bool(np.allclose(vectors[0], vectors[2], atol=1e-6))
    True
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        poolings: Sequence[str] = ("mean",),
        normalize: bool = True,
        max_length: int | None = None,
        lowercase: bool = False,
    ) -> None:
        n_positions = model.config.n_positions
        self.model, self.tokenizer = model, tokenizer
        self.poolings, self.normalize, self.lowercase = tuple(poolings), normalize, lowercase
        self.max_length = n_positions if max_length is None else max_length
        if self.max_length > n_positions:
            raise UserError(
                f"max_length is {max_length}, and the model reads at most {n_positions} tokens"
            )
        for name in self.poolings:
            if name not in POOLINGS.values():
                raise UserError(
                    f"there is no pooling {brief(name)}; known are {', '.join(POOLINGS.values())}"
                )

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """Make the encoder of a model's folder, file or name; see `npgpt.load_model`.

        Without ``modules.json``, the vector is the normalized mean.

        Raises
        ------
        UserError
            If there is no such model, or ``modules.json`` has a step that is not known here.
        """
        path = find_model(source)
        options = read_modules(path) if path.is_dir() else {}
        return cls(load_model(path), load_tokenizer(path), **options)

    @property
    def width(self) -> int:
        """The number of elements of a vector."""
        return self.model.config.n_embd * len(self.poolings)

    def encode(self, texts: Sequence[str]) -> ndarray:
        """Return the vectors of texts.

        A special token that a text spells is text like any other. The vector of a text does not
        depend on the other texts, except for rounding.

        Parameters
        ----------
        texts : sequence of str

        Returns
        -------
        ndarray, (N, width)
            Zeros for a text without any token.
        """
        if isinstance(texts, str):
            raise UserError("encode takes a list of texts, and this is one text")
        rows = [self._ids(text) for text in texts]
        dtype = self.model.transformer.wte.weight.dtype
        vectors = np.zeros((len(rows), self.width), dtype)
        with no_grad(), evaluating():
            for group in batches([len(row) for row in rows]):
                vectors[group] = self._vectors([rows[n] for n in group])
        return unit(vectors) if self.normalize else vectors

    def _ids(self, text: str) -> ndarray:
        """Return the ids of a text with those before and after; too long a text loses its end."""
        text = text.lower() if self.lowercase else text
        return self.tokenizer.encode_batch([text], max_length=self.max_length).input_ids[0]

    def _vectors(self, rows: list[ndarray]) -> ndarray:
        """Return the vectors of some rows of ids, (N, width), before they are normalized."""
        lengths = np.array([len(row) for row in rows])
        ids = np.full((len(rows), lengths.max()), self.tokenizer.pad_token_id)
        mask = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
        ids[mask] = np.concatenate(rows)
        hidden = self.model.transformer(ids, None if mask.all() else mask).numpy()  # (B, T, C)
        hidden = hidden if mask.all() else np.where(mask[..., None], hidden, 0)
        count = lengths[:, None].astype(hidden.dtype)
        pooled = []
        for name in self.poolings:
            if name == "cls":
                pooled.append(hidden[:, 0])
            elif name == "max":
                pooled.append(np.where(mask[..., None], hidden, -np.inf).max(axis=1))
            else:
                divisor = count if name == "mean" else np.sqrt(count)
                pooled.append(hidden.sum(axis=1) / divisor)
        return np.concatenate(pooled, axis=1)


def batches(lengths: Sequence[int]) -> Iterator[ndarray]:
    """Yield the numbers of the texts of each batch: the longest texts first.

    The texts of a batch have one length, so that no work is done for padding, and at most `BATCH`
    tokens together. Where there are only a few of one length, shorter texts are added up to a half
    of this. Texts without a token are left out.

    Examples
    --------
    >>> [group.tolist() for group in batches([3, 900, 3, 0])]
    [[1], [0, 2]]
    """
    sizes = np.asarray(lengths)
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    while len(order):
        longest = int(sizes[order[0]])
        n = max(np.count_nonzero(sizes[order] == longest), BATCH // (2 * longest))
        n = max(1, min(n, BATCH // longest))
        yield order[:n]
        order = order[n:]


def nearest(query: ndarray, vectors: ndarray, n: int) -> tuple[ndarray, ndarray]:
    """Return the numbers of the vectors nearest to a vector, and their cosines, nearest first.

    Parameters
    ----------
    query : ndarray, (C,)
    vectors : ndarray, (N, C)
    n : int
        As many as there are, if there are fewer. Of equal cosines, the first counts.

    Examples
    --------
    >>> numbers, cosines = nearest(np.array([1.0, 0.0]), np.array([[0, 2], [3, 3], [1, 0]]), 2)
    >>> numbers.tolist(), cosines.round(2).tolist()
    ([2, 1], [1.0, 0.71])
    """
    cosines = unit(vectors) @ unit(query[None])[0]
    numbers = np.argsort(-cosines, kind="stable")[:n]
    return numbers, cosines[numbers]


def similarities(vectors: ndarray) -> ndarray:
    """Return the cosine of each vector with each other: ``(N, C) -> (N, N)``; 0 with zeros."""
    directions = unit(vectors)
    return directions @ directions.T


def unit(vectors: ndarray) -> ndarray:
    """Return vectors (N, C) divided by their lengths; zeros stay zeros."""
    lengths = np.sqrt(np.sum(vectors**2, axis=1, keepdims=True))
    return vectors / np.where(lengths > 0, lengths, 1)


# ---- the files of sentence-transformers


def read_modules(folder: Path) -> dict[str, Any]:
    """Return the options of `SentenceEncoder` that the files in a folder say; see there.

    Raises
    ------
    UserError
        If a file is damaged, or names a step or a pooling that is not known here.
    """
    found: dict[str, Any] = {}
    if (path := folder / "sentence_bert_config.json").is_file():
        own = read_json(path, limit=SMALL)
        length = fit(own.get("max_seq_length"), Annotated[int, Range(1, 2**28)] | None, str(path))
        found["max_length"] = length
        found["lowercase"] = fit(own.get("do_lower_case", False), bool, str(path))
    path = folder / "modules.json"
    if not path.is_file():
        return found
    steps: list[Step] = fit_file(read_json(path, list[dict[str, Any]], SMALL), list[Step], path)
    names = [step["type"].rpartition(".")[2] for step in steps]
    found["normalize"] = names[-1:] == ["Normalize"]
    kinds = names[:-1] if found["normalize"] else names
    if kinds != ["Transformer", "Pooling"]:
        raise UserError(
            f"{path} has the steps {', '.join(map(brief, names))}; known here are Transformer, "
            "then Pooling, then perhaps Normalize"
        )
    if steps[0]["path"]:
        raise UserError(f"{path} has its model in {brief(steps[0]['path'])}; name that folder")
    place = steps[1]["path"]
    if not is_model_name(place):
        raise UserError(f"{path} has its pooling in {brief(place)}, which is no folder beside it")
    found["poolings"] = read_poolings(folder / place / "config.json")
    return found


def read_poolings(path: Path) -> list[str]:
    """Return the poolings that the ``config.json`` of a Pooling step names."""
    values = read_json(path, limit=SMALL)
    if isinstance(mode := values.get("pooling_mode"), str):  # since version 5
        return [mode]
    modes = [key for key, value in values.items() if key.startswith("pooling_mode_") and value]
    if unknown := [key for key in modes if key not in POOLINGS]:
        raise UserError(f"{path} names {brief(unknown[0])}, which is not known here")
    return [name for key, name in POOLINGS.items() if key in modes] or ["mean"]
