"""Tensors in files, read without loading them."""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeGuard

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from autograd.reading import SMALL, open_file, parse_json
from npgpt.errors import UserError
from npgpt.files import (
    demand_intact,
)


class Stored(Protocol):
    """A tensor in a file: its shape is known, its values are read on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    def read(self, dtype: DTypeLike, transposed: bool = False) -> ndarray:
        """Return the values: a writable array of its own, or a private map of the file."""


@dataclass(frozen=True)
class Transposed:
    """A matrix that is stored the other way round."""

    stored: Stored

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self.stored.shape[::-1]

    def read(self, dtype: DTypeLike, transposed: bool = False) -> ndarray:
        """Return the values."""
        return self.stored.read(dtype, not transposed)


# Sizes of safetensors' types in bytes, and those that can be weights as NumPy reads them; NumPy has
# no bfloat16, which is the upper half of a float32.
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2,
         "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip


FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Mapped:
    """A tensor in a safetensors file that is mapped into memory."""

    name: str
    kind: str  # F32, BF16, ...
    shape: tuple[int, ...]
    buffer: mmap.mmap
    start: int
    stop: int

    def read(self, dtype: DTypeLike, transposed: bool = False) -> ndarray:
        """Return the values: float32 mapped from the file, what must be converted copied."""
        if self.kind not in FLOATS:
            raise ValueError(f"{self.name} has type {self.kind}, which no weight has")
        raw = np.frombuffer(self.buffer, FLOATS[self.kind], math.prod(self.shape), self.start)
        values = raw
        if self.kind == "BF16":
            wide = raw.astype(np.uint32)
            wide <<= 16
            values = wide.view(np.float32)
        values = values.astype(dtype, copy=False).reshape(self.shape)
        if transposed:
            values = np.ascontiguousarray(values.T)
        if np.may_share_memory(values, raw):
            if not values.flags.aligned or os.name == "nt":  # Windows locks a file that is mapped
                values = values.copy()
        elif hasattr(self.buffer, "madvise"):  # the pages behind a copy need not stay in memory
            first = -(-self.start // mmap.PAGESIZE) * mmap.PAGESIZE
            if self.stop > first:
                self.buffer.madvise(mmap.MADV_DONTNEED, first, self.stop - first)
        return values


class Index(TypedDict):
    """``model.safetensors.index.json``: which file holds each tensor."""

    weight_map: dict[str, str]


def open_safetensors(path: Path) -> dict[str, Mapped]:
    """Return the tensors of a safetensors file, mapped into memory.

    Where the file holds its hash (`npgpt.files.demand_intact`), the file is read once for that;
    otherwise no tensor is read.
    """
    with open_file(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                raise ValueError("it has no header")
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, SMALL):
                raise ValueError(f"its header of {length} bytes does not fit its {size}")
            header = parse_json(file.read(length), "its header")
            if not isinstance(header, dict):
                raise ValueError("its header is no JSON object")
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            header.pop("__metadata__", None)
            tensors = {
                name: _tensor(name, entry, buffer, 8 + length) for name, entry in header.items()
            }
            stop = 8 + length
            for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.stop)):
                if tensor.start != stop:
                    raise ValueError(f"{tensor.name} does not begin where the one before it ends")
                stop = tensor.stop
            if stop != size:
                raise ValueError(f"its tensors need {stop} bytes, and it has {size}")
        except ValueError as error:
            raise UserError(f"{path} is damaged, or no safetensors file: {error}") from None
        demand_intact(file, path)
    return tensors


def _tensor(name: str, entry: Any, buffer: mmap.mmap, base: int) -> Mapped:
    """Check one entry of a header, that of a file whose data begins at `base`."""
    entry = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not name.isprintable() or len(name) > 200:
        raise ValueError(f"it has a tensor of the name {name!r:.40}")
    if not isinstance(kind, str) or kind not in SIZES:
        raise ValueError(f"{name} has the unknown type {kind!r:.40}")
    if not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} has no valid shape and data_offsets")
    if offsets[1] - offsets[0] != math.prod(shape) * SIZES[kind]:
        raise ValueError(f"{name}: data_offsets {offsets} are not those of {kind}{shape!s:.40}")
    return Mapped(name, kind, tuple(shape), buffer, base + offsets[0], base + offsets[1])


def _is_counts(numbers: Any) -> TypeGuard[list[int]]:
    """Return whether something from a file can be a shape."""
    is_short = isinstance(numbers, list) and len(numbers) <= 64  # NumPy's limit
    return is_short and all(type(n) is int and n >= 0 for n in numbers)
