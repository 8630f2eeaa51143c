"""Katas: exercises in which the learner writes the rule of an op.

Every registered op is a kata. The solution is Python source with a function for each input, under
the input's name, or with one function named ``vjp`` for all other inputs, which returns a tuple.
The arguments are those of the rules in ``op.vjp``: ``g``, the cotangent of the output, and the
values that the rule reads. The solution is checked in four levels, from plain matrices to all
property tests of the op::

    def x(g, y):
        return g * y


    def y(g, x):
        return g * x
"""

from __future__ import annotations

import ast
import difflib
import dis
import inspect
import os
import re
import shlex
import subprocess
import textwrap
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from autograd import REGISTRY, Op
from autograd.console import Console
from autograd.files import make_folders, write_text
from autograd.reading import read_text
from autograd.stepper.lines import fold
from npgpt.errors import UserError
from npgpt.learn import progress
from npgpt.learn.prose import fold_report

PATH = (
    "multiply", "divide", "tanh", "relu", "sum", "matmul", "embedding", "softmax", "gelu",
    "cross_entropy", "layer_norm", "attention",
)  # fmt: skip

LEVELS = (
    "plain arrays of two axes",
    "vectors, broadcasting and empty arrays",
    "the options of the op",
    "second derivatives, float32, orders in memory",
)
HOW = """An expression for each, or: hint, show, edit (for several lines), quit.
Later, Enter alone keeps the last one."""
EXAMPLES = 20  # generic calls that the first two levels check
ASSIGNED = re.compile(r"^d(\w+)\s*=(?!=)\s*(.+)", re.MULTILINE)  # dx = g * y

ADVICE = {
    "a Jacobian that is not": "Write the shapes of g and of the factor: which one is transposed?",
    "a transpose": "Write the shape of each factor with letters: their order decides.",
    "a wrong sign": "Differentiate the function for numbers, and look at the sign.",
    "the cotangent g": "The chain rule multiplies g by the derivative of the op.",
    "g is passed on": "The chain rule multiplies g by the derivative of the op.",
    "g is multiplied by the value": "Differentiate the function for numbers first.",
    "in the place of axis": "Over which axis does the function sum? So does the rule.",
    "in the place of out": "Is the derivative written with the input, or with the result?",
    "must be multiplied": "Each factor between the input and the result multiplies g.",
    "the derivative is missing": "The chain rule has a factor for each step of the function.",
    "times too": "Count the factors: a mean divides, and a power has its exponent as a factor.",
    "the mask is inverted": "For which elements is the derivative 0?",
    "a mask is missing": "For which elements is the derivative 0?",
    "a term": "Each use of the input has a term in the rule.",
    "a sum over": "An element of the input that changes several outputs gets a term from each.",
    "the mean over": "The mean changes with each element too: it has a term in the rule.",
    "the error is": "A sum or a mean in the function depends on each element, and has a term.",
    "summed over": "Which axis did the function sum over? g must be repeated along the same axis.",
    "inputs swapped": "Differentiate by one input at a time, with the others held fixed.",
    "contributions": "Use np.add.at or a sum: each use of an element adds to its gradient.",
    "only where": "Differentiate the branch of the function for these inputs alone.",
}


class WrongRule(UserError):
    """A solution is wrong; the message says why.

    Attributes
    ----------
    passed : int
        How many of the levels the solution has passed.
    """

    passed = 0


class Kata:
    """One op as an exercise.

    Parameters
    ----------
    op : Op or str
        An op, or the name of a registered one.

    Attributes
    ----------
    inputs : tuple of str
        The inputs that need a rule.
    joint : bool
        Whether the op itself has one rule for several inputs.

    Raises
    ------
    UserError
        If no op has that name, or the op has no rule.
    """

    def __init__(self, op: Op | str) -> None:
        if isinstance(op, str):
            if op not in REGISTRY:
                close = difflib.get_close_matches(op, REGISTRY, 3, 0.5)
                raise UserError(
                    f"there is no op {op!r}; "
                    + (f"did you mean {', '.join(close)}?" if close else "see npgpt kata --list")
                )
            op = REGISTRY[op]
        self.op = op
        if not op.rules:
            raise UserError(f"{op.name} has no rule, so there is nothing to write")
        self.inputs = tuple(name for rule in op.rules for name in rule.inputs)
        self.joint = any(rule.joint for rule in op.rules)

    # ---- the exercise

    @property
    def code(self) -> str:
        """The source of the op's function, in plain NumPy: of its reference, if it has one."""
        op = self.op
        try:
            if op.reference_function is None:
                return inspect.getsource(op.forward).rstrip()
            source = textwrap.dedent(inspect.getsource(op.reference_function)).rstrip()
        except (OSError, TypeError):  # the op was defined in an interactive session
            return f"{op.name}{op.signature}: {inspect.getdoc(op) or ''}"
        if "def " not in source:
            return inspect.getsource(op.forward).rstrip()
        _, _, rest = source[source.index("def ") :].partition("(")
        return f"def {op.forward.__name__}({rest}"

    def formulas(self) -> tuple[list[str], list[str]]:
        """Return the lines of the formula that define the result, and the lines of the answer."""
        lines = self.op.stated.text().splitlines() if self.op.stated else []
        answer = re.compile(rf"\bd({'|'.join(self.inputs)})(_|\b)")
        lefts = [line.split(" = ")[0] for line in lines]
        values = [i for i, x in enumerate(lefts) if "out" in x and not answer.search(x)]
        n = values[-1] + 1 if values else 0
        return lines[:n], lines[n:]

    def names(self) -> list[str]:
        """Return the names that a rule may read. Shapes are those of inputs that need a rule."""
        shapes = [f"{name}_shape" for name in self.inputs]
        return [*self.op.names, "out", *self.op.saves, *shapes, *["needs"] * self.joint]

    def helpers(self) -> list[str]:
        """Return the functions of the op's module that its own rules and its reference call."""
        functions = [rule.function for rule in self.op.rules]
        if self.op.reference_function is not None:
            functions.append(self.op.reference_function)
        found = dict.fromkeys(name for f in functions for name in _globals(f.__code__))
        known = self.op.forward.__globals__
        return [name for name in found if name in known and name != "np" and name[0] != "_"]

    def question(self, width: int = 78) -> str:
        """Return the text of the exercise: what to write, and which names may be used."""
        gs = "g, the tuple of the outputs' cotangents" if self.op.multiple else "g"
        names = textwrap.fill(", ".join(self.names()), min(width, 78) - 2)
        return (
            f"Write the cotangent of {_and(self.inputs)}, from {gs}, and any of\n"
            f"{textwrap.indent(names, '  ')}\nAt hand: {', '.join(['np', *self.helpers()])}."
        )

    def skeleton(self) -> str:
        """Return a file to complete."""
        value, _ = self.formulas()
        lines = [self.op.name, *value, *self.question().splitlines()]
        top = "\n".join(f"# {line}".rstrip() for line in lines)
        names = ["vjp"] if len(self.inputs) > 1 and self.joint else self.inputs
        returned = f"    # return {', '.join(f'd{name}' for name in self.inputs)}\n"
        body = (returned if self.joint else "") + "    ...\n"
        return f"{top}\n" + "".join(f"\n\ndef {name}(g):\n{body}" for name in names)

    def hints(self) -> list[str]:
        """Return all hints: the values that the op's rules read, their formulas, their source."""
        reads = [
            f"The rule of {_and(rule.inputs)} reads {_and(('g', *rule.residuals))}."
            for rule in self.op.rules
        ]
        statements = dict.fromkeys(_statement(rule.function) for rule in self.op.rules)
        stages = reads, self.formulas()[1], filter(None, statements)
        return list(filter(None, ("\n".join(stage) for stage in stages)))

    # ---- the solution

    def rule(self, name: str, expression: str) -> str:
        """Return the source of a rule that returns an expression. ``dx =`` before it is ignored.

        Examples
        --------
        >>> print(Kata("multiply").rule("x", "g * y"))
        def x(g, y):
            return g * y
        """
        expression = expression.strip()
        if (found := ASSIGNED.match(expression)) and found[1] in self.inputs:
            if found[1] != name:
                raise WrongRule(f"the expression for d{name} is asked for, not for d{found[1]}")
            expression = expression[found.start(2) :]
        try:
            tree = ast.parse(expression, mode="eval")
        except (SyntaxError, ValueError) as error:
            raise WrongRule(f"{expression} is not an expression: {error.args[0]}") from None
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        read = ", ".join(["g", *(known for known in self.op.namespace if known in used)])
        return f"def {name}({read}):\n    return {expression}"

    def solved_by(self, source: str) -> Op:
        """Return a copy of the op, unregistered, with the rules of a solution.

        Raises
        ------
        WrongRule
            If the source does not run, if an input has no rule, or if a rule reads an unknown name.
        """
        op = self.op
        copy = Op(
            op.forward, saves=op.saves, broadcasts=op.broadcasts, multiple=op.multiple,
            domain=op.domain, kinks=op.kinks,
        )  # fmt: skip
        copy.sampler, copy.stated = op.sampler, op.stated
        copy.reference_function = op.reference_function
        rules = self._functions(source)
        others = tuple(name for name in self.inputs if name not in rules)
        joint = rules.pop("vjp", None)
        if others and joint is None:
            raise WrongRule(
                f"no rule for {_and(others)}: write def {others[0]}(g, ...), "
                "or one function vjp for all"
            )
        for name, function in rules.items():
            _declare(copy, (name,), function)
        if others and joint is not None:
            _declare(copy, others, joint)
        return copy

    def _functions(self, source: str) -> dict[str, Callable]:
        """Run the source of a solution, and return its rules by name."""
        namespace = {**self.op.forward.__globals__, "np": np, "__name__": "kata"}
        try:
            code = compile(source, self._file, "exec", dont_inherit=True)
            exec(code, namespace)
        except SyntaxError as error:
            line = f"line {error.lineno}: {(error.text or '').strip()}\n  "
            raise WrongRule(f"{line if error.lineno else ''}{error.msg}") from None
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            found = ASSIGNED.search(source)
            if isinstance(error, NameError) and found and found[1] in self.inputs:
                rule = self.rule(found[1], found[2])
                raise WrongRule(f"a file has a function for each rule, such as\n{rule}") from None
            raise WrongRule(self._blame(error, source)) from None
        return {
            name: function
            for name in (*self.inputs, "vjp")
            if inspect.isfunction(function := namespace.get(name))
            and function.__code__.co_filename == self._file
        }

    def check(self, source: str, max_examples: int = 30) -> None:
        """Check a solution by the property tests that every op must pass.

        Parameters
        ----------
        source : str
            The solution, as described at the top of this file.
        max_examples : int
            How many calls hypothesis draws for each property.

        Raises
        ------
        WrongRule
            If the solution does not run, or a property does not hold. The message has the smallest
            call that was found, and the likely mistake.

        Examples
        --------
        >>> Kata("multiply").check("def vjp(g, x, y): return g * y, g * x", max_examples=5)
        """
        op = self.solved_by(source)
        for passed, level in enumerate(self._levels(op, max_examples)):
            try:
                self._run(level, op, source)
            except WrongRule as error:
                if passed:
                    error = WrongRule(
                        f"{_level(passed)} is passed.\n{_level(passed + 1)} is not:\n\n{error}"
                    )
                error.passed = passed
                raise error from None

    def _levels(self, op: Op, max_examples: int) -> Iterator[list[tuple[Callable, Callable]]]:
        """Yield for each level its checks, each with a function that runs it on calls of the op."""
        from autograd.testing import PROPERTIES, hold, strategies
        from autograd.testing.properties import gradient_is_right
        from autograd.testing.strategies import (
            Draw,
            GenericDraw,
            PlainDraw,
            PlainGenericDraw,
            TextbookDraw,
        )

        def examples(check: Callable, source: type[GenericDraw], n: int = EXAMPLES) -> None:
            calls = strategies.generic_calls(op, n, source)
            if not calls:  # as for square matrices
                calls = [strategies.draw_call(op, source(seed)) for seed in range(n)]
            plain = [call for call in calls if strategies.largest_ndim(call) == 2]
            for call in plain if source is TextbookDraw and plain else calls:
                check(op, call)

        def drawn(check: Callable, source: type[Draw] = Draw) -> None:
            hold(op, check, max_examples, source)

        yield [(gradient_is_right, lambda check: examples(check, TextbookDraw))]
        yield [
            (gradient_is_right, lambda check: examples(check, PlainGenericDraw)),
            (gradient_is_right, lambda check: drawn(check, PlainDraw)),
        ]
        yield [  # many calls: of all options of sum, few show a wrong axis
            (gradient_is_right, lambda check: examples(check, GenericDraw, 5 * EXAMPLES)),
            (gradient_is_right, drawn),
        ]
        yield [(check, drawn) for check in PROPERTIES if check is not gradient_is_right]

    def _run(self, level: list[tuple[Callable, Callable]], op: Op, source: str) -> None:
        """Run the checks of a level, and raise WrongRule if one fails."""
        for check, run in level:
            calls: list = [None]  # the last call that was checked: the one that failed

            def recorded(op: Op, call: Any, check: Callable = check, calls: list = calls) -> None:
                calls[0] = call
                check(op, call)

            recorded.__name__ = check.__name__
            try:
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    run(recorded)
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                message = self._diagnosis(op, calls[0], error, source)
                if check.__name__ != "gradient_is_right":
                    what = (inspect.getdoc(check) or check.__name__).split("\n\n")[0]
                    message = (
                        "The first derivative is right already. What fails is the check of\n"
                        f"{what.removeprefix('Check ').rstrip('.')}:\n\n{message}"
                    )
                raise WrongRule(message) from None

    # ---- the mistake

    @property
    def _file(self) -> str:
        return f"<kata {self.op.name}>"

    def _diagnosis(self, op: Op, call: Any, error: BaseException, source: str) -> str:
        from hypothesis.errors import Flaky

        from autograd.testing import literal

        if isinstance(error, Flaky):
            return "the same call gives different results: a rule must not be random, nor remember"
        if isinstance(error, KeyboardInterrupt) or call is None:
            return self._blame(error, source)
        names = [f"x{i}" for i in range(len(call.args))] if op.variadic else op.names
        named = [*zip(names, call.args, strict=False), *call.kwargs.items()]
        if isinstance(error, AssertionError):
            text = str(error).partition("\n\n  to repeat it:")[0].strip("\n")
            inputs = [
                name for name, x in named
                if (op.variadic or name in self.inputs)
                and isinstance(x, np.ndarray) and x.dtype.kind == "f"
            ]  # fmt: skip
            text = re.sub(r"\binput (\d+)", lambda m: inputs[int(m[1])], text)
        else:
            text = self._blame(error, source)
            if isinstance(error, ValueError | IndexError):  # the shapes say more than NumPy does
                text += f"\n  the shapes are {self._shapes(op, call, named)}"
        width = max(len(name) for name, _ in named)
        lines = [f"  {name:<{width}} = {literal(value)}" for name, value in named]
        return "\n".join([text, "", "A call for which it fails:", *lines])

    def _shapes(self, op: Op, call: Any, named: list[tuple[str, Any]]) -> str:
        """Return the shapes of g and of the arrays of a call: ``g (2, 3), x (2, 4), y (4, 3)``."""
        arrays = [(name, x) for name, x in named if isinstance(x, np.ndarray)]
        with suppress(Exception), np.errstate(all="ignore"):  # the call itself may fail
            arrays.insert(0, ("g", op(*call.args, **call.kwargs)))
        return ", ".join(f"{name} {x.shape}" for name, x in arrays if hasattr(x, "shape"))

    def _blame(self, error: BaseException, source: str) -> str:
        """Return an error with the learner's line that it passed through last."""
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        if isinstance(error, KeyboardInterrupt):
            what = "interrupted"
        found, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self._file:
                found = trace.tb_lineno
            trace = trace.tb_next
        if found is None:  # an error of the check, whose message says what is wrong
            return str(error) or what
        return f"line {found}: {source.splitlines()[found - 1].strip()}\n  {what}"


def _declare(op: Op, inputs: tuple[str, ...], function: Callable) -> None:
    """Give an op a rule that calls the learner's function and checks the type of its result."""
    line = f"line {function.__code__.co_firstlineno}: {function.__name__}"
    first, *names = [*inspect.signature(function).parameters] or [""]
    if first != "g":
        raise WrongRule(f"{line}: the first argument of a rule is g, the cotangent of the output")
    several = len(inputs) > 1 or op.variadic
    known_names = [*op.namespace, *["needs"] * several]
    for name in names:
        if name not in known_names:
            raise WrongRule(f"{line} reads {name}, which is none of {', '.join(known_names)}")
    # The second derivative of an op that saves values comes from its reference, which needs every
    # argument. So the tape keeps all arguments, even if the rule does not read them.
    read = [*dict.fromkeys([*names, *(op.names if op.saves else ())])]
    residuals = [name for name in read if name != "needs"]

    def rule(g: Any, *values: Any, **needs: Any) -> Any:
        known = dict(zip(residuals, values, strict=True)) | needs
        result = function(g, *(known[name] for name in names))
        if several and not isinstance(result, tuple | list):
            fail(f"must return a tuple, of the cotangents of {_and(inputs)}", result)
        for part in result if several else [result]:
            if not hasattr(part, "shape") and (part is not None or not several):
                fail("must return arrays" if several else "must return an array", part)
        return result

    def fail(what: str, result: Any) -> NoReturn:
        found = "None" if result is None else f"{result!r}, of type {type(result).__name__}"
        raise TypeError(f"{line} {what}, and returned {found}")

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("g", *read)]
    rule.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    op.vjp(*inputs)(rule)


def _globals(code: types.CodeType) -> Iterator[str]:
    """Yield the global names that a function and the functions inside it read."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
        elif inspect.iscode(instruction.argval):
            yield from _globals(instruction.argval)


def _statement(function: Callable) -> str:
    """Return the source of the statement that defines a function, with its decorators."""
    try:
        source = "".join(inspect.findsource(function.__code__)[0])
    except (OSError, TypeError):
        return ""
    first = function.__code__.co_firstlineno
    for node in ast.parse(source).body:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        if start <= first <= (node.end_lineno or start):
            return "\n".join(source.splitlines()[start - 1 : node.end_lineno])
    return ""


def _likely(message: str) -> str:
    """Return the likely mistake in the message of a wrong answer, with advice, or an empty text."""
    rows = (line.split(None, 1) for line in message.splitlines() if line.startswith("  likely"))
    cause = next((cause for _, cause in rows), "")
    advice = next((text for start, text in ADVICE.items() if start in cause), "")
    return f"{cause}.\n{advice}" if cause and advice else ""


def _level(n: int) -> str:
    return f"Level {n} of {len(LEVELS)}, {LEVELS[n - 1]},"


def _and(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


# ---- the learner's progress


class Progress(progress.Progress):
    """The katas that a learner has solved.

    The file ``katas.json`` lists them, and the folder ``katas`` beside it has the solutions. The
    entry of an op has the number of ``hints`` seen, those that the op was ``solved_with``, and its
    ``level``: the number of levels that an unfinished solution has passed.
    """

    name = "katas.json"

    def advice(self) -> str:
        """Return what to do with a file that cannot be read."""
        return f"your solutions stand in {self.home / 'katas'}; {super().advice()}"

    def solved(self) -> list[str]:
        """Return the names of the registered ops that are solved."""
        done = self.read()
        return [name for name in REGISTRY if "solved_with" in done.get(name, {})]

    def following(self) -> str:
        """Return the next op on the path; at its end ``--list``, the option that lists all ops."""
        solved = self.solved()
        return next((name for name in PATH if name not in solved), "--list")

    def solution(self, name: str) -> Path:
        """Return the path of the file with an op's solution."""
        return self.home / "katas" / f"{name}.py"

    def keep(self, name: str, source: str) -> None:
        """Write a solution."""
        path = self.solution(name)
        make_folders(path.parent)
        write_text(path, source.rstrip() + "\n")


# ---- the conversation with a learner, at a terminal or through files


class Session:
    """Shows katas, asks for rules, checks them, and saves the learner's progress.

    Parameters
    ----------
    progress : Progress, optional
    console : Console, optional
    ask : callable
        Prints a prompt and returns a line, as `input` does.
    """

    def __init__(
        self,
        progress: Progress | None = None,
        console: Console | None = None,
        ask: Callable[[str], str] = input,
    ) -> None:
        self.progress = progress or Progress()
        self.console = console or Console()
        self.ask = ask
        self.mistake = ""  # the likely mistake in the last answer, and what to do about it
        # hypothesis writes files of its own, by default into the current folder
        os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(self.progress.home / "cache"))

    def say(self, text: str = "", style: str = "") -> None:
        """Print text; in a terminal folded to its width."""
        if self.console.is_terminal:
            text = fold_report(text, self.console.width)
        self.console.print(text, style=style, soft_wrap=True)

    def say_code(self, code: str) -> None:
        """Print source code, coloured in a terminal."""
        from rich.syntax import Syntax

        text = Syntax("", "python", theme="ansi_dark").highlight(textwrap.indent(code, "  "))
        text.rstrip()
        width = self.console.width if self.console.is_terminal else len(text)
        for line in fold(text, width):
            self.console.print(line, soft_wrap=True)

    # ---- showing katas

    def show_path(self) -> None:
        """Print the suggested path, and how far the learner has come."""
        done = self.progress.read()
        solved = self.progress.solved()
        following = self.progress.following()
        self.say("Each kata is an op without its rule: write the rule, and see it checked.\n")
        for name in PATH:
            mark = "✓" if name in solved else "→" if name == following else " "
            n = done.get(name, {}).get("solved_with", 0)
            level = done.get(name, {}).get("level", 0)
            note = f"  with {n} hint{'s' * (n > 1)}" if n else ""
            if level and name not in solved:
                note = f"  level {level} of {len(LEVELS)} is passed"
            self.say(f" {mark} {name}{note}", "green" if name in solved else "")
        on_path = sum(name in solved for name in PATH)
        total = f"{len(solved)} of all {len(REGISTRY)} ops"
        self.say(f"\nSolved: {on_path} of these {len(PATH)}, and {total}.")
        self.say(f"Next: npgpt kata {following}")

    def show_all(self) -> None:
        """Print every op, by module, with a mark at those that are solved."""
        solved = self.progress.solved()
        modules: dict[str, list[str]] = {}
        for name, op in REGISTRY.items():
            modules.setdefault(op.__module__, []).append("✓" * (name in solved) + name)
        for module, names in modules.items():
            n = sum(name.startswith("✓") for name in names)
            self.say(f"{module}  {n} of {len(names)}", "bold")
            columns = min(self.console.width, 78) - 2
            self.say(textwrap.indent(textwrap.fill("  ".join(names), columns), "  "))

    def show(self, kata: Kata) -> None:
        """Print an exercise, and the solution or what is kept of it, if there is one."""
        self.say_code(kata.code)
        value, _ = kata.formulas()
        if value:
            self.say("\n" + textwrap.indent("\n".join(value), "  "), "cyan")
        self.say("\n" + kata.question(self.console.width))
        name = kata.op.name
        level = self.progress.read().get(name, {}).get("level", 0)
        solved = name in self.progress.solved()
        if solved or level:
            what = "You solved it" if solved else f"Level {level} of {len(LEVELS)} is passed"
            self.say(f"\n{what}: {self.progress.solution(name)}\n", "green")
            with suppress(UserError):
                self.say_code(read_text(self.progress.solution(name)))

    def hint(self, kata: Kata, *, last: bool = False) -> None:
        """Print the next hint, or with `last` the last one, which shows the rules.

        After a wrong answer it begins with the mistake in the answer, if the mistake is known.
        """
        if self.mistake and not last:
            self.say(f"Your last answer: {self.mistake}\n")
            self.mistake = ""
        hints, name = kata.hints(), kata.op.name
        n = self.progress.read().get(name, {}).get("hints", 0)
        n = len(hints) if last else min(n + 1, len(hints))
        (self.say_code if n == len(hints) else self.say)(hints[n - 1])
        self.progress.write(name, hints=n)

    # ---- checking answers

    def submit(self, kata: Kata, source: str) -> bool:
        """Check a solution, print the result, and save the solution if it is right."""
        name = kata.op.name
        try:
            with self.console.status("checking"):
                kata.check(source)
        except WrongRule as error:
            self.say(f"\n{error}\n", "yellow")
            self._keep_level(name, source, error.passed)
            self.mistake = _likely(str(error))
            return False
        self.say(f"Right: {name} has all the properties of an op.", "green")
        self.progress.keep(name, source)
        done = self.progress.read().get(name, {})
        self.progress.write(name, solved_with=done.get("solved_with", done.get("hints", 0)))
        self.say(f"Next: npgpt kata {self.progress.following()}")
        return True

    def _keep_level(self, name: str, source: str, passed: int) -> None:
        """Save a solution that has passed more levels than any before."""
        done = self.progress.read().get(name, {})
        if "solved_with" not in done and passed > done.get("level", 0):
            self.progress.keep(name, source)
            self.progress.write(name, level=passed)
            self.say(f"Level {passed} of {len(LEVELS)} is passed, and kept.", "green")

    def practise(self, kata: Kata) -> bool:
        """Ask for the rule of each input as an expression, until all are right."""
        with suppress(ImportError):
            import readline  # noqa: F401  # makes lines editable, with a history
        self.say(f"\n{HOW}\n")
        rules: dict[str, str] = {}
        waiting = list(kata.inputs)
        while True:
            name = waiting[0]
            answer = self._answer(f"d{name} = ")
            if answer == "quit":
                return False
            elif answer == "edit":
                return self.edit(kata)
            elif answer in ("hint", "show"):
                self.hint(kata, last=answer == "show")
            elif answer in ("help", "?"):
                self.say(f"{kata.question(self.console.width)}\n\n{HOW}\n")
            elif answer or name in rules:
                try:
                    rules[name] = kata.rule(name, answer) if answer else rules[name]
                    waiting.pop(0)
                except WrongRule as error:
                    self.say(str(error), "yellow")
            if not waiting:
                if self.submit(kata, "\n\n\n".join(rules.values())):
                    return True
                waiting = list(kata.inputs)

    def edit(self, kata: Kata) -> bool:
        """Open the solution in an editor, and check it each time that the editor closes."""
        path = self.progress.solution(kata.op.name)
        if not path.exists():
            self.progress.keep(kata.op.name, kata.skeleton())
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
        while True:
            try:
                subprocess.run([*shlex.split(editor), str(path)], check=False)
            except OSError as error:
                raise UserError(
                    f"the editor {editor!r} does not start ({error.strerror}); set EDITOR, or "
                    f"write {path} and check it: npgpt kata {kata.op.name} --file {path}"
                ) from None
            if self.submit(kata, read_text(path)):
                return True
            while answer := self._answer("Enter to edit again, or hint, show, quit: "):
                if answer == "quit":
                    return False
                if answer in ("hint", "show"):
                    self.hint(kata, last=answer == "show")

    def _answer(self, prompt: str) -> str:
        try:
            answer = self.ask(prompt).strip()
            return "quit" if answer in ("q", "exit") else answer
        except EOFError:
            self.say()
            return "quit"
        except KeyboardInterrupt:
            self.say()  # ends the line of the question
            raise
