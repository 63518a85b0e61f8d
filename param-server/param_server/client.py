"""The worker's side of the protocol: pull weights, push gradients.

Payloads go from the caller's array to the socket and back without a copy.  The standard library's
``http.client`` does that; the figures beside ``requests`` are in
docs/decisions/0001-http-server.md.  Each thread has a connection of its own, kept alive.

Only what is safe is repeated: connections that failed, and 503.  A repeated push carries the same
sequence, so the server applies it once however often it arrives.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from param_server import wire
from param_server.errors import BadRequest, Draining, ServerFailed, ServerUnreachable, from_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from param_server.wire import Float32, Layout, Model, Push, PushAnswer

T = TypeVar("T")

_SOCKET_BUFFER_BYTES = 1 << 20
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_TEXT_LIMIT_BYTES = 16 << 20


@dataclass(frozen=True)
class Prototxt:
    """What a worker needs to build the server's network, and what it is for."""

    net: str
    solver: str
    layout: Layout
    game: str
    solver_type: str
    target_period: int  # updates


class _Reply:
    """An answer whose body is still on the connection."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.length = response.length or 0
        self._response = response

    def readinto(self, buffer: memoryview, /) -> int:
        """Read a piece of the body; an early end is a failed connection, not a bad frame."""
        count = self._response.readinto(buffer)
        if not count:
            raise ConnectionResetError("the answer was cut off")
        return count

    def text(self) -> bytes:
        """Read the rest of the body, which is small."""
        return self._response.read(_TEXT_LIMIT_BYTES)

    def document(self) -> dict[str, Any]:
        """Read the body as a JSON object."""
        text = self.text()
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ServerFailed(f"status {self.status} without a JSON object: {text[:80]!r}")
        return document


class Client:
    """Talks to one server on behalf of one worker of one run.

    Safe to call from many threads.

    Args:
        address: HOST:PORT.
        token: The server's token.
        run: The run this client belongs to; any request renews its lease.
        worker: The worker's name; any request renews its lease.
        timeout_s: For connecting, and for each piece of an answer.
        retry_s: How long failed connections and 503 are tried again; 0: not at all.
        sleep: Waits between two tries.
    """

    def __init__(
        self,
        address: str,
        token: str,
        *,
        run: str = "",
        worker: str = "",
        timeout_s: float = 30.0,
        retry_s: float = 30.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.address = address
        self._host, self._port = split_address(address)
        self._headers = {"Authorization": f"Bearer {token}", "Host": address}
        if run:
            self._headers["DDQ-Run"] = run
        if worker:
            self._headers["DDQ-Worker"] = worker
        self._run = run
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._sleep = sleep
        self._local = threading.local()
        self._layout: Layout | None = None

    # -- the model

    def prototxt(self) -> Prototxt:
        """Fetch the network, the solver and the layout of the flat arena."""
        document = self._json("GET", "/api/v1/prototxt")
        layout = wire.Layout.from_entries(document["layout"]["entries"])
        if layout.digest != document["layout"]["digest"]:
            raise BadRequest("the server's layout and its digest differ")
        self._layout = layout
        return Prototxt(
            net=document["net"],
            solver=document["solver"],
            layout=layout,
            game=document["game"],
            solver_type=document["solver_type"],
            target_period=document["target_period"],
        )

    def pull(
        self, known: tuple[int, int] | None = None, out: Float32 | None = None
    ) -> Model | None:
        """Fetch the weights, or None if (epoch, version) is what the caller knows.

        Args:
            known: The (epoch, version) of the weights at hand.
            out: float32 [P] to write into; None allocates.  After an error it is undefined.
        """
        tag = f'"{known[0]}-{known[1]}"' if known else None
        return self._pull("/api/v1/latest_model", tag, out)

    def pull_target(
        self, known: tuple[int, int] | None = None, out: Float32 | None = None
    ) -> Model | None:
        """Fetch the target weights, or None if (epoch, target_version) is what is known."""
        tag = f'"{known[0]}-target-{known[1]}"' if known else None
        return self._pull("/api/v1/latest_model?which=target", tag, out)

    def push(
        self, push: Push, gradient: Float32, out: Float32 | None = None
    ) -> tuple[PushAnswer, Model | None]:
        """Send a gradient; with ``push.want_model`` fetch the weights in the same exchange.

        Args:
            push: Its identity and what it reports.
            gradient: float32 [P]; only read.
            out: float32 [P] for the weights, not the gradient's memory; None allocates.

        Raises:
            EpochChanged, LayoutMismatch, WrongRun: The gradient is of no use; its sequence may be
                used again, and its steps were not counted.
        """

        def read(reply: _Reply) -> tuple[PushAnswer, Model | None]:
            if reply.status == 422:
                return wire.answer_from_fields(reply.document()["answer"]), None
            header, length = wire.read_header(reply, reply.length)
            answer = wire.decode_answer(header)
            if header.get("model") is None:
                return answer, None
            weights = _read_weights(reply, length, out)
            return answer, wire.decode_model(header, weights)

        body = (wire.encode_push(push), wire.payload_bytes(gradient))
        headers = {"Content-Type": wire.MEDIA_TYPE}
        return self._request("POST", "/api/v1/update_model", read, headers, body)

    def _pull(self, path: str, tag: str | None, out: Float32 | None) -> Model | None:
        def read(reply: _Reply) -> Model | None:
            if reply.status == 304:
                reply.text()
                return None
            header, length = wire.read_header(reply, reply.length)
            return wire.decode_model(header, _read_weights(reply, length, out))

        return self._request("GET", path, read, {"If-None-Match": tag} if tag else {})

    # -- the server

    def status(self) -> dict[str, Any]:
        """Fetch what the status page shows."""
        return self._json("GET", "/api/v1/status_data")

    def snapshot(self) -> dict[str, Any]:
        """Have a snapshot written now; return its path, epoch and version."""
        return self._json("POST", "/api/v1/snapshot")

    def clear(self) -> dict[str, Any]:
        """Send the model back to version 0 in a new epoch."""
        return self._json("POST", "/api/v1/clear_model")

    def open_run(self) -> dict[str, Any]:
        """Bind the server to this client's run.

        Raises:
            WrongRun: If another run is bound and alive.
        """
        return self._json("POST", "/api/v1/run", {"run": self._run})

    def close_run(self) -> dict[str, Any]:
        """Unbind this client's run, so that another may use the server."""
        return self._json("DELETE", "/api/v1/run", {"run": self._run})

    def close(self) -> None:
        """Close this thread's connection; the next request opens another."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()

    # -- requests

    def _json(
        self, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        body = b"" if document is None else json.dumps(document).encode()
        headers = {"Content-Type": "application/json"}
        return self._request(method, path, _Reply.document, headers, (body,))

    def _request(
        self,
        method: str,
        path: str,
        read: Callable[[_Reply], T],
        headers: Mapping[str, str],
        body: Sequence[bytes | memoryview] = (),
    ) -> T:
        """Send a request until it is answered and read; raise what a refusal stands for."""
        deadline = time.monotonic() + self._retry_s
        pause_s = _FIRST_PAUSE_S
        while True:
            kept_alive = self._is_connected()
            try:
                reply = self._try(method, path, headers, body)
                if reply.status < 400 or reply.status == 422:
                    return read(reply)
                error = from_problem(reply.status, reply.document())
            except (OSError, http.client.HTTPException) as failure:
                self.close()
                if kept_alive:  # the server closes idle connections: that is no failure
                    continue
                error = ServerUnreachable(self.address, str(failure) or type(failure).__name__)
            except BaseException:
                self.close()  # part of an answer may be left on the connection
                raise
            if not isinstance(error, Draining | ServerUnreachable) or time.monotonic() > deadline:
                raise error
            self._sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _try(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Sequence[bytes | memoryview],
    ) -> _Reply:
        connection = self._connection()
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {**self._headers, **headers}.items():
            connection.putheader(name, value)
        if body:
            connection.putheader("Content-Length", str(sum(map(len, body))))
        try:
            connection.endheaders(body[0] if body else None)
            for part in body[1:]:
                connection.send(part)
        except (BrokenPipeError, ConnectionResetError):
            # The server may have refused before it read everything: its answer says why.
            if connection.sock is None:
                raise
        return _Reply(connection.getresponse())

    def _is_connected(self) -> bool:
        connection = getattr(self._local, "connection", None)
        return connection is not None and connection.sock is not None

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
            self._local.connection = connection
        if connection.sock is None:
            connection.connect()
            assert connection.sock is not None
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                connection.sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_BYTES)
        return connection


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT or [HOST]:PORT.

    ``localhost`` becomes 127.0.0.1: not every container's hosts file has it.

    Raises:
        ValueError: If there is no host or no port.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit()):
        raise ValueError(f"address {address!r} is not HOST:PORT")
    host = host.removeprefix("[").removesuffix("]")
    return "127.0.0.1" if host == "localhost" else host, int(port)


def _read_weights(reply: _Reply, length: int, out: Float32 | None) -> Float32:
    weights = np.empty(length // 4, np.float32) if out is None else out
    wire.read_payload(reply, length, weights)
    return weights
