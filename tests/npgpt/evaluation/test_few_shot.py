"""Choice by likelihood and few-shot prompts."""

import numpy as np
import pytest
from helpers import draw_model

from autograd import nn
from npgpt import UserError
from npgpt.evaluation.choices import Scorer, encode_question, normalize
from npgpt.evaluation.few_shot import FewShot, classify
from npgpt.tokenizers import ByteTokenizer, train_bpe

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
                logs = nn.log_softmax(model(ids[None, :-1])[0].numpy()[0], -1)
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


def test_each_question_may_have_its_own_choices_and_no_prompt():
    """Without a prompt, the text begins after the token that begins, or ends, texts."""
    tokenizer = train_bpe("a bad cat and a good dog " * 9, 280, special_tokens=["<|endoftext|>"])
    model = draw_model(np.float64, vocab_size=280, n_positions=40)
    scorer, choices = Scorer(model, tokenizer), [["a cat", "a dog"], [" bad", " good", " and"]]
    found = scorer.score(["", "a"], choices)
    assert [len(scores) for scores in found] == [2, 3]
    start = tokenizer.special_tokens["<|endoftext|>"]
    for text, score in zip(choices[0], found[0], strict=True):
        ids = np.array([start, *tokenizer.encode(text)])
        logs = nn.log_softmax(model(ids[None, :-1])[0].numpy()[0], -1)
        assert score == pytest.approx(logs[np.arange(len(ids) - 1), ids[1:]].sum(), abs=1e-10)


def test_labels_divided_by_their_characters():
    scorer = Scorer(draw_model(np.float64, vocab_size=256, n_positions=99), ByteTokenizer())
    task, labels = FewShot("{input}: {output}"), ["no", "certainly"]
    (scores,) = scorer.score(["b:"], [" no", " certainly"])
    found = classify(scorer, task, ["b"], labels, normalized=True)
    expected = np.exp(normalize(scores, [" no", " certainly"]))
    np.testing.assert_allclose(found[0], expected / expected.sum(), rtol=1e-12)
    assert found[0, 1] > classify(scorer, task, ["b"], labels)[0, 1]  # the longer one gains


def test_examples_become_turns_of_a_conversation():
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    task = FewShot("{input}? {output}", [("a", "yes")], "Say.", as_chat=True)
    text = tokenizer.decode(task.prompt("b", tokenizer))
    assert text == "<system>Say.\n<user>a?\n<assistant>yes\n<user>b?\n<assistant>"
    assert task.choice("yes") == "yes"
    scorer = Scorer(draw_model(vocab_size=256, n_positions=99), tokenizer)
    assert classify(scorer, task, ["b"], ["yes", "no"]).sum() == pytest.approx(1)


def test_what_is_refused():
    scorer = Scorer(draw_model(vocab_size=256, n_positions=16), ByteTokenizer())
    with pytest.raises(UserError, match="ends in .* has 20 tokens with its longest choice"):
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
