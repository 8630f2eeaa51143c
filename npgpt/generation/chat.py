"""Conversations with a model: `Chat`, which keeps the history and the cache between answers."""

from __future__ import annotations

import bisect
import dataclasses
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from numpy import ndarray

from autograd import no_grad
from autograd.escape import brief
from autograd.files import write_json
from autograd.reading import SMALL, read_json
from npgpt.errors import UserError
from npgpt.generation import check_prompts, resolve_options
from npgpt.generation.reader import Reader, window_step
from npgpt.generation.search import Continuation, Sampling
from npgpt.models.cache import KVCache
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.say import say
from npgpt.tokenizers.base import StreamDecoder, Tokenizer
from npgpt.tokenizers.templates import find_end, require_template

# of what is neither given nor in the model's generation_config.json
DEFAULTS = {"max_new_tokens": 512, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
NONE_HERE = (  # options of `npgpt.generate` that a conversation does not have
    "max_length", "min_length", "num_beams", "num_return_sequences", "length_penalty",
    "early_stopping", "forced_bos_token_id", "forced_eos_token_id",
)  # fmt: skip


class Message(TypedDict):
    """A message of a file."""

    role: Literal["system", "user", "assistant"]
    content: str


class Chat:
    r"""A conversation with a model.

    A turn is a question and its answer. For each answer the tokenizer's chat template writes the
    whole conversation as one text, and the model continues it. The keys and values of tokens that
    the model has read before are kept, so that only new tokens are read; the answers are the same
    as without them.

    A text that grows longer than the model's context does not fit. Before this happens, the oldest
    turns are left out of what the model reads, and a note on standard error says so. Room for an
    answer is a quarter of the context, or `max_new_tokens` if that is less. When a conversation and
    this room exceed the context by some tokens, so many of the oldest turns are left out as hold
    these tokens, rounded up to a quarter of the context. So the model does not have to read the
    conversation again at each turn, but when another quarter of the context is full. The system
    prompt and the question always stay. `messages` keeps all turns.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
        With a `chat_template`, unless one is given.
    system : str, optional
        The system prompt: what the model is told before the conversation begins. If not given, the
        template says what stands there.
    chat_template : str, optional
        The template to use in place of the tokenizer's, see `npgpt.tokenizers.templates`.
    **options
        Options of `npgpt.generate` that concern one text. An option that is neither given nor in
        ``model.generation_config`` is: ``max_new_tokens=512, do_sample=True, temperature=0.7,
        top_p=0.9``. With a `seed`, the same conversation gets the same answers.

    Attributes
    ----------
    system : str or None
        The system prompt; a change counts from the next answer on.
    turns : list of (str, str)
        The questions and their answers, without those that were undone.
    last : Continuation or None
        The tokens of the last answer, and why it ended.
    n_forgotten : int
        The number of turns that were left out of what the model has read for its last answer.

    Raises
    ------
    UserError
        If there is no template, the template is wrong, or an option is unknown or out of range.

    Examples
    --------
    >>> from npgpt import GPT, Chat, GPTConfig
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> from npgpt.tokenizers.templates import find_template
    >>> model = GPT(GPTConfig(vocab_size=256, n_positions=256, n_embd=16, n_layer=2, n_head=2))
    >>> chat = Chat(model, ByteTokenizer(), chat_template=find_template("plain"), max_new_tokens=4)
    >>> answer = chat.say("Who are you?")
    >>> for piece in chat.stream("And who am I?"):
    ...     print(end=piece and "")
    >>> [message["role"] for message in chat.messages]
    ['user', 'assistant', 'user', 'assistant']
    >>> chat.undo()
    'And who am I?'
    >>> chat.turns == [("Who are you?", answer)]
    True
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        system: str | None = None,
        *,
        chat_template: str | None = None,
        **options: Any,
    ) -> None:
        for name in NONE_HERE:
            if options.get(name) is not None:
                raise UserError(
                    f"a chat has no option {name!r}: it writes one answer, as the tokens come; "
                    "max_new_tokens limits its length"
                )
        self.model, self.tokenizer, self.system = model, tokenizer, system
        self.chat_template = chat_template or require_template(tokenizer)
        given = options | dict.fromkeys(NONE_HERE)  # None: neither those of the model's own files
        resolved = resolve_options(model, given, tokenizer, DEFAULTS)
        token, text = find_end(tokenizer, self.chat_template)
        ends = [] if token is None or token >= model.config.vocab_size else [token]
        self.options = dataclasses.replace(
            resolved,
            eos_token_id=[*resolved.eos, *ends],
            stop_strings=(*resolved.stop_strings, *([text] if text else [])),
        )
        self.turns: list[tuple[str, str]] = []
        self.last: Continuation | None = None
        self.n_forgotten = 0
        self._cache: KVCache | None = None
        self._read = np.zeros(0, np.int64)  # the tokens whose keys and values are in the cache

    # ---- the conversation

    @property
    def messages(self) -> list[dict[str, str]]:
        """The system prompt, if there is one, and all questions and answers, oldest first."""
        return self._messages(0)

    def _messages(self, first: int) -> list[dict[str, str]]:
        """Return the messages from the turn `first` on, after the system prompt."""
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        for question, answer in self.turns[first:]:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return messages

    def say(self, text: str) -> str:
        """Return the answer to a message; both become a turn.

        Raises
        ------
        UserError
            If the message is empty, or too long for the model's context.
        """
        return "".join(self.stream(text))

    def stream(self, text: str) -> Generator[str, None, None]:
        """Yield the answer to a message piece by piece, as the model writes the answer.

        The message and the answer become a turn when the answer has ended. If the caller stops
        before that, by Ctrl-C for example, the turn has as much of the answer as was yielded;
        without any of it, there is no turn.

        Raises
        ------
        UserError
            If the message is empty, or too long for the model's context.
        """
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"the message is {brief(text)}; it must be a text that is not empty")
        ids, n_forgotten = self._prompt(text)
        if n_forgotten > self.n_forgotten:
            say(
                f"note: the conversation is longer than the model's context of "
                f"{self.model.config.n_positions:,} tokens; the model no longer sees the oldest "
                f"{n_forgotten} of {len(self.turns)} turns",
                sys.stderr,
            )
        self.n_forgotten = n_forgotten
        search = self._start(ids)
        self.last = found = search.found[0]
        answer: list[str] = []
        is_whole = False  # whether the cache holds what the reader says
        try:
            decoder = StreamDecoder(self.tokenizer, skip_special_tokens=True)
            cutter = Cutter(self.options.stop_strings)
            steps = search.steps()
            while not cutter.done:
                is_whole = False
                with no_grad(), evaluating():  # not around the yield, where the caller goes on
                    chosen = next(steps, None)
                is_whole = True
                piece = decoder.end() if chosen is None else decoder.put(chosen)
                piece = cutter.put(piece) + (cutter.end() if chosen is None else "")
                if piece:
                    answer.append(piece)
                    yield piece
                if chosen is None:
                    break
            if cutter.done:
                found.finish_reason = "stop_string"
        finally:
            if answer or found.finish_reason:
                self.turns.append((text, "".join(answer)))
            found.finish_reason = found.finish_reason or "interrupted"
            reader = search.reader
            if is_whole and reader.cache is not None:
                self._cache, self._read = reader.cache, reader.ids[0, : reader.cache.length]

    def reset(self) -> None:
        """Forget all turns; the system prompt stays."""
        self.turns, self.last, self.n_forgotten = [], None, 0

    def undo(self) -> str:
        """Forget the last turn, and return its question.

        Raises
        ------
        UserError
            If there is no turn.
        """
        if not self.turns:
            raise UserError("there is no turn to undo")
        question, _ = self.turns.pop()
        self.last = None
        return question

    # ---- files

    def save(self, path: str | Path) -> None:
        """Write `messages` to a JSON file."""
        write_json(path, self.messages, indent=1)

    def load(self, path: str | Path) -> None:
        """Go on with the messages of a JSON file, as `save` writes it, in place of the present.

        Raises
        ------
        UserError
            If the file cannot be read, or its messages do not alternate between user and assistant,
            after a system prompt if there is one.
        """
        system, turns = read_turns(path)
        self.reset()
        self.system, self.turns = system, turns

    # ---- reading

    def _prompt(self, text: str) -> tuple[ndarray, int]:
        """Return the ids of the conversation with a question, and how many turns are left out."""
        n_positions = self.model.config.n_positions
        room = min(self._most_new(), max(1, n_positions // 4))
        ids = self._encode(text, 0)
        first = 0
        if (excess := len(ids) + room - n_positions) > 0:
            step = window_step(n_positions)
            aim = len(ids) - -(-excess // step) * step
            turns = range(len(self.turns))
            first = bisect.bisect_left(turns, True, key=lambda i: len(self._encode(text, i)) <= aim)
            ids = self._encode(text, first)
        if not len(ids):
            raise UserError(
                "the chat template makes no token of these messages; give another template, with "
                "--template, or chat_template= in Python"
            )
        if len(ids) >= n_positions:
            raise UserError(
                f"the message has {len(ids):,} tokens, with the system prompt and what the "
                f"template adds, and the model's context has room for {n_positions - 1:,}; "
                "shorten the message"
            )
        return ids, first

    def _most_new(self) -> int:
        """Return how many tokens an answer may have."""
        most = self.options.max_new_tokens
        return self.model.config.n_positions if most is None else most

    def _encode(self, text: str, first: int) -> ndarray:
        messages = [*self._messages(first), {"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, add_generation_prompt=True,
            sanitize_control_tokens=True,
        )  # fmt: skip

    def _start(self, ids: ndarray) -> Sampling:
        """Return the search for an answer, with the cache as far as it holds the same tokens."""
        check_prompts(ids, None, self.model.config.vocab_size)
        n_positions = self.model.config.n_positions
        seed = self.options.seed
        options = dataclasses.replace(
            self.options,
            max_new_tokens=min(self._most_new(), n_positions - len(ids)),
            seed=None if seed is None else seed + len(self.turns),
        )
        cache, self._cache = self._cache, None  # so that another stream does not write to it
        if options.use_cache:
            cache = cache or KVCache(n_positions)
            n = min(len(ids) - 1, len(self._read))
            differs = np.flatnonzero(ids[:n] != self._read[:n])
            cache.length = min([cache.length, n, *differs[:1].tolist()])
        reader = Reader(self.model, [ids], n_positions, options.use_cache, cache)
        return Sampling(reader, options, [ids], self.tokenizer)


class Cutter:
    r"""Passes a text on, piece by piece, up to the first stop string.

    The end of a text that may be the beginning of a stop string is kept until more has come.

    Examples
    --------
    >>> cutter = Cutter(["\nUser:"])
    >>> [cutter.put(piece) for piece in ("one\n", "two\nUs", "er: three")], cutter.done
    (['one', '\ntwo', ''], True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.kept, self.done = stops, "", False

    def put(self, piece: str) -> str:
        """Return what can be shown after another piece."""
        if self.done:
            return ""
        text = self.kept + piece
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.kept, self.done = "", True
            return text[: min(found)]
        longest = max(map(len, self.stops), default=1) - 1
        kept = next(
            n
            for n in range(min(longest, len(text)), -1, -1)
            if not n or any(stop.startswith(text[-n:]) for stop in self.stops)
        )
        self.kept = text[len(text) - kept :]
        return text[: len(text) - kept]

    def end(self) -> str:
        """Return what was kept, at the end of the text."""
        kept, self.kept = self.kept, ""
        return kept


def read_turns(path: str | Path) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the system prompt and the turns in a JSON file of messages; see `Chat.load`."""
    messages = read_json(path, list[Message], SMALL)
    system = None
    if messages and messages[0]["role"] == "system":
        system = messages[0]["content"]
        messages = messages[1:]
    roles = [message["role"] for message in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise UserError(
            f"{path} is no saved chat: after a system prompt, if there is one, messages of a user "
            "and of an assistant must alternate, and the last must be an answer"
        )
    contents = [message["content"] for message in messages]
    return system, [*zip(contents[::2], contents[1::2], strict=True)]
