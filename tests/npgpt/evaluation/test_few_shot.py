"""Choice by likelihood and few-shot prompts."""

import numpy as np
import pytest
from helpers import draw_model

from npgpt import UserError
from npgpt.evaluation.choices import Scorer, encode_question, log_softmax
from npgpt.evaluation.few_shot import FewShot, classify, read_examples
from npgpt.tokenizers import ByteTokenizer

PROMPTS = ["one two: ", "one: ", "one two three: ", "one two; ", "x"]
CHOICES = [" a", "bcd", "efghij"]
WINDOWED = dict(model_type="mistral", window_size=5, n_kv_head=1)


@pytest.mark.parametrize("options", [{}, {"window_size": 5}, WINDOWED])
def test_scores_are_those_of_whole_texts(options):
    """The shared beginning, the groups and the padding change nothing; nor do earlier calls."""
    model = draw_model(np.float64, vocab_size=256, n_positions=40, **options)
    scorer = Scorer(model, ByteTokenizer())
    for prompts in (PROMPTS, PROMPTS[:3], PROMPTS[2:3], PROMPTS):
        for prompt, found in zip(prompts, scorer.score(prompts, CHOICES), strict=True):
            for choice, score in zip(CHOICES, found, strict=True):
                ids = np.frombuffer((prompt + choice).encode(), np.uint8)
                logs = log_softmax(model(ids[None, :-1])[0].numpy()[0])
                n = len(prompt)
                expected = logs[np.arange(n - 1, len(ids) - 1), ids[n:]].sum()
                assert score == pytest.approx(expected, abs=1e-10)


def test_calibration_and_its_inputs():
    """A label's probability is divided by its mean probability without content."""
    scorer = Scorer(draw_model(vocab_size=256, n_positions=99), ByteTokenizer())
    task, labels = FewShot("{input}: {output}", [("a", "yes")], "Say."), ["yes", "no"]
    assert task.prompt("b", scorer.tokenizer) == "Say.\n\na: yes\n\nb:"
    raw = classify(scorer, task, ["b", "N/A", "", "[MASK]"], labels)
    expected = raw[0] / raw[1:].mean(axis=0)
    found = classify(scorer, task, ["b"], labels, calibrated=True)
    np.testing.assert_allclose(found[0], expected / expected.sum(), rtol=1e-6)


def test_what_is_refused(tmp_path):
    scorer = Scorer(draw_model(vocab_size=256, n_positions=16), ByteTokenizer())
    with pytest.raises(UserError, match="prompt 1 has 20 tokens with its longest choice"):
        scorer.score(["a", "a" * 20], ["b"])
    with pytest.raises(UserError, match="the choice '' has no token"):
        encode_question(scorer.tokenizer, "a", ["b", ""])
    with pytest.raises(UserError, match="no token is left"):
        encode_question(scorer.tokenizer, "", ["b"])
    with pytest.raises(UserError, match="two or more different"):
        classify(scorer, FewShot(), ["a"], ["b", "b"])
    for template in ("{input}", "{output} {input}", "{input} {input} {output}"):
        with pytest.raises(UserError, match="it must have {input} once"):
            FewShot(template)
    for text, message in (("a\tb\nc", "line 2 has 0 tabs"), ("\n", "no example")):
        (tmp_path / "shots.tsv").write_text(text)
        with pytest.raises(UserError, match=message):
            read_examples(tmp_path / "shots.tsv")
