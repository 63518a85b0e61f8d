"""How far a server has answered, in a small file that outlives a kill of its process.

After a restart it tells how much of what was acknowledged is gone.  It is written after each push,
before the answer, and never synced: what a process has written, the system keeps when the process
is killed.  When the machine goes down it may say less than there was.

The file is two slots that are written in turn, each with a rising sequence and a checksum: if one
is half written, the other tells where the push before it was.  A mapped file would save the
microsecond of ``pwrite``; but where the disk is full, or fails, writing to its memory kills the
process, and ``pwrite`` says so.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import zlib
from typing import TYPE_CHECKING, NamedTuple

from param_server.errors import SnapshotFailed

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

NAME = "progress"

_VALUES = struct.Struct("<4sQQQQ")  # magic, sequence, epoch, version, changes
_CHECK = struct.Struct("<I")
_MAGIC = b"DDQP"
_SLOT_BYTES = _VALUES.size + _CHECK.size


class Reached(NamedTuple):
    """The store's state when something was last answered."""

    epoch: int
    version: int
    changes: int


class Progress:
    """The file of a server that runs.  Safe to call from many threads.

    Args:
        folder: Where the file is; one that is there is continued.

    Raises:
        SnapshotFailed: If it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(folder / NAME, flags, 0o600)
        except OSError as error:
            raise SnapshotFailed(f"cannot write {folder / NAME}: {error.strerror}") from error
        self._sequence = max((sequence for sequence, _ in _slots(self._file)), default=0)
        self._last: tuple[int, int, int] | None = None
        self._lock = threading.Lock()
        self._failed = False

    def write(self, epoch: int, version: int, changes: int) -> None:
        """Note that this was answered; what is older than the last note is passed over."""
        order = (epoch, changes, version)
        with self._lock:
            if self._last is not None and order <= self._last:
                return
            self._last = order
            self._sequence += 1
            values = _VALUES.pack(_MAGIC, self._sequence, epoch, version, changes)
            try:
                os.pwrite(
                    self._file,
                    values + _CHECK.pack(zlib.crc32(values)),
                    self._sequence % 2 * _SLOT_BYTES,
                )
            except OSError as error:
                self._complain(error)

    def close(self) -> None:
        """Close the file; nobody writes any more."""
        os.close(self._file)

    def _complain(self, error: OSError) -> None:
        """Say once that the file is of no use: training need not stop for it."""
        if not self._failed:
            self._failed = True
            _log.error("what a kill loses will not be known: %s", error)


def read(folder: Path) -> Reached | None:
    """Return what the last server of a folder had answered, None if that is not known."""
    try:
        file = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return max(_slots(file), default=(0, None))[1]
    finally:
        os.close(file)


def _slots(file: int) -> list[tuple[int, Reached]]:
    """Return the whole slots of a file, each with its sequence."""
    found = []
    for index in range(2):
        slot = os.pread(file, _SLOT_BYTES, index * _SLOT_BYTES)
        values = slot[: _VALUES.size]
        if len(slot) == _SLOT_BYTES and slot[_VALUES.size :] == _CHECK.pack(zlib.crc32(values)):
            magic, sequence, *reached = _VALUES.unpack(values)
            if magic == _MAGIC:
                found.append((sequence, Reached(*reached)))
    return found
