"""GGUF files, the format of llama.cpp: reading, where tensors are mapped into memory, and writing.

A file has four parts, all little-endian:

    start      b"GGUF", the version, the number of tensors, the number of metadata entries
    metadata   for each entry: a key, a type, and a value: a number, a text, or an array of these
    tensors    for each tensor: a name, a shape, the number of its type, the place of its values
    values     those of all tensors, each at a multiple of the alignment

Most weights are *quantized*: rows are cut into blocks of 32 values, and a block is stored as a
scale and 32 small integers. For example, a block of Q4_1 has 20 bytes: the scale d and the minimum
m in float16, and 32 integers q from 0 to 15, two in a byte. Its values are d * q + m. `Packed`
gives the blocks as they are stored, or their values in floating point.

The format is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from autograd.escape import brief
from autograd.files import replacing
from autograd.reading import MIB, open_file
from npgpt.errors import UserError
from npgpt.weights.safetensors import FLOATS, Mapped, Stored, release_pages

VERSIONS = (2, 3)
LARGEST_HEADER = 32 * MIB  # a vocabulary of 260,000 tokens with its merges needs a third
MOST_ENTRIES = 2**14  # of metadata, and of tensors
MOST_AXES = 4
LONGEST_NAME = 200

# ---- quantized values


def decode_q4_0(blocks: ndarray) -> ndarray:
    """Return d * (q - 8), (..., 32) of blocks (...); byte i has the integers i and i + 16."""
    values = _nibbles(blocks)
    values -= 8
    values *= _scale(blocks["d"])
    return values


def decode_q4_1(blocks: ndarray) -> ndarray:
    """Return d * q + m, (..., 32) of blocks (...); byte i has the integers i and i + 16.

    Examples
    --------
    >>> block = np.zeros((), QUANTIZED["Q4_1"].block)
    >>> block["d"], block["m"], block["q"][0] = 0.5, 1, 0x32
    >>> decode_q4_1(block)[[0, 1, 16]]
    array([2. , 1. , 2.5], dtype=float32)
    """
    values = _nibbles(blocks)
    values *= _scale(blocks["d"])
    values += _scale(blocks["m"])
    return values


def decode_q8_0(blocks: ndarray) -> ndarray:
    """Return d * q, (..., 32) of blocks (...)."""
    values = blocks["q"].astype(np.float32)
    values *= _scale(blocks["d"])
    return values


def encode_q4_0(values: ndarray, blocks: ndarray) -> None:
    """Fill blocks (...) with values (..., 32): the largest without sign becomes q = 0."""
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=-1)[..., None], axis=-1)
    blocks["d"], inverse = _divisor(largest / -8)
    _fill_nibbles(blocks, values * inverse + 8.5)


def encode_q4_1(values: ndarray, blocks: ndarray) -> None:
    """Fill blocks (...) with values (..., 32): q is 0 for the least, and 15 for the greatest.

    Examples
    --------
    >>> block = np.zeros((), QUANTIZED["Q4_1"].block)
    >>> encode_q4_1(np.arange(32, dtype=np.float32) % 16, block)
    >>> decode_q4_1(block)[[0, 1, 15, 16]]
    array([ 0.,  1., 15.,  0.], dtype=float32)
    """
    least = values.min(axis=-1, keepdims=True)
    blocks["d"], inverse = _divisor((values.max(axis=-1, keepdims=True) - least) / 15)
    blocks["m"] = least[..., 0]
    _fill_nibbles(blocks, (values - least) * inverse + 0.5)


def encode_q8_0(values: ndarray, blocks: ndarray) -> None:
    """Fill blocks (...) with values (..., 32): q is 127 or -127 for the largest without sign."""
    blocks["d"], inverse = _divisor(np.abs(values).max(axis=-1, keepdims=True) / 127)
    scaled = values * inverse
    blocks["q"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))  # halves go away from 0


def _divisor(scale: ndarray) -> tuple[ndarray, ndarray]:
    """Return the scale of each block, and what its values are multiplied with, (..., 1)."""
    inverse = np.zeros_like(scale)
    np.divide(1, scale, out=inverse, where=scale != 0)
    return scale[..., 0], inverse


def _fill_nibbles(blocks: ndarray, values: ndarray) -> None:
    """Store 32 numbers as integers from 0 to 15, which are their whole parts."""
    whole = np.clip(np.trunc(values), 0, 15).astype(np.uint8)
    blocks["q"] = whole[..., :16] | whole[..., 16:] << 4


def _nibbles(blocks: ndarray) -> ndarray:
    """Return the 32 integers of each block: the lower halves of 16 bytes, then the upper halves.

    For example, the bytes 0x21, 0x43 and 14 zeros are 1, 3, 14 zeros, 2, 4, 14 zeros.
    """
    values = np.empty((*blocks.shape, 32), np.float32)
    np.bitwise_and(blocks["q"], 15, out=values[..., :16], casting="unsafe")
    np.right_shift(blocks["q"], 4, out=values[..., 16:], casting="unsafe")
    return values


def _scale(numbers: ndarray) -> ndarray:
    """Return the float16 number of each block as float32, with an axis for the block's values."""
    return numbers.astype(np.float32)[..., None]


@dataclass(frozen=True)
class Quantization:
    """How 32 values are stored in a block.

    Parameters
    ----------
    block : dtype
        The fields of a block: ``d``, for Q4_1 also ``m``, and the integers ``q``.
    decode : callable
        Returns the values of blocks in float32, (...) -> (..., 32).
    encode : callable
        Fills blocks (...) with values of float32, (..., 32), as llama.cpp does.
    """

    block: np.dtype
    decode: Callable[[ndarray], ndarray]
    encode: Callable[[ndarray, ndarray], None]


BLOCK = 32  # values of a block
SCALE, HALVES = ("d", "<f2"), ("q", "u1", 16)
QUANTIZED = {
    "Q4_0": Quantization(np.dtype([SCALE, HALVES]), decode_q4_0, encode_q4_0),
    "Q4_1": Quantization(np.dtype([SCALE, ("m", "<f2"), HALVES]), decode_q4_1, encode_q4_1),
    "Q8_0": Quantization(np.dtype([SCALE, ("q", "i1", 32)]), decode_q8_0, encode_q8_0),
}


def type_of_rows(n: int, kind: str) -> str:
    """Return the type of a matrix with rows of n numbers, if it is to have a type.

    Rows that cannot be cut into blocks are of type F16.

    Examples
    --------
    >>> type_of_rows(64, "Q4_0"), type_of_rows(65, "Q4_0"), type_of_rows(65, "F32")
    ('Q4_0', 'F16', 'F32')
    """
    return "F16" if kind in QUANTIZED and n % BLOCK else kind


def encode_rows(rows: ndarray, kind: str) -> ndarray:
    """Return the blocks of rows (..., N), as (..., N / 32), for a type of `QUANTIZED`."""
    values = np.ascontiguousarray(rows, np.float32).reshape(*rows.shape[:-1], -1, BLOCK)
    blocks = np.empty(values.shape[:-1], QUANTIZED[kind].block)
    QUANTIZED[kind].encode(values, blocks)
    return blocks


PLAIN = {"F32": 4, "F16": 2, "BF16": 2}  # types that are not quantized, and the bytes of a value
# The names of types by their numbers in a file; a dot is a number that is not used any more.
TYPES = (
    "F32 F16 Q4_0 Q4_1 . . Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS "
    "IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16"
).split()


@dataclass(frozen=True)
class Packed:
    """A quantized matrix in a GGUF file that is mapped into memory.

    Parameters
    ----------
    name : str
    kind : str
        The type in the file, a key of `QUANTIZED`.
    shape : tuple of int
        Of the values; the length of the last axis is a multiple of 32.
    buffer : mmap
        The whole file.
    start, stop : int
        The bytes of the file that hold the blocks.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    buffer: mmap.mmap
    start: int
    stop: int

    def blocks(self) -> ndarray:
        """Return the blocks as they are stored, without a copy.

        Returns
        -------
        ndarray, (..., in / 32)
            Of the dtype `Quantization.block`, so that ``blocks["d"]`` are the scales.
        """
        shape = (*self.shape[:-1], self.shape[-1] // BLOCK)
        kind = QUANTIZED[self.kind].block
        return np.frombuffer(self.buffer, kind, math.prod(shape), self.start).reshape(shape)

    def read(self, dtype: DTypeLike, transposed: bool = False) -> ndarray:
        """Return the values in a dtype; the pages of the file are given back to the system."""
        with np.errstate(invalid="ignore", over="ignore"):  # a scale may be infinite, or no number
            values = QUANTIZED[self.kind].decode(self.blocks())
        values = values.astype(dtype, copy=False).reshape(self.shape)
        release_pages(self.buffer, self.start, self.stop)
        return np.ascontiguousarray(values.T) if transposed else values


@dataclass(frozen=True)
class SplitHeads:
    """A stored matrix of queries or keys, whose rows are put in the order of Hugging Face's files.

    Rotary positions turn pairs of channels. In a file of Hugging Face, a pair has a channel of the
    first half of a head, and a channel of the second. In a GGUF file, the two are neighbours. For a
    head of 6 channels, the rows of the file are the channels 0 3 1 4 2 5.

    Parameters
    ----------
    stored : Stored
        The weight (out, in), or the bias (out,).
    n_head : int
        The number of heads, of which the number of rows is a multiple.
    """

    stored: Stored
    n_head: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self.stored.shape

    def order(self) -> ndarray:
        """Return the place in the file of each row, (out,): 0 2 4 1 3 5 for a head of 6 channels.

        The same order is that of a quantized matrix's blocks: ``stored.blocks()[order]``.
        """
        return order_in_file(self.shape[0], self.n_head)

    def read(self, dtype: DTypeLike, transposed: bool = False) -> ndarray:
        """Return a copy of the values in a dtype."""
        values = self.stored.read(dtype)[self.order()]
        return np.ascontiguousarray(values.T) if transposed else values


def order_in_file(n_rows: int, n_head: int) -> ndarray:
    """Return the place in a GGUF file of each row of queries or keys; see `SplitHeads`."""
    return np.arange(n_rows).reshape(n_head, -1, 2).swapaxes(1, 2).reshape(-1)


# ---- the file


@dataclass(frozen=True)
class GGUF:
    """An open GGUF file.

    Parameters
    ----------
    path : Path
    metadata : dict of str to object
        Numbers, texts, arrays of numbers (ndarray), and lists of texts.
    tensors : dict of str to Stored
        The tensors under their names in the file, with their shapes in NumPy's order: (out, in).
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Stored]


def open_gguf(path: Path) -> GGUF:
    """Open a GGUF file: its metadata are read, and its tensors are mapped into memory.

    A large model may be in several files, such as ``a-00001-of-00002.gguf`` and
    ``a-00002-of-00002.gguf``. Then `path` is any of them, and all are opened. The first has the
    metadata.

    Raises
    ------
    UserError
        If the file cannot be read, is no GGUF file of a known version, is damaged or cut short, or
        has a tensor of a type that is not known here; or if one of several files is missing, or is
        of another model.
    """
    file = _open_part(path)
    n = file.metadata.get("split.count", 1)
    if type(n) is not int or n < 2:
        return file
    paths = find_parts(path)
    if len(paths) != n:
        raise UserError(
            f"{path} is one of {n} files of a model; expected a name that ends with "
            f"-00001-of-{n:05}.gguf"
        )
    if missing := [each.name for each in paths if not each.exists()]:
        raise UserError(
            f"{path} is one of {n} files of a model, and {missing[0]} is not beside it; expected "
            "all files of the model in one folder"
        )
    tensors: dict[str, Stored] = {}
    for i, each in enumerate(paths):
        part = _open_part(each)
        place = part.metadata.get("split.no", i), part.metadata.get("split.count")
        if place != (i, n):
            raise UserError(
                f"{each} has another place in its model than its name says (split.no and "
                f"split.count are {brief(place)}; expected {(i, n)})"
            )
        if twice := sorted(tensors.keys() & part.tensors.keys()):
            raise UserError(f"{each} has the tensor {twice[0]}, as a file before it has")
        tensors |= part.tensors
        if i == 0:
            metadata = part.metadata
    total = metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise UserError(
            f"the {n} files of {path} have {len(tensors)} tensors, and the first says "
            f"{brief(total)}: a file is of another model"
        )
    return GGUF(path, metadata, tensors)


PART = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)


def find_parts(path: Path) -> list[Path]:
    """Return the paths of all files of the model to which a file belongs by its name.

    Examples
    --------
    >>> [part.name for part in find_parts(Path("a-00002-of-00002.gguf"))]
    ['a-00001-of-00002.gguf', 'a-00002-of-00002.gguf']
    >>> [part.name for part in find_parts(Path("a.gguf"))]
    ['a.gguf']
    """
    if (name := PART.fullmatch(path.name)) is None:
        return [path]
    n = int(name[3])
    return [path.with_name(f"{name[1]}-{i:05}-of-{n:05}.gguf") for i in range(1, n + 1)]


def find_gguf(folder: Path) -> Path | None:
    """Return the GGUF file of a folder, or the first of several files of one model; None if none.

    Raises
    ------
    UserError
        If the folder has GGUF files of several models.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.gguf")):
        name = PART.fullmatch(path.name)
        found.setdefault(f"{name[1]}-of-{name[3]}" if name else path.stem, path)
    if len(found) > 1:
        one, two, *_ = (path.name for path in found.values())
        raise UserError(
            f"{folder} has {len(found)} models, such as {one} and {two}; name one of the files"
        )
    return next(iter(found.values()), None)


def _open_part(path: Path) -> GGUF:
    with open_file(path) as file:
        try:
            start = file.read(24)
            if start[:4] != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            if len(start) < 24:
                raise ValueError("it is cut short: it ends within its header")
            version, n_tensors, n_entries = struct.unpack("<IQQ", start[4:])
            if version not in VERSIONS:
                order = "big-endian, or of version" if version > 2**16 else "of version"
                raise ValueError(f"it is {order} {version}; expected version 2 or 3, little-endian")
            if max(n_tensors, n_entries) > MOST_ENTRIES:
                raise ValueError(
                    f"it says that it has {n_tensors} tensors and {n_entries} entries of metadata; "
                    f"at most {MOST_ENTRIES:,} of each are read"
                )
            size = os.fstat(file.fileno()).st_size
            header = Header(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), 24, size)
            metadata = header.read_metadata(n_entries)
            alignment = metadata.get("general.alignment", 32)
            if type(alignment) is not int or not 0 < alignment <= MIB:
                raise ValueError(f"its general.alignment is {brief(alignment)}; expected 32")
            return GGUF(path, metadata, header.read_tensors(n_tensors, alignment))
        except ValueError as error:
            raise UserError(f"{path} is damaged, or no GGUF file: {error!s:.400}") from None


# The number types of metadata by their numbers in a file; 7 is a truth value, 8 a text, 9 an array.
NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
           10: "<u8", 11: "<i8", 12: "<f8"}  # fmt: skip
TEXT, ARRAY = 8, 9


@dataclass
class Header:
    """The part of a file before the values, which is read from the beginning to the end.

    Parameters
    ----------
    data : mmap
        The whole file.
    place : int
        The next byte to read.
    size : int
        The number of bytes of the file.
    """

    data: mmap.mmap
    place: int
    size: int

    def take(self, n: int) -> int:
        """Go on by `n` bytes, and return where they begin."""
        start, self.place = self.place, self.place + n
        if self.place > self.size:
            raise ValueError("it is cut short: it ends within its header")
        if self.place > LARGEST_HEADER:
            raise ValueError(f"its header has more than {LARGEST_HEADER:,} bytes")
        return start

    def read_numbers(self, kind: str, n: int) -> ndarray:
        """Return a copy of `n` numbers of a dtype."""
        start = self.take(n * np.dtype(kind).itemsize)
        return np.array(np.frombuffer(self.data, kind, n, start))

    def read_number(self, kind: str) -> Any:
        """Return a number of a dtype, as Python's."""
        return self.read_numbers(kind, 1)[0].item()

    def read_text(self) -> str:
        """Return a text: its length in 8 bytes, and that many bytes of UTF-8."""
        return self.read_texts(1)[0]

    def read_texts(self, n: int) -> list[str]:
        """Return `n` texts. A vocabulary has many, so the loop calls as little as it can."""
        data, place = self.data, self.place
        end = min(self.size, LARGEST_HEADER)
        texts = []
        for _ in range(n):
            begin = place + 8
            place = begin + int.from_bytes(data[begin - 8 : begin], "little")
            if begin > end or place > end:
                self.take(place - self.place)  # raises
            texts.append(data[begin:place].decode())
        self.place = place
        return texts

    def read_value(self) -> Any:
        """Return a value of metadata: the number of its type, and the value."""
        kind = self.read_number("<u4")
        if kind == TEXT:
            return self.read_text()
        if kind in NUMBERS:
            return self.read_number(NUMBERS[kind])
        if kind != ARRAY:
            raise ValueError(f"it has metadata of the unknown type {kind}")
        kind, n = self.read_number("<u4"), self.read_number("<u8")
        if kind == TEXT:
            return self.read_texts(n)
        if kind in NUMBERS:
            return self.read_numbers(NUMBERS[kind], n)
        reason = "is an array again" if kind == ARRAY else f"has the unknown type {kind}"
        raise ValueError(f"it has an array whose element {reason}")

    def read_metadata(self, n: int) -> dict[str, Any]:
        """Return the entries of metadata."""
        metadata = {}
        for _ in range(n):
            key = self.read_text()
            if not key.isprintable() or len(key) > LONGEST_NAME or key in metadata:
                raise ValueError(f"its metadata have the key {brief(key)} twice, or it is no key")
            metadata[key] = self.read_value()
        return metadata

    def read_tensors(self, n: int, alignment: int) -> dict[str, Stored]:
        """Return the tensors, whose values begin at the next multiple of the alignment."""
        found = [self.read_tensor() for _ in range(n)]
        base = -(-self.place // alignment) * alignment
        tensors: dict[str, Stored] = {}
        end = base
        for offset, length, name, kind, shape in sorted(found):
            start = base + offset
            if offset % alignment:
                raise ValueError(f"{name} begins at {offset}, no multiple of {alignment}")
            if start < end:
                raise ValueError(f"{name} begins before the tensor in front of it ends")
            end = start + length
            if end > self.size:
                raise ValueError(
                    f"{name} needs the bytes up to {end:,}, and the file has {self.size:,}: it is "
                    "cut short"
                )
            if name in tensors:
                raise ValueError(f"it has two tensors of the name {name}")
            tensor = Mapped if kind in PLAIN else Packed
            tensors[name] = tensor(name, kind, shape, self.data, start, end)
        return tensors

    def read_tensor(self) -> tuple[int, int, str, str, tuple[int, ...]]:
        """Return the offset and the length in bytes of a tensor's values; name, type and shape."""
        name = self.read_text()
        if not name.isprintable() or len(name) > LONGEST_NAME:
            raise ValueError(f"it has a tensor of the name {brief(name)}, which is no name")
        n_axes = self.read_number("<u4")
        if n_axes > MOST_AXES:
            raise ValueError(f"{name} has {n_axes} axes; a tensor has at most {MOST_AXES}")
        shape = tuple(self.read_numbers("<u8", n_axes).tolist()[::-1])  # the last axis stands first
        number = self.read_number("<u4")
        offset = self.read_number("<u8")
        kind = TYPES[number] if number < len(TYPES) else f"number {number}"
        if kind in PLAIN:
            return offset, math.prod(shape) * PLAIN[kind], name, kind, shape
        if kind not in QUANTIZED:
            known = ", ".join([*PLAIN, *QUANTIZED])
            raise ValueError(f"{name} has the type {kind}; known here are {known}")
        if not shape or shape[-1] % BLOCK:
            raise ValueError(f"{name} of the shape {shape} cannot have the type {kind}: its rows "
                             f"have no whole number of blocks of {BLOCK} values")  # fmt: skip
        n_blocks = math.prod(shape) // BLOCK
        return offset, n_blocks * QUANTIZED[kind].block.itemsize, name, kind, shape


# ---- writing


@dataclass(frozen=True)
class Unwritten:
    """A tensor of a file that is to be written.

    Parameters
    ----------
    kind : str
        Its type in the file: F32, F16 or a key of `QUANTIZED`.
    shape : tuple of int
        Of a quantized tensor, the last axis is a multiple of 32.
    make : callable
        Returns the values. It is called once, when they are written.
    """

    kind: str
    shape: tuple[int, ...]
    make: Callable[[], ndarray]

    @property
    def n_bytes(self) -> int:
        """The number of bytes in the file."""
        size = math.prod(self.shape)
        if self.kind in PLAIN:
            return size * PLAIN[self.kind]
        return size // BLOCK * QUANTIZED[self.kind].block.itemsize

    def read(self, dtype: DTypeLike, transposed: bool = False) -> ndarray:
        """Return the values in a dtype, before they are rounded to the type of the file."""
        values = self.make().astype(dtype)
        return np.ascontiguousarray(values.T) if transposed else values

    def encode(self) -> bytes:
        """Return what the file has for the values.

        Raises
        ------
        ValueError
            If a number that is finite is too large for the type.
        """
        values = self.make()
        with np.errstate(over="ignore", invalid="ignore"):
            if self.kind in QUANTIZED:
                stored = encode_rows(values, self.kind)
                scales = [stored[name] for name in ("d", "m") if name in (stored.dtype.names or ())]
            else:
                stored = np.ascontiguousarray(values, FLOATS[self.kind])
                scales = [stored]
        if not all(np.isfinite(each).all() for each in scales):
            largest = np.abs(values).max()
            raise ValueError(f"its largest number is {largest:.3g}, too large for {self.kind}")
        return stored.tobytes()


def write_gguf(path: Path, metadata: dict[str, Any], tensors: dict[str, Unwritten]) -> None:
    """Write a GGUF file of version 3, with an alignment of 32.

    Parameters
    ----------
    path : Path
    metadata : dict
        Texts, truth values, whole numbers (written as 32 bits, without sign), fractions (float32),
        lists of texts, and arrays of int32.
    tensors : dict of str to Unwritten
        The values of one tensor at a time are in memory.

    Raises
    ------
    UserError
        If a number is too large for its type. Then nothing is written.
    """
    head = struct.pack("<4sIQQ", b"GGUF", VERSIONS[-1], len(tensors), len(metadata))
    for key, value in metadata.items():
        head += _text(key) + _typed(value)
    offset = 0
    for name, tensor in tensors.items():
        n_axes = len(tensor.shape)
        head += _text(name) + struct.pack(f"<I{n_axes}Q", n_axes, *tensor.shape[::-1])
        head += struct.pack("<IQ", TYPES.index(tensor.kind), offset)
        offset += -(-tensor.n_bytes // ALIGNMENT) * ALIGNMENT
    with replacing(path) as file:
        file.write(_padded(head))
        for name, tensor in tensors.items():
            try:
                file.write(_padded(tensor.encode()))
            except ValueError as error:
                raise UserError(f"{name} cannot be written: {error}") from None


ALIGNMENT = 32


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % ALIGNMENT)


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _typed(value: Any) -> bytes:
    """Return the number of a value's type, and the value."""
    if isinstance(value, str):
        return struct.pack("<I", TEXT) + _text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", ARRAY, TEXT, len(value)) + b"".join(map(_text, value))
    if isinstance(value, ndarray):
        numbers = value.astype("<i4")
        return struct.pack("<IIQ", ARRAY, _number_of("<i4"), len(numbers)) + numbers.tobytes()
    form = {bool: "?", int: "<u4", float: "<f4"}[type(value)]
    return struct.pack("<I", _number_of(form)) + np.array(value, form).tobytes()


def _number_of(form: str) -> int:
    return next(number for number, each in NUMBERS.items() if each == form)
