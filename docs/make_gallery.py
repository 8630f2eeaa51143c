"""Write five pages, and the gallery that shows them: ``python docs/make_gallery.py``.

The pages go to ``docs/generated/pages/gallery``, and the gallery to ``docs/generated/gallery.md``.
Sphinx does both when it builds the site. Before, the example 08 has trained the sorter.

Each function below makes one page. Its docstring is the text beside the page.
"""

from __future__ import annotations

import html
import inspect
import json
import linecache
import re
import runpy
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import numpy as np
from numpy import ndarray

import autograd
import npgpt
from autograd.files import write_text
from autograd.stepper import Trace, stopping_at_backward
from npgpt import GPT, GPTConfig
from npgpt.commands.step import trace_model
from npgpt.diagnostics.axis_names import name_axes
from npgpt.hub import find_added
from npgpt.learn.lessons import Lesson
from npgpt.tokenizers import ByteTokenizer, Tokenizer, save_tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.run import start

DOCS = Path(__file__).parent
GENERATED = DOCS / "generated"
PAGES = GENERATED / "pages"  # what the site publishes as it is
SORTER = GENERATED / "examples/sorter"
LARGEST = 30_000_000  # bytes of a page
N = 8  # letters that the sorter sorts


class Exhibit(NamedTuple):
    """A pass, and the place of its page that the gallery shows first."""

    trace: Trace
    link: str
    words: dict[str, str | int] = {}  # in the text, for the names in braces


def link_to_cotangent(trace: Trace, name: str, place: tuple[int, ...] | None = None) -> str:
    """Return what follows a page's address to show a cotangent, or one element, when it is whole.

    This is at the last step that sends to the array.
    """
    number = trace.recording.number(name)
    senders = [i for i, step in enumerate(trace.steps) if number in [e.parent for e in step.edges]]
    moment = len(trace.recording.behind(trace.start)) + senders[-1]
    return _link(moment, place, kind="cotangent", n=str(number))


def link_to_part(trace: Trace, op: str, name: str) -> str:
    """Return what follows a page's address to show a symbol of an op's formula, at its last call.

    The name of a symbol of the rule, in the place of the function, begins with d.

    Raises
    ------
    ValueError
        If the formula has no such symbol.
    """
    calls = trace.recording.behind(trace.start)
    at = moment = max(i for i, call in enumerate(calls) if call.op.name == op)
    if not re.search(rf"^{name}_\w* = ", calls[at].op.stated.text(calls[at].arguments), re.M):
        raise ValueError(f"the formula of {op} has no {name}")
    if name.startswith("d"):
        moment = len(calls) + [step.number for step in trace.steps].index(calls[at].number)
    return _link(moment, None, kind="part", call=at, name=name)


def _link(moment: int, place: tuple[int, ...] | None, **target: str | int) -> str:
    """Return what `restore` of the page's script reads."""
    parts = {"step": moment + 1, "of": json.dumps(target, separators=(",", ":"))}
    if place is not None:
        parts["el"] = ",".join(map(str, place))
    return "#" + urlencode(parts)


# ---- the five pages


def two_layers() -> Exhibit:
    """Two layers, by hand.

    This is the net of the [first example](examples/01_backprop_by_hand.md), whose numbers can be
    checked on paper. The page shows the gradient of one weight, `d(W1)[0, 1]`, and the product
    that gives it. **Click the number that stands for d(a)**: you see the sum that gives that
    number, and with more clicks you go back, over `d(z)`, `d(h)` and `d(p)`, to the loss. **Open
    *why d(W1)[0, 1]* below the sum**: the page follows the largest terms to the loss for you, and
    says how much of the gradient comes along this path. **Press `g`, then `n` several times**: the
    green lines are the cotangents on their way from the loss to the weights, and the marked line
    on the left is the line of the program that they pass.
    """
    trace = trace_script(DOCS.parent / "examples/01_backprop_by_hand.py")
    return Exhibit(trace, link_to_cotangent(trace, "W1", (0, 1)))


def attention_head() -> Exhibit:
    """One attention head.

    This is the head of the [fifth lesson](lessons/5_one_attention_head.md): two positions, and each
    query, key and value is a single number. The page shows the cotangent of one score, which the
    rule of softmax gives. **Click any number of the sum**: each is a weight, or a cotangent of a
    weight, and has a sum of its own. **Click *predict*, then *back* and *next***: the page hides
    what a step sends, asks you for the shape and for one number, and says what is wrong with your
    answer.
    """
    code = [content for kind, content in Lesson(5).parts if kind == "python"]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "lesson5.py")
        write_text(script, "".join(code))
        trace = trace_script(script)
    return Exhibit(trace, link_to_cotangent(trace, "scores", (0, 0)))


def block() -> Exhibit:
    """Inside a block of GPT-2.

    This is a block with GPT-2's architecture, four heads wide, that reads "to be or not to be" byte
    by byte. It is 96 numbers wide in the place of 768, so that this file holds every number. The
    page shows the cotangent of the attention scores. **Click a cell, and then a number of its
    sum**: you go on to the values and queries of the tokens. **Press `o` and `i`**: the modules of
    the graph close and open. **Press `n` until the step of the embedding**: the cotangent of
    `transformer.wte.weight` waits with "1 of 2 contributions have arrived", because the head uses
    the same weight. The model is untrained, so the loss is about log 256 = 5.5.
    """
    tokenizer = ByteTokenizer()
    config = GPTConfig(
        vocab_size=tokenizer.n_vocab, n_positions=32, n_embd=96, n_layer=1, n_head=4
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        GPT(config, seed=0).save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        trace, *_ = trace_model(folder, "to be or not to be")
    return Exhibit(trace, link_to_part(trace, "attention", "da"))


def sorter() -> Exhibit:
    """How a model sorts.

    The model of the [eighth example](examples/08_sorter.md) sorts letters. Here it reads three
    examples at once: `{problem}>...`; the same letters in another order, `{shuffled}>...`; and the
    first one again, but there the letter {hidden} is hidden from the model. The page shows the
    weights of its attention, $p; the field *example* chooses one of the three. Three claims can
    be seen:

    1. *A letter looks at those that are left to write.* In the row of the `>`, nearly all of the
       weight is in the column of {next}, the first letter to write. The letters below have been
       written, and each looks at letters that come later in the alphabet.
    2. *It matters which letters there are, not where.* **Set *example* to 1**: the weights stand
       in other columns, with their letters. **Press `/` and open `logits`**: below the `>`, each
       row of example 1 has its largest number in the same column as in example 0.
    3. *The next letter is found by that look alone.* **Set *example* of `logits` to 2**: in the
       row of {before}, the largest number is no longer that of {hidden}, which is hidden, but that
       of {after}, the letter after it.
    """
    model, tokenizer = npgpt.load_model(SORTER), npgpt.load_tokenizer(SORTER)
    ids, k = find_problem(model, tokenizer)  # (2, 17)
    trace = trace_sorter(model, tokenizer, ids, k)
    letters = [tokenizer.decode(row) for row in ids]
    answer = letters[0][N + 1 :]
    words = {
        "problem": letters[0][:N], "shuffled": letters[1][:N], "hidden": answer[k],
        "after": answer[k + 1], "before": answer[k - 1], "next": answer[0],
    }  # fmt: skip
    return Exhibit(trace, link_to_part(trace, "attention", "p"), words)


def pretrained() -> Exhibit:
    """SmolLM2 reads a sentence.

    A pretrained model with 135 million weights and 30 blocks reads 14 tokens, and predicts each but
    the first. The page shows the cotangent of the logits. This is p - y, divided by 13: in each
    row, the probability of each token, minus 1 for the token that followed. **Look at the list of
    the largest numbers**: they are negative, and -0.0769 is -1/13, where the model gave the token
    that followed a probability near 0. **Press `n`**: the cotangents go back through the 30 blocks,
    and **with `i`** the blocks open. Of large arrays, the file has a corner and the ten largest
    numbers, so some sums say how many terms are not in the file. `npgpt step --model smollm2 --text
    "..." --serve` has all numbers.
    """
    text = "The Eiffel Tower stands in Paris. The capital of France is Paris"
    trace, *_ = trace_model("smollm2", text)
    return Exhibit(trace, link_to_cotangent(trace, "logits"))


def training_step() -> Exhibit:
    """One step of a training run.

    This is the 21st update of a run: four windows of 16 letters go through a GPT of one block. The
    page shows the gradient of the letters' embedding, `transformer.wte.weight`, which is used
    twice: where the letters are read, and where the next letters are predicted. **Click the name
    of one of the two arrays under "the sum of"**: rows of letters that stand in no window are
    zero in the first, and small in the second. **Press `b` and `n`**: you see how many of the two
    contributions have arrived. **Click the first number under *largest*, and open *why* below its
    sum**: the page says what each of the two uses adds, and from which windows and positions.
    `npgpt step --run DIR --at 20 --html FILE` makes such a page of any update of your own runs.
    """
    found: list[Trace] = []
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            data=(str(DOCS.parent / "README.md"),), out_dir=folder, n_layer=1, n_head=2, n_embd=32,
            block_size=16, batch_size=4, warmup_iters=0, learning_rate=3e-3,
        )  # fmt: skip
        run = start(config)
        for _ in range(20):
            run.update()
        with stopping_at_backward(found.append):
            run.backward()
        name_axes(found[0].recording, run.model, run.tokenizer)
    return Exhibit(found[0], link_to_cotangent(found[0], "transformer.wte.weight"))


# ---- how the passes are made


def trace_script(script: Path) -> Trace:
    """Return the first backward pass of a script; what the script prints is not shown."""
    found: list[Trace] = []
    with redirect_stdout(StringIO()), stopping_at_backward(found.append):
        runpy.run_path(str(script), run_name="__main__")
    linecache.getlines(str(script))  # so that a page shows them, even if the file is gone
    return found[0]


def find_problem(model: GPT, tokenizer: Tokenizer) -> tuple[ndarray, int]:
    """Return a problem for which the text of `sorter` is true.

    Returns
    -------
    ids : ndarray, (2, 2N + 1)
        Letters with their solution, and the same letters in another order.
    hidden : int
        The number of a letter of the solution; the model writes the next one if it is hidden.

    Raises
    ------
    RuntimeError
        If the model solves no problem in this way.
    """
    random = np.random.default_rng(0)
    letters = tokenizer.encode("abcdefghijklmnopqrstuvwxyz")
    arrow = tokenizer.encode(">")
    for _ in range(300):
        drawn = random.permutation(letters)[:N]
        answer = np.sort(drawn)
        rows = [np.concatenate([x, arrow, answer]) for x in (drawn, random.permutation(drawn))]
        ids = np.stack(rows)  # (2, 2N + 1)
        weights = model.activations(ids[:, :-1]).attentions[0].numpy()[:, 0, N:, :N]  # (2, N, N)
        later = ids[:, None, :N] > ids[:, N:-1, None]  # letters after the one that looks
        later[:, 0] = ids[:, :N] == answer[0]  # the > looks at the first letter to write
        looks = (weights * later).sum(axis=-1)[:, : N - 1] / weights.sum(axis=-1)[:, : N - 1]
        solved = (model(ids[:, :-1])[0].numpy()[:, N:].argmax(axis=-1) == answer).all()
        for k in range(1, N - 1):
            seen = ids[:1, :-1] != answer[k]
            if not (solved and looks.min() > 0.8 and seen[0, 0]):  # the first letter sees itself
                continue
            logits = model(ids[:1, :-1], attention_mask=seen)[0].numpy()  # (1, 2N, V)
            if logits[0, N + k].argmax() == answer[k + 1]:
                return ids, k
    raise RuntimeError(
        "the sorter sorts in another way than the gallery says: train it with\n"
        f"  python examples/08_sorter.py --save {SORTER}"
    )


def trace_sorter(model: GPT, tokenizer: Tokenizer, ids: ndarray, hidden: int) -> Trace:
    """Return the pass of a sorter that reads two problems, and the first with a letter hidden."""
    ids = ids[[0, 1, 0]]  # (3, 2N + 1)
    inputs, targets = ids[:, :-1], ids[:, 1:].copy()
    targets[:, :N] = -100  # the letters of the problem are random
    seen = np.ones_like(inputs, bool)
    seen[2] = inputs[2] != targets[2, N + hidden]
    with autograd.record() as recording:
        logits, loss = model(inputs, targets=targets, attention_mask=seen)
    name_axes(recording, model, tokenizer)
    return autograd.stepper.trace(loss)


# ---- the gallery

INTRODUCTION = """\
# A gallery of pages

Here are five passes as [pages](../page.md), with something to click in each. Click into a page
before you press a key. The address of a page that you open in a tab of its own names the step and
the number that you look at, so you can link to them. `python docs/make_gallery.py` makes the pages.
"""


def exhibits() -> list[Callable[[], Exhibit]]:
    """Return the functions of the five pages; the last depends on whether SmolLM2 was added."""
    last = pretrained if find_added("smollm2") else training_step
    return [two_layers, attention_head, block, sorter, last]


def write_exhibit(make: Callable[[], Exhibit], folder: Path) -> str:
    """Write a page to a folder, and return its section of the gallery, in Markdown."""
    trace, link, words = make()
    file = folder / f"{make.__name__}.html"
    trace.to_html(file)
    if file.stat().st_size > LARGEST:
        raise RuntimeError(f"{file} has more than {LARGEST:,} bytes")
    title, text = inspect.getdoc(make).split("\n\n", 1)
    address = f"../gallery/{file.name}{link}"
    return (
        f"## {title.rstrip('.')}\n\n{text.format(**words)}\n\n```{{raw}} html\n"
        f'<iframe src="{html.escape(address)}" title="{html.escape(title)}" loading="lazy" '
        'sandbox="allow-scripts allow-forms" '
        'style="width: 100%; height: 640px; border: 1px solid #8888"></iframe>\n'
        f'<p><a href="{html.escape(address)}">Open this page in a tab of its own</a> '
        f"({file.stat().st_size / 1e6:.1f} MB)</p>\n```\n"
    )


def main() -> None:
    """Write the pages and the gallery."""
    folder = PAGES / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    sections = [write_exhibit(make, folder) for make in exhibits()]
    write_text(GENERATED / "gallery.md", "\n".join([INTRODUCTION, *sections]))


if __name__ == "__main__":
    main()
