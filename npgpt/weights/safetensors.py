"""Reading safetensors files, whose tensors are mapped into memory.

A file has the length of its header (8 bytes), the header, and the values of all tensors one after
the other. The header is JSON: ``{"wte.weight": {"dtype": "F32", "shape": [65, 32], "data_offsets":
[0, 8320]}, ...}``. The file is mapped, so that a tensor's bytes are read from the disk only when
they are used.
"""

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

from autograd.escape import brief
from autograd.reading import SMALL, demand_intact, open_file, parse_json
from npgpt.errors import UserError


class Stored(Protocol):
    """A tensor in a file. Its shape is known; its values are read when `read` is called."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    def read(self, dtype: DTypeLike, transposed: bool = False) -> ndarray:
        """Return the values in a dtype, transposed if asked for.

        The array is writable. It is a copy, or a private map of the file: writing to it never
        changes the file.
        """


@dataclass(frozen=True)
class Transposed:
    """A stored matrix that is seen as its transpose."""

    stored: Stored

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self.stored.shape[::-1]

    def read(self, dtype: DTypeLike, transposed: bool = False) -> ndarray:
        """Return the values of the transpose, or of the stored matrix if `transposed`."""
        return self.stored.read(dtype, not transposed)


# SIZES has the bytes of an element of each of safetensors' types. FLOATS has the types that weights
# can have, with the dtype in which NumPy reads them. NumPy has no bfloat16; a bfloat16 is the upper
# half of a float32, so it is read as uint16 and shifted.
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2,
         "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip


FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Mapped:
    """A tensor in a safetensors file that is mapped into memory.

    Parameters
    ----------
    name : str
    kind : str
        The type in the file, such as ``F32`` or ``BF16``.
    shape : tuple of int
    buffer : mmap
        The whole file.
    start, stop : int
        The bytes of the file that hold the values.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    buffer: mmap.mmap
    start: int
    stop: int

    def read(self, dtype: DTypeLike, transposed: bool = False) -> ndarray:
        """Return the values in a dtype.

        If the file has this dtype and the matrix is not transposed, the result is a private map of
        the file. Otherwise it is a copy, and the pages of the file are given back to the system.

        Raises
        ------
        ValueError
            If the tensor has a type that a weight cannot have, such as ``BOOL``.
        """
        if self.kind not in FLOATS:
            raise ValueError(
                f"{self.name} has type {self.kind}; a weight has one of {', '.join(FLOATS)}"
            )
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
        else:
            release_pages(self.buffer, self.start, self.stop)
        return values


def release_pages(buffer: mmap.mmap, start: int, stop: int) -> None:
    """Give the pages of a tensor whose values were copied back to the system, where it can.

    Pages that hold a part of another tensor are kept: that tensor may be a parameter which was
    changed in memory.
    """
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = stop // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0 and hasattr(buffer, "madvise"):
        buffer.madvise(mmap.MADV_DONTNEED, first, length)


class Index(TypedDict):
    """The keys of ``model.safetensors.index.json``, which says which file holds each tensor."""

    weight_map: dict[str, str]


def open_safetensors(path: Path) -> dict[str, Mapped]:
    """Return the tensors of a safetensors file by their names, mapped into memory.

    No values are read, with one exception: if the file holds its own hash, as the files of npgpt
    do, the whole file is read once to check the hash (`autograd.reading.demand_intact`).

    Raises
    ------
    UserError
        If the file cannot be read, is not a safetensors file, or is damaged.
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
    """Return the tensor of one entry of a header.

    `base` is the place in the file at which the values of the first tensor begin.

    Raises
    ------
    ValueError
        If the entry is wrong, or its offsets do not have the size of its shape and type.
    """
    entry = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not name.isprintable() or len(name) > 200:
        raise ValueError(
            "the name of a tensor has at most 200 characters, all of them printable; it has a "
            f"tensor of the name {brief(name)}"
        )
    if not isinstance(kind, str) or kind not in SIZES:
        raise ValueError(f"{name} has the unknown type {brief(kind)}")
    if not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} has no valid shape and data_offsets")
    if offsets[1] - offsets[0] != math.prod(shape) * SIZES[kind]:
        raise ValueError(f"{name}: data_offsets {offsets} are not those of {kind}{shape!s:.40}")
    return Mapped(name, kind, tuple(shape), buffer, base + offsets[0], base + offsets[1])


def _is_counts(numbers: Any) -> TypeGuard[list[int]]:
    """Return whether a value from a file can be a shape: a list of whole numbers from 0 on."""
    is_short = isinstance(numbers, list) and len(numbers) <= 64  # NumPy's limit
    return is_short and all(type(n) is int and n >= 0 for n in numbers)
