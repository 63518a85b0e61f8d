"""The same-host path, worker side, and the choice between it and HTTP.

``SameHostClient`` pushes and pulls by shared memory, as ``Client`` does over HTTP: same arguments,
same errors.  ``best_exchange`` uses it while it can be reached and HTTP while it cannot.  A push
may go by both: the server knows it by its sequence.  The other side is ``same_host``, the frames
are described in docs/same-host.md.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from param_server import wire
from param_server.channel import Channel, peer_user
from param_server.errors import (
    BadRequest,
    Crowded,
    Draining,
    ParamServerError,
    ServerFailed,
    ServerUnreachable,
    from_problem,
)
from param_server.fields import Fields
from param_server.segment import Segment, is_available, weights_offset

if TYPE_CHECKING:
    from collections.abc import Callable

    from param_server.client import Client
    from param_server.payload import Float32
    from param_server.wire import Model, Push, PushAnswer

T = TypeVar("T")

_log = logging.getLogger(__name__)

_DTYPE = "float32"
_WELCOME_LIMIT_BYTES = 64 << 10
_LOOK_AGAIN_S = 5.0  # between two looks for the same-host path of a server that has none


class _Line:
    """One connection with its shared memory."""

    def __init__(self, path: str, hello: bytes, timeout_s: float) -> None:
        """Connect and be welcomed.

        Raises:
            OSError: If nobody listens there, or it is another user's.
            ParamServerError: If the server refuses.
        """
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.settimeout(timeout_s)
            self.socket.connect(path)
            _require_our_user(self.socket)
            self.socket.sendall(hello)
            self.memory = self._welcomed()
        except BaseException:
            self.socket.close()
            raise
        self.channel = Channel(self.socket)

    def _welcomed(self) -> Segment:
        # The server says nothing but this, in one message, until it is asked something.
        frame, descriptors, _, _ = socket.recv_fds(self.socket, _WELCOME_LIMIT_BYTES, 1)
        try:
            if not frame:
                raise ConnectionResetError("the server hung up")
            header, _ = wire.read_header(io.BytesIO(frame), len(frame))
            _raise_problem(header)
            fields = Fields(header)
            fields.expect("kind", "welcome")
            size = fields.integer("size", at_least=1)
            if not descriptors or fields.integer("weights_offset") != weights_offset(size):
                raise ConnectionAbortedError("no shared memory came with the welcome")
            return Segment(descriptors[0], size)
        except ValueError as error:
            raise ConnectionAbortedError(str(error)) from error
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


class SameHostClient:
    """Talks to a server of this host on behalf of one worker of one run.

    Safe to call from many threads; they take turns on one connection.

    Args:
        path: Of the server's socket.
        token: The server's token.
        run: The run this client belongs to; any request renews its lease.
        worker: The worker's name; any request renews its lease.
        layout: The digest of the network expected, or empty.
        timeout_s: For each answer.
        lends: Whether weights stay in the shared memory, where the next request may change them,
            and are not copied into the array that a caller brings.
    """

    def __init__(
        self,
        path: str,
        token: str,
        *,
        run: str = "",
        worker: str = "",
        layout: str = "",
        timeout_s: float = 30.0,
        lends: bool = False,
    ) -> None:
        self.path = path
        self._lends = lends
        self._hello = wire.encode_header(
            {
                "kind": "hello",
                "dtype": _DTYPE,
                "token": token,
                "run": run,
                "worker": worker,
                "layout": layout,
            }
        )
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._line: _Line | None = None

    def connect(self) -> None:
        """Connect now and not with the first request.

        Raises:
            ServerUnreachable: If nobody can be reached at the path, or has room for us.
            ParamServerError: If the server refuses.
        """
        self._request(lambda _line: None)

    def pull(
        self, known: tuple[int, int] | None = None, out: Float32 | None = None
    ) -> Model | None:
        """Fetch the weights; see ``Client.pull``."""
        return self._pull("weights", known, out)

    def pull_target(
        self, known: tuple[int, int] | None = None, out: Float32 | None = None
    ) -> Model | None:
        """Fetch the target weights; see ``Client.pull_target``."""
        return self._pull("target", known, out)

    def push(
        self, push: Push, gradient: Float32, out: Float32 | None = None
    ) -> tuple[PushAnswer, Model | None]:
        """Send a gradient, and fetch the weights if the push wants them; see ``Client.push``."""

        def ask(line: _Line) -> tuple[PushAnswer, Model | None]:
            shared = line.memory.gradient
            np.copyto(shared, _flat(gradient, shared.size))
            header = self._exchange(line, frame)
            if (verdict := _verdict(header)) is not None:
                return verdict, None
            answer = wire.decode_answer(header)
            return answer, self._model(header, line, out) if header.get("model") else None

        frame = wire.encode_push(push)
        return self._request(ask)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        with self._lock:
            self._hang_up()

    def _pull(self, which: str, known: tuple[int, int] | None, out: Float32 | None) -> Model | None:
        def ask(line: _Line) -> Model | None:
            header = self._exchange(line, frame)
            _raise_problem(header)
            if header.get("kind") == "unchanged":
                return None
            return self._model(header, line, out)

        frame = wire.encode_header(
            {"kind": "pull", "dtype": _DTYPE, "which": which, "known": known}
        )
        return self._request(ask)

    def _model(self, header: dict[str, Any], line: _Line, out: Float32 | None) -> Model | None:
        """Copy the weights out of the shared memory, which the next request may change."""
        weights = line.memory.weights
        if out is None:
            return wire.decode_model(header, weights.copy())
        if out.shape != weights.shape:
            raise BadRequest(f"room for {out.size} values, expected {weights.size}")
        if self._lends:
            return wire.decode_model(header, weights)
        np.copyto(out, weights)
        return wire.decode_model(header, out)

    # -- the connection

    def _request(self, ask: Callable[[_Line], T]) -> T:
        """Ask, and ask again on a new connection if the one kept from before has ended."""
        with self._lock:
            while True:
                was_connected = self._line is not None
                try:
                    return ask(self._connected())
                except OSError as error:
                    self._hang_up()
                    if not was_connected or isinstance(error, TimeoutError):
                        raise ServerUnreachable(self.path, _reason(error)) from error

    def _exchange(self, line: _Line, frame: bytes) -> dict[str, Any]:
        """Send a frame and return the header of its answer; a failure ends the connection."""
        try:
            line.channel.send(frame)
            header = line.channel.receive(wait_s=self._timeout_s)
        except BadRequest as error:  # killed in the middle of a word
            self._hang_up()
            raise ConnectionResetError(str(error)) from error
        except BaseException:  # an interrupt too: an answer may still be on its way
            self._hang_up()
            raise
        if header is None:
            raise ConnectionResetError("the server hung up")
        return header

    def _connected(self) -> _Line:
        if self._line is None:
            try:
                self._line = _Line(self.path, self._hello, self._timeout_s)
            except (Crowded, ServerFailed) as error:
                raise ServerUnreachable(self.path, str(error)) from error
        return self._line

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.socket.close()
            self._line = None


class BestExchange:
    """Pushes and pulls by shared memory while the server can be reached so, else by HTTP.

    Safe to call from many threads.  A server that is killed or going down is left to the HTTP
    client, which knows how to wait for one; once it has answered there, it is asked where its
    socket is.

    Args:
        client: Talks HTTP to the server.
        lends: See ``SameHostClient``; for one thread, or many that wait for each other.
        clock: Says how long ago the same-host path was looked for, in seconds.
    """

    def __init__(
        self,
        client: Client,
        *,
        lends: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._lends = client, lends
        self._clock = clock
        self._lock = threading.Lock()
        self._same_host: SameHostClient | None = None
        self._look_at = clock()
        self._look_if_due()

    @property
    def is_same_host(self) -> bool:
        """Whether the next request goes by shared memory."""
        return self._same_host is not None

    def pull(
        self, known: tuple[int, int] | None = None, out: Float32 | None = None
    ) -> Model | None:
        """See ``Client.pull``."""
        return self._ask(lambda way: way.pull(known, out))

    def pull_target(
        self, known: tuple[int, int] | None = None, out: Float32 | None = None
    ) -> Model | None:
        """See ``Client.pull_target``."""
        return self._ask(lambda way: way.pull_target(known, out))

    def push(
        self, push: Push, gradient: Float32, out: Float32 | None = None
    ) -> tuple[PushAnswer, Model | None]:
        """See ``Client.push``.  One whose answer was lost is repeated under its sequence."""
        return self._ask(lambda way: way.push(push, gradient, out))

    def leave(self, worker: str, incarnation: str) -> object:
        """See ``Client.leave``."""
        return self._client.leave(worker, incarnation)

    def close(self) -> None:
        """Close the shared connection and this thread's; the next request opens others."""
        with self._lock:
            if self._same_host is not None:
                self._same_host.close()
        self._client.close()

    def _ask(self, ask: Callable[[Client | SameHostClient], T]) -> T:
        same_host = self._same_host
        if same_host is not None:
            try:
                return ask(same_host)
            except (ServerUnreachable, Draining) as error:
                _log.info("%s; using HTTP", error)
                self._leave(same_host)
        answer = ask(self._client)
        self._look_if_due()  # now that it is there
        return answer

    def _leave(self, same_host: SameHostClient) -> None:
        with self._lock:
            same_host.close()
            if self._same_host is same_host:
                self._same_host = None
                self._look_at = self._clock()

    def _look_if_due(self) -> None:
        with self._lock:
            if self._same_host is None and self._clock() >= self._look_at:
                self._look_at = self._clock() + _LOOK_AGAIN_S
                self._same_host = self._found()

    def _found(self) -> SameHostClient | None:
        """Ask the server for its socket, and connect."""
        try:
            prototxt = self._client.prototxt()
            if not prototxt.same_host:
                return None
            same_host = SameHostClient(
                prototxt.same_host,
                self._client.token,
                run=self._client.run,
                worker=self._client.worker,
                layout=prototxt.layout.digest,
                timeout_s=self._client.timeout_s,
                lends=self._lends,
            )
            same_host.connect()
        except ParamServerError as error:
            _log.info("using HTTP: %s", error)
            return None
        _log.info("using shared memory: %s", same_host.path)
        return same_host


def best_exchange(client: Client, *, lends: bool = False) -> Client | BestExchange:
    """Return the fastest way to a client's server.

    ``DDQ_SAME_HOST=0``, or a system without sealed memory, leaves HTTP.
    """
    if not is_available() or os.environ.get("DDQ_SAME_HOST") == "0":
        return client
    return BestExchange(client, lends=lends)


def _require_our_user(connection: socket.socket) -> None:
    """Tell nobody but a process of this user the token."""
    if peer_user(connection) != os.geteuid():
        raise ConnectionAbortedError(f"the socket belongs to user {peer_user(connection)}")


def _raise_problem(header: dict[str, Any]) -> None:
    """Raise what a problem frame stands for."""
    if header.get("kind") == "problem":
        document = Fields(header).nested("problem")
        raise from_problem(document.integer("status"), document.fields)


def _verdict(header: dict[str, Any]) -> PushAnswer | None:
    """Return the verdict on a rejected push, which is a problem with an answer inside."""
    if header.get("kind") == "problem":
        document = Fields(header).nested("problem")
        if document.integer("status") == 422:
            return wire.answer_from_fields(document.nested("answer").fields)
        _raise_problem(header)
    return None


def _flat(gradient: Float32, size: int) -> Float32:
    """Refuse what the server would refuse over HTTP; a copy would broadcast it."""
    if gradient.size != size:
        raise BadRequest(f"the gradient has {gradient.size} values, expected {size}")
    return gradient.reshape(-1)


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
