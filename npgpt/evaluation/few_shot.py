"""Few-shot prompts: a model is shown how a task is done, and is not trained (Brown et al. 2020).

A prompt has k examples and a question, all written by one template. The model continues the text.
To classify, the labels are compared as continuations, see `npgpt.evaluation.choices`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import ndarray

from autograd import nn
from autograd.escape import brief
from npgpt.errors import UserError
from npgpt.evaluation.choices import Scorer, normalize
from npgpt.tokenizers.base import Tokenizer

CONTENT_FREE = ("N/A", "", "[MASK]")  # inputs that say nothing: Zhao et al. 2021, section 5
BETWEEN = "\n\n"  # examples


@dataclass(frozen=True)
class FewShot:
    r"""A task that is shown by examples.

    Parameters
    ----------
    template : str
        How an example is written: a text with ``{input}``, and after it ``{output}``.
    examples : sequence of (str, str)
        Questions with their answers; `npgpt.evaluation.examples` reads them from files.
    instruction : str
        A text in front of the examples.
    as_chat : bool
        Whether to write a conversation in the tokenizer's chat template: the template's text up to
        the output is a message of the user, the output is the answer, and the instruction is the
        system prompt.

    Raises
    ------
    UserError
        If the template does not have each of its two places once, in this order.

    Examples
    --------
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> task = FewShot("Review: {input}\nSentiment: {output}", [("a bore", "negative")])
    >>> print(task.prompt("what a film!", ByteTokenizer()))
    Review: a bore
    Sentiment: negative
    <BLANKLINE>
    Review: what a film!
    Sentiment:
    >>> task.choice("positive")
    ' positive'
    """

    template: str = "Input: {input}\nOutput: {output}"
    examples: Sequence[tuple[str, str]] = ()
    instruction: str = ""
    as_chat: bool = False

    def __post_init__(self) -> None:
        places = [self.template.count(place) for place in ("{input}", "{output}")]
        if places != [1, 1] or self.template.index("{input}") > self.template.index("{output}"):
            raise UserError(
                f"the template is {brief(self.template)}; it must have {{input}} once, and after "
                "it {output} once"
            )

    def prompt(self, question: str, tokenizer: Tokenizer) -> str | ndarray:
        """Return the examples and a question, up to where the answer begins.

        A text, or for a chat its token ids (T,), in which only the chat template writes special
        tokens.
        """
        if not self.as_chat:
            shown = [self._ask(example[0]) + self._answer(example[1]) for example in self.examples]
            start = [self.instruction] if self.instruction else []
            return BETWEEN.join([*start, *shown, self._ask(question)])
        messages = [{"role": "system", "content": self.instruction}] if self.instruction else []
        for asked, answer in self.examples:
            messages.append({"role": "user", "content": self._ask(asked)})
            messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": self._ask(question)})
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, sanitize_control_tokens=True
        )

    def choice(self, label: str) -> str:
        """Return a label as the continuation of a prompt, with the white space before it."""
        return label if self.as_chat else self._space + label

    @property
    def end(self) -> str:
        r"""What follows an answer in the prompt, such as an empty line; nothing in a chat.

        Examples
        --------
        >>> FewShot("Q: {input}\nA: {output};").end
        ';\n\n'
        """
        return "" if self.as_chat else self.template.partition("{output}")[2] + BETWEEN

    def _ask(self, question: str) -> str:
        return self._before.rstrip().replace("{input}", question)

    def _answer(self, answer: str) -> str:
        return self._space + answer + self.template.partition("{output}")[2]

    @property
    def _before(self) -> str:
        return self.template.partition("{output}")[0]

    @property
    def _space(self) -> str:
        """The white space before an answer: it belongs to the answer's first token."""
        return self._before[len(self._before.rstrip()) :]


def classify(
    scorer: Scorer,
    task: FewShot,
    questions: Sequence[str],
    labels: Sequence[str],
    *,
    calibrated: bool | Literal["batch"] = False,
    normalized: bool = False,
) -> ndarray:
    r"""Return the probability of each label for each question, by likelihood.

    Parameters
    ----------
    scorer : Scorer
        With the model.
    task : FewShot
    questions, labels : sequence of str
    calibrated : bool or "batch"
        Whether to divide by the probabilities that the labels have for inputs without content
        (`CONTENT_FREE`), and so to undo what the template and the examples alone favour:
        contextual calibration (Zhao et al. 2021, arXiv:2102.09690, equation 2). With ``"batch"``,
        they are divided by their means over all questions: batch calibration (Zhou et al. 2023,
        arXiv:2309.17249, equation 5). It assumes that no label is rare among the questions.
    normalized : bool
        Whether to divide a label's log-probability by its number of characters.

    Returns
    -------
    ndarray of float64, (N, number of labels)
        Rows add up to 1: probabilities given that the answer is one of the labels.

    Raises
    ------
    UserError
        If there are fewer than two labels, or two are equal; if one question alone is to be
        calibrated by the batch; or as `Scorer.score` says.

    Examples
    --------
    >>> from npgpt import GPT, GPTConfig
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> model = GPT(GPTConfig(vocab_size=256, n_positions=128, n_embd=16, n_layer=2, n_head=2))
    >>> task = FewShot("{input} is {output}", [("A rose", "red"), ("The sea", "blue")])
    >>> found = classify(Scorer(model, ByteTokenizer()), task, ["A leaf"], ["red", "green"])
    >>> found.shape, found.sum().round(6)
    ((1, 2), np.float64(1.0))
    """
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise UserError(f"the labels are {brief(list(labels))}; give two or more different texts")
    if calibrated == "batch" and len(questions) < 2:
        raise UserError(
            "one text has no other texts with which its labels can be calibrated: give several"
        )
    choices = [task.choice(label) for label in labels]

    def probabilities(texts: Sequence[str]) -> ndarray:
        prompts = [task.prompt(text, scorer.tokenizer) for text in texts]
        scores = np.array(scorer.score(prompts, choices)).reshape(-1, len(labels))
        if normalized:
            scores = normalize(scores, choices)
        return nn.softmax(scores, -1)

    found = probabilities(questions)
    if not calibrated:
        return found
    others = found if calibrated == "batch" else probabilities(CONTENT_FREE)
    return calibrate(found, others.mean(axis=0))


def calibrate(found: ndarray, expected: ndarray) -> ndarray:
    """Divide probabilities of labels, (N, L), by those that are expected, (L,); rows add up to 1.

    Examples
    --------
    >>> calibrate(np.array([[0.6, 0.4]]), np.array([0.75, 0.25])).round(3)
    array([[0.333, 0.667]])
    """
    tiny = np.finfo(np.float64).tiny
    return nn.softmax(np.log(np.maximum(found, tiny)) - np.log(np.maximum(expected, tiny)), -1)
