"""The command line's entry: runs a command, and turns what stops the command into one message."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
from importlib import import_module

from autograd.escape import spell
from autograd.schema import nearest
from npgpt.errors import UserError
from npgpt.options import overview
from npgpt.say import forget_stdout, say


def main(args: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    for stream in ("stdout", "stderr"):  # closed by whoever started the command
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    codecs.register_error("npgpt", replace_unprintable)
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
    say(f"npgpt: {message}", sys.stderr)


def replace_unprintable(error: UnicodeError) -> tuple[str, int]:
    r"""Return what is printed for characters that the encoding of the output lacks: ``?``.

    A byte of a file name that is not UTF-8 is spelled, as ``\xe9``.
    """
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    found = "".join(spell(c) if "\udc80" <= c <= "\udcff" else "?" for c in lacking)
    return found, error.end


def dispatch(args: list[str]) -> int:
    """Run a command; return the exit code, or raise what stops the command."""
    try:
        if args[:1] == ["--version"]:
            from npgpt import __version__

            print(f"npgpt {__version__}")
            return 0
        return run_command("npgpt.commands", "npgpt", args)
    finally:
        sys.stdout.flush()  # so that a reader that is gone is noticed here


def run_command(package: str, program: str, args: list[str]) -> int:
    """Run the command that the first word names; a package of commands holds commands itself.

    For example, of ``tokenizer list``, the first call finds the package
    ``npgpt.commands.tokenizer``, and a second call finds the module ``list`` in the package.
    """
    group = import_module(package)
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview(program, group.TITLE, group.COMMANDS, group.END))
        return 0
    name, *rest = args
    if name not in group.COMMANDS:
        where = "" if program == "npgpt" else f" of {program}"
        raise UserError(f"unknown command {name!r}{where}{nearest(name, [*group.COMMANDS])}")
    command = import_module(f"{package}.{name}")
    if hasattr(command, "COMMANDS"):
        return run_command(command.__name__, f"{program} {name}", rest)
    return command.run(rest)


if __name__ == "__main__":
    sys.exit(main())
