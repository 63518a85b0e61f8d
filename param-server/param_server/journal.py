"""A write-ahead journal: what changes is on disk before it is acknowledged.

The design.  A snapshot of every update would cost more than the update; the gradients since the
last snapshot say the same.  A change is appended before it happens, under the store's lock, so the
journal has the order of the changes.  ``sync`` makes it durable after the lock is let go and before
the answer: one fdatasync covers all that was appended before it began, so workers that push at the
same time share it, and nobody waits for the disk but those who are to be answered.

The journal is a row of segments, ``journal-<number>.log``.  A snapshot's capture begins a new one,
whose number goes into the snapshot's manifest: the snapshot and the segments from that number on
are the state.  Older segments are removed once two newer snapshots are whole, so that one of them
may be damaged.

A record is a prefix, a header (JSON) and a payload (float32, little-endian, or nothing):

    "DDQJ" | uint32 bytes of header | uint64 bytes of payload | uint32 CRC | uint32 CRC of these 20

CRC is the CRC-32 of header and payload, continued from that of the record before, so that a record
is good only in its place.  A segment's first record says its number, the (epoch, changes) of the
store at that moment, and the number and last CRC of the segment before.

A process that is killed leaves a part of a record at the end: reading ends before it and says
nothing, for nobody was told that this record exists.  Anything else that is not as it was written
is damage; reading ends before it too, and says where.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import struct
import threading
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from param_server.disk import sync
from param_server.errors import JournalFailed
from param_server.payload import payload_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from param_server.payload import Float32

_log = logging.getLogger(__name__)

#: A snapshot is due when a segment is this long.  Reading it back takes a second or two, the
#: folder stays within about three of them, and at 7 MB an update a snapshot (three times that) in
#: 150 updates is little beside the journal itself.
SEGMENT_BYTES = 1 << 30

MAGIC = b"DDQJ"
SIZES = struct.Struct("<4sIQI")
CHECK = struct.Struct("<I")
FORMAT = 1

Position: TypeAlias = tuple[int, int]  # (epoch, changes) of the store


class End(NamedTuple):
    """Where a journal ends: the number of its last segment, and the CRC of its last record."""

    number: int
    crc: int


class _Mark(NamedTuple):
    """A place in the segment that is being written."""

    length: int = 0  # bytes
    crc: int = 0


class Journal:
    """The journal that is being written.

    ``append``, ``undo`` and ``rotate`` are called under the store's lock, ``rotate`` first;
    ``sync`` by any thread without it.

    Args:
        folder: Where the segments are; a new one's number is above all that are there.
        position: Returns the store's (epoch, changes).
    """

    def __init__(self, folder: Path, position: Callable[[], Position]) -> None:
        self._folder = folder
        self._position = position
        self._before: End | None = None
        self._number = max(segments(folder), default=0)
        self._here = self._last = _Mark()
        self._files: list[int] = []  # descriptors: full segments that are not synced, the current
        self._named = 0  # number of the newest segment whose name is on disk
        self._turn = threading.Lock()  # held by the thread that syncs
        self._appended = 0  # appends and undos so far; never falls, so that `_synced` can tell
        self._synced = 0
        self._failure = ""

    def follow(self, end: End | None) -> None:
        """Continue a journal of an earlier life, whose records the store holds to their end."""
        self._before = end

    # -- under the store's lock

    def append(self, record: Mapping[str, Any], gradient: Float32 | None) -> None:
        """Write a record; the gradient's memory goes to the file as it is.

        Raises:
            JournalFailed: It could not be written, and what there was of it is gone again.
        """
        assert self._files, "a journal begins with a snapshot's capture"
        if self._failure:
            raise JournalFailed(self._failure)
        written = self._write(self._files[-1], self._here, record, gradient)
        self._last, self._here = self._here, written
        self._appended += 1

    def undo(self) -> None:
        """Take the last record back: its change did not happen."""
        self._cut(self._files[-1], self._last)
        self._here = self._last
        self._appended += 1

    def rotate(self) -> int:
        """Begin a new segment and return its number.

        Raises:
            JournalFailed: If it cannot be made; the old one goes on.
        """
        if self._failure:
            raise JournalFailed(self._failure)
        number = self._number + 1
        path = segment_path(self._folder, number)
        if self._files:
            self._before = End(self._number, self._here.crc)
        epoch, changes = self._position()
        head = {
            "kind": "segment",
            "format": FORMAT,
            "number": number,
            "epoch": epoch,
            "changes": changes,
            "before": self._before,
        }
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalFailed(f"cannot begin the journal {path}: {error.strerror}") from error
        try:
            here = self._write(file, _Mark(), head, None)
        except JournalFailed:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        self._here = self._last = here
        self._number = number
        self._files.append(file)
        self._appended += 1
        return number

    def is_full(self) -> bool:
        """Whether the segment is so long that a snapshot is due."""
        return self._here.length > SEGMENT_BYTES

    def _write(
        self, file: int, here: _Mark, record: Mapping[str, Any], gradient: Float32 | None
    ) -> _Mark:
        """Write a record at a place; return the place after it."""
        header = json.dumps(record, separators=(",", ":")).encode()
        payload = memoryview(b"") if gradient is None else payload_bytes(gradient)
        crc = zlib.crc32(payload, zlib.crc32(header, here.crc))
        sizes = SIZES.pack(MAGIC, len(header), len(payload), crc)
        prefix = sizes + CHECK.pack(zlib.crc32(sizes))
        parts = [memoryview(part) for part in (prefix, header, payload)]
        length = here.length
        try:
            while parts:
                count = os.pwritev(file, parts, length)
                length += count
                parts = _rest(parts, count)
        except OSError as error:
            self._cut(file, here)
            raise JournalFailed(f"cannot write the journal: {error.strerror}") from error
        return _Mark(length, crc)

    def _cut(self, file: int, here: _Mark) -> None:
        try:
            os.ftruncate(file, here.length)
        except OSError as error:
            self._fail(f"a record cannot be taken back: {error.strerror}")

    def _fail(self, reason: str) -> None:
        self._failure = f"the journal failed, nothing more is acknowledged: {reason}"
        _log.critical("%s; start the server again with --resume", self._failure)

    # -- without it

    def sync(self) -> None:
        """Return when all that this thread has appended is on disk.

        Raises:
            JournalFailed: It may not be, now and for ever: after a failed fdatasync nobody can
                tell what the disk holds.
        """
        wanted = self._appended
        if self._synced >= wanted:
            return
        with self._turn:  # the others wait here, and find that it was done for them
            if self._synced >= wanted:
                return
            if self._failure:
                raise JournalFailed(self._failure)
            self._sync_all()

    def _sync_all(self) -> None:
        # Read in this order: a segment that is begun meanwhile is then synced too, or not counted.
        covered = self._appended
        number = self._number
        files = list(self._files)
        try:
            for file in files:
                os.fdatasync(file)
            if number > self._named:
                sync(self._folder)
        except OSError as error:
            self._fail(f"fdatasync: {error.strerror}")
            raise JournalFailed(self._failure) from error
        self._named = number
        self._synced = covered
        full = files[:-1]
        del self._files[: len(full)]
        for file in full:
            os.close(file)

    def close(self) -> None:
        """Sync what is left and close the files; nobody appends any more."""
        with self._turn:
            if self._synced < self._appended and not self._failure:
                with contextlib.suppress(JournalFailed):  # it is in the log
                    self._sync_all()
            for file in self._files:
                os.close(file)
            self._files.clear()


def segment_path(folder: Path, number: int) -> Path:
    """Return where a segment is."""
    return folder / f"journal-{number}.log"


def segments(folder: Path) -> list[int]:
    """Return the numbers of the segments in a folder, rising."""
    names = (path.name[len("journal-") : -len(".log")] for path in folder.glob("journal-*.log"))
    return sorted(int(name) for name in names if name.isdecimal())


def prune(folder: Path, needed: int) -> None:
    """Remove the segments below a number; one that cannot be removed is left to the next time."""
    for number in segments(folder):
        if number < needed:
            try:
                segment_path(folder, number).unlink(missing_ok=True)
            except OSError as error:
                _log.warning("an old segment of the journal stays: %s", error)


def _rest(parts: list[memoryview], count: int) -> list[memoryview]:
    """Return what is left of some buffers after ``count`` bytes were written."""
    left = []
    for part in parts:
        if count < len(part):
            left.append(part[count:])
        count = max(0, count - len(part))
    return left
