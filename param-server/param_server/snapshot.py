"""Snapshots on disk: written whole or not at all, found again, and written in time.

The design.  A snapshot is a folder.  It is filled under a name that no reader looks at, every file
and the folder are synced, and then it is renamed: there is no moment at which a crash or a full
disk leaves half of one under a good name.  Its manifest lists each file's size and checksum, so
one damaged later is known, and passed over for the one before it.  The newest is the one with the
highest (epoch, version), whatever its name or date.

What is in the files is the caller's affair: ``fill`` writes them and returns what else belongs in
the manifest.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.errors import SnapshotFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
_UNFINISHED = ".tmp-"
_REPLACED = ".old-"
_TICK_S = 0.5


class Snapshot(NamedTuple):
    """A snapshot whose files are all there and undamaged."""

    path: Path
    manifest: dict[str, Any]

    @property
    def age(self) -> tuple[int, int]:
        """(epoch, version): of two snapshots the greater is newer."""
        return self.manifest["epoch"], self.manifest["version"]


class Folder:
    """The snapshots of one run.  Not thread-safe: its Snapshotter calls it one at a time."""

    def __init__(self, path: Path, *, keep: int = 5) -> None:
        self.path = path
        self._keep = keep

    def prepare(self) -> None:
        """Make the folder, see that it can be written, and mend what a crash left in it.

        Raises:
            SnapshotFailed: If it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._put_back()
            for leftover in self.path.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            probe = self.path / f"{_UNFINISHED}probe"
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise SnapshotFailed(f"cannot write snapshots to {self.path}: {error}") from error

    def write(self, fill: Callable[[Path], Mapping[str, Any]]) -> Snapshot:
        """Write one, and remove the oldest beyond those to keep.

        Args:
            fill: Writes files into an empty folder on this file system and returns the manifest's
                members, ``epoch`` and ``version`` among them.

        Raises:
            SnapshotFailed: If anything cannot be written; the snapshots there are untouched.
        """
        unfinished = self.path / f"{_UNFINISHED}{os.getpid()}"
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            members = fill(unfinished)
            files = {path.name: _fingerprint(path) for path in sorted(unfinished.iterdir())}
            manifest = {"format": FORMAT, **members, "files": files}
            (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            for path in (*unfinished.iterdir(), unfinished):
                _sync(path)
            path = self._rename(unfinished, str(manifest["version"]))
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise SnapshotFailed(f"no snapshot written to {self.path}: {error}") from error
        self._prune()
        return Snapshot(path, manifest)

    def _rename(self, unfinished: Path, name: str) -> Path:
        """Give a finished folder its name, in place of an earlier life's of the same version."""
        path, replaced = self.path / name, self.path / f"{_REPLACED}{name}"
        shutil.rmtree(replaced, ignore_errors=True)
        if path.exists():
            path.rename(replaced)
        try:
            unfinished.rename(path)
        except OSError:
            self._put_back()
            raise
        _sync(self.path)
        shutil.rmtree(replaced, ignore_errors=True)
        return path

    def _put_back(self) -> None:
        """Return what was moved aside for a snapshot that then did not come."""
        for replaced in self.path.glob(f"{_REPLACED}*"):
            path = self.path / replaced.name.removeprefix(_REPLACED)
            if not path.exists():
                replaced.rename(path)
            shutil.rmtree(replaced, ignore_errors=True)

    def _prune(self) -> None:
        for _, path in _by_age(self.path)[self._keep :]:
            shutil.rmtree(path, ignore_errors=True)


def find(path: Path) -> Snapshot:
    """Return the snapshot in a folder: a snapshot's, a run's, or one of snapshots.

    Of several, the newest undamaged one; damaged ones are passed over with a warning.

    Raises:
        SnapshotFailed: If there is none.
    """
    if (path / MANIFEST).exists():
        return load(path)
    for folder in (path / "snapshots", path):
        for _, candidate in _by_age(folder):
            snapshot = _load_or_warn(candidate)
            if snapshot is not None:
                return snapshot
    raise SnapshotFailed(f"no snapshot in {path}")


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


def _load_or_warn(path: Path) -> Snapshot | None:
    try:
        return load(path)
    except SnapshotFailed as error:
        _log.warning("passed over: %s", error)
        return None


def _by_age(folder: Path) -> list[tuple[tuple[int, int], Path]]:
    """Return the snapshots of a folder that have a readable manifest, newest first."""
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        manifest = None if path.name.startswith(".") else _read_manifest(path)
        if manifest is not None:
            found.append(((manifest["epoch"], manifest["version"]), path))
    return sorted(found, reverse=True)


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Snapshotter:
    """Writes a snapshot every so many updates or seconds, in a thread of its own, and on demand.

    A snapshot that fails is logged, shown in the status, and tried again at the next turn;
    training goes on.

    Args:
        folder: Where they go.
        fill: See ``Folder.write``.
        progress: Returns (changes, updates) of the store so far.
        written: Called with each snapshot that is safe on disk.
        every_updates: Updates between two; 0: no such limit.
        every_s: Seconds between two; 0: no such limit.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        folder: Folder,
        fill: Callable[[Path], Mapping[str, Any]],
        *,
        progress: Callable[[], tuple[int, int]],
        written: Callable[[Snapshot], None],
        every_updates: int,
        every_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._fill = fill
        self._progress = progress
        self._written = written
        self._every_updates = every_updates
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._last_changes, self._last_updates = progress()
        self._last_time = clock()
        self._last: Snapshot | None = None
        self._error = ""

    def start(self) -> None:
        """Begin to write them in time."""
        self._thread.start()

    def stop(self) -> None:
        """Write no more in time; wait for one that is being written."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def is_due(self) -> bool:
        """Whether something changed and updates or time since the last one exceed the limits."""
        changes, updates = self._progress()
        if changes == self._last_changes:
            return False
        enough_updates = 0 < self._every_updates <= abs(updates - self._last_updates)
        return enough_updates or 0 < self._every_s <= self._clock() - self._last_time

    def has_changes(self) -> bool:
        """Whether the store moved since the last one."""
        return self._progress()[0] != self._last_changes

    def now(self) -> dict[str, Any]:
        """Write one and return its path, epoch and version.

        Raises:
            SnapshotFailed: If it cannot be written; the last one stays.
        """
        with self._lock:
            changes, updates = self._progress()
            self._last_updates, self._last_time = updates, self._clock()
            try:
                snapshot = self._folder.write(self._fill)
            except SnapshotFailed as error:
                self._error = str(error)
                _log.error("%s; training goes on", error)
                raise
            self._last, self._last_changes, self._error = snapshot, changes, ""
        self._written(snapshot)
        epoch, version = snapshot.age
        _log.info("snapshot of version %d in %s", version, snapshot.path)
        return {"path": str(snapshot.path), "epoch": epoch, "version": version}

    def status(self) -> dict[str, Any]:
        """Return the last snapshot and the last error as JSON."""
        last = self._last
        return {
            "folder": str(self._folder.path),
            "last_version": last.manifest["version"] if last else None,
            "error": self._error,
        }

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            self._turn()

    def _turn(self) -> None:
        try:
            if self.is_due():
                self.now()
        except SnapshotFailed:
            pass  # logged and shown; the next turn tries again
        except Exception as error:  # noqa: BLE001 - this thread must outlive any one snapshot
            self._error = f"{type(error).__name__}: {error}"
            _log.exception("a snapshot failed in a way nobody foresaw")
