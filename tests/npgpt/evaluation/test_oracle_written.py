"""Metrics of written texts, against the packages whose numbers are published."""

import re
import string
from collections import Counter
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import need

from npgpt.evaluation import written
from npgpt.evaluation.examples import read_rows

pytestmark = pytest.mark.usefixtures("oracle")

WORDS = "the a cat sat on mat, It's don't 3.14 (no) café naïve well-known 你好 e.g. x_y".split()


def draw_texts(n, seed=0):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(0, 25))) for _ in range(n)]


def find_package(name):
    need(find_spec(name) is not None, name)
    return import_module(name)


@pytest.fixture
def sentences(shared):
    """Pairs of real sentences."""
    path = shared / "tasks/stsb/stsb-en-dev.csv"
    return [row.cells for row in read_rows(path, ("1", "2"))]


def without_chinese(text):
    return re.sub(r"[\u4e00-\u9fff]", " ", text)


def test_rouge_is_that_of_rouge_score(sentences):
    """Of random texts with all kinds of letters, and of real ones."""
    scorer = find_package("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    pairs = [*zip(draw_texts(200), draw_texts(200, 1), strict=True), *sentences[:300]]
    for a, b in pairs:
        a, b = map(without_chinese, (a, b))  # of which rouge-score sees nothing
        for kind, score in scorer.score(b, a).items():
            assert written.rouge(a, b, kind) == pytest.approx(score.fmeasure, abs=1e-12)


def test_answers_are_judged_as_squads_script_does():
    """The rules of the published script, written again: lower, punctuation, articles, spaces."""

    def plain(text):
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    for a, b in zip(draw_texts(200), draw_texts(200, 1), strict=True):
        a, b = map(without_chinese, (a, b))
        assert written.exact_match(a, b) == (plain(a) == plain(b))
        x, y = plain(a).split(), plain(b).split()
        common = sum((Counter(x) & Counter(y)).values())
        if not x or not y:
            expected = float(x == y)
        else:
            expected = 2 * common / (len(x) + len(y)) if common else 0
        assert written.token_f1(a, b) == pytest.approx(expected, abs=1e-15)


def test_bleu_and_chrf_are_those_of_sacrebleu(sentences):
    """With one reference, and with two for some texts; the interval holds the number."""
    sacrebleu = find_package("sacrebleu")
    texts, references = zip(*sentences[:200], strict=True)
    found = written.corpus_scores(texts, [[text] for text in references])
    assert found["BLEU (13a)"].value == sacrebleu.corpus_bleu(texts, [references]).score
    assert found["chrF"].value == sacrebleu.corpus_chrf(texts, [references]).score
    assert all(low < value < high for value, low, high in found.values())
    theirs = sacrebleu.CHRF().corpus_score(texts, [references], n_bootstrap=1000)
    half = (found["chrF"].high - found["chrF"].low) / 2
    assert half == pytest.approx(float(re.search("± (.*)[)]", theirs.format())[1]), rel=0.1)
    more = [[a, b] if i % 2 else [b] for i, (a, b) in enumerate(sentences[:200])]
    assert written.corpus_scores(texts, more, draws=2)["chrF"].value > found["chrF"].value


def test_chinese_is_split_into_characters():
    sacrebleu = find_package("sacrebleu")
    texts, references = ["我不知道他在哪里。"], ["我知道他在哪里。"]
    found = written.corpus_scores(texts, [references], draws=2)["BLEU (zh)"]
    assert found.value == sacrebleu.corpus_bleu(texts, [references], tokenize="zh").score > 50
    assert written.corpus_scores(["不"], [["是"]], draws=2)["chrF"] == (0, 0, 0)
    some = written.corpus_scores(["不", "我不知道他在哪里。"], [["是"], references])
    assert some["BLEU (zh)"].low == 0 < some["BLEU (zh)"].value  # some draws have a BLEU of 0
