"""A learner's progress: a small JSON file with a few numbers for each kata, or for each lesson."""

from __future__ import annotations

from pathlib import Path

from autograd.files import make_folders, write_json
from autograd.reading import SMALL, read_json
from autograd.schema import Count
from npgpt import files
from npgpt.errors import UserError


class Progress:
    """A file in which each kata or lesson has an entry; an entry has numbers with names.

    Whoever reads the file finds it whole, also while another process writes it.

    Parameters
    ----------
    home : path, optional
        The folder of the file. By default it is ``$NPGPT_HOME``, or ``npgpt`` in the user's data
        folder.

    Attributes
    ----------
    home, file : Path
    """

    name = "lessons.json"

    def __init__(self, home: str | Path | None = None) -> None:
        self.home = Path(home).expanduser() if home else files.home()
        self.file = self.home / self.name

    def advice(self) -> str:
        """Return what to do with a file that cannot be read."""
        return "move the file to begin a new one"

    def read(self) -> dict[str, dict[str, int]]:
        """Return all entries.

        Raises
        ------
        UserError
            If the file is damaged.
        """
        if not self.file.exists():
            return {}
        try:
            return read_json(self.file, dict[str, dict[str, Count]], SMALL)
        except UserError as error:
            raise UserError(f"{error}; {self.advice()}") from None

    def write(self, key: str, **numbers: int) -> None:
        """Add numbers to an entry; the other entries stay as they are in the file."""
        entries = self.read()
        entries[key] = entries.get(key, {}) | numbers
        make_folders(self.home)
        write_json(self.file, entries, indent=1)
