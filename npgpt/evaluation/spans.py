"""Answers that are spans of a context: files of questions, windows, and the most probable span.

A model with a head for spans reads a question and a context, and says of each token how well an
answer starts there, and how well an answer ends there (Devlin et al. 2018, section 4.2). A context
that is too long for the model is cut into windows, which overlap.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from numpy import ndarray

from autograd import no_grad
from autograd.escape import brief
from autograd.reading import fit_file, parse_json, read_bytes
from npgpt.errors import UserError
from npgpt.evaluation.labels import label_row, padding_token, segments
from npgpt.evaluation.written import PARTS, harmonic_mean
from npgpt.models.bert import Bert
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.say import say
from npgpt.sentences import batches
from npgpt.tokenizers import Tokenizer
from npgpt.tokenizers.base import WHITE
from npgpt.tokenizers.normalizers import CHINESE, is_punctuation

STRIDE = 128  # tokens from the beginning of a window to that of the next, as in BERT's script
LONGEST = 30  # tokens of an answer, as in BERT's script

# ---- files


class Question(NamedTuple):
    """A question, the text that has its answer, and the answers that are right."""

    where: str  # the file and the question, for messages
    question: str
    context: str
    answers: list[str]
    span: tuple[int, int]  # the characters of the first answer in the context: from, to (exclusive)


class _Answer(TypedDict):
    text: str
    answer_start: int


class _Asked(TypedDict):
    question: str
    answers: list[_Answer]


class _Paragraph(TypedDict):
    context: str
    qas: list[_Asked]


class _Article(TypedDict):
    paragraphs: list[_Paragraph]


class _File(TypedDict):
    data: list[_Article]


def read_spans(path: str | Path) -> list[Question]:
    """Return the questions in a JSON file in the form of SQuAD 1.1 (Rajpurkar et al. 2016).

    An answer has its text, and the number of its first character in the context. If the context has
    another text there, the nearest place with the text of the answer is meant. A question without a
    text is left out, with a note on standard error.

    Raises
    ------
    UserError
        If the file has another form or no question, or if a question has no answer, or an answer
        that is not in its context. The message names the question.

    Examples
    --------
    >>> import json, tempfile
    >>> asked = {"question": "Who sat?", "answers": [{"text": "the cat", "answer_start": 0}]}
    >>> values = {"data": [{"paragraphs": [{"context": "the cat sat", "qas": [asked]}]}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "questions.json"
    ...     _ = path.write_text(json.dumps(values))
    ...     read_spans(path)[0].span
    (0, 7)
    """
    file: _File = fit_file(parse_json(read_bytes(path, pipes=True), path), _File, path)
    found, empty, number = [], [], 0
    paragraphs = [paragraph for article in file["data"] for paragraph in article["paragraphs"]]
    for paragraph in paragraphs:
        for asked in paragraph["qas"]:
            number += 1
            where = f"{path}, question {number} ({brief(asked['question'])})"
            if not asked["question"].strip():
                empty.append(number)
                continue
            spans = [_find(answer, paragraph["context"], where) for answer in asked["answers"]]
            if not spans:
                raise UserError(
                    f"{where} has no answer; each question needs an answer in its context, as in "
                    "SQuAD 1.1"
                )
            texts = [answer["text"] for answer in asked["answers"]]
            found.append(Question(where, asked["question"], paragraph["context"], texts, spans[0]))
    if not found:
        raise UserError(f"{path} has no question")
    if empty:
        say(
            f"note: {path} has {len(empty):,} questions without a text, such as question "
            f"{empty[0]:,}, and they are left out",
            sys.stderr,
        )
    return found


def _find(answer: _Answer, context: str, where: str) -> tuple[int, int]:
    """Return the characters of an answer in its context: the first, and the one after the last."""
    text, start = answer["text"], answer["answer_start"]
    if not text.strip():
        raise UserError(f"{where} has an empty answer")
    places = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
    if not places:
        raise UserError(f"{where}: the answer {brief(text)} is not in the context")
    place = min(places, key=lambda each: abs(each - start))
    return place, place + len(text)


# ---- tokens and the characters that they stand for


def encode_words(text: str, tokenizer: Tokenizer) -> tuple[ndarray, ndarray]:
    """Return the tokens of a text, and the characters of the word of each.

    Words are cut as by BERT's tokenizer: at white space, and a mark of punctuation or a Chinese
    character is a word. Each word is encoded alone, so an answer begins and ends with a word.

    Returns
    -------
    ids : ndarray of int, (N,)
    places : ndarray of int, (N, 2)
        For each token, the first character of its word and the character after the last one.

    Examples
    --------
    >>> from npgpt.tokenizers import WordPieceTokenizer
    >>> tokenizer = WordPieceTokenizer({"[UNK]": 0, "un": 1, "##able": 2, "天": 3})
    >>> ids, places = encode_words("Unable 天!", tokenizer)
    >>> ids.tolist(), places.tolist()
    ([1, 2, 3, 0], [[0, 6], [0, 6], [7, 8], [8, 9]])
    """
    ids, places = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int64)]
    for place in find_words(text):
        word = text[slice(*place)]
        part = tokenizer.encode(word, disallowed_special=(), add_special_tokens=False)
        ids.append(part)
        places.append(np.tile(place, (len(part), 1)))
    return np.concatenate(ids), np.concatenate(places)


def find_words(text: str) -> list[tuple[int, int]]:
    """Return the first character of each word of a text, and the character after its last.

    Examples
    --------
    >>> find_words("a cat, 天气")
    [(0, 1), (2, 5), (5, 6), (7, 8), (8, 9)]
    """
    words, start = [], None
    for n, c in enumerate(text):
        is_alone = is_punctuation(c) or any(a <= ord(c) <= b for a, b in CHINESE)
        if start is not None and (is_alone or c in WHITE):
            words.append((start, n))
            start = None
        if is_alone:
            words.append((n, n + 1))
        elif start is None and c not in WHITE:
            start = n
    return words if start is None else [*words, (start, len(text))]


# ---- windows


class Window(NamedTuple):
    """A question and a part of its context, as a model reads them."""

    row: ndarray  # (T,), the tokens
    first: int  # the position of the first token of the context in the row
    start: int  # the number of this token in the context
    stop: int  # the number of the token in the context after the last one of the row


def cut_windows(
    question: ndarray, context: ndarray, tokenizer: Tokenizer, length: int, stride: int = STRIDE
) -> list[Window]:
    """Return the windows of a context, each behind the question, in at most `length` tokens.

    A window begins `stride` tokens after the window before, or where this ends, if that is earlier.
    A question that takes more than half of the room loses its last tokens.

    Parameters
    ----------
    question, context : ndarray of int, (N,)
        Tokens, at least one each.
    tokenizer : Tokenizer
        Its own tokens stand around both, as `npgpt.evaluation.labels.label_row` puts them.
    length, stride : int

    Examples
    --------
    >>> from npgpt.tokenizers import WordPieceTokenizer
    >>> tokenizer = WordPieceTokenizer({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4})
    >>> windows = cut_windows(np.array([3]), np.array([4, 4, 4, 4, 0]), tokenizer, 7, stride=2)
    >>> [window.row.tolist() for window in windows]
    [[1, 3, 2, 4, 4, 4, 2], [1, 3, 2, 4, 4, 0, 2]]
    """
    frame = len(label_row([np.zeros(1, int)] * 2, tokenizer, length)) - 2
    question = question[: (length - frame) // 2]
    room = length - frame - len(question)
    windows, start = [], 0
    while True:
        row = label_row([question, context[start : start + room]], tokenizer, length)
        first = int(np.argmax(segments(row[None], tokenizer)[0] == 1))
        windows.append(Window(row, first, start, min(start + room, len(context))))
        if start + room >= len(context):
            return windows
        start += min(stride, room)


def stack_windows(windows: Sequence[Window], tokenizer: Tokenizer) -> tuple[ndarray, ndarray]:
    """Return the tokens of some windows, (W, T), with padding, and the mask of the tokens."""
    lengths = np.array([len(window.row) for window in windows])
    mask = np.arange(lengths.max()) < lengths[:, None]  # (W, T)
    inputs = np.full(mask.shape, padding_token(tokenizer))
    inputs[mask] = np.concatenate([window.row for window in windows])
    return inputs, mask


class Span(NamedTuple):
    """An answer in a context of tokens."""

    first: int  # the number of its first token
    last: int
    score: float  # the probability of this span among all spans of all windows


def best_span(logits: Sequence[ndarray], windows: Sequence[Window], longest: int = LONGEST) -> Span:
    """Return the span with the highest sum of the logits of its start and its end.

    Parameters
    ----------
    logits : sequence of ndarray, (T, 2) each
        Of the windows of one context. Only the positions of the context count.
    windows : sequence of Window
    longest : int
        The most tokens of a span.

    Examples
    --------
    >>> window = Window(np.arange(5), first=2, start=10, stop=13)
    >>> logits = np.array([[9, 9], [9, 9], [0, 2], [1, 0], [0, 1]])
    >>> best_span([logits], [window])[:2]  # 12 ends after 11 starts; 10 would end before
    (10, 10)
    """
    found = []
    for own, window in zip(logits, windows, strict=True):
        n = window.stop - window.start
        start, end = own[window.first : window.first + n].astype(np.float64).T  # (n,) each
        i, j = np.indices((n, n))
        sums = np.where((i <= j) & (j < i + longest), start[:, None] + end, -np.inf)
        best = np.unravel_index(sums.argmax(), sums.shape)
        highest = sums[best]
        log_sum = highest + np.log(np.exp(sums - highest).sum())
        found.append((highest, log_sum, *(int(k) + window.start for k in best)))
    highest, _, first, last = max(found, key=lambda each: each[0])
    total = np.logaddexp.reduce([log_sum for _, log_sum, *_ in found])
    return Span(first, last, float(np.exp(highest - total)))


# ---- answers


class Answer(NamedTuple):
    """What a model answers: a part of the context."""

    answer: str
    start: int  # the number of its first character in the context
    end: int  # the number of the character after its last one
    score: float  # see `Span`


def demand_span_head(model: GPT, what: str) -> Bert:
    """Return a model that finds spans, and refuse any other; `what` names it in the message.

    Raises
    ------
    UserError
        If the model has no head for spans.
    """
    if not isinstance(model, Bert) or model.span_head is None:
        raise UserError(
            f"{what} has no head for the start and the end of an answer: give a model that npgpt "
            "finetune spans has trained, or a BertForQuestionAnswering"
        )
    return model


def find_answer(
    model: Bert,
    tokenizer: Tokenizer,
    question: str,
    context: str,
    stride: int = STRIDE,
    longest: int = LONGEST,
) -> Answer:
    """Return the part of a context that most probably answers a question.

    Parameters
    ----------
    model : Bert
        With a head for spans (`demand_span_head`).
    tokenizer : Tokenizer
    question, context : str
    stride : int
        Where windows of a long context begin; see `cut_windows`.
    longest : int
        The most tokens of an answer.

    Raises
    ------
    UserError
        If the tokenizer makes no token of the question or of the context.

    Examples
    --------
    >>> from npgpt.models.bert import BertConfig
    >>> from npgpt.tokenizers import WordPieceTokenizer
    >>> words = "[UNK] [CLS] [SEP] [PAD] who sat the cat".split()
    >>> tokenizer = WordPieceTokenizer({word: i for i, word in enumerate(words)})
    >>> config = BertConfig(vocab_size=8, n_positions=16, n_embd=8, n_layer=1, n_head=2,
    ...                     architecture="BertForQuestionAnswering")
    >>> context = "The cat sat."
    >>> found = find_answer(Bert(config), tokenizer, "Who sat?", context)
    >>> found.answer == context[found.start : found.end]
    True
    """
    asked, _ = encode_words(question, tokenizer)
    ids, places = encode_words(context, tokenizer)
    for part, text in ((asked, question), (ids, context)):
        if not len(part):
            raise UserError(f"the tokenizer makes no token of {brief(text)}")
    windows = cut_windows(asked, ids, tokenizer, model.config.n_positions, stride)
    logits: list[ndarray] = [np.zeros(0)] * len(windows)
    with no_grad(), evaluating():
        for group in batches([len(window.row) for window in windows]):
            inputs, mask = stack_windows([windows[n] for n in group], tokenizer)
            found, _ = model(
                inputs, attention_mask=mask, token_type_ids=segments(inputs, tokenizer)
            )
            for n, own in zip(group, found.numpy(), strict=True):
                logits[n] = own  # (T, 2)
    span = best_span(logits, windows, longest)
    start, end = int(places[span.first, 0]), int(places[span.last, 1])
    return Answer(context[start:end], start, end, span.score)


def nearest_sentence(question: str, context: str) -> str:
    """Return the sentence of a context that has most words in common with a question.

    It is an answer without any training: what a model learns is what it finds beyond this. As in
    `npgpt.evaluation.written.token_f1`, a Chinese character counts as a word.

    Examples
    --------
    >>> nearest_sentence("Who sat on the mat?", "It rained. The cat sat on the mat.")
    'The cat sat on the mat.'
    """
    asked = {*PARTS.findall(question.lower())}

    def score(sentence: str) -> float:
        words = {*PARTS.findall(sentence.lower())}
        return harmonic_mean(len(asked & words), len(asked), len(words))

    sentences = [part.strip() for part in re.findall(r"[^.!?。！？\n]+[.!?。！？]*", context)]
    return max(filter(None, sentences), key=score, default=context)
