"""Reading a journal back: the records that were appended, in order, as far as they are whole.

The format is described in ``journal``.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from param_server.errors import BadRequest
from param_server.journal import CHECK, FORMAT, MAGIC, SIZES, End, segment_path, segments
from param_server.payload import Float32, payload_bytes, read_payload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

    from param_server.journal import Position

_PREFIX_BYTES = SIZES.size + CHECK.size
_PIECE_BYTES = 1 << 20

Record: TypeAlias = tuple[dict[str, Any], Float32 | None]


class Reading:
    """The records of a journal in their order: an iterable of (record, gradient or None).

    Args:
        folder: Where the segments are.
        first: The number of the segment to begin with, from a snapshot's manifest.
        position: That snapshot's (epoch, changes).
    """

    def __init__(self, folder: Path, first: int, position: Position) -> None:
        self._folder = folder
        self._first = first
        self._position = position
        #: what ended the reading early, "" if it was the journal's end
        self.damage = ""
        #: where it ended; None before that, and after damage
        self.end: End | None = None

    def __iter__(self) -> Iterator[Record]:
        numbers = [number for number in segments(self._folder) if number >= self._first]
        end: End | None = None
        try:
            for expected, number in enumerate(numbers or [0], self._first):
                path = segment_path(self._folder, expected)
                if number != expected:
                    raise _DamageError(f"{path.name} is missing")  # noqa: TRY301 - told below
                with path.open("rb") as file:
                    segment = _Segment(file, path.name)
                    if self._begin(segment, end):
                        yield from segment
                        end = End(number, segment.crc)
            self.end = end
        except (_DamageError, BadRequest, OSError, ValueError) as error:
            self.damage = f"the journal is damaged: {error}; what follows is not read"

    def _begin(self, segment: _Segment, before: End | None) -> bool:
        """Read a segment's first record and see that it belongs here.

        Returns:
            False if it was never finished, which a kill at the segment's beginning leaves.
        """
        name, record = segment.name, segment.next()
        if record is None and before is not None:
            return False
        head = record[0] if record else {}
        if head.get("kind") != "segment":
            raise _DamageError(f"{name} has no beginning")
        if head.get("format") != FORMAT:
            raise _DamageError(f"{name} has format {head.get('format')!r}, not {FORMAT}")
        if before is None:
            belongs = (head.get("epoch"), head.get("changes")) == self._position
        else:
            belongs = head.get("before") == list(before)
        if not belongs:
            raise _DamageError(f"{name} does not continue what was before it")
        return True


class _DamageError(Exception):
    """A segment is not as it was written; the message says where and how."""


class _Segment:
    """The records of one segment file; iterating ends at a torn tail."""

    def __init__(self, file: BufferedReader, name: str) -> None:
        self.name = name
        #: of the last good record
        self.crc = 0
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def __iter__(self) -> Iterator[Record]:
        while (record := self.next()) is not None:
            yield record

    def next(self) -> Record | None:
        """Return the next record, None where there is no whole one any more.

        Raises:
            _DamageError: If something is there that was not written so.
        """
        start = self._file.tell()
        left = self._size - start
        prefix = self._file.read(_PREFIX_BYTES)
        if len(prefix) < _PREFIX_BYTES or self._is_blank(prefix):
            return None
        sizes = prefix[: SIZES.size]
        magic, header_bytes, values_bytes, expected = SIZES.unpack(sizes)
        if magic != MAGIC or prefix[SIZES.size :] != CHECK.pack(zlib.crc32(sizes)):
            raise _DamageError(f"{self.name} at byte {start:,}")
        if _PREFIX_BYTES + header_bytes + values_bytes > left:
            return None
        header = self._file.read(header_bytes)
        gradient = np.empty(values_bytes // 4, np.float32) if values_bytes else None
        crc = zlib.crc32(header, self.crc)
        if gradient is not None:
            read_payload(self._file, values_bytes, gradient)
            crc = zlib.crc32(payload_bytes(gradient), crc)
        if crc != expected:
            raise _DamageError(f"{self.name} at byte {start:,}")
        self.crc = crc
        record: dict[str, Any] = json.loads(header)
        return record, gradient

    def _is_blank(self, prefix: bytes) -> bool:
        """Whether the rest is zeros: a machine that went down had made room and not filled it."""
        piece = prefix
        while piece and piece.count(0) == len(piece):
            piece = self._file.read(_PIECE_BYTES)
        return not piece
