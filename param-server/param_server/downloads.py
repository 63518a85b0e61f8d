"""The snapshots that a browser may fetch: which there are, and their files.

A name in a URL is never made into a path.  It is looked for among the snapshots that the folder
holds and the files that a snapshot's manifest lists, so there is nothing to traverse.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from param_server.snapshot import MANIFEST, read_evaluation


class Listed(NamedTuple):
    """A snapshot as the dashboard lists it."""

    name: str  # of its folder
    version: int
    epoch: int
    time: float  # when it was complete, seconds since 1970
    files: dict[str, int]  # bytes by name, the manifest among them
    evaluation: dict[str, Any] | None  # with a finite return_mean

    def as_json(self, *, is_best: bool) -> dict[str, Any]:
        """Return what the page shows."""
        return {
            "name": self.name,
            "version": self.version,
            "epoch": self.epoch,
            "time": self.time,
            "bytes": sum(self.files.values()),
            "files": self.files,
            "evaluation": self.evaluation,
            "best": is_best,
        }


class Downloads:
    """The complete snapshots in a folder.  Safe to call from many threads.

    A manifest is read once for each change of its snapshot's folder; asking again costs a look
    at each folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[str, int], Listed | None] = {}

    def listing(self) -> list[dict[str, Any]]:
        """Return the snapshots as JSON, newest first."""
        snapshots = self._snapshots()
        evaluated = [snapshot for snapshot in snapshots if snapshot.evaluation is not None]
        best = max(evaluated, key=_mean_return, default=None)  # the newest of equals
        return [snapshot.as_json(is_best=snapshot is best) for snapshot in snapshots]

    def open(self, name: str, file: str) -> tuple[BinaryIO, int] | None:
        """Open a snapshot's file; return it with its size in bytes, None where there is none."""
        for snapshot in self._snapshots():
            if snapshot.name == name and file in snapshot.files:
                return _open_plain(self._folder / snapshot.name / file)
        return None

    def _snapshots(self) -> list[Listed]:
        known: dict[tuple[str, int], Listed | None] = {}
        try:
            with os.scandir(self._folder) as entries:
                folders = [e for e in entries if e.name[0] != "." and _is_folder(e)]
            for entry in folders:
                key = entry.name, entry.stat(follow_symlinks=False).st_mtime_ns
                known[key] = self._known[key] if key in self._known else _read(Path(entry.path))
        except OSError:
            pass  # one was removed in between, or the folder was: show what there is
        self._known = known
        found = [snapshot for snapshot in known.values() if snapshot is not None]
        return sorted(found, key=lambda s: (s.epoch, s.version), reverse=True)


def _mean_return(snapshot: Listed) -> float:
    assert snapshot.evaluation is not None
    return float(snapshot.evaluation["return_mean"])


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _read(path: Path) -> Listed | None:
    """Return a snapshot, None where the folder is none."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        status = (path / MANIFEST).stat()
        files = {
            str(name): int(file["bytes"])
            for name, file in manifest["files"].items()
            if name == Path(name).name
        }
        return Listed(
            name=path.name,
            version=int(manifest["version"]),
            epoch=int(manifest["epoch"]),
            time=status.st_mtime,
            files={**files, MANIFEST: status.st_size},
            evaluation=read_evaluation(path),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _open_plain(path: Path) -> tuple[BinaryIO, int] | None:
    """Open a plain file, and nothing that a link leads to."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb"), status.st_size
