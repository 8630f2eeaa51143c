"""The command line: ``npgpt train``, ``generate``, ``step`` and all the others."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

npgpt COMMAND --help lists every option.
"""


def main(args: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    from npgpt.errors import UserError

    for stream in ("stdout", "stderr"):  # closed by whoever started the command
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for an encoding that lacks a sign
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


def dispatch(args: list[str]) -> int:
    """Run a command; return the exit code, or raise what stops it."""
    from npgpt.config import nearest
    from npgpt.errors import UserError

    commands: dict[str, Callable[[list[str]], int]] = {
        "train": train, "generate": generate, "info": info, "export": export,
        "tokenizer": tokenizer, "step": step, "why": why, "lesson": lesson, "kata": kata,
        "profile": profile, "doctor": doctor, "warmup": warmup,
    }  # fmt: skip
    try:
        if not args or args[0] in ("-h", "--help", "help"):
            print(USAGE, end="")
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


def parse(kind: Any, args: list[str], command: str, default: Any = None) -> Any:
    """Make a dataclass of options; unknown ones are refused with the nearest known name."""
    from npgpt.config import nearest
    from npgpt.errors import UserError

    names = [f.name.rstrip("_") for f in dataclasses.fields(kind)]
    for before, arg in zip(["", *args], args, strict=False):
        option = arg.split("=")[0]
        name = option.removeprefix("--").replace("-", "_")
        if not re.match(r"-[^\d.]", arg) or arg == "-h" or name in (*names, "help"):
            continue  # a value, such as - or -1.5, or a known option
        hint = nearest(name, [*names, "help"]) if re.match(r"--\w", arg) else ""
        awaits = before.startswith("--") and "=" not in before
        if awaits or not hint:
            before = before if awaits else "--NAME"
            hint += f" (a value that begins with - : {before}={_quoted(arg)})"
        raise UserError(f"npgpt {command}: unknown option {option}{hint}")
    import tyro

    if default is not None and {"-h", "--help"} & {
        *args
    }:  # which prints values, from a file or not
        default = dataclasses.replace(default, **_on_one_line(vars(default)))
    config = (tyro.conf.FlagConversionOff, tyro.conf.OmitSubcommandPrefixes)
    options = tyro.cli(
        kind, prog=f"npgpt {command}", args=args, default=default, config=config,
        use_underscores=True,
    )  # fmt: skip
    if json := getattr(options, "json", ""):
        check_file("--json", Path(json))
    return options


def check_file(option: str, path: Path) -> None:
    """Refuse a file that cannot be written, before the work for it begins."""
    from npgpt.errors import UserError

    if path.exists() and not path.is_file():
        raise UserError(f"{option} {path} is {'a folder' if path.is_dir() else 'no file'}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{option} {path}: the folder {path.parent} cannot be written")


def train(args: list[str]) -> int:
    """``npgpt train``."""
    import tomllib

    from npgpt import train as training
    from npgpt.config import TrainConfig
    from npgpt.curve import loss_curve
    from npgpt.display import Display, OutputLost, showing
    from npgpt.errors import UserError
    from npgpt.say import say

    @dataclass
    class TrainOptions(TrainConfig):
        """Train a model, by a TOML file of these keys (first argument) and these options."""

        resume: str = ""
        """A run folder to continue."""
        overwrite: bool = False
        """Replace the run in --out_dir."""

    default, given = TrainOptions(), set[str]()
    resumed = _value_of("--resume", args)
    if resumed == "":
        raise UserError("--resume names no folder; give that of a run, as in --resume out/0001")
    if args and not args[0].startswith("-"):
        if resumed:
            raise UserError("a resumed run has its own configuration: drop CONFIG.toml or --resume")
        path, args = args[0], args[1:]
        if not Path(path).is_file():
            raise UserError(f"the configuration {path} does not exist")
        if not path.endswith(".toml"):
            raise UserError(f"{path} is no .toml configuration; to train on it: --data {path}")
        default = TrainOptions(**vars(TrainConfig.from_toml(path)))
        given |= tomllib.loads(Path(path).read_text("utf-8")).keys()
    if resumed:
        recipe = Path(resumed) / "train.toml"
        if not recipe.is_file():
            raise UserError(f"{resumed} holds no run to resume (no train.toml)")
        default = TrainOptions(**vars(TrainConfig.from_toml(recipe)))
    args = _flags(args, "overwrite", *TRAIN_FLAGS)
    options = parse(TrainOptions, args, "train", default)
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(TrainConfig)}
    if resumed and options.overwrite:
        raise UserError("--resume continues the run, --overwrite removes it: drop one of them")
    if "--data" in args and not options.data:
        raise UserError("--data names no file; leave it out to train on Python's own library")
    changes = {key: value for key, value in values.items() if value != getattr(default, key)}
    given |= {name for name in values if _value_of(f"--{name}", args) is not None}
    if options.eval_only:
        if resumed:
            found = training.evaluate_run(Path(resumed), changes)
        else:
            found = training.evaluate_plan(TrainConfig(**values), given)
        print(
            f"step {found.step:>6}  train {found.train_loss:.4f}  val {found.val_loss:.4f}\n"
            f"loss {found.whole_val_loss:.4f} over the whole validation split"
        )
        return 0
    if resumed:
        run = training.resume(Path(resumed), changes)
    else:
        run = training.start(TrainConfig(**values), options.overwrite, given)
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
        verb = f"is finished at step {run.progress.step} (to go on, add --max_iters N)"
    again = f"npgpt train --resume {_quoted(str(run.folder))}"
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


TRAIN_FLAGS = ("documents", "separate", "eval_only")  # options that may stand alone


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
    from npgpt.weights import load_pretrained

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
    say(f"  npgpt generate --model {_quoted(str(run.folder))} --prompt={_quoted(prompt)}")


def generate(args: list[str]) -> int:
    """``npgpt generate``; it returns 130 if it was interrupted."""
    from npgpt.errors import UserError
    from npgpt.generation.command import GenerateOptions, run

    if args and not args[0].startswith("-"):
        raise UserError(f"to continue a text, give it as --prompt {_quoted(args[0])}")
    return run(parse(GenerateOptions, _flags(args, "int8", "do_sample"), "generate"))


def info(args: list[str]) -> int:
    """``npgpt info``."""
    from autograd.escape import shown_text

    @dataclass
    class InfoOptions:
        """Show what a model (first argument: preset, folder or name on the hub) is and costs."""

        compare: tuple[str, ...] = ()
        """Several models, side by side."""
        batch: int = 1
        """Sequences."""
        context: int | None = None
        """Tokens of each; if not given, as many as the model takes."""

    names, rest = (args[:1], args[1:]) if args and not args[0].startswith("-") else ([], args)
    options = parse(InfoOptions, rest, "info")
    names += options.compare

    from npgpt.info import presets, show

    print(shown_text(show(names, options.batch, options.context)) if names else presets())
    return 0


def export(args: list[str]) -> int:
    """``npgpt export``."""
    from npgpt.errors import UserError
    from npgpt.export import export
    from npgpt.say import say

    @dataclass
    class ExportOptions:
        """Write a model and its tokenizer (first argument) for transformers, to a new folder."""

    folders = [arg for arg in args if not arg.startswith("-")]
    parse(ExportOptions, [arg for arg in args if arg.startswith("-")], "export")
    if len(folders) != 2:
        raise UserError("give two folders, as in: npgpt export out/0001 exported")
    source, folder = (Path(name).expanduser() for name in folders)
    export(source, folder)
    say(f"{folder}: transformers opens it with AutoModelForCausalLM and AutoTokenizer")
    return 0


def tokenizer(args: list[str]) -> int:
    """``npgpt tokenizer``."""
    from npgpt.tokenizers.command import main

    return main(args)


def step(args: list[str]) -> int:
    """``npgpt step``."""
    from npgpt.step import StepOptions, run

    script, rest = (args[0], args[1:]) if args and not args[0].startswith("-") else ("", args)
    end = rest.index("--") if "--" in rest else len(rest)
    own = _flags(rest[:end], "force", "primitives")
    run(script, rest[end + 1 :], parse(StepOptions, own, "step"))
    return 0


def why(args: list[str]) -> int:
    """``npgpt why``."""
    from npgpt.replay import WhyOptions, why

    why(parse(WhyOptions, _flags(args, "force"), "why"))
    return 0


def lesson(args: list[str]) -> int:
    """``npgpt lesson``."""

    @dataclass
    class LessonOptions:
        """Play a lesson (first argument: its number); without one, list them."""

    number, rest = (args[0], args[1:]) if args and not args[0].startswith("-") else ("", args)
    from npgpt.errors import UserError
    from npgpt.lessons import Lesson, Player, lessons

    if rest not in ([], ["-h"], ["--help"]):
        raise UserError(f"npgpt lesson takes a number and nothing else, not {' '.join(rest)}")
    parse(LessonOptions, rest, "lesson")

    if number:
        Player(Lesson(number)).play()
        return 0
    for each in lessons():
        print(f"  {each.number}  {each.title}")
    print("\nBegin with: npgpt lesson 1")
    return 0


def kata(args: list[str]) -> int:
    """``npgpt kata``; it returns 1 for a solution that was given and is wrong."""

    @dataclass
    class KataOptions:
        """Write the rule of an op (first argument) and have it checked; without one, the path."""

        list: bool = False
        """Show every op, and what is solved."""
        hint: bool = False
        """Show the next hint: what the rule reads, then its formula, then its source."""
        edit: bool = False
        """Write the rule in $VISUAL or $EDITOR; it is checked when the editor closes."""
        file: str = ""
        """A solution to check, once."""

    name, rest = (args[0], args[1:]) if args and not args[0].startswith("-") else ("", args)
    options = parse(KataOptions, _flags(rest, "list", "hint", "edit"), "kata")

    from npgpt.errors import UserError
    from npgpt.kata import Kata, Session

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
        source = Path(options.file).read_text("utf-8", "replace")
        return 0 if session.submit(exercise, source) else 1
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
    from npgpt.config import TrainConfig
    from npgpt.profile import ProfileOptions, run

    default = ProfileOptions()
    if args and not args[0].startswith("-"):
        path, args = args[0], args[1:]
        default = ProfileOptions(**vars(TrainConfig.from_toml(path)))
    run(parse(ProfileOptions, _flags(args, *TRAIN_FLAGS), "profile", default))
    return 0


def doctor(args: list[str]) -> int:
    """``npgpt doctor``; it returns 1 where something needs to be fixed."""
    from npgpt.doctor import DoctorOptions, run

    return run(parse(DoctorOptions, args, "doctor"))


def warmup(args: list[str]) -> int:
    """``npgpt warmup``."""
    from npgpt.warmup import WarmupOptions, run

    parse(WarmupOptions, args, "warmup")
    run()
    return 0


def _flags(args: list[str], *names: str) -> list[str]:
    """Let an option that is true or false stand alone: ``--overwrite``."""
    result = []
    for i, arg in enumerate(args):
        result.append(arg)
        follows = args[i + 1] if i + 1 < len(args) else "--"
        if arg.startswith("--") and arg[2:] in names and follows.startswith("--"):
            result.append("True")
    return result


def _value_of(option: str, args: list[str]) -> str | None:
    """Return the value of an option where it is given: before it is parsed."""
    for i, arg in enumerate(args):
        name, is_there, value = arg.partition("=")
        if name.replace("-", "_") == option.replace("-", "_"):
            return value if is_there else args[i + 1] if i + 1 < len(args) else None
    return None


def _on_one_line(values: dict[str, Any]) -> dict[str, Any]:
    """Return options whose texts may be printed."""
    from autograd.escape import shown

    def line(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(line, value))
        return shown(value) if isinstance(value, str) else value

    return {name: line(value) for name, value in values.items()}


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


if __name__ == "__main__":
    sys.exit(main())
