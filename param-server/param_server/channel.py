"""Frames without payload over a Unix socket, for the two sides of the same-host path.

The header limit, the time that a frame may take once its first byte is there, and what counts as
the end are decided here; what the frames mean is not known.
"""

from __future__ import annotations

import io
import socket
import struct
import time
from typing import Any

from param_server import wire
from param_server.errors import BadRequest

FRAME_S = 10.0  # from a frame's first byte to its last, in either direction


class _Stream(io.RawIOBase):
    """A socket's bytes, until a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = 0.0  # of time.monotonic

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        # Zero would make the socket non-blocking.
        self._connection.settimeout(max(self.deadline - time.monotonic(), 1e-3))
        return self._connection.recv_into(buffer)


class Channel:
    """One end of a connected socket.  Not thread-safe.

    The socket stays its owner's, who closes it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = _Stream(connection)
        self._reader = io.BufferedReader(self._stream)

    def send(self, frame: bytes) -> None:
        """Send a frame.

        Raises:
            OSError: If the peer is gone, or does not read (TimeoutError).
        """
        self._connection.settimeout(FRAME_S)
        self._connection.sendall(frame)

    def receive(
        self, *, wait_s: float, limit: int = wire.HEADER_LIMIT_BYTES
    ) -> dict[str, Any] | None:
        """Wait for a frame and return its header, None if the peer closed.

        Args:
            wait_s: How long its first byte may take.
            limit: Bytes of a header.

        Raises:
            TimeoutError: If no byte came; the next call may wait again.
            BadRequest: If what came is no frame, or not the whole of one.  The channel is then of
                no use but to send: nobody knows where the next frame begins.
            OSError: If the connection broke.
        """
        self._stream.deadline = time.monotonic() + wait_s
        if not self._reader.peek(1):
            return None
        self._stream.deadline = time.monotonic() + FRAME_S
        try:
            header, _ = wire.read_header(self._reader, wire.PREFIX.size + limit)
        except TimeoutError:
            raise BadRequest(f"the frame was not complete after {FRAME_S:g} s") from None
        return header


def peer_user(connection: socket.socket) -> int:
    """Return the user of the process at the other end, as the kernel noted it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _pid, user, _group = struct.unpack("3i", credentials)
    return int(user)
