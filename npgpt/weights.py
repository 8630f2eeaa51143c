"""Weights in and out: folders as Hugging Face writes them, OpenAI's GPT-1, and our runs.

Everything is checked against the configuration before any weight is read: names, shapes, types and
the layout of the file. Float32 weights are then mapped into memory, not copied: pages are read when
they are first used, and a change to a parameter never reaches the file.
"""

from __future__ import annotations

import math
import mmap
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeGuard

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from autograd.reading import SMALL, demand_file, open_file, parse_json, read_json
from autograd.schema import Count
from npgpt.config import GPTConfig
from npgpt.errors import UserError
from npgpt.files import (
    demand_intact,
    read_together,
    remove,
    together,
    write_json,
    write_tensors,
)
from npgpt.generation.options import options_in_config
from npgpt.model import GPT
from npgpt.nn import LayerNorm, Linear, SinusoidalEmbedding, unallocated

MINGPT = {"*.c_*.weight": "*.c_*.weight.T"}
"""The mapping for checkpoints whose linear layers are PyTorch's, (out, in)."""


def load_pretrained(
    source: str | Path,
    *,
    config: GPTConfig | None = None,
    mapping: Mapping[str, str] | None = None,
    dtype: DTypeLike = np.float32,
) -> GPT:
    """Make the model that a folder, a file or a name stands for, ready to use: dropout is off.

    Parameters
    ----------
    source : str or Path
        A folder in Hugging Face's layout (``config.json`` and ``model.safetensors``, or several
        files and their index) of a GPT-2 or GPT-1, a run folder, OpenAI's GPT-1 release
        (``params_shapes.json`` and ``params_*.npy``), one ``.safetensors`` file, or the name of a
        model on the Hugging Face hub.
    config : GPTConfig, optional
        Instead of the source's own ``config.json``.
    mapping : mapping of str to str, optional
        For checkpoints with other names: a parameter's name here, and its name there, with
        ``.T`` at the end if it is stored transposed. A ``*`` stands for anything, the same in both.
        Parameters that it does not name keep their names. `MINGPT` is one.
    dtype : dtype_like
        Of the parameters; the file may hold float16, bfloat16, float32 or float64.

    Returns
    -------
    GPT

    Raises
    ------
    UserError
        If anything is missing, damaged or does not fit, in one message; nothing is loaded then.

    Examples
    --------
    >>> import tempfile
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save_pretrained(folder)
    ...     GPT.from_pretrained(folder).n_parameters() == model.n_parameters()
    True
    """
    path = find_model(source)
    folder = path if path.is_dir() else path.parent

    def opened() -> tuple[GPTConfig, dict[str, Stored], str, dict[str, Any]]:
        found: dict[str, Any] = {}
        if (defaults := folder / "generation_config.json").is_file():
            found = read_json(defaults, limit=SMALL)
        elif config is None and (old := folder / "config.json").is_file():
            found = options_in_config(read_json(old, limit=SMALL))
        return config or find_config(path), *open_weights(path), found

    config, tensors, what, defaults = read_together(folder, _is_of_model, opened)
    if config.n_layer > len(tensors):  # before a model of so many layers is made
        raise UserError(
            f"{what} has {len(tensors)} tensors, too few for the {config.n_layer} layers of its "
            "configuration"
        )
    try:
        with unallocated():
            model = GPT(config, dtype=dtype)
        tensors = fitted(model, tensors, mapping or {})
        model.check_shapes({name: tensor.shape for name, tensor in tensors.items()})
        model.adopt_state_dict({name: tensor.read(dtype) for name, tensor in tensors.items()})
    except ValueError as error:
        raise UserError(f"{what} does not fit its configuration: {error}") from None
    model.eval()
    model.generation_config = defaults
    return model


def _is_of_model(name: str) -> bool:
    """Return whether a file of this name is written together with others of a model."""
    return name in ("config.json", "generation_config.json", "model.safetensors")


def save_pretrained(model: GPT, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` to a folder, made if it is not there.

    transformers loads them and computes the same, wherever it has such a model
    (`GPTConfig.model_type`): biases that the model does not have are written as zeros, and
    sinusoidal positions as a table. What is in ``model.generation_config`` goes to the file of that
    name.
    """
    folder = Path(folder)
    tensors = model.state_dict()
    if model.config.model_type != "npgpt":
        tensors |= {name: make() for name, (_, make) in implied(model).items()}
    if model.config.model_type == "openai-gpt":
        tensors = {_gpt1_name(name): array for name, array in tensors.items()}
    with together(folder):
        save_config(model.config, folder)
        save_generation_config(model, folder)
        write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})


def save_weights(model: GPT, path: Path) -> None:
    """Write a model's parameters to a safetensors file."""
    write_tensors(path, model.state_dict(), {"format": "pt"})


def save_config(config: GPTConfig, folder: Path) -> None:
    """Write ``config.json`` to a folder."""
    write_json(folder / "config.json", config.to_dict(), indent=2)


def save_generation_config(model: GPT, folder: Path) -> None:
    """Write ``generation_config.json`` to a folder; remove it if the model has no defaults."""
    path = folder / "generation_config.json"
    if model.generation_config:
        write_json(path, model.generation_config, indent=2)
    else:
        remove(path)


def load_config(folder: Path) -> GPTConfig:
    """Read ``config.json`` from a folder."""
    path = folder / "config.json"
    values = read_json(path, limit=SMALL)
    model_type = values.get("model_type", "gpt2")
    if model_type not in ("gpt2", "openai-gpt", "npgpt"):
        raise UserError(f"{path} is of a {model_type!r:.40} model; expected 'gpt2' or 'openai-gpt'")
    try:
        return GPTConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error!s:.400}") from None


# ---- finding a model


def find_model(source: str | Path) -> Path:
    """Return the folder or file that a path, or a name on the Hugging Face hub, stands for."""
    path, name = Path(source), str(source)
    expected = f"{name or repr(name)} is no folder with a model (config.json and model.safetensors)"
    if name and path.is_dir() or path.suffix == ".safetensors" and path.is_file():
        return path
    if path.exists() or path.suffix == ".safetensors":
        raise UserError(expected)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or ("/" in name and path.parent.is_dir()):
        raise UserError(expected)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{expected}; to look for it on the Hugging Face hub, pip install 'npgpt[hub]'"
        ) from None
    files = ["config.json", "generation_config.json", "model.safetensors",
             "model.safetensors.index.json", "model-*.safetensors", "vocab.json", "merges.txt",
             "tokenizer*.json", "added_tokens.json", "special_tokens_map.json"]  # fmt: skip
    try:  # the library falls back on its cache without a network
        return Path(snapshot_download(name, allow_patterns=files))
    except Exception as error:  # its own kinds, and those of what it connects with
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"{expected}, and the Hugging Face hub, or the cache of it here, did not give one of "
            f"that name ({type(error).__name__}: {reason})"
        ) from None


def find_config(path: Path) -> GPTConfig:
    """Return the configuration that comes with what `find_model` found."""
    if is_release(path):
        return release_config(path)
    if path.is_dir() and not (path / "config.json").exists():
        raise UserError(f"{path} is no folder with a model (it has no config.json)")
    return load_config(path if path.is_dir() else path.parent)


# ---- from a file's names to the model's


def fitted(model: GPT, tensors: dict[str, Stored], mapping: Mapping[str, str]) -> dict[str, Stored]:
    """Return stored tensors under the model's names, without what only some formats have."""
    rest, result = dict(tensors), dict[str, Stored]()
    for name, _ in model.named_parameters():
        if (theirs := _name_there(name, mapping)) is not None:
            transposed = theirs.endswith(".T") and theirs not in tensors
            stored = rest.pop(theirs.removesuffix(".T") if transposed else theirs, None)
            if stored is None:
                raise ValueError(f"{theirs}, the mapping's name for {name}, is missing")
            result[name] = Transposed(stored) if transposed else stored
    for theirs, stored in rest.items():
        if _BUFFER.search(theirs):
            continue
        name = _our_name(theirs)
        if name in result:
            raise ValueError(f"{theirs} is there twice, under two names")
        result[name] = stored
    if model.config.tie_word_embeddings and (head := result.pop("lm_head.weight", None)):
        table = result.setdefault("transformer.wte.weight", head)
        if not _equal(head, table):
            raise ValueError("lm_head.weight is not the token embedding, to which it must be tied")
    for name, (shape, make) in implied(model).items():
        if (stored := result.pop(name, None)) is not None:
            close = 0 if name.endswith("bias") else 4e-3  # bfloat16 rounds sines by 0.002
            if stored.shape != shape or not np.allclose(
                stored.read(np.float32), make(), rtol=0, atol=close
            ):
                raise ValueError(f"{name} is not what the configuration implies")
    return result


def implied(model: GPT) -> dict[str, tuple[tuple[int, ...], Callable[[], ndarray]]]:
    """Return shape and value of what transformers stores, and this model computes or leaves out.

    These are the zero biases of a model without any, and the table of sinusoidal positions.
    """
    found: dict[str, tuple[tuple[int, ...], Callable[[], ndarray]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear | LayerNorm) and module.bias is None:
            shape, dtype = module.weight.shape[-1:], module.weight.dtype
            found[f"{name}.bias"] = shape, partial(np.zeros, shape, dtype)
        if isinstance(module, SinusoidalEmbedding):
            n = model.config.n_positions
            found[f"{name}.weight"] = (n, module.width), partial(module.rows, n)
    return found


# Masks and counters that old checkpoints keep beside the weights.
_BUFFER = re.compile(r"(^|\.)(attn\.(bias|masked_bias)|position_ids)$")
_GPT1_NAMES = {"wte": "tokens_embed", "wpe": "positions_embed"}
_OUR_NAMES = {theirs: ours for ours, theirs in _GPT1_NAMES.items()}


def _gpt1_name(name: str) -> str:
    return re.sub(r"\b(wte|wpe)\b", lambda found: _GPT1_NAMES[found[0]], name)


def _our_name(name: str) -> str:
    """Return our name of one in a checkpoint: GPT-1's tables, and the prefix that may lack."""
    name = re.sub(r"\b(tokens_embed|positions_embed)\b", lambda found: _OUR_NAMES[found[0]], name)
    return f"transformer.{name}" if re.match(r"(wte|wpe|ln_f|h\.\d+)\.", name) else name


def _name_there(name: str, mapping: Mapping[str, str]) -> str | None:
    """Return what a mapping makes of a name, if anything."""
    for ours, theirs in mapping.items():
        pattern = "(.*?)".join(map(re.escape, ours.split("*")))
        if found := re.fullmatch(pattern, name):
            if theirs.count("*") != ours.count("*"):
                raise ValueError(f"the mapping's {ours!r} and {theirs!r} differ in their stars")
            parts = theirs.split("*")
            return parts[0] + "".join(
                text + part for text, part in zip(found.groups(), parts[1:], strict=True)
            )
    return None


def _equal(a: Stored, b: Stored) -> bool:
    return a is b or a.shape == b.shape and np.array_equal(a.read(np.float32), b.read(np.float32))


# ---- tensors in files


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


def open_weights(path: Path) -> tuple[dict[str, Stored], str]:
    """Return the tensors of a file, or of a folder's, and the path to name in messages."""
    index = path / "model.safetensors.index.json"
    if is_release(path):
        return open_release(path), str(path)
    if path.is_file():
        return dict(open_safetensors(path)), str(path)
    if (path / "model.safetensors").is_file() or not index.is_file():
        if (path / "pytorch_model.bin").is_file() and not (path / "model.safetensors").is_file():
            raise UserError(
                f"{path} holds pytorch_model.bin only, a pickle: to load it would be to run what "
                "is in it. Save it as safetensors with transformers (save_pretrained)"
            )
        return dict(open_safetensors(path / "model.safetensors")), f"{path / 'model.safetensors'}"
    where = read_json(index, Index, SMALL)["weight_map"]
    tensors: dict[str, Stored] = {}
    for file in sorted(set(where.values())):
        if Path(file).name != file or "\\" in file or "\0" in file:
            raise UserError(f"{index} names {file!r:.40}, which is not a file beside it")
        for name, tensor in open_safetensors(path / file).items():
            if where.get(name) != file:
                raise UserError(f"{path / file} holds {name}, which {index.name} does not say")
            tensors[name] = tensor
    for name in where:
        if name not in tensors:
            raise UserError(f"{path / where[name]} does not hold {name}, as {index.name} says")
    return tensors, str(index)


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


# ---- OpenAI's release of GPT-1: shards that are one long row of numbers, cut up by the shapes

RELEASE_BLOCK = [
    "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias",
    "ln_1.weight", "ln_1.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight",
    "mlp.c_proj.bias", "ln_2.weight", "ln_2.bias",
]  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """A flat .npy file."""

    path: Path
    dtype: np.dtype
    offset: int  # of the numbers in the file
    size: int


@dataclass(frozen=True)
class Piece:
    """A tensor in the row of numbers that shards make up together."""

    shards: list[Shard]
    start: int
    shape: tuple[int, ...]

    def read(self, dtype: DTypeLike, transposed: bool = False) -> ndarray:
        """Return the values, read from one shard or several."""
        out = np.empty(math.prod(self.shape), dtype)
        begin = 0  # of the shard, in the row
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
    """Return whether a folder is OpenAI's, with shapes in the place of a configuration."""
    return (path / "params_shapes.json").is_file() and not (path / "config.json").is_file()


def release_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a release by our names, in the order of the numbers."""
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
