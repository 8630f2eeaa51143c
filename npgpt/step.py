"""``npgpt step``: walk through the backward pass of a script, of a model, or of a saved trace."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import autograd
from npgpt.errors import UserError


@dataclass
class StepOptions:
    """Walk through the backward pass of a script (first argument), of a model, or of a trace.

    What follows ``--`` is for the script.
    """

    model: str = ""
    """A model's folder: its loss on --text."""
    text: str = ""
    """What the model reads."""
    trace: str = ""
    """A folder with a trace that was saved."""
    save: str = ""
    """A folder to save the trace to."""
    commands: str = ""
    """A file of commands to run, instead of asking for them."""


def run(script: str, arguments: list[str], options: StepOptions) -> None:
    """Walk through what the options name."""
    if (bool(script) + bool(options.model) + bool(options.trace)) != 1:
        raise UserError("give a script, or --model DIR --text TEXT, or --trace DIR")
    session = _Session(options)
    try:
        if options.trace:
            session.walk(saved(options.trace))
        elif options.model:
            session.walk(of_model(options.model, options.text))
        else:
            run_script(script, arguments, session)
    except _Left:
        pass


def saved(folder: str) -> Any:
    """Return the trace in a folder; a UserError if it holds none."""
    try:
        return autograd.stepper.Trace.load(folder)
    except ValueError as error:
        raise UserError(str(error)) from None


def of_model(folder: str, text: str) -> Any:
    """Return the trace of a model's loss on a text: each token is to be foretold by those before.

    Raises
    ------
    UserError
        If the text has fewer than two tokens, or more than the model reads at once.
    """
    from npgpt import load_tokenizer
    from npgpt.weights import load_pretrained

    model = load_pretrained(Path(folder))
    ids = np.array([load_tokenizer(Path(folder)).encode(text)])  # (1, T + 1)
    if ids.shape[1] < 2:
        raise UserError("the text needs two tokens or more: give it with --text TEXT")
    if ids.shape[1] - 1 > model.config.n_positions:
        raise UserError(
            f"the text has {ids.shape[1]} tokens, and the model reads {model.config.n_positions}"
        )
    model.eval()
    with autograd.record():
        logits, loss = model(ids[:, :-1], targets=ids[:, 1:])
    return autograd.stepper.trace(loss)


class _Session:
    """Walks through one pass after the other, by a file of commands if there is one."""

    def __init__(self, options: StepOptions) -> None:
        self.lines: Iterator[str] | None = None
        if options.commands:
            text = Path(options.commands).read_text(encoding="utf-8")
            self.lines = iter(text.splitlines())
        self.folder = options.save
        self.count = 0

    def walk(self, trace: Any) -> None:
        """Walk through a pass, the first of which is saved if that was asked for."""
        self.count += 1
        if self.folder and self.count == 1:
            trace.save(self.folder)
        if autograd.stepper.walk(trace, self.lines):
            raise _Left


class _Left(BaseException):
    """The stepper was left: so is the script. No script catches it as an Exception."""


def run_script(script: str, arguments: list[str], session: _Session) -> None:
    """Run a script as ``python script.py`` does, with recording on, and stop at each backward."""
    path = Path(script)
    if not path.is_file():
        raise UserError(f"the script {script} does not exist")
    before = sys.argv, sys.path[0]
    sys.argv, sys.path[0] = [script, *arguments], str(path.parent)
    try:
        with autograd.stepper.stopping_at_backward(session.walk):
            runpy.run_path(script, run_name="__main__")
    finally:
        sys.argv, sys.path[0] = before
    if not session.count:
        raise UserError(f"{script} ended, and called no backward()")
