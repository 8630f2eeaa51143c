"""Text as it is written: transformers' streamer protocol."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy import ndarray

from npgpt.say import say_text
from npgpt.tokenizers.base import StreamDecoder, Tokenizer


class Streamer(Protocol):
    """What is told of every token as it is chosen."""

    def put(self, value: ndarray) -> None:
        """Take the prompt, (1, T), and then each new token, (1,)."""

    def end(self) -> None:
        """Learn that no more come."""


class TextStreamer:
    """Print a text while it is written, whole characters only.

    Parameters
    ----------
    tokenizer : Tokenizer
    skip_prompt : bool
        Print what is new only.
    **decode_kwargs
        For `StreamDecoder`, as ``skip_special_tokens=True``.

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt.generation import TextStreamer
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> pieces = []
    >>> streamer = TextStreamer(ByteTokenizer())
    >>> streamer.on_finalized_text = lambda text, stream_end: pieces.append(text)
    >>> for byte in "天!".encode():
    ...     streamer.put(np.array([byte]))
    >>> pieces
    ['天', '!']
    """

    def __init__(
        self, tokenizer: Tokenizer, skip_prompt: bool = False, **decode_kwargs: Any
    ) -> None:
        self.tokenizer, self.skip_prompt = tokenizer, skip_prompt
        self.decode_kwargs = decode_kwargs
        self._restart()

    def _restart(self) -> None:
        self._decoder = StreamDecoder(self.tokenizer, **self.decode_kwargs)
        self._at_prompt = True

    def put(self, value: ndarray) -> None:
        """Print what these tokens add."""
        at_prompt, self._at_prompt = self._at_prompt, False
        if at_prompt and self.skip_prompt:
            return
        if text := self._decoder.put(np.reshape(value, -1)):
            self.on_finalized_text(text, False)

    def end(self) -> None:
        """Print the rest, and a newline."""
        self.on_finalized_text(self._decoder.end(), True)
        self._restart()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print a piece; to do something else with it, override this."""
        say_text(text, end="\n" if stream_end else "")
