"""What was measured so far, in a file: a run that was cut short goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from benchmarks.worker.contenders import Contender

Window = dict[str, Any]

_SOURCES = ("replay.py", "ddq.py", "barista", "caffe/python", "param-server", "models")
_SUFFIXES = (".py", ".prototxt")


class Record:
    """The windows of all contenders, written to a file as they come.

    Figures of other programs, versions, machines or sizes of the work are no part of it: a file
    that holds such is put aside.

    Args:
        path: Of the JSON file.
        subject: What is measured, on what; JSON.
    """

    def __init__(self, path: Path, subject: dict[str, Any]) -> None:
        self._path, self._subject = path, subject
        self.windows: dict[str, list[Window]] = {}
        #: Where an older file went, and what in it differs.
        self.put_aside: tuple[Path, list[str]] | None = None
        if not path.exists():
            return
        earlier = json.loads(path.read_text())
        differing = [name for name in subject if earlier["subject"].get(name) != subject[name]]
        if differing:
            aside = path.with_suffix(".old.json")
            path.replace(aside)
            self.put_aside = (aside, differing)
        else:
            self.windows = earlier["windows"]

    def count(self, contender: Contender) -> int:
        """Return how many windows of a contender there are."""
        return len(self.windows.get(contender.name, ()))

    def lacking(self, contenders: Iterable[Contender], repeats: int) -> list[Contender]:
        """Return those with fewer windows than wanted, those with the fewest first."""
        found = [each for each in contenders if self.count(each) < repeats]
        return sorted(found, key=self.count)

    def add(self, contender: Contender, window: Window) -> None:
        """Take a window in, and write everything."""
        self.windows.setdefault(contender.name, []).append(window)
        self.write()

    def write(self, **conclusions: Any) -> None:
        """Write the file, whole or not at all, with what was concluded from the windows."""
        document = {"subject": self._subject, "windows": self.windows, **conclusions}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(document, indent=1) + "\n")
        unfinished.replace(self._path)


def digest(root: Path, sources: Sequence[str] = _SOURCES) -> str:
    """Return a digest of the product's own files, so that figures of two states never mix."""
    found = hashlib.sha256()
    for source in sources:
        top = root / source
        for file in [top] if top.is_file() else sorted(top.rglob("*")):
            if file.suffix in _SUFFIXES and file.is_file():
                found.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()[:16]
