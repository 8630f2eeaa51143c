"""The option --port of commands that serve a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from autograd.schema import Range
from npgpt.errors import UserError

Port = Annotated[int, Range(1, 2**16 - 1)]


@contextmanager
def taking(port: int | None) -> Iterator[None]:
    """Say what to do if the port cannot be taken."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--port {port}: {error.strerror}; leave out --port to take a free one"
        ) from None
