"""Metrics of written texts: what holds without an oracle."""

import builtins

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt import UserError
from npgpt.evaluation import written

TEXTS = st.text("ab你 ", max_size=40)


def table(a, b):
    """The longest common subsequence by the table of the textbook."""
    rows = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            same = rows[i, j] + (x == y)
            rows[i + 1, j + 1] = max(same, rows[i, j + 1], rows[i + 1, j])
    return rows[-1, -1]


@given(TEXTS, TEXTS)
def test_the_longest_common_subsequence(a, b):
    assert written.lcs_length(a, b) == table(a, b)


@given(TEXTS, TEXTS)
def test_metrics_are_shares_and_symmetric(a, b):
    """A text is nearest to itself; all metrics here are harmonic means, which are symmetric."""
    for name, metric in written.EACH.items():
        assert 0 <= metric(a, b) == metric(b, a) <= 1
        if written.split_words(a) and (name != "ROUGE-2" or len(written.split_words(a)) > 1):
            assert metric(a, a) == 1


def test_chinese_characters_are_words():
    assert written.token_f1("北京市", "北京") == pytest.approx(0.8)
    assert written.exact_match("北京。", "北京") == 1
    assert written.rouge("我在北京", "他在北京", "rouge2") == pytest.approx(2 / 3)


def test_the_best_reference_counts():
    found = written.compare(["b c", "x"], [["a", "b d"], ["y"]])
    assert found["token F1"].tolist() == [0.5, 0]


def test_without_sacrebleu(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args):
        if name.startswith("sacrebleu"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install 'npgpt\[eval\]'"):
        written.corpus_scores(["a"], [["b"]])
