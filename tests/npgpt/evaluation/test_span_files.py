"""Files of questions about contexts: what is read, and what is refused with a message."""

import json

import numpy as np
import pytest

from npgpt import UserError
from npgpt.evaluation.spans import Window, best_span, read_spans


def file_of(tmp_path, context="the cat sat. the cat", question="Who?", answers=(("the cat", 0),)):
    answers = [{"text": text, "answer_start": start} for text, start in answers]
    asked = {"question": question, "id": "7", "answers": answers}
    path = tmp_path / "asked.json"
    paragraphs = [{"context": context, "qas": [asked]}, {"context": "b", "qas": []}]
    path.write_text(json.dumps({"version": "1", "data": [{"paragraphs": paragraphs}]}))
    return path


def test_the_nearest_place_of_an_answer_counts(tmp_path):
    for start, place in ((0, 0), (5, 0), (9, 13), (13, 13), (99, 13), (-4, 0)):
        (found,) = read_spans(file_of(tmp_path, answers=[("the cat", start), ("cat", 4)]))
        assert found.span == (place, place + 7) and found.answers == ["the cat", "cat"]


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(answers=()), "question 1 .* has no answer"),
        (dict(answers=[(" ", 0)]), "question 1 .* an empty answer"),
        (dict(answers=[("a dog", 0)]), "'a dog' is not in the context"),
        (dict(question=" "), "has no question"),
        (dict(question=5), "question must be"),
    ],
)
def test_wrong_questions_are_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_spans(file_of(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"data": [{"paragraphs": 3}]}', "\udcff"])
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="a.json"):
        read_spans(tmp_path / "a.json")


def test_a_question_without_a_text_is_left_out(tmp_path, capsys):
    values = json.loads(file_of(tmp_path).read_text())
    asked = values["data"][0]["paragraphs"][0]["qas"]
    asked += [asked[0] | {"question": " "}, asked[0]]
    (tmp_path / "more.json").write_text(json.dumps(values))
    assert len(read_spans(tmp_path / "more.json")) == 2
    assert "1 questions without a text, such as question 2" in capsys.readouterr().err


def test_the_best_span_is_the_best_of_all():
    """Against a loop over all spans of all windows; the scores of all spans add up to 1."""
    random = np.random.default_rng(0)
    windows = [Window(np.zeros(9, int), 2, 0, 6), Window(np.zeros(9, int), 2, 4, 9)]
    for longest in (1, 3, 99):
        logits = [random.standard_normal((9, 2)) * 3 for _ in windows]
        sums = {}
        for own, (_, first, start, stop) in zip(logits, windows, strict=True):
            for i in range(start, stop):
                for j in range(i, min(stop, i + longest)):
                    total = own[first + i - start, 0] + own[first + j - start, 1]
                    sums.setdefault((i, j), []).append(total)
        every = np.concatenate([*sums.values()])
        best = max(sums, key=lambda span: max(sums[span]))
        found = best_span(logits, windows, longest)
        assert found[:2] == best
        np.testing.assert_allclose(found.score, np.exp(every.max()) / np.exp(every).sum())
