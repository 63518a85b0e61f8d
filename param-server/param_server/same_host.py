"""The same-host path, server side: pushes and pulls by shared memory, messages by a Unix socket.

The design.  A worker on the server's host need not send its gradient through a socket and read
weights from one.  Each connection has one ``Segment``, made by the server and handed over with the
welcome; the worker writes its gradient there, and the service reads it and writes the weights
there, with no copy between.  The socket carries the frames of the HTTP protocol without their
payloads, and says whose turn it is: between a request and its answer the memory is the server's,
else the worker's.  Frames, fields and refusals are described in docs/same-host.md, the reasons in
docs/decisions/0002-same-host-path.md.

What a peer does to its own memory at the wrong moment spoils its own gradient and its own copy of
the weights.  Peers are processes of this user that hold the token.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server import segment, wire
from param_server.channel import Channel, peer_user
from param_server.connections import Connections
from param_server.errors import (
    BadRequest,
    Crowded,
    JournalFailed,
    Refused,
    Unauthorized,
    problem,
)
from param_server.fields import Fields
from param_server.rendezvous import NoPrivateFolder, new_path, private_folder, remove_leftovers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from param_server.segment import Segment
    from param_server.service import Service

_log = logging.getLogger(__name__)

_DTYPE = "float32"  # of shared memory; fewer bits would save nothing here
_HELLO_LIMIT_BYTES = 8 << 10  # what a peer without a token may send
_TOKEN_LIMIT = 4096
_BACKLOG = 128
_AGAIN_S = 0.1  # after an accept that failed, for want of descriptors
_CLOSE_S = 5.0  # for answers under way


class Limits(NamedTuple):
    """What peers may cost."""

    strangers: int = 16  # connections that have not shown the token
    known: int = 64  # connections that have, each with its memory
    hello_s: float = 10.0
    idle_s: float = 75.0  # a silent connection is closed; its worker opens another


def offer(service: Service, port: int) -> SameHostServer | None:
    """Return a server for workers on this host, None where there can be none.

    There is none on systems without sealed memory, without a folder that only this user can reach
    (a warning says so), or if ``DDQ_SAME_HOST`` is 0.  Workers use HTTP then.
    """
    if not segment.is_available() or os.environ.get("DDQ_SAME_HOST") == "0":
        return None
    try:
        folder = private_folder()
        remove_leftovers(folder)
        return SameHostServer(service, new_path(folder, port))
    except (NoPrivateFolder, OSError) as error:
        _log.warning("workers on this host will use HTTP, not shared memory: %s", error)
        return None


class SameHostServer:
    """Listens at a path; a thread for each connection.

    The constructor binds and listens; connections wait until ``start``.

    Raises:
        OSError: If it cannot be bound; no file is left.
    """

    def __init__(
        self, service: Service, path: Path, *, limits: Limits | None = None, user: int | None = None
    ) -> None:
        self.path = path
        self._service = service
        self._limits = limits or Limits()
        self._user = os.geteuid() if user is None else user  # the only one that may connect
        self._closing = threading.Event()
        self._connections = Connections(strangers=self._limits.strangers, known=self._limits.known)
        self._accepting = threading.Thread(target=self._accept, name="same host", daemon=True)
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(os.fspath(path))
            path.chmod(0o600)
            self._listener.listen(_BACKLOG)
        except OSError:
            self._listener.close()
            raise

    def start(self) -> None:
        """Begin to answer."""
        self._accepting.start()

    def close(self) -> None:
        """Remove the socket, finish what is being answered, end every connection."""
        self._closing.set()
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        if self._accepting.is_alive():
            self._accepting.join()
        self._listener.close()
        self._connections.close()
        self._connections.wait_until_empty(_CLOSE_S)

    # -- connections

    def _accept(self) -> None:
        fails = False
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if not (fails or self._closing.is_set()):
                    _log.warning("a worker of this host could not be accepted: %s", error)
                fails = True
                self._closing.wait(_AGAIN_S)
                continue
            fails = False
            guest = _Guest(connection)
            if not self._connections.admit(guest):
                connection.close()
                continue
            try:
                threading.Thread(
                    target=self._serve, args=(guest,), name="same host worker", daemon=True
                ).start()
            except RuntimeError as error:  # no thread to be had
                _log.warning("a worker of this host could not be served: %s", error)
                self._part(guest)

    def _serve(self, guest: _Guest) -> None:
        channel = Channel(guest.socket)
        try:
            self._converse(guest, channel)
        except Refused as refusal:  # before the welcome, or what came is no frame
            with contextlib.suppress(OSError):
                channel.send(self._problem(refusal))
        except OSError:
            pass  # the peer left, was silent for too long, or does not read
        finally:
            self._part(guest)

    def _part(self, guest: _Guest) -> None:
        guest.socket.close()
        self._connections.leave(guest)

    def _converse(self, guest: _Guest, channel: Channel) -> None:
        if peer_user(guest.socket) != self._user:
            raise Unauthorized("this socket is for processes of another user")
        hello = channel.receive(wait_s=self._limits.hello_s, limit=_HELLO_LIMIT_BYTES)
        if hello is None:
            return
        peer = self._meet(hello)
        self._connections.recognise(guest)
        shared = self._share(guest.socket)
        while (header := channel.receive(wait_s=self._limits.idle_s)) is not None:
            channel.send(self._answer(header, peer, shared))

    # -- messages

    def _meet(self, hello: Mapping[str, Any]) -> _Peer:
        """Check a hello; return who says it."""
        fields = Fields(hello)
        fields.expect("kind", "hello")
        if not self._service.access.is_token(fields.text("token", limit=_TOKEN_LIMIT)):
            raise Unauthorized("the token is missing or wrong")
        layout, ours = fields.text("layout"), self._service.store.layout
        if layout not in {"", ours.digest}:
            raise ours.mismatch(layout)
        return _Peer(fields.text("run"), fields.text("worker"))

    def _share(self, connection: socket.socket) -> Segment:
        """Make a connection's memory and welcome its worker."""
        store = self._service.store
        size = store.layout.size
        try:
            shared, descriptor = segment.create(size)
        except OSError as error:
            raise Crowded(f"no shared memory for another worker: {error.strerror}") from error
        welcome = {
            "kind": "welcome",
            "dtype": _DTYPE,
            "epoch": store.epoch,
            "layout": store.layout.digest,
            "size": size,
            "weights_offset": segment.weights_offset(size),
        }
        try:
            socket.send_fds(connection, [wire.encode_header(welcome)], [descriptor])
        finally:
            os.close(descriptor)
        return shared

    def _answer(self, header: Mapping[str, Any], peer: _Peer, shared: Segment) -> bytes:
        """Do what a frame asks for; return the frame that answers it, whatever happens."""
        try:
            return self._done(Fields(header), peer, shared)
        except Exception as error:  # noqa: BLE001 - logged and answered there
            return self._problem(error)

    def _done(self, fields: Fields, peer: _Peer, shared: Segment) -> bytes:
        fields.expect("dtype", _DTYPE)
        if fields.one_of("kind", ("push", "pull")) == "push":
            with self._service.metrics.request_s.labels("update_model").time():
                return self._push(fields, shared)
        with self._service.metrics.request_s.labels("latest_model").time():
            return self._pull(fields, peer, shared)

    def _push(self, fields: Fields, shared: Segment) -> bytes:
        if "model_dtype" in fields.fields:
            fields.expect("model_dtype", _DTYPE)
        push = wire.decode_push(fields.fields)
        answer, model = self._service.push(push, shared.gradient, out=shared.weights)
        if answer.status == "rejected":
            document = problem("rejected", 422, answer.reason, answer=wire.answer_fields(answer))
            return _problem_frame(document)
        return wire.encode_answer(answer, model)

    def _pull(self, fields: Fields, peer: _Peer, shared: Segment) -> bytes:
        is_target = fields.one_of("which", ("weights", "target")) == "target"
        known = _known(fields)
        self._service.store.hear(peer.run, peer.worker)
        model = self._service.pull(known, shared.weights, target=is_target)
        if model is None:
            return wire.encode_header({"kind": "unchanged", "dtype": _DTYPE})
        return wire.encode_model(model)

    def _problem(self, error: Exception) -> bytes:
        """Count a failure and return the frame that tells of it, as HTTP would."""
        metrics = self._service.metrics
        if isinstance(error, Refused):
            metrics.refused.labels(error.kind).inc()
            return _problem_frame(error.problem())
        if isinstance(error, JournalFailed):
            return _problem_frame(problem("journal-failed", 507, str(error)))
        metrics.failures.inc()
        _log.error("a push or pull of this host failed", exc_info=error)
        return _problem_frame(
            problem("failed", 500, "the server failed at this request; its log says why")
        )


class _Guest:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def cut(self) -> None:
        """Have it end once it has its answer: nothing more is read from it."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)


class _Peer(NamedTuple):
    """Whose connection it is."""

    run: str
    worker: str


def _known(fields: Fields) -> tuple[int, int] | None:
    if fields.fields.get("known") is None:
        return None
    match fields.integers("known"):
        case [epoch, version]:
            return epoch, version
    raise BadRequest("field 'known' is not a pair of epoch and version")


def _problem_frame(document: Mapping[str, Any]) -> bytes:
    return wire.encode_header({"kind": "problem", "dtype": _DTYPE, "problem": document})
