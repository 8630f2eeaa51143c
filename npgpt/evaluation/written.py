"""Metrics of how near texts are to references: ROUGE, exact match, F1, BLEU, chrF.

Texts are compared by their words. Chinese is written without spaces between words, so that each
Chinese character counts as a word here.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.evaluation.metrics import DRAWS, Estimate, estimate

HAN = r"\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003347f"  # characters
WORDS = re.compile(rf"[a-z0-9]+|[{HAN}]")  # of ROUGE, whose other letters separate words
PARTS = re.compile(rf"[{HAN}]|[^\s{HAN}]+")
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation + "，。？！、；：（）《》“”‘’「」『』…—·")


# ---- ROUGE (Lin 2004)


def split_words(text: str) -> list[str]:
    """Return the words of a text as the package rouge-score does, and each Chinese character.

    Examples
    --------
    >>> split_words("It's 3 o'clock: 三点")
    ['it', 's', '3', 'o', 'clock', '三', '点']
    """
    return WORDS.findall(text.lower())


def rouge(written: str, reference: str, kind: str = "rougeL") -> float:
    """Return the ROUGE F1 of a text (Lin 2004), as the package rouge-score does without a stemmer.

    Parameters
    ----------
    written, reference : str
    kind : {"rouge1", "rouge2", "rougeL"}
        Whether to count common words, common pairs of words, or the longest common subsequence.

    Examples
    --------
    >>> round(rouge("the cat sat", "the black cat sat down", "rougeL"), 3)
    0.75
    """
    a, b = split_words(written), split_words(reference)
    if kind == "rougeL":
        return harmonic_mean(lcs_length(a, b), len(a), len(b))
    n = {"rouge1": 1, "rouge2": 2}[kind]
    x, y = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (a, b))
    return harmonic_mean((x & y).total(), x.total(), y.total())


def harmonic_mean(common: int, n_written: int, n_reference: int) -> float:
    """Return F1: the harmonic mean of the shares of common parts in both; 0 if none is common."""
    return 2 * common / (n_written + n_reference) if common else 0.0


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence (Hyyrö 2004).

    The usual table has a row for each element of b. Two neighbours in a row differ by 0 or 1. So a
    row is one integer, with a bit for each element of a: 0 where the length grows.

    Examples
    --------
    >>> lcs_length("nematode", "empty")
    3
    """
    places: dict[str, int] = {}
    for i, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << i
    every = row = (1 << len(a)) - 1
    for item in b:
        matches = row & places.get(item, 0)
        row = (row + matches | row - matches) & every
    return len(a) - row.bit_count()


# ---- answers (Rajpurkar et al. 2016)


def plain_answer(text: str) -> str:
    """Return an answer without case, punctuation, articles and repeated spaces, as SQuAD does.

    Examples
    --------
    >>> plain_answer("The  Eiffel Tower!")
    'eiffel tower'
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(written: str, reference: str) -> float:
    """Return 1 if `plain_answer` is the same for two answers, and otherwise 0."""
    return float(plain_answer(written) == plain_answer(reference))


def token_f1(written: str, reference: str) -> float:
    """Return the F1 of the words that two answers have in common; two empty answers have 1.

    Examples
    --------
    >>> token_f1("in Paris", "Paris, France"), token_f1("在巴黎", "巴黎")
    (0.5, 0.8)
    """
    a, b = (Counter(PARTS.findall(plain_answer(text))) for text in (written, reference))
    if not a or not b:
        return float(a == b)
    return harmonic_mean((a & b).total(), a.total(), b.total())


# ---- many texts

EACH: dict[str, Callable[[str, str], float]] = {
    "exact match": exact_match,
    "token F1": token_f1,
    "ROUGE-1": lambda written, reference: rouge(written, reference, "rouge1"),
    "ROUGE-2": lambda written, reference: rouge(written, reference, "rouge2"),
    "ROUGE-L": rouge,
}
"""Metrics of one text, from 0 to 1; the metric of many texts is the mean."""


def compare(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, ndarray]:
    """Return the metrics of `EACH` for some texts, (N,) each: the best over a text's references.

    Examples
    --------
    >>> compare(["Paris"], [["Paris, France", "paris"]])["exact match"]
    array([1.])
    """
    return {
        name: np.array(
            [
                max(metric(text, reference) for reference in own)
                for text, own in zip(written, references, strict=True)
            ]
        )
        for name, metric in EACH.items()
    }


def corpus_scores(
    written: Sequence[str], references: Sequence[Sequence[str]], draws: int = DRAWS
) -> dict[str, Estimate]:
    """Return BLEU and chrF of sacrebleu, from 0 to 100, with bootstrap intervals.

    The counts of all texts are added before BLEU and chrF are computed (Papineni et al. 2002;
    Popović 2015). The name of BLEU says how sacrebleu splits words: by ``zh`` if a reference has a
    Chinese character, and by ``13a`` if none has.

    Raises
    ------
    UserError
        If sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise UserError(
            "BLEU and chrF are computed by sacrebleu, which is not installed: "
            "pip install 'npgpt[eval]'"
        ) from None
    has_han = any(re.search(f"[{HAN}]", text) for own in references for text in own)
    splitting = "zh" if has_han else "13a"
    most = max(map(len, references))
    columns = [[own[i] if i < len(own) else None for own in references] for i in range(most)]
    found = {}
    for name, metric in ((f"BLEU ({splitting})", BLEU(tokenize=splitting)), ("chrF", CHRF())):
        # sacrebleu's own bootstrap fails where BLEU is 0 for some draws only (version 2.6)
        counts = np.array(metric._extract_corpus_statistics(written, columns))  # (N, counts)

        def score(drawn: ndarray, metric: Any = metric) -> float:
            return metric._compute_score_from_stats(drawn.sum(axis=0).tolist()).score

        found[name] = estimate(score, counts, draws=draws)
    return found
