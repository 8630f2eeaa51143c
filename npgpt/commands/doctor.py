"""``npgpt doctor``: whether this installation is healthy, and what to do where it is not."""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass

from autograd.escape import shown
from autograd.files import write_json
from npgpt.diagnostics.doctor import examine
from npgpt.options import NewFile, parse
from npgpt.say import say


@dataclass
class Options:
    """Check versions, threads, vector units, caches and speed, and say how to fix what is wrong.

    The exit code is 1 if something is.
    """

    json: NewFile = ""
    """A file to write the findings to."""


def run(args: list[str]) -> int:
    """Print all findings; return 1 if one of them needs a fix."""
    options = parse(Options, args, "doctor")
    findings, section = [], ""
    for finding in examine():
        if finding.section != section:
            print(finding.section)
            section = finding.section
        line = shown(f"{finding.name:<21} {finding.value}")
        print(textwrap.fill(
            line, 80, initial_indent="! " if finding.fix else "  ",
            subsequent_indent=24 * " ", break_long_words=False, break_on_hyphens=False,
        ), flush=True)  # fmt: skip
        if finding.fix:
            say(f"{'':<24}fix: {finding.fix}")
        findings.append(finding)
    wrong = sum(bool(finding.fix) for finding in findings)
    print(f"\n{wrong} to fix" if wrong else "\nall is well")
    if options.json:
        values = {"healthy": not wrong, "findings": [dataclasses.asdict(f) for f in findings]}
        write_json(options.json, values)
    return 1 if wrong else 0
