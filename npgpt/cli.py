"""The command line: ``npgpt train``, ``generate``, ``step`` and all the others."""

from __future__ import annotations

import codecs
import dataclasses
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from autograd.reading import read_text, read_toml
from autograd.schema import FileName, Range, nearest
from npgpt.errors import UserError
from npgpt.options import Argument, overview, parse, quoted, read
from npgpt.training.config import TrainConfig

USAGE = """\
npgpt: GPT in plain NumPy

  npgpt train [CONFIG.toml] [--data FILE|DIR|GLOB ...] [--out_dir DIR] [--KEY VALUE ...]
      Train a model. Without --data: on the source code of Python's own library.
  npgpt train --resume DIR
      Continue a run exactly where its last checkpoint stands.
  npgpt generate [--model DIR] --prompt TEXT | --prompt_file FILE
      Let a model write. Without --model: the latest run under out/. Without a prompt: one a line
      from a pipe.
  npgpt info PRESET|DIR [--batch N] [--context N], npgpt info --compare A B
      What a model is and costs: parameters, computation, memory. Without a name: the presets.
  npgpt export DIR FOLDER
      Write a run's model and tokenizer to a new folder that Hugging Face's transformers opens.
  npgpt tokenizer list|add|train|show
      Tokenizers: those that are here, your own, and what they make of a text.
  npgpt step SCRIPT.py | --model DIR --text TEXT | --run DIR --at STEP
      Walk through backpropagation, number by number: a debugger for the backward pass.
  npgpt why --run DIR --param 'NAME[INDEX]'
      The history of one weight over a run, and the batch that moved it most.
  npgpt lesson [N]
      Six lessons on backpropagation, from three numbers to a transformer block. Without N: a list.
  npgpt kata [OP]
      Write the gradient of an op yourself, and see it checked. Without OP: where to begin.
  npgpt profile [CONFIG.toml] [--KEY VALUE ...]
      What a training step costs, op by op, and how far from the machine's limits that is.
  npgpt doctor, npgpt warmup
      What is wrong with this installation, if anything; compile the kernels ahead.
  npgpt completion bash|zsh
      Print a script for the shell: eval "$(npgpt completion bash)" completes what is typed.

npgpt COMMAND --help lists every option.
"""


def main(args: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    for stream in ("stdout", "stderr"):  # closed by whoever started the command
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    codecs.register_error("npgpt", spelled)
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="npgpt")
    try:
        if args is None and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # see npgpt/__init__.py
        return dispatch(sys.argv[1:] if args is None else args)
    except UserError as error:
        complain(str(error))
    except BrokenPipeError:  # the reader, such as head, has seen enough
        forget_stdout()
        return 0
    except MemoryError as error:
        what = f"not enough memory{f': {error}' if str(error) else ''}"
        advice = "lower --batch_size, --block_size or the model's size"
        complain(f"{what}; {advice}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        print("npgpt: interrupted", file=sys.stderr)
        return 130
    return 2


def complain(message: str) -> None:
    """Print what stopped a command."""
    from npgpt.say import say  # which imports NumPy: help is shown without it

    say(f"npgpt: {message}", sys.stderr)


def spelled(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding lacks: bytes of a file name that is no UTF-8 are spelled."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(
        f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else "?" for c in lacking
    ), error.end


def dispatch(args: list[str]) -> int:
    """Run a command; return the exit code, or raise what stops it."""
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": train, "generate": generate, "info": info, "export": export,
        "tokenizer": tokenizer, "step": step, "why": why, "lesson": lesson, "kata": kata,
        "profile": profile, "doctor": doctor, "warmup": warmup, "completion": completion,
    }  # fmt: skip
    try:
        if not args or args[0] in ("-h", "--help", "help"):
            print(overview(USAGE))
            return 0
        if args[0] == "--version":
            from npgpt import __version__

            print(f"npgpt {__version__}")
            return 0
        if args[0] not in commands:
            raise UserError(f"unknown command {args[0]!r}{nearest(args[0], list(commands))}")
        return commands[args[0]](args[1:])
    finally:
        sys.stdout.flush()  # or a reader that is gone would be noticed too late


@dataclass
class TrainOptions(TrainConfig):
    """Train a model, by a file of options and these options, which come first."""

    config: Annotated[FileName, Argument("CONFIG.toml")] = ""
    """A TOML file of these options; each is a key."""
    resume: FileName = ""
    """A run folder to continue."""
    overwrite: bool = False
    """Replace the run in --out_dir."""


def train(args: list[str]) -> int:
    """``npgpt train``."""
    from npgpt.say import say
    from npgpt.training import run as training
    from npgpt.training.curve import loss_curve
    from npgpt.training.display import Display, OutputLost, showing

    given = read(TrainOptions, args, "train")
    path, resumed = given.pop("config", ""), given.get("resume")
    if resumed == "":
        raise UserError("--resume names no folder; give that of a run, as in --resume out/0001")
    if given.get("data") == ():
        raise UserError("--data names no file; leave it out to train on Python's own library")
    if path and resumed:
        raise UserError("a resumed run has its own configuration: drop CONFIG.toml or --resume")
    default, in_file = TrainOptions(), dict[str, Any]()
    if path:
        if not Path(path).exists():
            raise UserError(f"the configuration {path} does not exist")
        if not path.endswith(".toml"):
            raise UserError(f"{path} is no .toml configuration; to train on it: --data {path}")
        in_file, default = read_toml(path), of_file(TrainOptions, path)
    if resumed:
        recipe = Path(resumed) / "train.toml"
        if not recipe.exists():
            raise UserError(f"{resumed} holds no run to resume (no train.toml)")
        default = of_file(TrainOptions, recipe)
    options = parse(TrainOptions, args, "train", default)
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(TrainConfig)}
    if resumed and options.overwrite:
        raise UserError("--resume continues the run, --overwrite removes it: drop one of them")
    changes = {key: value for key, value in values.items() if value != getattr(default, key)}
    said = {name for name in values if name in given or name in in_file}
    if options.eval_only:
        if resumed:
            found = training.evaluate_run(Path(resumed), changes)
        else:
            found = training.evaluate_plan(TrainConfig(**values), said)
        print(
            f"step {found.step:>6}  train {found.train_loss:.4f}  val {found.val_loss:.4f}\n"
            f"loss {found.whole_val_loss:.4f} over the whole validation split"
        )
        return 0
    if resumed:
        run = training.resume(Path(resumed), changes)
    else:
        run = training.start(TrainConfig(**values), options.overwrite, said)
    where = "Python's own library" if not run.config.data else " ".join(run.config.data)
    if not resumed:
        verb = "trains"
    elif run.is_out_of_patience and run.progress.finished:
        verb = (
            f"stopped early at step {run.progress.step} (to go on, add a larger --patience, or 0)"
        )
    elif run.progress.step < run.config.max_iters:
        verb = f"continues at step {run.progress.step}"
    else:
        verb = f"is finished at step {run.progress.step} (to go on, add a larger --max_iters)"
    again = f"npgpt train --resume {quoted(str(run.folder))}"
    try:
        with showing():
            say(
                f"{run.folder} {verb}: {run.model.n_parameters():,} parameters, "
                f"{len(run.tokens):,} tokens of {where}, vocabulary {run.tokenizer.n_vocab:,}"
            )
        training.train(run, Display(run.config.max_iters, run.progress.step))
    except training.Interrupted as stop:
        by = "" if stop.number == signal.SIGINT else f" ({stop})"
        tell(f"interrupted{by} at step {run.progress.step}, and saved; continue with: {again}")
        return 128 + stop.number
    except OutputLost as lost:
        forget_stdout()
        step = run.progress.step
        tell(
            f"npgpt: standard output cannot be written ({lost}): ended at step {step}, and saved; "
            f"continue with: {again}",
            sys.stderr,
        )
        return 128 + 13 if lost.errno == errno.EPIPE else 2  # 13: SIGPIPE, as of any other command
    except KeyboardInterrupt:
        tell(f"ended at once; what was saved before is kept. Continue with: {again}", sys.stderr)
        return 130
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UserError(
            f"{file}{error.strerror or error}: nothing that was saved before is lost; when "
            f"{'there is room' if full else 'it can be written'} again, continue with {again}"
        ) from None
    if curve := loss_curve(run.folder):
        print(f"\n{curve}")
    show_sample(run)
    return 0


def of_file(kind: Any, path: str | Path) -> Any:
    """Return options as a TOML file says; the others have their defaults."""
    return kind(**vars(TrainConfig.from_toml(path)))


def tell(text: str, file: Any = None) -> None:
    """Print a line if it can be; a terminal may be gone."""
    from npgpt.say import say

    try:
        say(text, file)
    except OSError:
        forget_stdout()


def forget_stdout() -> None:
    """Write nothing to standard output any more: what is buffered for a reader that is gone."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def show_sample(run: Any) -> None:
    """Print what the trained model writes, and the command that writes more."""
    from npgpt import generate
    from npgpt.say import say, say_text
    from npgpt.weights.load import load_pretrained

    model = load_pretrained(run.folder)
    prompt = run.prompt()
    ids = run.tokenizer.encode(prompt, allowed_special="all")
    length = 120 if run.tokenizer.n_vocab > 256 and run.tokenizer.kind != "char" else 400
    choices = dict(do_sample=True, temperature=0.8, top_k=0, seed=run.config.seed)
    out = generate(model, ids, max_new_tokens=length, **choices)
    print("\n" + "─" * 72)
    say_text(run.tokenizer.decode(out[0], skip_special_tokens=True))
    print("─" * 72 + "\n")
    say(f"the run is in {run.folder}; for more of it:")
    say(f"  npgpt generate --model {quoted(str(run.folder))} --prompt={quoted(prompt)}")


def generate(args: list[str]) -> int:
    """``npgpt generate``; it returns 130 if it was interrupted."""
    from npgpt.commands.generate import GenerateOptions, run

    if args and not args[0].startswith("-"):
        raise UserError(f"to continue a text, give it as --prompt {quoted(args[0])}")
    return run(parse(GenerateOptions, args, "generate"))


@dataclass
class InfoOptions:
    """Show what a model is and costs: parameters, computation, memory."""

    model: Annotated[FileName | None, Argument("PRESET|DIR")] = None
    """A preset, a folder with a model, or a name on the hub; without a name, the presets."""
    compare: tuple[FileName, ...] = ()
    """Several models, side by side."""
    batch: Annotated[int, Range(1, 2**53)] = 1
    """Sequences."""
    context: Annotated[int, Range(1, 2**53)] | None = None
    """Tokens of each; if not given, as many as the model takes."""


def info(args: list[str]) -> int:
    """``npgpt info``."""
    from autograd.escape import shown_text

    options = parse(InfoOptions, args, "info")
    names = [options.model] if options.model is not None else []
    names += options.compare

    from npgpt.diagnostics.info import presets, show

    print(shown_text(show(names, options.batch, options.context)) if names else presets())
    return 0


@dataclass
class ExportOptions:
    """Write a model and its tokenizer for transformers, to a new folder."""

    source: Annotated[FileName, Argument("DIR")] = ""
    """A folder with a model and its tokenizer, such as a run."""
    folder: Annotated[FileName, Argument("FOLDER")] = ""
    """The new folder."""


def export(args: list[str]) -> int:
    """``npgpt export``."""
    from npgpt.say import say
    from npgpt.weights.export import export

    options = parse(ExportOptions, args, "export")
    if not options.source or not options.folder:
        raise UserError("give two folders, as in: npgpt export out/0001 exported")
    export(Path(options.source), Path(options.folder))
    say(f"{options.folder}: transformers opens it with AutoModelForCausalLM and AutoTokenizer")
    return 0


def tokenizer(args: list[str]) -> int:
    """``npgpt tokenizer``."""
    from npgpt.commands.tokenizer import main

    return main(args)


def step(args: list[str]) -> int:
    """``npgpt step``."""
    from npgpt.commands.step import StepOptions, run

    options = parse(StepOptions, args, "step")
    run(options.script, list(options.arguments), options)
    return 0


def why(args: list[str]) -> int:
    """``npgpt why``."""
    from npgpt.training.replay import WhyOptions, why

    why(parse(WhyOptions, args, "why"))
    return 0


@dataclass
class LessonOptions:
    """Play a lesson; without a number, list them."""

    number: Annotated[str, Argument("N")] = ""
    """The number of the lesson."""


def lesson(args: list[str]) -> int:
    """``npgpt lesson``."""
    options = parse(LessonOptions, args, "lesson")
    from npgpt.learn.lessons import Lesson, Player, lessons

    if options.number:
        Player(Lesson(options.number)).play()
        return 0
    for each in lessons():
        print(f"  {each.number}  {each.title}")
    print("\nBegin with: npgpt lesson 1")
    return 0


@dataclass
class KataOptions:
    """Write the rule of an op and have it checked; without an op, show the path."""

    op: Annotated[str, Argument("OP")] = ""
    """The op, as in multiply."""
    list: bool = False
    """Show every op, and what is solved."""
    hint: bool = False
    """Show the next hint: what the rule reads, then its formula, then its source."""
    edit: bool = False
    """Write the rule in $VISUAL or $EDITOR; it is checked when the editor closes."""
    file: FileName = ""
    """A solution to check, once."""


def kata(args: list[str]) -> int:
    """``npgpt kata``; it returns 1 for a solution that was given and is wrong."""
    options = parse(KataOptions, args, "kata")
    name = options.op

    from npgpt.learn.katas import Kata, Session

    session = Session()
    if not name:
        if options.hint or options.edit or options.file:
            raise UserError("name the op first, as in: npgpt kata multiply --hint")
        session.show_all() if options.list else session.show_path()
        return 0
    exercise = Kata(name)
    if options.hint:
        session.hint(exercise)
    elif options.file:
        return 0 if session.submit(exercise, read_text(options.file, pipes=True)) else 1
    elif options.edit:
        session.edit(exercise)
    else:
        session.show(exercise)
        if sys.stdin.isatty() and sys.stdout.isatty():
            session.practise(exercise)
        else:
            print(f"\nTo check a file of rules: npgpt kata {name} --file FILE (hints: --hint)")
    return 0


def profile(args: list[str]) -> int:
    """``npgpt profile``."""
    from npgpt.diagnostics.profile import ProfileOptions, run

    path = read(ProfileOptions, args, "profile").get("config")
    default = of_file(ProfileOptions, path) if path else ProfileOptions()
    run(parse(ProfileOptions, args, "profile", default))
    return 0


def doctor(args: list[str]) -> int:
    """``npgpt doctor``; it returns 1 where something needs to be fixed."""
    from npgpt.diagnostics.doctor import DoctorOptions, run

    return run(parse(DoctorOptions, args, "doctor"))


def warmup(args: list[str]) -> int:
    """``npgpt warmup``."""
    from npgpt.diagnostics.warmup import WarmupOptions, run

    parse(WarmupOptions, args, "warmup")
    run()
    return 0


@dataclass
class CompletionOptions:
    """Print a script that lets a shell complete commands, options and files."""

    shell: Annotated[Literal["bash", "zsh"] | None, Argument("bash|zsh")] = None
    """The shell, which runs the script: eval "$(npgpt completion bash)"."""


def completion(args: list[str]) -> int:
    """``npgpt completion``."""
    shell = parse(CompletionOptions, args, "completion").shell
    if shell is None:
        raise UserError('name the shell, as in: eval "$(npgpt completion bash)"')

    from autograd import REGISTRY
    from npgpt.commands import tokenizer as command
    from npgpt.commands.generate import GenerateOptions
    from npgpt.commands.step import StepOptions
    from npgpt.diagnostics.doctor import DoctorOptions
    from npgpt.diagnostics.profile import ProfileOptions
    from npgpt.diagnostics.warmup import WarmupOptions
    from npgpt.learn.lessons import lessons
    from npgpt.models.config import PRESETS
    from npgpt.options import completion
    from npgpt.tokenizers.store import KNOWN
    from npgpt.training.replay import WhyOptions

    options: dict[str, type] = {
        "train": TrainOptions, "generate": GenerateOptions, "info": InfoOptions,
        "export": ExportOptions, "tokenizer list": command.ListOptions,
        "tokenizer add": command.AddOptions, "tokenizer train": command.TokenizerOptions,
        "tokenizer show": command.ShowOptions, "step": StepOptions, "why": WhyOptions,
        "lesson": LessonOptions, "kata": KataOptions, "profile": ProfileOptions,
        "doctor": DoctorOptions, "warmup": WarmupOptions, "completion": CompletionOptions,
    }  # fmt: skip
    words = {
        "info": [*PRESETS],
        "lesson": [each.number for each in lessons()],
        "kata": [*REGISTRY],
        "completion": ["bash", "zsh"],
        "--tokenizer": ["char", "byte", *KNOWN],
    }
    print(completion(shell, options, words), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
