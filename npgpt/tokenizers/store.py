"""Reading and writing vocabulary files, and the folder in which npgpt keeps its own copies.

No file is ever downloaded: ``npgpt tokenizer add`` copies the files that the user has. The copies
are in the folder ``tokenizers`` in `npgpt.files.home`. Its folder ``published`` holds the files of
published tokenizers such as GPT-2's, which are checked by their hashes. Any other tokenizer is a
JSON file with its name, beside ``published``.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from autograd.escape import brief
from autograd.files import make_folders, read_together, replacing, together, write_json, write_text
from autograd.reading import (
    LARGE,
    SMALL,
    demand_file,
    fit_file,
    hash_file,
    read_bytes,
    read_json,
    read_text,
)
from autograd.schema import Range
from npgpt.errors import UserError
from npgpt.files import home
from npgpt.tokenizers.base import AddedToken, ByteTokenizer, CharTokenizer, TokenId, Tokenizer
from npgpt.tokenizers.bpe import BPETokenizer, format_ranks, parse_ranks
from npgpt.tokenizers.gguf import read_gguf_tokenizer
from npgpt.tokenizers.gpt1 import GPT1Tokenizer
from npgpt.tokenizers.huggingface import (
    make_from_lines,
    make_from_pair,
    parse_merges,
    read_hugging_face,
)
from npgpt.tokenizers.templates import describe_template, read_chat_template
from npgpt.tokenizers.wordpiece import WordPieceTokenizer
from npgpt.weights.gguf import find_gguf

# The files of published tokenizers, and their SHA-256. For its own files, tiktoken checks the same
# hashes.
GPT1_FILES = {
    "encoder_bpe_40000.json": "fdf49b19e7de236852091da09b84a7a3cd5e7b0e79916376cf45f6b8127b8078",
    "vocab_40000.bpe": "0ea9b51ae695073cd871e0358f7016311d671a7ff3963e367d5236522f294725",
}
GPT2_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
P50K = {"p50k_base.tiktoken": "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"}
O200K = {"o200k_base.tiktoken": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"}
R50K = {"r50k_base.tiktoken": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"}
KNOWN = {
    "gpt1": GPT1_FILES,
    "gpt2": GPT2_FILES,
    "r50k_base": R50K,
    "p50k_base": P50K,
    "p50k_edit": P50K,
    "cl100k_base": {
        "cl100k_base.tiktoken": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
    },
    "o200k_base": O200K,
    "o200k_harmony": O200K,
}
PUBLISHED = {sha256: file for files in KNOWN.values() for file, sha256 in files.items()}
PAIRS = {  # the name of a file with a vocabulary: the name of the file with its merges
    "vocab.json": "merges.txt",
    "encoder.json": "vocab.bpe",
    "encoder_bpe_40000.json": "vocab_40000.bpe",
}
Vocabulary = dict[str, TokenId]
_tiktoken_lock = threading.Lock()


def folder() -> Path:
    """Return the folder in which npgpt keeps its tokenizers."""
    return home() / "tokenizers"


def _published(file: str) -> Path:
    return folder() / "published" / file


# ---- published tokenizers


def make_known(name: str) -> Tokenizer:
    """Return the published tokenizer of a name in `KNOWN`, read from local files.

    Raises
    ------
    UserError
        If a file is missing, or differs from the published file.
    """
    return GPT1Tokenizer() if name == "gpt1" else BPETokenizer(**read_encoding(name), kind=name)


def read_encoding(name: str, given: Path | None = None) -> dict[str, Any]:
    """Return the name, ranks, pattern and special tokens of one of tiktoken's encodings.

    tiktoken's package has the pattern and the special tokens, and would download the ranks. To
    prevent the download, we replace tiktoken's function that reads a file while tiktoken makes the
    encoding. Our function reads `given`, or looks in our own folder and in tiktoken's cache.

    The encodings gpt2 and r50k_base are equal. r50k_base has one file, which is read faster than
    the two files of gpt2, so it is read for both if it is there.

    Parameters
    ----------
    name : str
        A name in `KNOWN`, but not ``gpt1``.
    given : Path, optional
        The file with the ranks.

    Raises
    ------
    UserError
        If the file is missing, or differs from the published file.
    """
    twin = _published("r50k_base.tiktoken")
    if name == "gpt2" and twin.is_file() and PUBLISHED.get(_sha256(twin)) == twin.name:
        return read_encoding("r50k_base", twin) | {"name": name}
    import tiktoken.load
    from tiktoken_ext.openai_public import (  # type: ignore[import-untyped]
        ENCODING_CONSTRUCTORS,
    )

    def read(blobpath: str, expected_hash: str | None = None) -> bytes:
        return bytes(read_bytes(given)) if given else _content(name, blobpath)

    with _tiktoken_lock:
        theirs, tiktoken.load.read_file_cached = tiktoken.load.read_file_cached, read
        try:
            values = ENCODING_CONSTRUCTORS[name]()
        finally:
            tiktoken.load.read_file_cached = theirs
    return {
        "name": name,
        "ranks": values["mergeable_ranks"],
        "pattern": values["pat_str"],
        "special_tokens": values["special_tokens"],
    }


def gpt1_files() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return GPT-1's vocabulary and merges, read from local files.

    Raises
    ------
    UserError
        If a file is missing, or differs from the published file.
    """
    vocab, merges = (_content("gpt1", file) for file in GPT1_FILES)
    return json.loads(vocab), parse_merges(merges.decode(), "vocab_40000.bpe")


def _content(name: str, url: str) -> bytes:
    """Return the content of a published tokenizer's file, from our folder or tiktoken's cache.

    The name of a file in tiktoken's cache is the SHA-1 of the file's address, `url`.
    """
    files = KNOWN[name]
    file = url.rsplit("/", 1)[-1]
    for path in (_published(file), _tiktoken_cache() / hashlib.sha1(url.encode()).hexdigest()):
        if path.is_file():
            content = bytes(read_bytes(path))
            if hashlib.sha256(content).hexdigest() == files[file]:
                return content
            if path.name == file:
                raise UserError(
                    f"{path} differs from the file that was published (its hash is another); "
                    f"replace it with npgpt tokenizer add {file}"
                )
    ours = url == file
    source = "github.com/openai/finetune-transformer-lm" if ours else url.removesuffix(file)
    raise UserError(
        f"the tokenizer {name} needs {' and '.join(files)}, and nothing is downloaded here. "
        f"Get them from {source}, then: npgpt tokenizer add {' '.join(files)}"
        + ("" if ours else ", or set TIKTOKEN_CACHE_DIR to where tiktoken keeps them")
    ) from None


def _tiktoken_cache() -> Path:
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable])
    return Path(tempfile.gettempdir()) / "data-gym-cache"


# ---- reading files


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer from a file, or from a folder that holds the file.

    Parameters
    ----------
    path : Path
        One of these, or a folder that holds one of these:

        - a ``.tiktoken`` file, beside which a JSON file has the pattern and the special tokens
          (a published ``.tiktoken`` file needs no JSON file),
        - ``vocab.json`` or ``merges.txt``, of which the other is in the same folder,
        - ``vocab.txt``, BERT's list of tokens,
        - ``tokenizer.json``, ours or Hugging Face's,
        - a ``.gguf`` file, or several of one model.

    Raises
    ------
    UserError
        If there is no tokenizer, or a file is missing or damaged.
    """
    if path.suffix == ".gguf":
        return read_gguf_tokenizer(path)
    folder = path if path.is_dir() else path.parent
    return read_together(folder, _is_of_tokenizer, lambda: _read_with_template(path, folder))


def _is_of_tokenizer(name: str) -> bool:
    named = name in ("merges.txt", "vocab.txt")
    return named or name.endswith((".tiktoken", ".json", ".bpe", ".jinja"))


def _read_with_template(path: Path, folder: Path) -> Tokenizer:
    """Read a tokenizer, and the chat template beside it."""
    tokenizer = _read(path)
    template, named = read_chat_template(folder)
    tokenizer.chat_template = template or tokenizer.chat_template
    tokenizer.special_tokens_map |= named
    return tokenizer


def _read(path: Path) -> Tokenizer:
    if path.is_dir():
        # Where both are there, tokenizer.json says more than vocab.json, so it comes first.
        encodings = sorted(p.name for p in path.glob("*.tiktoken"))
        names = ["tokenizer.json", *PAIRS, *encodings, "vocab.txt"]
        found = next((path / name for name in names if (path / name).is_file()), None)
        if found is None and (model := find_gguf(path)) is not None:
            return read_gguf_tokenizer(model)
        if found is None:
            raise UserError(
                f"{path} holds no tokenizer: no tokenizer.json, no vocab.json with merges.txt, no "
                "vocab.txt, no .tiktoken file, no .gguf file"
            )
        return _read(found)
    demand_file(path)
    for vocab, merges in PAIRS.items():
        if path.name in (vocab, merges):
            return _read_pair(path.with_name(vocab), path.with_name(merges))
    if path.suffix == ".tiktoken":
        return _read_tiktoken(path)
    if path.name.endswith("vocab.txt"):
        lines = read_text(path, LARGE).removesuffix("\n").split("\n")
        return make_from_lines([line.removesuffix("\r") for line in lines], path)
    if path.suffix == ".json":
        values = read_json(path)
        if "pattern" in values and "kind" not in values:
            return _read(path.with_suffix(".tiktoken"))
        return tokenizer_of(values, path)
    raise UserError(
        f"{path} is no tokenizer; give a .tiktoken file, vocab.txt, vocab.json (merges.txt stands "
        "beside it), a folder with them, or a .gguf file"
    )


def _read_tiktoken(path: Path) -> BPETokenizer:
    published = Path(PUBLISHED.get(_sha256(path), ""))
    if published.suffix == ".tiktoken":
        return BPETokenizer(**read_encoding(published.stem, path))
    ranks = parse_ranks(read_text(path, LARGE), path)
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        raise UserError(
            f"{path} needs {sidecar.name} beside it, with the pattern that cuts a text and the "
            f'special tokens: {{"pattern": "...", "special_tokens": {{"<|endoftext|>": '
            f"{len(ranks)}}}}}"
        )
    return _bpe(ranks, {"name": path.stem} | read_json(sidecar), sidecar)


def _read_pair(vocab_file: Path, merges_file: Path) -> Tokenizer:
    vocab = read_json(vocab_file, Vocabulary)
    if not merges_file.is_file():
        raise UserError(f"{vocab_file} needs {merges_file.name} beside it")
    merges = parse_merges(read_text(merges_file, LARGE), merges_file)
    return make_from_pair(vocab, merges, vocab_file, merges_file)


class OurFile(TypedDict):
    """The keys of our ``tokenizer.json`` that only a tokenizer from Hugging Face's files has."""

    added_tokens: NotRequired[list[AddedToken]]
    before: NotRequired[list[TokenId]]
    after: NotRequired[list[TokenId]]


class OurGPT1(OurFile):
    """Our own ``tokenizer.json`` of GPT-1's kind."""

    vocab: Vocabulary
    merges: list[str]


class OurWordPiece(OurFile):
    """Our own ``tokenizer.json`` of BERT's kind."""

    vocab: Vocabulary
    clean_text: NotRequired[bool]
    handle_chinese_chars: NotRequired[bool]
    strip_accents: NotRequired[bool | None]
    lowercase: NotRequired[bool]
    unk_token: NotRequired[str]
    prefix: NotRequired[str]
    max_input_chars_per_word: NotRequired[Annotated[int, Range(0, 2**20)]]
    cleanup: NotRequired[bool]


class OurBPE(OurFile):
    """The keys of the JSON file beside a ``.tiktoken`` file, and of our own ``tokenizer.json``."""

    pattern: str | list[str]
    special_tokens: Vocabulary
    name: NotRequired[str]
    normalizer: NotRequired[dict[str, Any] | None]
    add_prefix_space: NotRequired[bool]
    unreached: NotRequired[str]
    lacks: NotRequired[list[TokenId]]


class OurTemplate(TypedDict):
    """The keys of our own ``tokenizer.json`` for a chat template."""

    chat_template: NotRequired[str]
    special_tokens_map: NotRequired[dict[str, str]]


def tokenizer_of(values: dict[str, Any], path: Path) -> Tokenizer:
    """Return the tokenizer that a JSON file of ours or of Hugging Face's describes.

    Parameters
    ----------
    values : dict
        The content of the file.
    path : Path
        Where the file is.

    Raises
    ------
    UserError
        If the content describes no tokenizer that is known here, or is damaged.
    """
    tokenizer = _make(values, path)
    if "kind" in values:
        own = fit_file(values, OurTemplate, path)
        tokenizer.chat_template = own.get("chat_template")
        tokenizer.special_tokens_map = own.get("special_tokens_map", {})
    return tokenizer


def _make(values: dict[str, Any], path: Path) -> Tokenizer:
    kind, special = values.get("kind"), values.get("special_tokens", [])
    if kind is None and "model" in values:
        return read_hugging_face(values, path)
    if kind in ("char", "byte") and not (
        isinstance(special, list) and all(isinstance(token, str) for token in special)
    ):
        raise UserError(f"{path} is damaged: its special_tokens are not a list of strings")
    if kind == "char" and isinstance(values.get("characters"), str):
        return CharTokenizer(values["characters"], special)
    if kind == "byte":
        return ByteTokenizer(special)
    if kind == "bpe" and isinstance(values.get("ranks"), str):
        return _bpe(parse_ranks(values["ranks"], path), values, path)
    if kind == "gpt1" and "vocab" in values:
        values = fit_file(values, OurGPT1, path)
        merges = parse_merges("\n".join(values["merges"]), path)
        return GPT1Tokenizer(values["vocab"], merges, **_rare(values))
    if kind == "wordpiece" and "vocab" in values:
        values = fit_file(values, OurWordPiece, path)
        return WordPieceTokenizer(
            **{key: values[key] for key in OurWordPiece.__annotations__ if key in values}
        )
    if isinstance(kind, str) and kind in KNOWN:
        return make_known(kind)
    raise UserError(f"{path} describes no tokenizer that is known here (kind {brief(kind)})")


def _bpe(ranks: dict[bytes, int], values: dict[str, Any], path: Path) -> BPETokenizer:
    values = fit_file(values, OurBPE, path)
    return BPETokenizer(
        ranks, values["pattern"], values["special_tokens"], values.get("name", path.stem),
        normalizer=values.get("normalizer"),
        add_prefix_space=values.get("add_prefix_space", False),
        unreached=parse_ranks(values.get("unreached", ""), path),
        lacks=values.get("lacks", ()),
        **_rare(values),
    )  # fmt: skip


def _rare(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the keys of `OurFile`, where there are any."""
    return {key: values[key] for key in ("before", "after", "added_tokens") if key in values}


# ---- writing


def write_tiktoken(tokenizer: BPETokenizer, path: Path) -> None:
    """Write a ``.tiktoken`` file, and beside it a JSON file with the pattern and special tokens.

    Parameters
    ----------
    tokenizer : BPETokenizer
    path : Path
        The ``.tiktoken`` file. The JSON file has the same name with the ending ``.json``.

    Raises
    ------
    UserError
        If a file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> tokenizer = BPETokenizer({bytes([byte]): byte for byte in range(256)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tiktoken(tokenizer, Path(folder) / "bytes.tiktoken")
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['bytes.json', 'bytes.tiktoken']
    """
    with together(path.parent):
        values = {"n_vocab": tokenizer.n_vocab} | tokenizer.describe()
        write_json(path.with_suffix(".json"), values, indent=1)
        write_text(path, format_ranks(tokenizer.ranks))


def add(paths: Sequence[Path], name: str = "") -> dict[str, Tokenizer]:
    """Copy tokenizers into our own folder, and return them by their names.

    The files of published tokenizers are recognized by their hashes, and keep their names.

    Parameters
    ----------
    paths : sequence of Path
        Files that `read_tokenizer` reads, or folders with such files.
    name : str, optional
        The name for a tokenizer that is not published. If not given, the name is the name of the
        file, or of the folder if the file is called ``vocab.json``, ``merges.txt``, ``vocab.txt``
        or ``tokenizer.json``.

    Returns
    -------
    dict of str to Tokenizer

    Raises
    ------
    UserError
        If a path holds no tokenizer, a file has the name of a published file and differs from it,
        one of two files is missing, or the name is that of a published tokenizer.
    """
    published: dict[str, Path] = {}
    others: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
        inside = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        found = {PUBLISHED[h]: p for p in inside if (h := _sha256(p)) in PUBLISHED}
        published |= found
        if not found:
            others.append(path)
    for path in others:
        if path.name in PUBLISHED.values():
            raise UserError(
                f"{path} is not the {path.name} that was published: its SHA-256 is {_sha256(path)}"
            )
    added: dict[str, Tokenizer] = {}
    for path in others:
        if path.with_suffix(".tiktoken") in others and path.suffix == ".json":
            continue  # the JSON file beside a .tiktoken file, which is read with it
        tokenizer = read_tokenizer(path)
        if path.name in (*PAIRS, *PAIRS.values(), "tokenizer.json", "vocab.txt"):
            path = path.resolve().parent
        key = name or path.stem
        if key in ("char", "byte", *KNOWN) or Path(key).name != key:
            raise UserError(
                f"{key!r} cannot be the name of a tokenizer: it is the name of a published "
                "tokenizer, or holds a folder; give another name with --name"
            )
        added[key] = tokenizer
    try:
        make_folders(_published(""))
    except OSError as error:
        raise UserError(
            f"the folder {folder()} for tokenizers cannot be created: {error.strerror}"
        ) from None
    for key, tokenizer in added.items():
        write_json(folder() / f"{key}.json", tokenizer.to_dict() | describe_template(tokenizer))
    with together(_published("")):
        for name, path in published.items():
            with replacing(_published(name)) as file:
                file.write(read_bytes(path))
    for key, files in KNOWN.items():
        if published.keys() & files.keys():
            added[key] = make_known(key)
    if "gpt2" in added:
        write_text(_published("r50k_base.tiktoken"), format_ranks(read_encoding("gpt2")["ranks"]))
    return added


def _sha256(path: Path) -> str:
    """Return a file's SHA-256, or an empty string if it is larger than all published files."""
    return hash_file(path) if path.stat().st_size <= SMALL else ""
