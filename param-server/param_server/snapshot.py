"""Snapshots on disk: written whole or not at all, found again, the best of them kept.

The design.  A snapshot is a folder.  It is filled under a name that no reader looks at, every file
and the folder are synced, and then it is renamed: there is no moment at which a crash or a full
disk leaves half of one under a good name, nor one at which there is none.  Its manifest lists each
file's size and checksum, so one damaged later is known, and passed over for the one before it.
The newest is the one with the highest (epoch, version), whatever its name or date.

What is in the files is the caller's affair: ``fill`` writes them and returns what else belongs in
the manifest.  How a snapshot plays comes later, in a file of its own beside them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shutil
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.disk import make_folder, sync
from param_server.errors import NoSnapshot, SnapshotFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
EVALUATION = "evaluation.json"
FORMAT = 1
_UNFINISHED = ".tmp-"


class Snapshot(NamedTuple):
    """A snapshot whose files are all there and undamaged."""

    path: Path
    manifest: dict[str, Any]
    passed_over: tuple[str, ...] = ()  # what was wrong with newer ones

    @property
    def age(self) -> tuple[int, int]:
        """(epoch, version): of two snapshots the greater is newer."""
        return self.manifest["epoch"], self.manifest["version"]


class Folder:
    """The snapshots of one run, and the right to write there.

    Safe to call from many threads.

    Args:
        path: Where they are.
        keep: How many of the newest stay; so does the best by evaluation.
    """

    def __init__(self, path: Path, *, keep: int = 5) -> None:
        self.path = path
        self._keep = keep
        self._lock = threading.Lock()
        self._claim: int | None = None  # descriptor of the locked folder

    def prepare(self) -> None:
        """Make the folder, claim it, see that it can be written, remove what a crash left in it.

        Raises:
            SnapshotFailed: If it cannot be written, or a server that runs writes there.
        """
        try:
            make_folder(self.path)
            self._claim_folder()
            for leftover in self.path.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            probe = self.path / f"{_UNFINISHED}probe"
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise SnapshotFailed(f"cannot write snapshots to {self.path}: {error}") from error

    def _claim_folder(self) -> None:
        """Lock the folder for as long as this process lives or until ``close``."""
        if self._claim is not None:
            return
        claim = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
            raise SnapshotFailed(f"another server writes its snapshots to {self.path}") from None
        except OSError as error:  # a file system without locks
            _log.warning("%s is not locked against another server: %s", self.path, error)
        self._claim = claim

    def close(self) -> None:
        """Let another server write there."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def write(self, fill: Callable[[Path], Mapping[str, Any]]) -> Snapshot:
        """Write one, and remove the oldest beyond those to keep.

        Args:
            fill: Writes files into an empty folder on this file system and returns the manifest's
                members, ``epoch`` and ``version`` among them.

        Raises:
            SnapshotFailed: If anything cannot be written; the snapshots there are untouched.
        """
        unfinished = self.path / f"{_UNFINISHED}{os.getpid()}"
        with self._lock:
            try:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
                members = fill(unfinished)
                files = {path.name: _fingerprint(path) for path in sorted(unfinished.iterdir())}
                manifest = {"format": FORMAT, **members, "time": time.time(), "files": files}
                (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
                for path in (*unfinished.iterdir(), unfinished):
                    sync(path)
                path = self._rename(unfinished, manifest)
            except OSError as error:
                raise SnapshotFailed(f"no snapshot written to {self.path}: {error}") from error
            finally:  # it has another name by now, unless something failed
                shutil.rmtree(unfinished, ignore_errors=True)
            self._prune()
        return Snapshot(path, manifest)

    def _rename(self, unfinished: Path, manifest: Mapping[str, Any]) -> Path:
        """Give a finished folder its name, in place of an earlier life's of the same version."""
        path = self.path / str(manifest["version"])
        earlier = _read_manifest(path)
        if earlier is None:
            shutil.rmtree(path, ignore_errors=True)
            unfinished.rename(path)
        else:
            # Epoch and version name a model for ever; one that was restored has another epoch.
            is_same = earlier["epoch"] == manifest["epoch"] or earlier["files"] == manifest["files"]
            if is_same and (path / EVALUATION).exists():
                shutil.copyfile(path / EVALUATION, unfinished / EVALUATION)
            # Under this name the earlier one is still a snapshot, should the next line not come.
            aside = self.path / f"{path.name}-{earlier['epoch']}"
            path.rename(aside)
            try:
                unfinished.rename(path)
            except OSError:
                aside.rename(path)
                raise
            if is_same or self._best() != aside:
                self._remove(aside)
        sync(self.path)
        return path

    def _prune(self) -> None:
        best = self._best()
        for _, path in by_age(self.path)[self._keep :]:
            if path != best:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        """Remove a snapshot; should that be cut short, it is none any more."""
        doomed = self.path / f"{_UNFINISHED}{path.name}"
        try:
            path.rename(doomed)
        except OSError as error:
            _log.warning("an old snapshot stays: %s", error)
        shutil.rmtree(doomed, ignore_errors=True)

    # -- how they play

    def mark_evaluated(self, version: int, result: Mapping[str, Any]) -> bool:
        """Write beside a snapshot what its policy reached; return whether it is the best so far.

        Args:
            version: The snapshot's.
            result: JSON, with a finite ``return_mean``.

        Raises:
            NoSnapshot: If there is none of that version.
            SnapshotFailed: If it cannot be written.
        """
        assert _score(result) is not None, result
        path = self.path / str(version)
        with self._lock:
            if _read_manifest(path) is None:
                raise NoSnapshot(f"version {version} has no snapshot in {self.path}")
            unfinished = path / f"{_UNFINISHED}{EVALUATION}"
            try:
                unfinished.write_text(json.dumps(dict(result), indent=1) + "\n")
                sync(unfinished)
                unfinished.rename(path / EVALUATION)
                sync(path)
            except OSError as error:
                unfinished.unlink(missing_ok=True)
                raise SnapshotFailed(f"no evaluation written to {path}: {error}") from error
            return self._best() == path

    def _best(self) -> Path | None:
        """Return the snapshot with the highest mean return, the newest of equals."""
        found = by_age(self.path)
        scores = [(_score(read_evaluation(path)), age, path) for age, path in found]
        scored = [(score, age, path) for score, age, path in scores if score is not None]
        return max(scored)[2] if scored else None


def find(path: Path) -> Snapshot:
    """Return the snapshot in a folder: a snapshot's, a run's, or one of snapshots.

    Of several, the newest undamaged one, which tells what was wrong with those passed over.

    Raises:
        SnapshotFailed: If there is none.
    """
    if (path / MANIFEST).exists():
        return load(path)
    passed_over: list[str] = []
    for folder in (path / "snapshots", path):
        for _, candidate in by_age(folder):
            try:
                return load(candidate)._replace(passed_over=tuple(passed_over))
            except SnapshotFailed as error:
                _log.warning("passed over: %s", error)
                passed_over.append(str(error))
    raise SnapshotFailed("; ".join([f"no snapshot in {path}", *passed_over]))


def load(path: Path) -> Snapshot:
    """Return a snapshot after checking each of its files.

    Raises:
        SnapshotFailed: If it is not complete and undamaged.
    """
    manifest = _read_manifest(path)
    if manifest is None:
        raise SnapshotFailed(f"snapshot {path} has no readable {MANIFEST}")
    if manifest.get("format") != FORMAT:
        raise SnapshotFailed(f"snapshot {path} has format {manifest.get('format')!r}, not {FORMAT}")
    for name, expected in manifest["files"].items():
        try:
            found = _fingerprint(path / Path(name).name)
        except OSError as error:
            raise SnapshotFailed(f"snapshot {path} is damaged: {error}") from error
        if found != expected:
            raise SnapshotFailed(f"snapshot {path} is damaged: {name} is not what was written")
    return Snapshot(path, manifest)


def by_age(folder: Path) -> list[tuple[tuple[int, int], Path]]:
    """Return the snapshots of a folder that have a readable manifest, newest first."""
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        manifest = None if path.name.startswith(".") else _read_manifest(path)
        if manifest is not None:
            found.append(((manifest["epoch"], manifest["version"]), path))
    return sorted(found, reverse=True)


def read_evaluation(path: Path) -> dict[str, Any] | None:
    """Return what was written about how a snapshot plays, None if nothing readable was."""
    try:
        result = json.loads((path / EVALUATION).read_bytes())
    except (OSError, ValueError):
        return None
    return result if _score(result) is not None else None


def _score(result: object) -> float | None:
    """Return the mean return of an evaluation, None if it is none."""
    value: object = result.get("return_mean") if isinstance(result, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    is_one = (
        isinstance(manifest, dict)
        and isinstance(manifest.get("epoch"), int)
        and isinstance(manifest.get("version"), int)
        and isinstance(manifest.get("files"), dict)
    )
    return manifest if is_one else None


def _fingerprint(path: Path) -> dict[str, int]:
    content = path.read_bytes()
    return {"bytes": len(content), "crc32": zlib.crc32(content)}
