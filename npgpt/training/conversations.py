"""Conversations in files: the questions of a user, and the answers of an assistant.

A file is a table (`npgpt.evaluation.examples`: .csv, .tsv, .jsonl or .json), and each row has

    messages                      objects with ``role`` and ``content``
    conversations                 ShareGPT's form: objects with ``from`` and ``value``
    instruction, input, output    Alpaca's form; ``input`` may be empty or missing
    prompt, response              or two other columns, which are named

For preferences, ``chosen`` and ``rejected`` stand in the place of the last answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from autograd.escape import brief
from autograd.schema import nearest
from npgpt.errors import UserError
from npgpt.evaluation.examples import read_objects

COLUMNS = [
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("input", "output"),
    ("source", "target"),
]
"""Columns of prompts and responses that are used if no columns are named."""

ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}
"""The names of roles in ShareGPT's files."""


class Conversation(NamedTuple):
    """Messages, the last of which is an answer of the assistant."""

    where: str  # the file and the line, for messages
    messages: list[dict[str, str]]
    rejected: str = ""  # of a preference: an answer that is worse than the last message

    @property
    def text(self) -> str:
        """All that is said."""
        return "\n".join([message["content"] for message in self.messages] + [self.rejected])


def read_conversations(
    path: str | Path, text_column: str = "", label_column: str = "", has_rejected: bool = False
) -> list[Conversation]:
    """Return the conversations in a file.

    Parameters
    ----------
    path : str or Path
        A file in a form that the module's docstring lists.
    text_column, label_column : str
        The columns with the prompts and the responses, if the rows have neither messages nor
        instructions.
    has_rejected : bool
        Whether each row has two answers, ``chosen`` and ``rejected``.

    Raises
    ------
    UserError
        If a row is no conversation, if a message is empty, if user and assistant do not take turns,
        or if two answers are the same. The message has the line's number.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "instructions.jsonl"
    ...     _ = path.write_text('{"instruction": "Name a metal.", "output": "Iron."}')
    ...     for message in read_conversations(path)[0].messages:
    ...         print(message["role"], message["content"])
    user Name a metal.
    assistant Iron.
    """
    found = []
    for where, row in read_objects(path):
        if has_rejected:
            found.append(_preference(row, where, text_column))
            if found[-1].rejected == found[-1].messages[-1]["content"]:
                raise UserError(
                    f"{where}: chosen and rejected are the same answer, "
                    f"{brief(found[-1].rejected)}; leave out the row, or give two answers"
                )
        else:
            found.append(Conversation(where, _messages(row, where, text_column, label_column)))
    return found


def _messages(
    row: dict[str, Any], where: str, text_column: str, label_column: str
) -> list[dict[str, str]]:
    """Return the messages of a row, which end with an answer."""
    if not text_column and (turns := _turns(row)) is not None:
        return _checked(turns, where)
    asked, answered = (text_column, label_column) if text_column else _columns(row, where)
    return [_question(row, asked, where), _message("assistant", row, answered, where)]


def _preference(row: dict[str, Any], where: str, text_column: str) -> Conversation:
    """Return a conversation with two answers."""
    better, worse = (_field(row, name, where) for name in ("chosen", "rejected"))
    if isinstance(better, list) and isinstance(worse, list):  # of messages, each
        messages, others = _checked(better, where), _checked(worse, where)
        if messages[:-1] != others[:-1]:
            raise UserError(
                f"{where}: chosen and rejected differ before their last messages; "
                "only the last message, the answer, may differ"
            )
        return Conversation(where, messages, others[-1]["content"])
    if not text_column and (turns := _turns(row)) is not None:
        answer = {"role": "assistant", "content": better}
        asked = _checked([*turns, answer] if isinstance(turns, list) else turns, where)[:-1]
    else:
        asked = [_question(row, text_column or _columns(row, where, is_asked=True)[0], where)]
    answers = [_message("assistant", row, name, where) for name in ("chosen", "rejected")]
    return Conversation(where, [*asked, answers[0]], answers[1]["content"])


def _turns(row: dict[str, Any]) -> Any:
    """Return the messages that a row has as a list, with the names of roles that templates use."""
    if "messages" in row:
        return row["messages"]
    turns = row.get("conversations")
    if not isinstance(turns, list):
        return turns
    return [
        {"role": ROLES.get(str(turn.get("from")), turn.get("from")), "content": turn.get("value")}
        if isinstance(turn, dict)
        else turn
        for turn in turns
    ]


def _columns(row: dict[str, Any], where: str, is_asked: bool = False) -> tuple[str, str]:
    """Return the names of the prompt and response in a row; `is_asked` needs only the prompt."""
    pairs = [("instruction", "output"), *COLUMNS]
    n = 1 if is_asked else 2
    found = next((names for names in pairs if {*names[:n]} <= row.keys()), None)
    if found is None:
        raise UserError(
            f"{where} has the fields {brief([*row])}; expected messages, conversations, "
            f"{' or '.join(dict.fromkeys(' and '.join(names[:n]) for names in pairs))}; or name "
            f"{'the prompts with --text_column' if is_asked else 'both: --text_column PROMPTS'}"
            f"{'' if is_asked else ' --label_column RESPONSES'}"
        )
    return found


def _question(row: dict[str, Any], name: str, where: str) -> dict[str, str]:
    """Return the message of the user; an Alpaca ``input`` follows the instruction."""
    message = _message("user", row, name, where)
    if name == "instruction" and str(row.get("input") or "").strip():
        given = _message("user", row, "input", where)["content"]
        message |= {
            "instruction": message["content"],
            "input": given,
            "content": f"{message['content']}\n\n{given}",
        }
    return message


def _message(role: str, row: dict[str, Any], name: str, where: str) -> dict[str, str]:
    value = _field(row, name, where)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: the {name} is {brief(value)}; it must be a text")
    return {"role": role, "content": value.strip()}


def _field(row: dict[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise UserError(f"{where} has no field {brief(name)}{nearest(name, [*row][:20])}")
    return row[name]


def _checked(turns: Any, where: str) -> list[dict[str, str]]:
    """Return messages, if the user begins (after a system prompt) and the assistant ends."""
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{where}: the messages are {brief(turns)}; expected a list of objects")
    messages = []
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("role") not in ("system", "user", "assistant"):
            raise UserError(
                f"{where}: a message is {brief(turn)}; expected an object with a role (system, "
                "user or assistant) and a content"
            )
        messages.append(_message(turn["role"], turn, "content", where))
    roles = [message["role"] for message in messages]
    spoken = roles[1:] if roles[0] == "system" else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise UserError(
            f"{where}: the roles are {brief(roles)}; user and assistant must take turns (a system "
            "message may stand before): the first message must not be an answer, and the last one "
            "must"
        )
    return messages
