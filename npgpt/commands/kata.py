"""``npgpt kata``: write the rule of an op, and have it checked."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from autograd import REGISTRY
from autograd.reading import read_text
from autograd.schema import FileName
from npgpt.commands._serve import Port, taking
from npgpt.errors import UserError
from npgpt.learn.katas import Kata, Session
from npgpt.options import Argument, parse


@dataclass
class Options:
    """Write the rule of an op and have it checked; without an op, show the path."""

    op: Annotated[str, Argument("OP", words=REGISTRY.keys)] = ""
    """The op, as in multiply."""
    list: bool = False
    """Show every op, and what is solved."""
    hint: bool = False
    """Show the next hint: what the rule reads, then its formula, then its source."""
    edit: bool = False
    """Write the rule in $VISUAL or $EDITOR; it is checked when the editor closes."""
    file: FileName = ""
    """A solution to check, once."""
    serve: bool = False
    """Serve katas and lessons as a page, until Ctrl-C. The page runs the rules that you type."""
    port: Port | None = None
    """With --serve: the port on this computer. Without it: a free one."""


def run(args: list[str]) -> int:
    """Show, hint or check; return 1 for a solution that was given and is wrong."""
    options = parse(Options, args, "kata")
    if options.port and not options.serve:
        raise UserError("--port is the port of a page that is served: add --serve")
    if options.serve:
        if options.list or options.hint or options.edit or options.file:
            raise UserError("--serve serves a page: leave out --list, --hint, --edit and --file")
        from npgpt.learn.page import serve

        with taking(options.port):
            serve(options.op, options.port or 0)
        return 0
    session = Session()
    if not options.op:
        if options.hint or options.edit or options.file:
            raise UserError("name the op first, as in: npgpt kata multiply --hint")
        session.show_all() if options.list else session.show_path()
        return 0
    kata = Kata(options.op)
    if options.hint:
        session.hint(kata)
    elif options.file:
        return 0 if session.submit(kata, read_text(options.file, pipes=True)) else 1
    elif options.edit:
        session.edit(kata)
    else:
        session.show(kata)
        if sys.stdin.isatty() and sys.stdout.isatty():
            session.practise(kata)
        else:
            print(
                f"\nTo check a file of rules: npgpt kata {options.op} --file FILE (hints: --hint)"
            )
    return 0
