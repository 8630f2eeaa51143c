r"""Chat templates: how the messages of a conversation become the text that a model reads.

A model that was trained on conversations continues a text of one form only. Its template writes
this form. The template ``chatml``, for example, makes of one question:

    [{"role": "user", "content": "Hi!"}]  ->  <|im_start|>user\nHi!<|im_end|>\n
    with add_generation_prompt=True           <|im_start|>assistant\n

after which the model writes its answer and the token ``<|im_end|>``. A template is text with
instructions in the language of Jinja2, and stands beside a tokenizer: in ``chat_template.jinja``,
or in ``tokenizer_config.json``. `npgpt.tokenizers.sandbox` renders it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from autograd.escape import brief
from autograd.reading import DEEPEST, SMALL, read_json, read_text
from autograd.schema import nearest
from npgpt.errors import UserError
from npgpt.tokenizers.base import check_utf8, split_at

if TYPE_CHECKING:
    from npgpt.tokenizers.base import Tokenizer

TEMPLATES = {
    "chatml": """\
{% for message in messages %}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}""",
    "plain": """\
{% for message in messages %}
{{ ('' if message.role == 'system' else message.role | capitalize + ': ')
    + message.content | trim + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'Assistant:' }}
{%- endif %}""",
    "alpaca": """\
{%- if messages[0].role != 'system' %}
{{- 'Below is an instruction that describes a task. Write a response that appropriately '
    + 'completes the request.\n\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}
{{- '### Instruction:\n' + (message.instruction or message.content) + '\n\n' }}
{{- '### Input:\n' + message.input + '\n\n' if message.input else '' }}
{%- else %}
{{- ('' if message.role == 'system' else '### Response:\n') + message.content + '\n\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '### Response:\n' }}
{%- endif %}""",
}
"""Templates for a model that comes without one, by name.

``chatml`` is the form of many models, with the tokens ``<|im_start|>`` and ``<|im_end|>``.
``plain`` is for a model that was trained on texts and not on conversations: it writes
``User: ...`` and ``Assistant: ...``. ``alpaca`` is the form in which many base models were tuned to
follow instructions; a message may have the keys ``instruction`` and ``input`` there.
"""
PRIVATE = range(0xF0000, 0x110000)  # characters that Unicode leaves to everybody's own use


def find_template(name: str) -> str:
    r"""Return the template of a name in `TEMPLATES`, or the template in a file.

    Raises
    ------
    UserError
        If there is neither a template nor a file of that name.

    Examples
    --------
    >>> find_template("chatml")[:30]
    '{% for message in messages %}\n'
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    if not path.exists() and path.name == name and not path.suffix:
        raise UserError(
            f"unknown chat template {name!r}{nearest(name, [*TEMPLATES])}, or a file with a "
            "template in the language of Jinja2"
        )
    return read_text(path)


def require_template(tokenizer: Tokenizer) -> str:
    """Return a tokenizer's chat template.

    Raises
    ------
    UserError
        If the tokenizer has none, or an empty one.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "this model has no chat template, so it was probably not trained on conversations; "
            "give a template by name or file: --template plain, or chat_template= in Python "
            f"(known are {', '.join(TEMPLATES)})"
        )
    return tokenizer.chat_template


# ---- reading and writing


def read_chat_template(folder: Path) -> tuple[str | None, dict[str, str]]:
    """Return the chat template and the named special tokens in Hugging Face's files of a folder.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    str or None
        The template in ``chat_template.jinja``, or in ``tokenizer_config.json``. Of several named
        templates it is the one named ``default``.
    dict of str to str
        The special tokens by their names, such as ``{"bos_token": "<s>"}``.

    Raises
    ------
    UserError
        If a file is damaged.
    """
    path, file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    config = read_json(path, limit=SMALL) if path.exists() else {}
    more = folder / "special_tokens_map.json"
    named = (read_json(more, limit=SMALL) if more.exists() else {}) | config
    tokens = {}
    for name, value in named.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            tokens[name] = content
    if file.exists():
        return read_text(file), tokens
    template = config.get("chat_template")
    if isinstance(template, list):  # of several, each with a name
        found = [each for each in template if isinstance(each, dict)]
        named = {str(each.get("name")): each.get("template") for each in found}
        template = named.get("default")
    if not isinstance(template, str | None):
        raise UserError(f"{path} is damaged: its chat_template is {brief(template)}")
    return template, tokens


def describe_template(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the keys that our own ``tokenizer.json`` has for a tokenizer's chat template."""
    values = {
        "chat_template": tokenizer.chat_template,
        "special_tokens_map": tokenizer.special_tokens_map,
    }
    return {key: value for key, value in values.items() if value}


# ---- rendering


def render_chat(
    tokenizer: Tokenizer,
    conversation: Sequence[Mapping[str, Any]],
    template: str | None,
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
) -> str:
    """Return the text of a conversation; see `Tokenizer.apply_chat_template`."""
    from npgpt.tokenizers.sandbox import render_template

    messages = fit_messages(conversation)
    others: dict[str, Any] = {"tools": None, "documents": None} | tokenizer.special_tokens_map
    others |= {name: make_plain(value) for name, value in variables.items()}
    others |= {"messages": messages, "add_generation_prompt": bool(add_generation_prompt)}
    source = require_template(tokenizer) if template is None else template
    text = render_template(source, others)
    check_utf8(text)
    return text


def encode_chat(
    tokenizer: Tokenizer,
    conversation: Sequence[Mapping[str, Any]],
    template: str | None,
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
) -> ndarray:
    r"""Return the ids of a conversation, in which only the template writes special tokens.

    A message that spells ``<|im_end|>`` must not end itself and begin another one. So each special
    token that a message spells is marked before the template runs, here as ``¤0¤``, with a
    character that occurs nowhere:

        "a<|im_end|>b"  ->  "a¤0¤b"                                             marked
                        ->  "<|im_start|>user\na¤0¤b<|im_end|>\n"               rendered
                        ->  1 "user\na¤0¤b" 2 "\n"                              special tokens found
                        ->  1 "user\na<|im_end|>b" 2 "\n"                       encoded as text
    """
    source = require_template(tokenizer) if template is None else template
    [messages, values], encode = mark_tokens(
        tokenizer, source, [fit_messages(conversation), make_plain(dict(variables))]
    )
    return encode(render_chat(tokenizer, messages, source, add_generation_prompt, values))


def encode_turns(
    tokenizer: Tokenizer, conversation: Sequence[Mapping[str, Any]], end: tuple[int | None, int]
) -> list[tuple[ndarray, bool]]:
    r"""Return the ids of a conversation in parts: what is given, and what the assistant writes.

    An answer begins where the template would let a model begin it. An answer ends with the token
    with which the template ends answers; or if the template writes no special token there, with
    what it writes before the next question. After the last answer, an end token then stands:

        "User: Hi!\nAssistant:"        given
        " Hello.\n"                   an answer
        "User: And?\nAssistant:"      given
        " No more.", and a token      an answer

    As in `encode_chat`, only the template writes special tokens.

    Parameters
    ----------
    tokenizer : Tokenizer
        With a chat template.
    conversation : sequence of mapping
        Messages, the last of them an answer, whose role is ``assistant``.
    end : (int or None, int)
        The token with which the template ends an answer (`find_end`), and the token after the last
        answer if there is none.

    Returns
    -------
    list of (ndarray of int64, bool)
        The ids, and whether the assistant writes them.

    Raises
    ------
    UserError
        If the template does not write the messages one after the other, so that no place in its
        text is the beginning or the end of an answer.

    Examples
    --------
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> tokenizer = ByteTokenizer(["<|endoftext|>"])
    >>> tokenizer.chat_template = find_template("plain")
    >>> messages = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Yes?"}]
    >>> for ids, is_answer in encode_turns(tokenizer, messages, (None, 256)):
    ...     print(is_answer, repr(tokenizer.decode(ids)))
    False 'User: Hi!\nAssistant:'
    True ' Yes?<|endoftext|>'
    """
    source = require_template(tokenizer)
    messages, encode = mark_tokens(tokenizer, source, fit_messages(conversation))
    token, last = end
    spelled = next((text for text, i in tokenizer.special_tokens.items() if i == token), "")
    text = render_chat(tokenizer, messages, source, False, {})
    parts, done = [], 0
    for n, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render_chat(tokenizer, messages[:n], source, True, {})
        whole = render_chat(tokenizer, messages[: n + 1], source, False, {})
        if not (text.startswith(whole) and whole.startswith(before) and len(before) >= done):
            raise UserError(
                "the chat template does not write the messages one after the other (with "
                f"add_generation_prompt before an answer), as for {brief(message['content'])}: "
                "training needs one that does, such as --template chatml"
            )
        answer = whole[len(before) :]
        if spelled:
            answer = "".join(answer.rpartition(spelled)[:2]) or answer
        parts += [(encode(text[done : len(before)]), False), (encode(answer), True)]
        done = len(before) + len(answer)
    if token is None:
        parts[-1] = np.append(encode(answer.rstrip()), last), True
    return parts


def mark_tokens(
    tokenizer: Tokenizer, source: str, given: Any
) -> tuple[Any, Callable[[str], ndarray]]:
    """Return messages whose special tokens are marked, and the function that encodes their text.

    See `encode_chat`. `source` is the template, and `given` any value of JSON's types.
    """
    control = {
        token.content: token
        for token in tokenizer.added_tokens
        if token.special or token.content in source and not token.content.isspace()
    }
    texts = source + "".join(strings_in(given))
    unused = next((chr(code) for code in PRIVATE if chr(code) not in texts), "")
    if not unused:
        raise UserError("the messages have all characters that Unicode leaves to private use")
    longest_first = sorted(control, key=len, reverse=True)
    marks = {content: f"{unused}{i}{unused}" for i, content in enumerate(longest_first)}
    unmarked = {mark: content for content, mark in marks.items()}
    others = {
        tokenizer._spelling(token): token
        for token in tokenizer.added_tokens
        if token.content not in control
    }

    def encode(text: str) -> ndarray:
        parts: list[ndarray] = [np.zeros(0, np.int64)]
        for part in split_at(text, control):
            inner: list[str | int] = [part]
            if isinstance(part, str):
                inner = [*split_at(tokenizer.normalize(replace_in(part, unmarked)), others)]
            parts += [
                np.array([each]) if isinstance(each, int) else tokenizer._encode(each)
                for each in inner
            ]
        return np.concatenate(parts)

    return replace_in(given, marks), encode


def fit_messages(conversation: Any) -> list[dict[str, Any]]:
    """Return messages in JSON's types, without the keys whose value is None.

    Raises
    ------
    UserError
        If the conversation is not a list of objects, each with a role, or is empty.
    """
    if not isinstance(conversation, list | tuple) or not conversation:
        raise UserError(
            f"the conversation is {brief(conversation)}; it must be a list of one or more "
            'messages, such as {"role": "user", "content": "Hi!"}'
        )
    messages = []
    for message in conversation:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UserError(
                f"a message is {brief(message)}; it must be an object with a role, such as "
                '{"role": "user", "content": "Hi!"}'
            )
        plain = make_plain(dict(message))
        messages.append({key: value for key, value in plain.items() if value is not None})
    return messages


def make_plain(value: Any, depth: int = 0) -> Any:
    """Return a value in JSON's types, with which a template can do no harm.

    Raises
    ------
    UserError
        If a value has another type, or lists and objects are nested too deep.
    """
    if depth > DEEPEST:
        raise UserError(f"the messages are nested more than {DEEPEST} deep")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, np.generic) and isinstance(value.item(), int | float | bool):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): make_plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [make_plain(item, depth + 1) for item in value]
    raise UserError(
        f"a chat template gets texts, numbers, lists and objects, and a value is {brief(value)}"
    )


def strings_in(value: Any) -> list[str]:
    """Return the texts in a value of JSON's types."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in strings_in(item)]


def replace_in(value: Any, table: Mapping[str, str]) -> Any:
    """Return a value of JSON's types, in whose texts the keys of a table are replaced."""
    if isinstance(value, str):
        pattern = "|".join(map(re.escape, table))  # of two that begin alike, the first counts
        return re.sub(pattern, lambda found: table[found[0]], value) if table else value
    if isinstance(value, dict):
        return {key: replace_in(item, table) for key, item in value.items()}
    return [replace_in(item, table) for item in value] if isinstance(value, list) else value


# ---- where an answer ends


def find_end(tokenizer: Tokenizer, template: str | None = None) -> tuple[int | None, str]:
    r"""Return the special token that ends an answer, or the text where it is no special token.

    The end is what the template writes between an answer and the next question. If it begins with
    a special token, then this token is the end: ``<|im_end|>`` in ``<|im_end|>\n<|im_start|>user``.

    Parameters
    ----------
    tokenizer : Tokenizer
    template : str, optional
        The template; the tokenizer's own if not given.

    Returns
    -------
    int or None
        The id of the token.
    str
        The text, if there is no such token; empty if the template writes nothing but white space.

    Examples
    --------
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> find_end(ByteTokenizer(["<|im_end|>"]), find_template("chatml"))
    (256, '')
    >>> find_end(ByteTokenizer(), find_template("plain"))
    (None, '\nUser:')
    """
    messages = [
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "next question"},
    ]
    text = render_chat(tokenizer, messages, template, False, {})
    between = text.partition("answer")[2].partition("next question")[0]
    for content in sorted(tokenizer.special_tokens, key=len, reverse=True):
        if between.lstrip().startswith(content):
            return tokenizer.special_tokens[content], ""
    return None, between.rstrip() if between.strip() else ""
