"""``npgpt step``: walk through the backward pass of a script, a model, a run, or a saved trace."""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy import ndarray

import autograd
from autograd.reading import SMALL, read_bytes, read_text
from autograd.schema import FileName
from npgpt.commands._serve import Port, taking
from npgpt.diagnostics.axis_names import name_axes
from npgpt.errors import UserError
from npgpt.models.bert import Bert
from npgpt.models.config import Steps
from npgpt.options import Argument, NewFile, parse
from npgpt.say import say
from npgpt.tokenizers import Tokenizer

if TYPE_CHECKING:
    from autograd.stepper.terminal import Terminal


@dataclass
class Options:
    """Walk through the backward pass of a script, a model, a run or a trace."""

    script: Annotated[FileName, Argument("SCRIPT.py")] = ""
    """A Python script to run."""
    arguments: Annotated[tuple[str, ...], Argument("-- ARG ...")] = ()
    """Arguments of the script, in sys.argv."""
    model: FileName = ""
    """A folder with a model, or a name on the hub: the backward pass of its loss on --text. Of the
    text of a BERT, 15 % of the tokens are masked, and the loss asks for these. Of a BERT without a
    head, it is the backward pass of the cosine of two texts."""
    text: str = ""
    """The text that the model reads; of an encoder-decoder a source, a tab and a target; of a BERT
    without a head two texts with a tab between them."""
    image: FileName = ""
    """A .npy file with an image, which the model reads before --text."""
    run: FileName = ""
    """A run folder: the backward pass of the update --at."""
    at: Steps | None = None
    """An update, counted from 0. The updates before it are computed again."""
    steps: tuple[Steps, ...] = ()
    """With --run and --html: the updates that the page holds."""
    force: bool = False
    """Replay even if the threads, kernels or libraries differ from those of the run."""
    trace: FileName = ""
    """A folder with a saved trace."""
    save: FileName = ""
    """A folder to save the trace to."""
    commands: FileName = ""
    """A file of the stepper's commands, which are run instead of asking for commands."""
    source: FileName = ""
    """A .py file to write instead: the first backward pass as a NumPy script."""
    primitives: bool = False
    """With --source: write each fused op as the primitive ops of its reference."""
    full_screen: bool = False
    """Show each step in a full screen that is redrawn, as the command screen does."""
    projector: bool = False
    """Show the full screen with fewer digits and empty lines, for a projector."""
    html: NewFile = ""
    """An .html file to write instead: the first backward pass as a page to click through."""
    serve: bool = False
    """Serve the first backward pass as a page, in which values can be changed, until Ctrl-C; of a
    run, any update can be chosen."""
    against: FileName = ""
    """With --model: another model, to compare what the two make of a text on a page."""
    against_text: str = ""
    """With --model and --html: another text, to compare what becomes of the two on the page."""
    port: Port | None = None
    """With --serve: the port on this computer. Without it: a free one."""
    textbook: bool = False
    """With --source: write the script as a person would, and assert that it agrees."""


def run(args: list[str]) -> int:
    """Walk through the pass that the options name."""
    walk(parse(Options, args, "step"))
    return 0


def walk(options: Options) -> None:
    """Walk through the pass that the options name."""
    if sum(map(bool, (options.script, options.model, options.run, options.trace))) != 1:
        raise UserError(
            "give a script, or --model DIR --text TEXT, or --run DIR --at STEP, or --trace DIR; "
            "only one of these"
        )
    if options.image and not options.model:
        raise UserError("--image is read by a model: add --model DIR --text TEXT")
    if options.at is not None and not options.run:
        raise UserError("--at is a step of a run: name its folder with --run DIR")
    if options.steps and not (options.run and options.html):
        raise UserError("--steps are the updates of a run in a page: add --run DIR --html FILE")
    if options.steps and options.at is not None:
        raise UserError("--at is one update and --steps are several: give one of the two")
    if options.primitives and not options.source:
        raise UserError("--primitives are for a script that is written: add --source FILE.py")
    if options.textbook and not options.source:
        raise UserError("--textbook is for a script that is written: add --source FILE.py")
    if (options.full_screen or options.projector) and (
        options.commands or options.source or options.html or options.serve
    ):
        raise UserError(
            "--full_screen and --projector are for commands that are typed: leave out --commands, "
            "--source, --html and --serve"
        )
    if options.source:
        check_source(options)
    if options.html:
        check_page(options)
    if options.port and not options.serve:
        raise UserError("--port is the port of a page that is served: add --serve")
    if options.against and not (options.model and (options.serve or options.html)):
        raise UserError(
            "--against is a model to compare with --model on a page: add --html FILE or --serve"
        )
    if options.against_text and not (options.model and options.html):
        raise UserError(
            "--against_text is read beside --text on the page of a --model: add --html FILE. A "
            "page that is served has a field for other texts"
        )
    if options.serve and (options.html or options.source or options.commands):
        raise UserError("--serve serves a page: leave out --html, --source and --commands")
    session = _Session(options)
    try:
        if options.trace:
            session.take(load_trace(options.trace))
        elif options.model:
            with session.recording():
                found, *read = trace_model(options.model, options.text, options.image)
            session.take(found, read)
        elif options.run and (options.html or options.serve):
            show_run(options)
        elif options.run:
            run_step(options, session)
        else:
            run_script(options.script, [*options.arguments], session)
    except _Left:
        pass


def check_source(options: Options) -> None:
    """Refuse options that contradict --source, and files that cannot be the script."""
    path = Path(options.source)
    if options.trace or options.save or options.commands:
        raise UserError("--source writes a new pass: leave out --trace, --save and --commands")
    if path.suffix != ".py":
        raise UserError(f"--source {path} is to be a .py file; its arrays go to .npz beside it")
    if options.script and path.exists() and path.samefile(options.script):
        raise UserError(f"--source {path} is the script itself; name another file")


def check_page(options: Options) -> None:
    """Refuse options that contradict --html, and a file that cannot be the page."""
    if options.source or options.commands:
        raise UserError("--html writes a page: leave out --source and --commands")
    if Path(options.html).suffix not in (".html", ".htm"):
        raise UserError(f"--html {options.html} is to be an .html file")


def load_trace(folder: str) -> Any:
    """Return the trace in a folder.

    Raises
    ------
    UserError
        If the folder holds no trace, or the trace is damaged.
    """
    try:
        return autograd.stepper.Trace.load(folder)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no trace (no trace.json)") from None
    except ValueError as error:
        raise UserError(str(error)) from None


def trace_model(folder: str, text: str, image: str = "") -> tuple[Any, Any, Tokenizer]:
    """Return the trace of a model's loss on a text, the model, and its tokenizer (`trace_text`)."""
    model, tokenizer = load_folder(folder)
    return trace_text(folder, model, tokenizer, text, image), model, tokenizer


def load_folder(folder: str) -> tuple[Any, Tokenizer]:
    """Return the model in a folder, or of a name, and its tokenizer."""
    from npgpt.hub import find_model
    from npgpt.tokenizers import load_tokenizer
    from npgpt.weights.load import load_model

    path = find_model(folder)
    return load_model(path), load_tokenizer(path)


def trace_text(folder: str, model: Any, tokenizer: Tokenizer, text: str, image: str = "") -> Any:
    """Return the trace of a model's loss on a text; `folder` is the model's name in messages.

    The loss is that of each token, given the tokens before.

    The text of an encoder-decoder is a source, a tab and a target, as in a pairs file. Of
    the text of a BERT, some tokens are masked (`masked_text`); a BERT without a head compares two
    texts instead (`trace_similarity`). With `image`, a file, the loss is
    that of the text after the image, and the pixels are a leaf.

    Raises
    ------
    UserError
        If the text has fewer than two tokens, or more than the model reads at once; or if there is
        no tab, and the model is an encoder-decoder.
    """
    from npgpt.generation.image import put_image_first, read_image
    from npgpt.models.encoder_decoder import EncoderDecoder
    from npgpt.translation import encode_source

    images = {}
    if image:
        pixels = autograd.tensor(read_image(image, model), requires_grad=True)  # (1, c, H, W)
        images["pixel_values"] = pixels
        written = tokenizer.encode(text)  # (T,)
        if not len(written):
            raise UserError("the text after the image is empty: give it with --text TEXT")
        whole = put_image_first(model, written)[None]  # (1, N + T)
        ids, targets = whole[:, :-1], whole[:, 1:].copy()
        targets[:, : -len(written)] = -100  # where a patch follows
    elif isinstance(model, EncoderDecoder):
        source, tab, target = text.partition("\t")
        if not (tab and source and target):
            raise UserError(
                f"{folder} is an encoder-decoder, whose loss needs a source and a target: give "
                "both with --text, and a tab between them"
            )
        ids = encode_source(model, tokenizer, source)[None]  # (1, S)
        targets = np.array([[*tokenizer.encode(target), model.config.eos_token_id]])  # (1, T)
    elif isinstance(model, Bert) and model.config.architecture == "BertModel":
        return trace_similarity(folder, model, tokenizer, text)
    elif isinstance(model, Bert):
        ids, targets = masked_text(folder, model, tokenizer, text)  # (1, T)
    elif not model.predicts_tokens:
        raise UserError(
            f"{folder} judges texts: give a run and a step (--run DIR --at STEP), whose labels are "
            "known, or a model that predicts tokens"
        )
    else:
        whole = np.array([tokenizer.encode(text)])  # (1, T + 1)
        if whole.shape[1] < 2:
            raise UserError("the text needs two tokens or more: give it with --text TEXT")
        ids, targets = whole[:, :-1], whole[:, 1:]
    if targets.shape[1] > model.config.n_positions:
        raise UserError(
            f"the text has {targets.shape[1] + 1} tokens, and the model reads "
            f"{model.config.n_positions}"
        )
    model.eval()
    with autograd.record(copy=False) as recording:  # nothing changes the model
        logits, loss = model(ids, targets=targets, **images)
        recording.file = __file__  # whose variables give names, also in an installed package
    name_axes(recording, model, tokenizer)
    return autograd.stepper.trace(loss)


def trace_similarity(folder: str, model: Bert, tokenizer: Tokenizer, text: str) -> Any:
    """Return the trace of the cosine of the vectors of two texts, which have a tab between them.

    The vector of a text is the mean of its last hidden states, as in `npgpt.sentences`.

    Raises
    ------
    UserError
        If there is no tab, or a text has no token, or more tokens than the model reads at once.
    """
    texts = text.split("\t")
    if len(texts) != 2:
        raise UserError(
            f"{folder} makes a vector of a text, and its pass begins with the cosine of two: give "
            "two texts with --text, and a tab between them"
        )
    rows = [tokenizer.encode(each, disallowed_special=()) for each in texts]
    lengths = np.array([[len(row)] for row in rows])  # (2, 1)
    longest = int(lengths.max())
    if not lengths.all() or longest > model.config.n_positions:
        raise UserError(
            f"the texts have {len(rows[0])} and {len(rows[1])} tokens, and the model reads 1 to "
            f"{model.config.n_positions}"
        )
    mask = np.arange(longest) < lengths  # (2, T)
    ids = np.full(mask.shape, tokenizer.pad_token_id)
    ids[mask] = np.concatenate(rows)
    model.eval()
    with autograd.record(copy=False) as recording:  # nothing changes the model
        hidden = model.transformer(ids, mask)  # (2, T, C)
        weights = (mask / lengths)[..., None].astype(hidden.dtype)  # (2, T, 1)
        vectors = np.sum(hidden * weights, axis=1)  # (2, C)
        product = np.sum(vectors[0] * vectors[1])
        squares = np.sum(vectors * vectors, axis=1)  # (2,)
        cosine = product / np.sqrt(squares[0] * squares[1])
        recording.file = __file__  # whose variables give names, also in an installed package
    name_axes(recording, model, tokenizer)
    return autograd.stepper.trace(cosine)


def masked_text(
    folder: str, model: Bert, tokenizer: Tokenizer, text: str
) -> tuple[ndarray, ndarray]:
    """Return a text of which 15 % of the tokens are masked, and these tokens, (1, T) each.

    Raises
    ------
    UserError
        If the model has no head for masked tokens, or the text has no token to mask, or more tokens
        than the model reads at once.
    """
    from npgpt.gaps import demand_masked_head, name_mask, ordinary_tokens
    from npgpt.training.masked import mask_tokens

    demand_masked_head(model, folder)
    mask = tokenizer.special_tokens[name_mask(tokenizer)]
    ids = tokenizer.encode(text, disallowed_special=())  # (T,)
    if len(ids) > model.config.n_positions:
        raise UserError(
            f"the text has {len(ids)} tokens, and the model reads {model.config.n_positions}"
        )
    inputs, targets = mask_tokens(ids, np.random.default_rng(0), mask, ordinary_tokens(tokenizer))
    if not (targets >= 0).any():
        raise UserError("the text has no token that could be masked: give it with --text TEXT")
    return inputs[None], targets[None]


class _Session:
    """Stops at one backward pass after the other; reads commands from a file if one is given."""

    def __init__(self, options: Options) -> None:
        self.lines: Iterator[str] | None = None
        if options.commands:
            self.lines = iter(read_text(options.commands, pipes=True).splitlines())
        self.options = options
        self.screen = "projector" if options.projector else "full" if options.full_screen else ""
        self.terminal: Terminal | None = None
        self.count = 0

    def recording(self) -> AbstractContextManager:
        """Return the context to record in: without kernels for --source, which writes NumPy."""
        return autograd.use_kernels(False) if self.options.source else nullcontext()

    def take(self, trace: Any, read: Sequence[Any] = ()) -> None:
        """Walk through a pass. With --save, the first is saved; or it is written as a file.

        `read` is the model and its tokenizer, if the pass is that of a model; and the run, if it
        is that of an update.
        """
        self.count += 1
        if self.options.source:
            self.write(trace)
            raise _Left
        if self.options.save and self.count == 1:
            trace.save(self.options.save)
        if self.options.html or self.options.serve:
            trace.insight = insight_of(read)
        if self.options.html:
            self.write_page(trace)
            say(f"{self.options.html} is written: open it in a browser")
            raise _Left
        if self.options.serve:
            self.serve(trace, read)
            raise _Left
        try:
            left = autograd.stepper.walk(trace, self.lines, lambda each: self.open(each, read))
        except BrokenPipeError:  # the reader, such as head, has seen enough
            left = True
        if left:
            raise _Left

    def open(self, trace: Any, read: Sequence[Any]) -> Terminal:
        """Return the terminal of the first pass, which goes on with this one."""
        if self.terminal is None:
            self.terminal = terminal_of(trace, read)
            self.terminal.screen = self.screen
        else:
            self.terminal.enter(trace)
        return self.terminal

    def write_page(self, trace: Any) -> None:
        """Write a pass as a page; with --against and --against_text, beside another one."""
        from autograd.page import write_page

        options, beside = self.options, []
        title = options.model or options.run
        if options.against or options.against_text:
            other = options.against or options.model
            found, *read = trace_model(other, options.against_text or options.text)
            found.insight = insight_of(read)
            beside = [(other, found)]
        write_page(trace, options.html, title, beside)

    def serve(self, trace: Any, read: Sequence[Any]) -> None:
        """Serve a pass as a page, until Ctrl-C. A model reads other texts, too."""
        options, reader = self.options, None
        if read and not options.image:
            model, tokenizer = read
            models = [(options.model, model, tokenizer)]
            if options.against:
                models.append((options.against, *load_folder(options.against)))
            reader = make_reader(models)
        with taking(options.port):
            trace.serve(options.port or 0, reader=reader)

    def write(self, trace: Any) -> None:
        """Write a pass as a script."""
        path, value = self.options.source, trace.recording.values[trace.start]
        try:
            style = "textbook" if self.options.textbook else "exact"
            autograd.to_source(trace, path, primitives=self.options.primitives, style=style)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(str(error)) from None
        say(f"{path} is written; it prints {trace.recording.name(trace.start)} = {value!s}")


def insight_of(read: Sequence[Any]) -> Any:
    """Return what a page shows beside a pass: of a model, what it makes of the first text."""
    if not read:
        return None
    from npgpt.diagnostics.views import ModelInsight

    return ModelInsight(*read)


def make_reader(models: Sequence[tuple[str, Any, Tokenizer]]) -> Any:
    """Return what lets models read other texts for a page; each has its name and its tokenizer."""
    from autograd.page.live import Reader
    from autograd.stepper.stops import CommandError
    from npgpt.models.encoder_decoder import EncoderDecoder

    def read(number: int, text: str) -> Any:
        name, model, tokenizer = models[number]
        if isinstance(model, EncoderDecoder | Bert):
            text = text.replace(r"\t", "\t")  # a field of a page takes no tab
        try:
            trace = trace_text(name, model, tokenizer, text)
            trace.insight = insight_of((model, tokenizer))
        except UserError as error:
            raise CommandError(str(error)) from None
        return trace

    return Reader([name for name, _, _ in models], read)


def terminal_of(trace: Any, read: Sequence[Any]) -> Terminal:
    """Return the terminal of a pass: with commands that ask a model, if there is one."""
    from autograd.stepper.terminal import Terminal

    if not read:
        return Terminal(trace)
    model, tokenizer, *run = read
    if run:
        from npgpt.commands._run_terminal import RunTerminal

        return RunTerminal(trace, model, tokenizer, *run)
    from npgpt.commands._model_terminal import ModelTerminal

    return ModelTerminal(trace, model, tokenizer)


class _Left(BaseException):
    """The user left the stepper, so the script ends; ``except Exception`` does not catch this."""


def run_step(options: Options, session: _Session) -> None:
    """Replay a run up to an update, and stop at each backward pass of the update."""
    from npgpt.training.replay import Replay

    folder, step = options.run, options.at
    if step is None:
        raise UserError("say which update of the run: --at STEP, or --serve to choose on a page")
    replay = Replay(folder, step, step, force=options.force)
    replay.seek(step)
    for note in replay.notes:
        say(f"note: {note}")
    n = replay.run.config.gradient_accumulation_steps * replay.run.ranks.size
    what = "batch" if replay.run.ranks.size == 1 else "part of a batch"
    say(f"update {step} of {folder}, replayed from {replay.origin}")

    def take(trace: Any) -> None:
        read = replay.run.model, replay.run.tokenizer, replay.run
        name_axes(trace.recording, *read[:2])
        if n > 1:
            print(f"\n{what} {session.count + 1} of the {n} that this update adds up")
        session.take(trace, read)

    with session.recording(), autograd.stepper.stopping_at_backward(take):
        replay.run.backward()


def show_run(options: Options) -> None:
    """Write some updates of a run as a page, or serve a page on which any update can be chosen."""
    from autograd.page import write_page_of_steps
    from autograd.page.live import Live, Reader
    from autograd.page.server import serve_answers
    from autograd.stepper.stops import CommandError
    from npgpt.diagnostics.course import Course

    steps = sorted({*options.steps} or {options.at or 0})
    if options.html and options.at is None and not options.steps:
        raise UserError("say which updates of the run: --at STEP, or --steps STEP ...")
    course = Course(options.run, options.force)
    try:
        trace = course.go(steps[0])
        for note in course.notes:
            say(f"note: {note}")
        if options.save:
            trace.save(options.save)
        if options.html:
            write_page_of_steps(course, steps, options.html)
            say(f"{options.html} is written: open it in a browser")
            return
    except CommandError as error:
        raise UserError(str(error)) from None

    def read(_: int, text: str) -> Any:
        model, tokenizer = course.run.model, course.run.tokenizer  # as it is before the update
        return make_reader([(options.run, model, tokenizer)]).read(0, text)

    with taking(options.port):
        live = Live(trace, Reader([options.run], read), course)
        serve_answers(live, options.port or 0)


def run_script(script: str, arguments: list[str], session: _Session) -> None:
    """Run a script as ``python script.py`` does, and stop at each backward pass."""
    path = Path(script)
    if not path.exists():
        raise UserError(f"the script {script} does not exist")
    read_bytes(path, SMALL)
    before = sys.argv, sys.path[0]
    sys.argv, sys.path[0] = [script, *arguments], str(path.parent)
    try:
        with session.recording(), autograd.stepper.stopping_at_backward(session.take):
            runpy.run_path(script, run_name="__main__")
    except UserError:
        raise
    except Exception as error:
        lines = error.__traceback__
        while lines and lines.tb_frame.f_code.co_filename != script:  # what leads to the script
            lines = lines.tb_next
        traceback.print_exception(error.with_traceback(lines))
        raise SystemExit(1) from None
    finally:
        sys.argv, sys.path[0] = before
    if not session.count:
        raise UserError(f"{script} ended, and called neither backward() nor grad()")
