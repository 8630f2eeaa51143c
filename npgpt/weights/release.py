"""OpenAI's release of GPT-1: one long row of numbers in several files, and a file of shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from autograd.reading import SMALL, demand_file, read_json
from autograd.schema import Count
from npgpt.errors import UserError
from npgpt.models.config import GPTConfig
from npgpt.weights.safetensors import Stored

RELEASE_BLOCK = [
    "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias",
    "ln_1.weight", "ln_1.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight",
    "mlp.c_proj.bias", "ln_2.weight", "ln_2.bias",
]  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """One of the files: a flat array in NumPy's format."""

    path: Path
    dtype: np.dtype
    offset: int  # in bytes: where the numbers begin in the file
    size: int  # how many numbers the file has


@dataclass(frozen=True)
class Piece:
    """A tensor: a part of the row of numbers that the shards hold together."""

    shards: list[Shard]
    start: int
    shape: tuple[int, ...]

    def read(self, dtype: DTypeLike, transposed: bool = False) -> ndarray:
        """Return the values, read from one shard or several.

        The loop goes over the shards and copies from each the numbers that belong to the tensor. If
        the shards hold 100 numbers each, a tensor of 30 numbers that starts at 90 takes the last 10
        of the first shard and the first 20 of the second.
        """
        out = np.empty(math.prod(self.shape), dtype)
        begin = 0  # where the shard begins in the row
        for shard in self.shards:
            first = max(self.start, begin)
            stop = min(self.start + out.size, begin + shard.size)
            if first < stop:
                offset = shard.offset + (first - begin) * shard.dtype.itemsize
                values = np.fromfile(shard.path, shard.dtype, stop - first, offset=offset)
                out[first - self.start : stop - self.start] = values
            begin += shard.size
        values = out.reshape(self.shape)
        return np.ascontiguousarray(values.T) if transposed else values


def is_release(path: Path) -> bool:
    """Return whether a folder is OpenAI's release: it has shapes, and no configuration."""
    return (path / "params_shapes.json").is_file() and not (path / "config.json").is_file()


def release_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a release by the names of parameters, in the order of the numbers."""
    path = folder / "params_shapes.json"
    shapes = read_json(path, list[list[Count]], SMALL)
    n_layer, rest = divmod(len(shapes) - 2, len(RELEASE_BLOCK))
    if n_layer < 1 or rest:
        raise UserError(f"{path} has {len(shapes)} shapes; a GPT-1 has 2, and 12 for each block")
    names = ["wpe.weight", "wte.weight"]
    names += [f"h.{i}.{name}" for i in range(n_layer) for name in RELEASE_BLOCK]
    return {  # matrices are convolutions of length 1 there, (1, in, out)
        f"transformer.{name}": tuple(shape[1:] if len(shape) == 3 and shape[0] == 1 else shape)
        for name, shape in zip(names, shapes, strict=True)
    }


def release_config(folder: Path) -> GPTConfig:
    """Return the configuration of OpenAI's release: GPT-1's, in the widths of its shapes."""
    shapes = release_shapes(folder)
    positions, table = shapes["transformer.wpe.weight"], shapes["transformer.wte.weight"]
    if len(table) != 2 or len(positions) != 2 or table[1] % 64:
        raise UserError(f"{folder}: the shapes do not begin with GPT-1's positions and tokens")
    return GPTConfig.preset(
        "gpt1",
        vocab_size=table[0],
        n_positions=positions[0],
        n_embd=table[1],
        n_layer=(len(shapes) - 2) // len(RELEASE_BLOCK),
        n_head=table[1] // 64,  # the release does not say; its heads have 64 channels
    )


def open_release(folder: Path) -> dict[str, Stored]:
    """Return the tensors of OpenAI's GPT-1 release."""
    files = sorted(folder.glob("params_*.npy"), key=lambda file: (len(file.name), file.name))
    if not files or [f.name for f in files] != [f"params_{i}.npy" for i in range(len(files))]:
        raise UserError(f"{folder} lacks some of its shards, params_0.npy and so on")
    shards, start = [open_shard(file) for file in files], 0
    tensors: dict[str, Stored] = {}
    for name, shape in release_shapes(folder).items():
        tensors[name] = Piece(shards, start, shape)
        start += math.prod(shape)
    if (total := sum(shard.size for shard in shards)) != start:
        raise UserError(f"the shards in {folder} hold {total} numbers, and its shapes {start}")
    return tensors


def open_shard(path: Path) -> Shard:
    """Check the header of a flat .npy file."""
    demand_file(path)
    formats = np.lib.format
    try:
        with path.open("rb") as file:
            version = formats.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version} of the format")
            read = (
                formats.read_array_header_1_0 if version[0] == 1 else formats.read_array_header_2_0
            )
            shape, _, dtype = read(file)
            offset = file.tell()
        if dtype.kind != "f" or len(shape) != 1:
            raise ValueError(f"it holds {dtype}{list(shape)}, not one row of floats")
        if path.stat().st_size != offset + shape[0] * dtype.itemsize:
            raise ValueError("it is cut short, or too long")
    except Exception as error:  # NumPy's parser of headers fails in many ways
        raise UserError(f"{path} is damaged: {str(error).partition(chr(10))[0]}") from None
    return Shard(path, dtype, offset, shape[0])
