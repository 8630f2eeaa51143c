"""Examples in files: texts, and the label or the answer of each.

A file is a table, with an example in each row:

    .csv      cells between commas; a cell in quotation marks may hold commas and lines
    .jsonl    an object in each line, whose keys are the names of the columns
    .json     a list of such objects
    trec      ``LABEL:detail text`` in each line, as the TREC questions are published
    others    cells between tabs, without quotation marks (.tsv)

or a folder with a file for each label, one text a line (``rt-polarity.pos``, ``rt-polarity.neg``).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from autograd.escape import brief
from autograd.reading import parse_json, read_bytes
from autograd.schema import nearest
from npgpt.errors import UserError

Form = Literal["csv", "tsv", "jsonl", "json", "trec"]
NAMES = [("input", "output"), ("text", "label")]  # of columns that are found without being named


class Example(NamedTuple):
    """A text, and its label or answer."""

    input: str
    output: str


class Row(NamedTuple):
    """Some cells of a row."""

    where: str  # the file and the line, for messages
    cells: list[str]


def read_examples(
    path: str | Path,
    text_column: str = "",
    label_column: str = "",
    *,
    text_pair_column: str = "",
    labels: Collection[str] = (),
    form: Form | None = None,
    encoding: str = "utf-8",
) -> list[Example]:
    r"""Return the examples in a file or a folder.

    Parameters
    ----------
    path : str or Path
        A file of a form that the module's docstring lists, or a folder with a file for each label.
        The label of a file is the part of its name, between dots, in which the names differ.
    text_column, label_column : str
        The columns, by the names in the first line (the keys of a ``.jsonl`` or ``.json`` file), or
        by their numbers from 1 if the first line is an example already. If not given: ``input`` and
        ``output``, or ``text`` and ``label``, if the first line has these names, or else the first
        column and the second.
    text_pair_column : str
        The column of second texts. An example then has both texts, with a tab between them; a tab
        inside of a text becomes a space. The other two columns must be named as well.
    labels : collection of str
        The labels that may occur; any, if not given.
    form : {"csv", "tsv", "jsonl", "json", "trec"}, optional
        The form of the file; if not given, what the end of its name says. The columns of ``trec``
        are the text, the label, and the detail after the colon.
    encoding : str
        How characters are encoded, such as ``"latin-1"`` or ``"gb18030"``.

    Returns
    -------
    list of Example
        White space around a text or a label is left out, and so is a line of white space.

    Raises
    ------
    UserError
        If the file has another form or encoding, or lacks a column; if a text or a label is empty;
        if a label is not one of `labels`. The message has the number of the line. If there is no
        example.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "reviews.csv"
    ...     _ = path.write_text('label,text\ngood,"Long, but never dull."\nbad,A bore.\n')
    ...     for example in read_examples(path):
    ...         print(example)
    Example(input='Long, but never dull.', output='good')
    Example(input='A bore.', output='bad')
    """
    if bool(text_column) != bool(label_column):
        raise UserError("name both text_column and label_column, or neither")
    if text_pair_column and not text_column:
        raise UserError("with text_pair_column, name text_column and label_column, too")
    columns = [name for name in (text_column, text_pair_column, label_column) if name]
    rows = read_rows(path, columns, form=form, encoding=encoding)
    examples = []
    for where, (*texts, label) in rows:
        if labels and label not in labels:
            raise UserError(f"{where}: the label is {brief(label)}{nearest(label, labels)}")
        is_pair = len(texts) > 1
        text = "\t".join(text.replace("\t", " ") for text in texts) if is_pair else texts[0]
        examples.append(Example(text, label))
    return examples


def draw_examples(examples: Sequence[Example], k: int, seed: int = 0) -> list[Example]:
    """Return k of the examples, drawn without replacement; a larger k begins with those of k.

    Examples
    --------
    >>> examples = [Example(str(i), "") for i in range(9)]
    >>> draw_examples(examples, 2) == draw_examples(examples, 4)[:2]
    True
    """
    if k > len(examples):
        raise UserError(f"k is {k}, and there are {len(examples)} examples to draw from")
    order = np.random.default_rng(seed).permutation(len(examples))
    return [examples[i] for i in order[:k]]


def read_rows(
    path: str | Path,
    columns: Sequence[str] = (),
    *,
    form: Form | None = None,
    encoding: str = "utf-8",
) -> list[Row]:
    """Return the cells of the named columns, of any number, in all rows; see `read_examples`."""
    path = Path(path)
    if path.is_dir():
        if columns or form:
            raise UserError(
                f"{path} is a folder, with a file for each label: it has no columns, and no form"
            )
        rows = _read_folder(path, encoding)
    else:
        form = form or _form_of(path)
        if form not in PARSERS:
            raise UserError(f"there is no form {brief(form)}; known are {', '.join(PARSERS)}")
        lines = PARSERS[form](_read_text(path, encoding), path)
        rows = _choose(lines, columns, form, path)
    if not rows:
        raise UserError(f"{path} has no example")
    for where, cells in rows:
        for cell, name in zip(cells, columns or ("text", "label"), strict=True):
            if not cell:
                what = f"column {name}" if name.isdecimal() else f"the {name}"
                raise UserError(f"{where}: {what} is empty")
    return rows


def read_objects(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the rows of a table as objects, whose keys are the names of the columns.

    The names are in the first line of a ``.csv`` or ``.tsv`` file.

    Returns
    -------
    list of (str, dict)
        The file and the line, for messages; and the object.

    Raises
    ------
    UserError
        If the file is no such table, or has no row.
    """
    path = Path(path)
    form = _form_of(path)
    lines = PARSERS[form](_read_text(path, "utf-8"), path)
    if form not in OBJECTS:
        lines = _named_cells(lines, path)
    rows = [(f"{path}, line {number}", values) for number, values in lines]
    if not rows:
        raise UserError(f"{path} has no example")
    return rows


# ---- the forms


def _form_of(path: Path) -> Form:
    """Return the form that the end of a file's name says."""
    suffix: Any = path.suffix.lower().removeprefix(".")
    return suffix if suffix in PARSERS else "tsv"


def _read_text(path: Path, encoding: str) -> str:
    """Return the text of a file; an error names the line that has another encoding."""
    content = read_bytes(path, pipes=True)
    try:
        if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
            encoding = "utf-8-sig"  # without the mark at the beginning that some programs write
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line} is not {encoding.removesuffix('-sig')}; name the encoding of the "
            "file, such as latin-1 or gb18030 (--encoding)"
        ) from None
    except (LookupError, ValueError):
        raise UserError(
            f"there is no encoding {brief(encoding)}; known are utf-8, latin-1, gb18030, utf-16 "
            "and others that Python has"
        ) from None


Lines = Iterator[tuple[int, Any]]  # numbers of lines, and the cells or the object of each


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that have more than white space, with their numbers."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def _parse_csv(text: str, path: Path) -> Lines:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 1
    try:
        for cells in reader:
            if cells:
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {number} is no row of CSV: {error}") from None


def _parse_tsv(text: str, path: Path) -> Lines:
    return ((number, line.split("\t")) for number, line in _lines(text))


def _parse_jsonl(text: str, path: Path) -> Lines:
    for number, line in _lines(text):
        where = f"{path}, line {number}"
        values = parse_json(line, where)
        if not isinstance(values, dict):
            raise UserError(f"{where} is {brief(values)}; it must be an object")
        yield number, values


def _parse_json(text: str, path: Path) -> Lines:
    values = parse_json(text, path)
    if not isinstance(values, list):
        raise UserError(f"{path} is {brief(values)}; it must be a list of objects")
    decoder, place, number = json.JSONDecoder(), text.index("[") + 1, 1
    number += text.count("\n", 0, place)
    for value in values:
        begin = place + len(SPACE.match(text, place)[0])  # type: ignore[index]
        number += text.count("\n", place, begin)
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {number} is {brief(value)}; it must be an object")
        yield number, value
        _, place = decoder.raw_decode(text, begin)
        number += text.count("\n", begin, place)


SPACE = re.compile(r"[\s,]*")  # before an element of a list


def _parse_trec(text: str, path: Path) -> Lines:
    for number, line in _lines(text):
        kind, _, question = line.partition(" ")
        label, colon, detail = kind.partition(":")
        if not colon:
            raise UserError(
                f"{path}, line {number} begins with {brief(kind)}, and not LABEL:detail"
            )
        yield number, [question, label, detail]


PARSERS: dict[str, Callable[[str, Path], Lines]] = {
    "csv": _parse_csv,
    "tsv": _parse_tsv,
    "jsonl": _parse_jsonl,
    "json": _parse_json,
    "trec": _parse_trec,
}
OBJECTS = ("jsonl", "json")  # the forms whose rows are objects


def _read_folder(folder: Path, encoding: str) -> list[Row]:
    """Return the lines of each file with the label that the name of the file says."""
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    parts = [path.name.split(".") for path in files]
    if len({len(each) for each in parts}) > 1 or len(files) < 2:
        raise UserError(
            f"{folder} has {_named([path.name for path in files])}; expected two or more with "
            "names that differ in one part, such as pos.txt and neg.txt"
        )
    differing = [part for part in zip(*parts, strict=True) if len(set(part)) > 1]
    rows = []
    for path, label in zip(files, map(".".join, zip(*differing, strict=True)), strict=True):
        for number, line in _lines(_read_text(path, encoding)):
            rows.append(Row(f"{path}, line {number}", [line.strip(), label]))
    return rows


# ---- the columns


def _choose(lines: Lines, columns: Sequence[str], form: str, path: Path) -> list[Row]:
    """Return the cells of the columns in all rows; see `read_examples`."""
    found = list(lines)
    if not found:
        return []
    if form in OBJECTS:
        columns = columns or _find_names(found[0][1]) or NAMES[0]
        return [
            Row(where, [_field(values, name, where) for name in columns])
            for number, values in found
            for where in [f"{path}, line {number}"]
        ]
    first, head = found[0]
    head = [cell.strip() for cell in head]
    names = columns or (() if form == "trec" else _find_names(head))
    if names and not all(name.isdecimal() for name in names):
        found = found[1:]
        indices = [_index(head, name, f"{path}, line {first}") for name in names]
    elif not columns and form != "trec" and len(head) != 2:
        raise UserError(
            f"{path}, line {first} has {_count(head)}; expected a text and a label (or name the "
            "columns with --text_column and --label_column)"
        )
    else:
        indices = [_number(head, name, f"{path}, line {first}") for name in names or ("1", "2")]
    rows = []
    for number, cells in found:
        where = f"{path}, line {number}"
        if len(cells) != len(head):
            raise UserError(f"{where} has {_count(cells)}, and line {first} has {len(head)}")
        rows.append(Row(where, [cells[i].strip() for i in indices]))
    return rows


def _named_cells(lines: Lines, path: Path) -> Lines:
    """Yield the rows after the first as objects; the first has the names of the columns."""
    head: list[str] = []
    for number, cells in lines:
        if head and len(cells) != len(head):
            raise UserError(
                f"{path}, line {number} has {_count(cells)}, and the first line has {len(head)}"
            )
        if head:
            yield number, dict(zip(head, map(str.strip, cells), strict=True))
        else:
            head = [cell.strip() for cell in cells]
            if len({*head}) < len(head):
                raise UserError(f"{path}, line {number} names a column twice: {brief(head)}")


def _find_names(head: Collection[str]) -> Sequence[str]:
    """Return the usual names of columns, if all of them are there."""
    return next((names for names in NAMES if set(names) <= set(head)), ())


def _index(head: list[str], name: str, where: str) -> int:
    if head.count(name) == 1:
        return head.index(name)
    if name in head:
        raise UserError(f"{where} names {head.count(name)} columns {brief(name)}; expected one")
    raise UserError(f"{where} names no column {brief(name)}{nearest(name, head[:20])}")


def _number(head: list[str], name: str, where: str) -> int:
    number = int(name) if len(name) < 9 else len(head) + 1
    if not 1 <= number <= len(head):
        raise UserError(f"{where} has {_count(head)}, and no column {name:.20}")
    return number - 1


def _count(cells: Collection[str]) -> str:
    return f"{len(cells)} column{'s' if len(cells) != 1 else ''}"


def _named(names: list[str]) -> str:
    return f"the files {brief(names)}" if names else "no files"


def _field(values: dict[str, Any], name: str, where: str) -> str:
    """Return a field of an object as a text; a number, such as a label 0, is spelled."""
    if name not in values:
        raise UserError(f"{where} has no field {brief(name)}{nearest(name, [*values][:20])}")
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: the {name} is {brief(value)}; it must be a text or a number")
    return str(value).strip()
