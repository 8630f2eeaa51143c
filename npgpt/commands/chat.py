"""``npgpt chat``: talk with a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from autograd.escape import brief
from autograd.schema import FileName, Range, nearest
from autograd.signals import restoring_terminal
from npgpt.commands.generate import (
    Sampling,
    collect_choices,
    demand_writer,
    is_piped,
    load_writer,
    read_lines,
)
from npgpt.errors import UserError
from npgpt.evaluation.guard import Guard, Refusal
from npgpt.generation import ahead
from npgpt.generation.chat import Chat, read_turns
from npgpt.hub import KNOWN, find_model
from npgpt.options import check_file, parse
from npgpt.say import is_terminal, say, say_text
from npgpt.tokenizers.templates import find_template
from npgpt.training.memory import keep_freed_memory

DEFAULT = "smollm2"


@dataclass
class Partner:
    """Whom to talk with, and how it begins: the first options of the command."""

    model: FileName = ""
    """A folder with a model, a .safetensors or .gguf file, the name of an added model (npgpt models
    list), or a name on the Hugging Face hub; if not given, smollm2."""
    system: str = ""
    """What the model is told before the conversation; if empty, what its template says."""
    template: str = ""
    """The chat template, if the model has none or another is wanted: chatml, plain, alpaca, or a
    file with a template in the language of Jinja2."""
    load: FileName = ""
    """A conversation to go on with, as /save has written it."""
    int8: bool = False
    """Round the weights to 8 bits. A model of 16 or 32 bits then answers faster, and is a little
    less exact."""
    float32: bool = False
    """Compute with float32 weights where the model's file has fewer bits, which takes more memory
    and time. Without it, quantized and 16-bit weights stay as they are in the file."""
    json: bool = False
    """Print each answer as one line of JSON: the message, the text, its tokens, why it ended."""
    guard: FileName = ""
    """A model with labels that reads each message, and each answer before it is printed."""
    guard_label: str = ""
    """With --guard: the label that is refused, such as spam."""
    guard_threshold: Annotated[float, Range(0, 1)] = 0.5
    """With --guard: refuse a text whose label has more than this probability."""


@dataclass
class Options(Sampling, Partner):  # the fields of the last base class come first
    """Talk with a model that was trained on conversations.

    In a terminal, Ctrl-C stops an answer, Ctrl-D ends the conversation, and /help lists commands.
    Each line from a pipe is a message of one conversation, and is answered.

    What is not given is as the model's generation_config.json says. Where that says nothing: up to
    512 tokens an answer, drawn at temperature 0.7 among the best that have 90 % together.
    """


def run(args: list[str]) -> int:
    """Answer messages until there are no more."""
    options = parse(Options, args, "chat")
    keep_freed_memory()
    folder = find_partner(options.model)
    ahead.start()
    model, tokenizer = load_writer(folder, options.int8, options.float32)
    demand_writer(model, folder)
    template = find_template(options.template) if options.template else None
    choices = collect_choices(options, model, tokenizer)
    chat = Chat(model, tokenizer, options.system or None, chat_template=template, **choices)
    if options.load:
        chat.load(options.load)
    guard = load_guard(options)
    if is_piped():
        for line in filter(str.strip, read_lines()):
            answer(chat, line, options.json, guard)
        return 0
    Terminal(chat, options.json, guard).talk()
    return 0


def load_guard(options: Partner) -> Guard | None:
    """Return the guard that the options name."""
    if options.guard:
        return Guard.load(options.guard, options.guard_label, options.guard_threshold)
    if options.guard_label:
        raise UserError("--guard_label says what a guard refuses: name the guard with --guard DIR")
    return None


def find_partner(name: str) -> Path:
    """Return the folder or file of a model; in a terminal, offer to download a published one."""
    try:
        return find_model(name or DEFAULT)
    except UserError as error:
        name = name or DEFAULT
        if name not in KNOWN or not sys.stdin.isatty() or not is_terminal():
            raise
        model = KNOWN[name]
        print(f"The model {name} ({model.about}) is not on this machine.")
        try:
            reply = input(f"Download it, {model.size / 1e6:.0f} MB? [Y/n] ").strip().lower()
        except EOFError:  # Ctrl-D
            print()
            reply = "n"
        if reply not in ("", "y", "yes"):
            raise error
    from npgpt.weights.store import add

    return add(name)[1]


def answer(chat: Chat, text: str, as_json: bool, guard: Guard | None = None) -> None:
    """Print the answer to a message: while it is written, or as a line of JSON.

    With a guard, the answer is printed when it is complete. What the guard refuses is no turn of
    the conversation.
    """
    if guard is not None:
        answer_guarded(chat, text, as_json, guard)
        return
    with closing(chat.stream(text)) as pieces:
        for piece in pieces:
            if not as_json:
                say_text(piece, end="")
    if not as_json:
        print(flush=True)
        return
    print_turn(chat)


def answer_guarded(chat: Chat, text: str, as_json: bool, guard: Guard) -> None:
    """Print the answer to a message, unless the guard refuses the message or the answer."""
    if refusal := guard.check(text):
        refuse("message", text, refusal, as_json)
        return
    n_turns = len(chat.turns)
    try:
        said = chat.say(text)
        refusal = guard.check(said)
    except (KeyboardInterrupt, UserError):
        del chat.turns[n_turns:]  # the guard has not read this answer, or this part of one
        raise
    if refusal:
        chat.undo()
        refuse("answer", text, refusal, as_json)
    elif as_json:
        print_turn(chat)
    else:
        say_text(said)


def refuse(what: str, message: str, refusal: Refusal, as_json: bool) -> None:
    """Print that a guard has refused a message or its answer."""
    label, probability = refusal
    if as_json:
        values = {"message": message, "refused": what, "label": label, "probability": probability}
        print(json.dumps(values), flush=True)
    else:
        say(f"(refused: the {what} is {label}, with probability {probability:.2f})")


def print_turn(chat: Chat) -> None:
    """Print the last turn as a line of JSON."""
    assert chat.last is not None
    question, said = chat.turns[-1]
    values = {
        "message": question,
        "text": said,
        "ids": chat.last.ids,
        "finish_reason": chat.last.finish_reason,
        "forgotten_turns": chat.n_forgotten,
    }
    print(json.dumps(values), flush=True)


class Terminal:
    """A conversation in a terminal, where a line that begins with a slash is a command.

    Each command is a method: `do_undo` carries out ``/undo``, and its docstring is its help.

    Parameters
    ----------
    chat : Chat
    as_json : bool
        Whether answers are printed as JSON.
    guard : Guard, optional
        See `answer`.
    """

    def __init__(self, chat: Chat, as_json: bool = False, guard: Guard | None = None) -> None:
        self.chat, self.as_json, self.guard = chat, as_json, guard

    @classmethod
    def commands(cls) -> list[str]:
        """Return the names of the commands."""
        return [name.removeprefix("do_") for name in vars(cls) if name.startswith("do_")]

    def talk(self) -> None:
        """Read lines, and carry out each, until Ctrl-D."""
        ask = self.prompt()
        say("/help lists commands; Ctrl-C stops an answer, Ctrl-D ends", sys.stderr)
        with restoring_terminal():
            while True:
                try:
                    line = ask("> ")
                except KeyboardInterrupt:
                    continue
                except EOFError:
                    return
                self.try_to_run(line)

    def try_to_run(self, line: str) -> None:
        """Carry out a command, or answer a message; say what goes wrong."""
        try:
            self.run(line)
        except KeyboardInterrupt:
            print("", "(stopped)", sep="\n", flush=True)
        except UserError as error:
            say(str(error), sys.stderr)
        except OSError as error:  # a disk that is full
            say(f"{error.filename or 'a file'}: {error.strerror or error}", sys.stderr)

    def prompt(self) -> Callable[[str], str]:
        """Return the function that shows the prompt and returns the typed line."""
        if not sys.stdin.isatty() or not is_terminal():
            return input
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import InMemoryHistory

        words = WordCompleter([f"/{name}" for name in self.commands()], sentence=True)
        session: Any = PromptSession(
            history=InMemoryHistory(), completer=words, complete_while_typing=False
        )
        return session.prompt

    def run(self, line: str) -> None:
        """Carry out a command, or answer a message."""
        if not line.strip():
            return
        if not line.startswith("/"):
            answer(self.chat, line.strip(), self.as_json, self.guard)
            return
        word, _, rest = line[1:].partition(" ")
        if word not in self.commands():
            raise UserError(
                f"there is no command {brief('/' + word)}{nearest(word, self.commands(), '/')}; a "
                "message that begins with / is written with a space before it"
            )
        getattr(self, f"do_{word}")(rest.strip())

    def do_help(self, rest: str) -> None:
        """List the commands."""
        for name in self.commands():
            usage, _, text = (getattr(self, f"do_{name}").__doc__ or "").rpartition(": ")
            say(f"  {f'/{name} {usage}':<14}  {text}")

    def do_reset(self, rest: str) -> None:
        """Begin a new conversation, with the same system prompt."""
        self.chat.reset()

    def do_undo(self, rest: str) -> None:
        """Forget the last message and its answer."""
        say(f"forgotten: {self.chat.undo()}")

    def do_system(self, rest: str) -> None:
        """TEXT: Tell the model something in advance; without TEXT, what its template says."""
        self.chat.system = rest or None

    def do_save(self, rest: str) -> None:
        """FILE: Write the conversation to a JSON file."""
        path = self._path(rest, "save")
        if path.exists():
            read_turns(path)  # refuses to replace a file that is no conversation
        check_file("/save", path)
        self.chat.save(path)
        say(f"{path}: {len(self.chat.turns)} turns")

    def do_load(self, rest: str) -> None:
        """FILE: Go on with a conversation that was saved."""
        path = self._path(rest, "load")
        self.chat.load(path)
        say(f"{path}: {len(self.chat.turns)} turns")

    def _path(self, rest: str, command: str) -> Path:
        if not rest or "\0" in rest:
            raise UserError(f"name the file, as in: /{command} chat.json")
        return Path(rest).expanduser()
