"""Streamers: objects that receive each token as soon as it is chosen.

The protocol is that of transformers, so a streamer of transformers works here.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy import ndarray

from npgpt.say import say_text
from npgpt.tokenizers.base import StreamDecoder, Tokenizer


class Streamer(Protocol):
    """An object that `npgpt.generate` calls for the prompt, for each new token, and at the end."""

    def put(self, value: ndarray) -> None:
        """Receive the prompt, (1, T), in the first call, and then each new token, (1,)."""

    def end(self) -> None:
        """Learn that the text has ended."""


class TextStreamer:
    """Print a text while it is generated, in whole characters.

    Parameters
    ----------
    tokenizer : Tokenizer
    skip_prompt : bool
        Whether to leave the prompt out, and to print only the new text.
    **decode_kwargs
        Arguments of `StreamDecoder`, such as ``skip_special_tokens=True``.

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
        """Print the text that these tokens, (T,) or (1, T), add."""
        at_prompt, self._at_prompt = self._at_prompt, False
        if at_prompt and self.skip_prompt:
            return
        if text := self._decoder.put(np.reshape(value, -1)):
            self.on_finalized_text(text, False)

    def end(self) -> None:
        """Print the rest of the text, and a newline."""
        self.on_finalized_text(self._decoder.end(), True)
        self._restart()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print a piece of text.

        Override this method to do something else with the pieces.

        Parameters
        ----------
        text : str
        stream_end : bool
            Whether this is the last piece.
        """
        say_text(text, end="\n" if stream_end else "")
