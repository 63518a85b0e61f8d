"""The floor: the same bytes over a bare socket, and the same rule applied.

One byte asks, the payload follows, the answer is a payload or one byte.  Each connection has a
thread and a buffer; the lock is held for the rule alone.  Nothing is checked, counted or copied:
weights are sent as they stand, so with several workers they may be torn.  A server that keeps its
promises cannot be faster.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.server.peer import Peer, gradient_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from param_server.engine import Engine

PULL, PUSH, EXCHANGE, DONE = b"G", b"P", b"X", b"."
_BUFFERS = ((socket.SO_SNDBUF, 256 << 10), (socket.SO_RCVBUF, 1 << 20))  # as ours has them


def listen(*, unix: Path | None) -> tuple[socket.socket, str]:
    """Return a listening socket, TCP or Unix, and its address."""
    if unix is None:
        listener = socket.create_server(("127.0.0.1", 0))
        return listener, f"127.0.0.1:{listener.getsockname()[1]}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(unix))
    listener.listen()
    return listener, str(unix)


def serve(listener: socket.socket, engine: Engine) -> None:
    """Answer connections for ever."""
    lock = threading.Lock()
    while True:
        connection, _ = listener.accept()
        _tune(connection)
        threading.Thread(target=_converse, args=(connection, engine, lock), daemon=True).start()


def _converse(connection: socket.socket, engine: Engine, lock: threading.Lock) -> None:
    gradient = np.empty(engine.layout.size, np.float32)
    while request := connection.recv(1):
        if request != PULL:
            _receive(connection, gradient)
            with lock:
                engine.apply(gradient)
        connection.sendall(DONE if request == PUSH else engine.weights.data.cast("B"))


def _receive(connection: socket.socket, out: NDArray[np.float32]) -> None:
    view = out.data.cast("B")
    done = 0
    while done < len(view):
        count = connection.recv_into(view[done:])
        if not count:
            raise ConnectionResetError("the peer hung up")
        done += count


def _tune(connection: socket.socket) -> None:
    if connection.family == socket.AF_INET:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, size in _BUFFERS:
        connection.setsockopt(socket.SOL_SOCKET, option, size)


class Floor(Peer):
    """A worker of the floor."""

    def __init__(self, config: dict[str, Any]) -> None:
        address: str = config["address"]
        if os.path.isabs(address):  # noqa: PTH117 - a path, or HOST:PORT
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(address)
        else:
            host, _, port = address.rpartition(":")
            self._socket = socket.create_connection((host, int(port)))
        _tune(self._socket)
        self._gradient = gradient_of(config["size"])
        self._weights = np.empty_like(self._gradient)

    def pull(self) -> None:
        """Read the weights."""
        self._socket.sendall(PULL)
        _receive(self._socket, self._weights)

    def push(self) -> None:
        """Send the gradient."""
        self._socket.sendall(PUSH)
        self._socket.sendall(self._gradient.data.cast("B"))
        assert self._socket.recv(1) == DONE

    def exchange(self) -> None:
        """Send the gradient, read the weights."""
        self._socket.sendall(EXCHANGE)
        self._socket.sendall(self._gradient.data.cast("B"))
        _receive(self._socket, self._weights)
