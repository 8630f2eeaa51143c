"""Rendering a chat template that anybody may have written, in bounded time and memory.

A template is a small program in the language of Jinja2, and comes with a model. Jinja2's sandbox
keeps the program away from files and from the inside of Python, but lets it work without end:

    {% for i in range(99999) %}{% for j in range(99999) %}...      10^10 rounds
    {% set x = x ~ x %}{% set x = x ~ x %}...                      2^n characters

Here a rendering has a budget. Before a template runs, its syntax tree is changed, so that each
round of a loop and each call of a macro pays for its body, and each text, list and number pays for
its size when it is made. A template that has spent its budget is refused. Functions whose result
can be much larger than their arguments, such as ``center`` and ``format``, are left out: published
chat templates do not need them.
"""

from __future__ import annotations

import functools
import json
import time
import warnings
from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from autograd.escape import brief, shown
from npgpt.errors import UserError

LONGEST_SOURCE = 2**17  # characters of a template; published ones have up to 30,000
STEPS = 500_000  # rounds, calls, and elements of lists
CHARACTERS = 2**24  # of all texts that are made, and parts of the syntax tree that run in loops
SECONDS = 3.0  # of computing: on a busy machine, waiting does not count
LARGEST = 2**64  # of whole numbers, so that their products stay small

FILTERS = (
    "abs capitalize count d default dictsort e escape first float int items last length list lower "
    "map max min reject rejectattr reverse safe select selectattr sort string title trim unique "
    "upper"
).split()
METHODS = (  # of strings
    "capitalize count endswith find index isalnum isalpha isdigit islower isnumeric isspace "
    "isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition "
    "rsplit rstrip split splitlines startswith strip title upper"
).split()


class TooMuch(Exception):
    """A template has spent its budget."""


class Budget:
    """What a rendering may still spend."""

    def __init__(self) -> None:
        self.steps, self.characters = STEPS, CHARACTERS
        self.end = time.thread_time() + SECONDS

    def spend(self, steps: int, characters: int = 0) -> None:
        """Pay, or raise TooMuch."""
        self.steps -= steps
        self.characters -= characters
        if self.steps < 0 or self.characters < 0 or time.thread_time() > self.end:
            raise TooMuch

    def pay_for(self, value: Any) -> None:
        """Pay for the size of a value: for each element at any depth, and for each character.

        A list that holds one list twice, which holds one list twice, and so on, has 2^n elements
        for whoever prints it. So the loop goes through a list as often as it occurs.
        """
        stack = [value]
        while stack:
            each = stack.pop()
            if isinstance(each, str):
                self.spend(1, len(each))
            elif isinstance(each, dict):
                self.spend(1 + len(each))
                stack += [*each.keys(), *each.values()]
            elif isinstance(each, list | tuple | set | KeysView | ValuesView | ItemsView):
                self.spend(1 + len(each))
                stack += each
            else:
                self.spend(1)


_budget: ContextVar[Budget] = ContextVar("budget of a chat template")


class OpaqueNamespace(Namespace):
    """A namespace that shows nothing of what it holds, which may be endless."""

    def __repr__(self) -> str:
        return "<Namespace>"


class Environment(ImmutableSandboxedEnvironment):
    """The functions, filters and operators that a chat template has, which pay for what they do."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False,
            extensions=[loopcontrols, GenerationBlock],
        )  # fmt: skip
        self.filters = {name: _paying(self.filters[name]) for name in FILTERS}
        for function in (join, replace, indent, tojson):
            self.filters[function.__name__] = _paying(function)
        self.globals = {
            "range": self.globals["range"], "namespace": OpaqueNamespace, "dict": make_dict,
            "raise_exception": raise_exception, "strftime_now": strftime_now,
        }  # fmt: skip

    def compile_paying(self, source: str) -> jinja2.Template:
        """Return the template of a source, in which all that takes time or memory pays."""
        tree = Payments(self).visit(self.parse(source))
        return jinja2.Template.from_code(self, self.compile(tree), self.globals)

    # ---- what the changed syntax tree calls

    def pay_body(self, weight: int) -> bool:
        """Pay for a round of a loop, or a call of a macro."""
        _budget.get().spend(1, weight)
        return True

    def pay(self, value: Any) -> Any:
        """Pay for a value that was made, or is printed; return the value."""
        _budget.get().pay_for(value)
        return value

    def concatenate(self, *values: Any) -> str:
        """Return the texts of the values, joined: ``a ~ b``."""
        _budget.get().pay_for(values)
        return "".join(map(str, values))

    # ---- what the sandbox asks

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function, and pay for the result."""
        owner = getattr(__obj, "__self__", None)
        if owner is __self:
            return __obj(*args)  # without what Jinja2 adds for functions that read the context
        if isinstance(owner, str):
            if __obj.__name__ == "replace":
                return __self.pay(replace(owner, *args))
            if __obj.__name__ == "join":
                return __self.pay(join(__self, args[0], owner))
        found = super().call(__context, __obj, *args, **kwargs)
        return found if isinstance(__obj, Macro) else __self.pay(found)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Calculate ``left operator right``, where that is a value of bounded size."""
        values = left, right
        if any(isinstance(each, int) and abs(each) > LARGEST for each in values):
            raise SecurityError("a whole number is too large")
        if operator == "**" or operator == "%" and isinstance(left, str):
            raise SecurityError(f"the operator {operator} has no bounds here")
        if operator == "*":
            for one, other in (values, values[::-1]):
                if isinstance(one, int) and not isinstance(other, int | float):
                    _budget.get().spend(max(one, 1), max(one, 0) * len(other))
        return self.pay(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Return whether a template may read an attribute: of strings, only some methods."""
        if isinstance(obj, str) and attr not in METHODS or isinstance(obj, int | float | bytes):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        """Refuse ``str.format``, whose fields may be of any width."""
        return None if super().wrap_str_format(value) is None else refuse_format


class GenerationBlock(Extension):
    """``{% generation %}``, which marks what the model said for training; it is left as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Payments(NodeTransformer):
    """Changes a syntax tree, so that loops, macros, texts and lists pay.

    Parameters
    ----------
    environment : Environment
        Has the functions that are paid to.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def _call(self, name: str, node: nodes.Node, *args: nodes.Expr) -> nodes.Call:
        function = nodes.EnvironmentAttribute(name, lineno=node.lineno)
        call = nodes.Call(function, [*args], [], None, None, lineno=node.lineno)
        call.set_environment(self.environment)
        return call

    def _pay_body(self, node: Any) -> nodes.Call:
        """Return the call that pays for the parts of a loop or a macro, and for texts in them."""
        parts = [*node.find_all(nodes.Node)]
        texts = [each.data for each in parts if isinstance(each, nodes.TemplateData)]
        weight = len(parts) + sum(map(len, texts))
        return self._call("pay_body", node, nodes.Const(weight, lineno=node.lineno))

    def _visit_body(self, node: Any) -> nodes.Node:
        pay = self._pay_body(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(pay, lineno=node.lineno))
        return node

    visit_Macro = visit_CallBlock = _visit_body

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Let each round pay, and each element that the condition of a loop leaves out."""
        pay = self._pay_body(node)
        self._visit_body(node)
        if node.test is not None:
            node.test = nodes.And(pay, node.test, lineno=node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        """Let what is printed pay."""
        self.generic_visit(node)
        node.nodes = [
            each if isinstance(each, nodes.TemplateData) else self._call("pay", node, each)
            for each in node.nodes
        ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Let ``a ~ b`` pay."""
        self.generic_visit(node)
        return self._call("concatenate", node, *node.nodes)

    def _visit_value(self, node: Any) -> nodes.Node:
        """Let a value pay, unless the node is a place to which values are written."""
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else self._call("pay", node, node)

    visit_List = visit_Tuple = visit_Dict = visit_Compare = visit_Test = _visit_value

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """Let a slice pay, which is a copy."""
        self.generic_visit(node)
        return self._call("pay", node, node) if isinstance(node.arg, nodes.Slice) else node


# ---- functions that templates call


def _paying(function: Callable) -> Callable:
    """Return a filter that pays for its arguments and its result."""

    @functools.wraps(function)  # Jinja2 notes as an attribute of the function what it is passed
    def filter(*args: Any, **kwargs: Any) -> Any:
        budget = _budget.get()
        budget.pay_for(args)
        budget.pay_for(kwargs)
        found = function(*args, **kwargs)
        budget.pay_for(found)
        return found

    return filter


@jinja2.pass_environment
def join(environment: Environment, value: Any, d: Any = "", attribute: Any = None) -> str:
    """Return the texts of values, joined by a separator."""
    items, separator = list(value), str(d)
    if attribute is not None:
        items = [environment.getitem(item, attribute) for item in items]
    _budget.get().spend(1, len(items) * len(separator))
    return separator.join(map(str, environment.pay(items)))


def replace(s: Any, old: Any, new: Any, count: int | None = None) -> str:
    """Return a text in which `new` stands for each `old`."""
    text, old, new = str(s), str(old), str(new)
    _budget.get().spend(1, (text.count(old) + 1) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def indent(s: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    """Return a text whose lines begin with more spaces."""
    size = len(width) if isinstance(width, str) else int(width)
    _budget.get().spend(1, max(size, 0) * (str(s).count("\n") + 1))
    return do_indent(s, width, first, blank)


def tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON, in which letters of any script stay as they are."""
    if indent is not None and not 0 <= int(indent) <= 8:
        raise SecurityError(f"indent is {brief(indent)}; it must be from 0 to 8")
    if separators is not None and max(map(len, separators)) > 8:
        raise SecurityError("the separators have more than 8 characters")
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def make_dict(*args: Any, **kwargs: Any) -> dict:
    """Return a new dictionary."""
    return dict(*args, **kwargs)


def strftime_now(format: str) -> str:
    """Return the time as a format says."""
    if len(format) > 100 or any(character.isdigit() for character in format):
        raise SecurityError("the format of a time is too long, or has a number")
    return datetime.now().strftime(format)


class Refused(Exception):
    """What a template says of messages that it cannot show."""


def raise_exception(message: Any) -> NoReturn:
    """Let the rendering end with a message of the template's author."""
    raise Refused(str(message))


def refuse_format(*args: Any, **kwargs: Any) -> NoReturn:
    """Refuse ``str.format``."""
    raise SecurityError("str.format has no bounds here")


# ---- rendering


@functools.lru_cache(8)
def compile_template(source: str) -> jinja2.Template:
    """Return the compiled template; the last few are kept."""
    with warnings.catch_warnings():  # Python's, of the code that Jinja2 makes of ``9[0]``
        warnings.simplefilter("ignore", SyntaxWarning)
        return Environment().compile_paying(source)


def render_template(source: str, variables: Mapping[str, Any]) -> str:
    """Return what a template makes of its variables.

    Parameters
    ----------
    source : str
        The template, in the language of Jinja2, with the functions and settings of transformers.
    variables : mapping of str to object
        Values of JSON's types.

    Raises
    ------
    UserError
        If the template is wrong, refuses the variables, or needs more time or memory than a chat
        template does: `STEPS`, `CHARACTERS`, `SECONDS`.

    Examples
    --------
    >>> render_template("{% for m in messages %}{{ m.role }}! {% endfor %}", {"messages": [
    ...     {"role": "system"}, {"role": "user"}]})
    'system! user! '
    >>> endless = "{% for i in range(99999) %}" * 2 + "{% endfor %}" * 2
    >>> render_template(endless, {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    autograd.schema.UserError: the chat template takes too much time or memory ...
    """
    if len(source) > LONGEST_SOURCE:
        raise UserError(
            f"the chat template has {len(source):,} characters; at most {LONGEST_SOURCE:,} are read"
        )
    token = _budget.set(Budget())
    try:
        text = compile_template(source).render(variables)
    except TooMuch:
        reason = (
            f"takes too much time or memory to render: more than {STEPS:,} steps, "
            f"{CHARACTERS:,} characters or {SECONDS:g} seconds"
        )
    except Refused as error:
        reason = f"refuses these messages: {error!s:.400}"
    except jinja2.TemplateSyntaxError as error:
        reason = f"is wrong in line {error.lineno}: {error.message!s:.400}"
    except (RecursionError, MemoryError):
        reason = "is nested too deep"
    except Exception as error:  # whatever the program of a stranger runs into
        reason = f"cannot be rendered: {str(error) or type(error).__name__:.400}"
    else:
        return text
    finally:
        _budget.reset(token)
    raise UserError(shown(f"the chat template {reason}"))
