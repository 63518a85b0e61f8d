"""The bytes of one connection, each operation within its time.

A deadline is the total time for a request's head or body, however its bytes are spread: a peer
that sends one byte a second gains nothing by it.  What takes longer raises TimeoutError.  Large
bodies go from the socket into the reader's own memory.
"""

from __future__ import annotations

import io
import socket
import time
from typing import Any

from param_server.errors import TooSlow
from param_server.request_head import NotHttp

HEAD_LIMIT_BYTES = 32 << 10
_PIECE_BYTES = 16 << 10
_SCRATCH_BYTES = 64 << 10
TLS_RECORD = b"\x16\x03"  # how a handshake begins
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Stream:
    """Reads heads and bodies from a socket, and sends answers.  Deadlines are of time.monotonic."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._ahead = b""  # received, and not asked for yet

    def wait(self, deadline: float) -> None:
        """Wait until a request begins, or the peer closes."""
        if not self._ahead:
            self._receive(deadline)

    def read_head(self, deadline: float) -> bytes:
        """Return a request's head without its empty line, nothing if the peer closed within it.

        Raises:
            NotHttp: If it is too long, or the peer begins to speak TLS.
        """
        searched = 0
        while (end := self._ahead.find(b"\r\n\r\n", searched)) < 0:
            if self._ahead.startswith(TLS_RECORD):
                raise NotHttp(400, "this server does not speak TLS: leave out --tls-ca")
            if len(self._ahead) > HEAD_LIMIT_BYTES:
                status = 431 if b"\r\n" in self._ahead else 414
                raise NotHttp(status, f"the request's head exceeds {HEAD_LIMIT_BYTES} bytes")
            searched = max(0, len(self._ahead) - 3)
            if not self._receive(deadline):
                return b""
        head, self._ahead = self._ahead[:end], self._ahead[end + 4 :]
        return head

    def readinto(self, view: memoryview, deadline: float) -> int:
        """Read a piece of a body; return its length, 0 if the peer has closed."""
        if self._ahead:
            piece = self._ahead[: len(view)]
            view[: len(piece)] = piece
            self._ahead = self._ahead[len(piece) :]
            return len(piece)
        self._socket.settimeout(_seconds_until(deadline))
        return self._socket.recv_into(view)

    def send(self, part: bytes | memoryview, seconds: float) -> None:
        """Send all of it, in so many seconds altogether."""
        self._socket.settimeout(seconds)
        self._socket.sendall(part)

    def linger(self, limit_bytes: int, deadline: float) -> None:
        """Send no more, and read and forget what comes until the peer closes.

        Closed on bytes that nobody read, a connection is reset, and with it is lost what was
        sent last.
        """
        socket.socket.shutdown(self._socket, socket.SHUT_WR)
        left = limit_bytes
        self._ahead = b""
        while left > 0 and self._receive(deadline):
            left -= len(self._ahead)
            self._ahead = b""

    def _receive(self, deadline: float) -> bool:
        self._socket.settimeout(_seconds_until(deadline))
        piece = self._socket.recv(_PIECE_BYTES)
        self._ahead += piece
        return bool(piece)


class Body(io.RawIOBase):
    """A request's body: as many bytes of a stream as its Content-Length says."""

    def __init__(
        self, stream: Stream, length: int, deadline: float, *, awaits_continue: bool = False
    ) -> None:
        self._stream = stream
        self._deadline = deadline
        self.remaining = length
        #: the peer will not send the body until it is told to
        self.is_withheld = awaits_continue and length > 0

    def readable(self) -> bool:
        """Say so, as io wants it."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read a piece; a peer that has closed ends the body early.

        Raises:
            TooSlow: If the deadline has passed.
        """
        view = memoryview(buffer).cast("B")[: self.remaining]
        if not view:
            return 0
        try:
            if self.is_withheld:
                self.is_withheld = False
                self._stream.send(_CONTINUE, _seconds_until(self._deadline))
            count = self._stream.readinto(view, self._deadline)
        except TimeoutError:
            raise TooSlow(f"the body's last {self.remaining} bytes came too slowly") from None
        except OSError:  # a reset, or an end within TLS
            count = 0
        self.remaining -= count
        return count

    def discard(self, limit_bytes: int, deadline: float) -> bool:
        """Read and forget the rest; return whether the end was reached."""
        self._deadline = deadline
        scratch = bytearray(min(self.remaining, _SCRATCH_BYTES))
        try:
            while self.remaining and not self.is_withheld and limit_bytes > 0:
                count = self.readinto(scratch)
                if not count:
                    break
                limit_bytes -= count
        except TooSlow:
            return False
        return self.remaining == 0


def _seconds_until(deadline: float) -> float:
    """Return the time that is left.

    Raises:
        TimeoutError: If there is none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
