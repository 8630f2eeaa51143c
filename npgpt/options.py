"""Options of commands: a data class becomes a command line, with its help.

Each field is an option: ``n_layer: int = 4`` is ``--n_layer N``. A field annotated with `Argument`
has no name on the command line: its place says which field a word belongs to. `autograd.schema`
checks a value against the field's annotation, as it does for values of files. The string below a
field is the field's help. `npgpt/commands/info.py` is a short example.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import os
import re
import shutil
import textwrap
import types
import typing
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from autograd.escape import shown, spell
from autograd.files import is_writable
from autograd.schema import FileName, fit, nearest
from npgpt.errors import UserError

Kind = TypeVar("Kind")
WIDTHS = 40, 100  # of help, in columns


@dataclass(frozen=True)
class Argument:
    """Marks a field whose value is given by its place, not after ``--name``.

    If the field is a tuple, it takes all words from its place on.

    Parameters
    ----------
    shown : str
        The argument's name in the help, as ``CONFIG.toml``.
    is_text : bool
        Whether the value may begin with a hyphen.
    words : callable
        Returns values that a shell completes, beside the names of files.
    """

    shown: str
    is_text: bool = False
    words: Callable[[], Iterable[str]] = tuple


class _Written:
    """Marks the name of a file that the command writes."""


NewFile = Annotated[FileName, _Written]
"""The name of a file to write. `parse` checks that the file can be written, before any work."""

# Options that other programs have and npgpt does not: what to say about them.
CPU = "npgpt computes on the CPU only, with NumPy"
FOREIGN = {
    **dict.fromkeys(("device", "gpu", "cuda", "mps", "gpus", "n_gpu", "no_cuda"), CPU),
    **dict.fromkeys(("backend", "ddp", "local_rank", "world_size"),
                    "several processes train with --workers N, or by mpirun (docs/distributed.md)"),
    **dict.fromkeys(("dtype", "fp16", "bf16", "amp", "mixed_precision", "precision", "half"),
                    "npgpt trains in float32 only"),
    "compile": "the kernels are compiled when they are first needed (npgpt warmup does it ahead)",
    **dict.fromkeys(("wandb_log", "wandb_project", "wandb_run_name", "tensorboard", "report_to"),
                    "a run logs to metrics.jsonl in its folder only"),
    "dataset": "name the files to train on, as in --data input.txt",
    "always_save_checkpoint": "each evaluation saves (--checkpoint_interval N keeps more)",
    "num_workers": "batches are read in the process itself",
    "start": "give the text to continue with --prompt TEXT",
    "num_samples": "give the number of texts with --num_return_sequences N",
    "num_epochs": "give the number of updates with --max_iters N",
    "lr": "give the learning rate with --learning_rate X",
}  # fmt: skip


def parse(kind: type[Kind], args: list[str], command: str) -> Kind:
    """Make options of the words that follow a command.

    Of an option that is given twice, the last value counts; an option with several values takes
    the values of both.

    Parameters
    ----------
    kind : type
        A data class.
    args : list of str
        What follows the command.
    command : str
        The command's name, as in ``train``.

    Raises
    ------
    UserError
        If an option is unknown, lacks a value, or has a value of the wrong type.
    SystemExit
        After ``--help``, which prints the help.

    Examples
    --------
    >>> @dataclass
    ... class Example:
    ...     file: Annotated[str, Argument("FILE")] = ""
    ...     size: int = 3
    >>> parse(Example, ["a.txt", "--size", "4"], "example")
    Example(file='a.txt', size=4)
    """
    return kind(**read(kind, args, command))


def read(kind: type, args: list[str], command: str) -> dict[str, Any]:
    """Return the values of the fields that are given, and of no others; see `parse`."""
    fields = fields_of(kind)
    options = {name: field for name, field in fields.items() if not field.argument}
    arguments = [field for field in fields.values() if field.argument]
    words = deque(args)  # those that are not read yet
    if not {"-h", "--help"}.isdisjoint(itertools.takewhile(lambda word: word != "--", words)):
        print(help_of(kind, command))
        raise SystemExit(0)
    given: dict[str, Any] = {}
    while words:
        word = words.popleft()
        if word == "--":
            for rest in words:
                _place(rest, arguments, given, command)
            break
        if not _is_option(word):
            _place(word, arguments, given, command)
            continue
        waiting = next((a for a in arguments if a.name not in given), None)
        if waiting and waiting.is_text and not word.startswith("--"):
            _place(word, arguments, given, command)
            continue
        option, has_value, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not word.startswith("--") or name not in options:
            message = _unknown(option, word, name, [*options], command)
            if any(argument.shown.startswith("-- ") for argument in arguments):
                message += " (the script's own options stand after --)"
            raise UserError(message)
        field = options[name]
        if field.is_tuple:
            values = [value] if has_value else []
            while words and not has_value and not _is_option(words[0]):
                values.append(words.popleft())
            found: Any = values
        elif has_value:
            found = value
        elif field.is_flag and not (words and words[0].lower() in ("true", "false", "none")):
            found = "true"
        elif words and not _is_option(words[0]):
            found = words.popleft()
        else:
            refused = words[0] if words else ""
            known = refused.partition("=")[0].removeprefix("--").replace("-", "_")
            if not refused or known in (*options, "") and refused.startswith("--"):
                raise UserError(f"{option} needs a value")
            raise UserError(
                f"unknown option {quoted(refused)} (a value that begins with - : "
                f"{option}={quoted(refused)})"
            )
        value = field.value_of(found)
        given[field.name] = (*given.get(field.name, ()), *value) if field.is_tuple else value
    return given


def _is_option(word: str) -> bool:
    return re.match(r"-[^\d.]", word) is not None


def _place(word: str, arguments: list[Field], given: dict[str, Any], command: str) -> None:
    """Store a word as the value of the first argument that has none; a tuple takes many words."""
    for field in arguments:
        if field.is_tuple:
            given[field.name] = (*given.get(field.name, ()), field.value_of([word])[0])
            return
        if field.name not in given:
            given[field.name] = field.value_of(word)
            return
    takes = " and ".join(field.shown for field in arguments) or "options"
    raise UserError(f"npgpt {command} takes {takes} and nothing else, not {quoted(word)}")


def _unknown(option: str, word: str, name: str, names: list[str], command: str) -> str:
    """Return the message about an unknown option: why there is none, or what was meant."""
    if name in FOREIGN:
        return f"{FOREIGN[name]}: leave out {option}"
    if re.match(r"--\w", word):
        hint = nearest(name, [*names, "help"], "--", help=f"npgpt {command} --help")
    else:
        hint = f" (a value that begins with - : --NAME={quoted(word)})"
    return f"unknown option {quoted(option)}{hint}"


def check_file(option: str, path: Path) -> None:
    """Refuse a file that cannot be written, before the work for the file begins."""
    if path.exists() and not path.is_file():
        raise UserError(f"{option} {path} is {'a folder' if path.is_dir() else 'no file'}")
    target = Path(os.path.realpath(path))  # the file that is written, if the path is a link
    if not target.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}")
    if target.exists() and not is_writable(target):
        raise UserError(f"{option} {path}: you may not write to this file")
    if not is_writable(target.parent):
        raise UserError(f"{option} {path}: the folder {path.parent} cannot be written")


# ---- fields


@dataclass(frozen=True)
class Field:
    """An option or an argument, as a field of a data class describes it."""

    name: str
    hint: Any
    default: Any
    help: str

    @property
    def argument(self) -> Argument | None:
        """The `Argument` in the annotation; None for an option."""
        metadata = getattr(self.hint, "__metadata__", ())
        return next((each for each in metadata if isinstance(each, Argument)), None)

    @property
    def is_text(self) -> bool:
        """Whether the value may begin with a hyphen."""
        return self.argument is not None and self.argument.is_text

    @property
    def option(self) -> str:
        """The option's name on the command line."""
        return f"--{self.name.rstrip('_')}"

    @property
    def is_tuple(self) -> bool:
        """Whether the field takes several values."""
        return any(typing.get_origin(part) is tuple for part in _parts(self.hint))

    @property
    def is_flag(self) -> bool:
        """Whether the option may stand alone."""
        return bool in _parts(self.hint)

    @property
    def is_file(self) -> bool:
        """Whether values are names of files."""
        return _is_file(self.hint)

    @property
    def choices(self) -> list[str]:
        """All values that the field can have, if its type lists them."""
        found = [
            str(value)
            for part in _parts(self.hint)
            if typing.get_origin(part) is Literal
            for value in typing.get_args(part)
        ]
        return found or (["True", "False"] if self.is_flag else [])

    @property
    def words(self) -> list[str]:
        """Values that a shell completes."""
        return self.choices or [*(self.argument.words() if self.argument else ())]

    @property
    def shown(self) -> str:
        """The placeholder of the value in the help, such as ``N`` or ``PATH ...``."""
        if self.argument:
            return self.argument.shown
        if self.choices:
            return "" if self.is_flag else "{" + ",".join(self.choices) + "}"
        parts = _parts(self.hint)
        inner = [part for each in parts for part in typing.get_args(each)] if self.is_tuple else []
        kinds = [_plain(part) for part in [*parts, *inner]]
        name = (
            "PATH" if self.is_file else "N" if int in kinds else "X" if float in kinds else "TEXT"
        )
        return f"{name} ..." if self.is_tuple else name

    def _expanded(self, value: Any) -> Any:
        return os.path.expanduser(value) if self.is_file and isinstance(value, str) else value

    def value_of(self, found: Any) -> Any:
        """Convert a word (several, for a tuple) to the field's type, and check the value."""
        what = self.option
        if self.argument:
            what = self.name if self.choices else self.argument.shown
        parts = _parts(self.hint)
        if self.is_tuple:
            item = typing.get_args(next(p for p in parts if typing.get_origin(p) is tuple))[0]
            return tuple(self._expanded(fit(_converted(w, [item]), item, what)) for w in found)
        value = self._expanded(fit(_converted(found, parts), self.hint, what))
        if value and _Written in getattr(self.hint, "__metadata__", ()):
            check_file(what, Path(value))
        return value


def _converted(word: str, parts: list[Any]) -> Any:
    """Convert a word to the first type of a union that fits; without one, return the string."""
    kinds = [_plain(part) for part in parts]
    if type(None) in kinds and word.lower() == "none":
        return None
    if bool in kinds and word.lower() in ("true", "false"):
        return word.lower() == "true"
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(word)
            except ValueError:
                pass
    return word


def _parts(hint: Any) -> list[Any]:
    """Return the members of a union, or the type itself."""
    if typing.get_origin(hint) is Annotated and any(
        isinstance(each, Argument) for each in hint.__metadata__
    ):
        hint = _without_argument(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return list(typing.get_args(hint))
    return [hint]


def _without_argument(hint: Any) -> Any:
    inner = typing.get_args(hint)[0]
    others = [each for each in hint.__metadata__ if not isinstance(each, Argument)]
    return functools.reduce(lambda kind, mark: Annotated[kind, mark], others, inner)


def _plain(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _is_file(hint: Any) -> bool:
    """Return whether a type is that of file names, or consists of such."""
    marks = typing.get_args(FileName)[1:]
    return any(part in marks or _is_file(part) for part in typing.get_args(hint))


@functools.cache
def fields_of(kind: Any) -> dict[str, Field]:
    """Return the fields of a data class, by their names on the command line (without ``--``)."""
    hints, texts = typing.get_type_hints(kind, include_extras=True), _texts(kind)
    found = {}
    for field in dataclasses.fields(kind):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        name = field.name.rstrip("_")
        found[name] = Field(field.name, hints[field.name], default, texts.get(field.name, ""))
    return found


def _texts(kind: type) -> dict[str, str]:
    """Return the help of each field: the string below the field in the source of its class.

    A class inherits the help of its bases. Python does not keep these strings, so they are read
    from the source; in an installation without sources, the help shows names and defaults only.
    """
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        except (OSError, TypeError, SyntaxError):  # there is no source
            continue
        body = typing.cast(ast.ClassDef, tree.body[0]).body
        for field, text in zip(body, body[1:], strict=False):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


# ---- help


def help_of(kind: Any, command: str) -> str:
    """Return the help of a command: its usage, and every argument and option."""
    width = _width()
    fields = fields_of(kind).values()
    arguments = [field for field in fields if field.argument]
    places = [f"[{field.shown}]" for field in arguments]
    # options stand after the arguments, but before "[-- ARG ...]", which ends them
    places.insert(sum(not place.startswith("[--") for place in places), "[--OPTION VALUE ...]")
    lines = _wrapped(f"usage: npgpt {command} {' '.join(places)}", width, "", "    ")
    paragraphs = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    for paragraph in paragraphs:
        lines += ["", *_wrapped(" ".join(paragraph.split()), width)]
    if arguments:
        lines += ["", "arguments:"]
        for field in arguments:
            lines += _entry(field.shown, field.help, width)
    lines += ["", "options:", *_entry("-h, --help", "Show this help.", width)]
    for field in fields:
        if field.argument:
            continue
        value = field.default
        empty = value is None or value is False or value == () or value == ""
        spelled = shown(" ".join(map(str, value)) if isinstance(value, tuple) else str(value))
        text = field.help if empty else f"{field.help} (default: {spelled})".strip()
        lines += _entry(f"{field.option} {field.shown}".rstrip(), text, width)
    return "\n".join(lines)


def overview(program: str, title: str, commands: Mapping[str, tuple[str, str]], end: str) -> str:
    r"""Return the help of a group of commands, laid out for the terminal.

    Parameters
    ----------
    program : str
        What stands before the name of each command.
    title, end : str
        The first line, after the program's name, and the last.
    commands : mapping of str to (str, str)
        Each command's name, and its usage and what the command does.

    Examples
    --------
    >>> print(overview("npgpt", "a GPT", {"doctor": ("[NAME]", "What is wrong.")}, "The end."))
    npgpt: a GPT
    <BLANKLINE>
      npgpt doctor [NAME]
          What is wrong.
    <BLANKLINE>
    The end.
    """
    width = _width()
    lines = [*_wrapped(f"{program}: {title}", width), ""]
    for name, (usage, text) in commands.items():
        lines += _wrapped(f"{program} {name} {usage}", width, "  ", " " * 8)
        lines += _wrapped(text, width, " " * 6)
    return "\n".join([*lines, "", *_wrapped(end, width)])


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, WIDTHS[0]), WIDTHS[1])


def _entry(name: str, text: str, width: int) -> list[str]:
    """Return the lines of an option: its name, and its help beside the name if there is room."""
    column = 26 if width >= 60 else 8
    lines = _wrapped(name, width, "  ", "      ")
    texts = _wrapped(text, width, " " * column) if text else []
    if texts and len(lines) == 1 and len(lines[0]) + 2 <= column:
        texts[0] = lines.pop().ljust(column) + texts[0][column:]
    return lines + texts


def _wrapped(text: str, width: int, first: str = "", rest: str | None = None) -> list[str]:
    if "{" in text and len(first + text) > width:  # so that a list of choices can be wrapped
        text = text.replace(", ", ",").replace(",", ", ")
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=first if rest is None else rest,
        break_on_hyphens=False,
    )  # fmt: skip


def quoted(text: str) -> str:
    r"""Quote a word for bash and zsh; characters that cannot be printed are spelled.

    Examples
    --------
    >>> print(quoted("to be"), quoted("caf\udce9.txt"))
    'to be' $'caf\xe9.txt'
    """
    import shlex

    if text.isprintable():
        return shlex.quote(text)
    content = os.fsencode(text).decode("utf-8", "surrogateescape")
    spelled = "".join(
        spell(c) if "\udc80" <= c <= "\udcff"
        else f"\\{c}" if c in "\\'"
        else c if c.isprintable()
        else "".join(f"\\x{byte:02x}" for byte in c.encode())
        for c in content
    )  # fmt: skip
    return f"$'{spelled}'"
