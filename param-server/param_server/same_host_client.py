"""The same-host path, worker side.

``SameHostClient`` pushes and pulls by shared memory, as ``Client`` does over HTTP: same arguments,
same errors; ``best_exchange`` chooses between them.  The other side is ``same_host``, the frames
are described in docs/same-host.md.
"""

from __future__ import annotations

import io
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from param_server import wire
from param_server.channel import Channel, peer_user
from param_server.errors import (
    BadRequest,
    Crowded,
    ServerFailed,
    ServerUnreachable,
    from_problem,
)
from param_server.fields import Fields
from param_server.segment import Segment, weights_offset

if TYPE_CHECKING:
    from collections.abc import Callable

    from param_server.payload import Float32
    from param_server.wire import Model, Push, PushAnswer

T = TypeVar("T")
#: Told where weights and gradient, float32 [P], may lie from now on; says whether they do.
Taker: TypeAlias = "Callable[[Float32, Float32], bool]"

_DTYPE = "float32"
_WELCOME_LIMIT_BYTES = 64 << 10


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
        taker: See ``lend_to``.
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
        taker: Taker | None = None,
    ) -> None:
        self.path = path
        self._taker, self._lends = taker, False
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

    def lend_to(self, taker: Taker) -> None:
        """Lend the shared memory, so that neither gradients nor weights are copied.

        The taker is told at once, if there is a connection, and whenever there is another memory:
        that of a new connection, or of its own when one has ended.  If it says that it works there,
        weights that are pulled or come with an answer change there, with no other request, and are
        no longer in the array that a caller brings.  It is told from within the requests.
        """
        with self._lock:
            self._taker = taker
            if self._line is not None:
                self._lend(self._line)

    def pull(
        self, known: tuple[int, int] | None = None, out: Float32 | None = None
    ) -> Model | None:
        """Fetch the weights; see ``Client.pull``."""
        return self._request(lambda line: self._pulled(line, "weights", known, out))

    def pull_target(
        self, known: tuple[int, int] | None = None, out: Float32 | None = None
    ) -> Model | None:
        """Fetch the target weights; see ``Client.pull_target``."""

        def ask(line: _Line) -> Model | None:
            self._take_back()  # the target comes where the weights lie
            try:
                return self._pulled(line, "target", known, out)
            finally:
                if self._line is line:
                    self._lend(line)

        return self._request(ask)

    def push(
        self, push: Push, gradient: Float32, out: Float32 | None = None
    ) -> tuple[PushAnswer, Model | None]:
        """Send a gradient, and fetch the weights if the push wants them; see ``Client.push``."""

        def ask(line: _Line) -> tuple[PushAnswer, Model | None]:
            shared = line.memory.gradient
            flat = _flat(gradient, shared.size)
            if not np.may_share_memory(flat, shared):
                np.copyto(shared, flat)
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

    def _pulled(
        self, line: _Line, which: str, known: tuple[int, int] | None, out: Float32 | None
    ) -> Model | None:
        fields = {"kind": "pull", "dtype": _DTYPE, "which": which, "known": known}
        header = self._exchange(line, wire.encode_header(fields))
        _raise_problem(header)
        return None if header.get("kind") == "unchanged" else self._model(header, line, out)

    def _model(self, header: dict[str, Any], line: _Line, out: Float32 | None) -> Model | None:
        """Copy the weights out of the shared memory, unless somebody works with them there."""
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
            self._lend(self._line)
        return self._line

    def _hang_up(self) -> None:
        if self._line is not None:
            self._take_back()  # the server may still write there
            self._line.socket.close()
            self._line = None

    def _lend(self, line: _Line) -> None:
        if self._taker is not None:
            self._lends = self._taker(line.memory.weights, line.memory.gradient)

    def _take_back(self) -> None:
        if self._lends and self._taker is not None and self._line is not None:
            self._lends = False
            self._taker(*np.empty((2, self._line.memory.weights.size), np.float32))


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
