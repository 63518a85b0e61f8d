"""A Barista's local request loop: the Spark task asks, the learner's thread works.

The task that supervises a Barista speaks to it over loopback in short requests: *start or join
round r*, *how far are you*, *stop*.  Starting is idempotent, so a retried or repeated task does no
harm.  Bodies are small JSON objects, and with `--exchange spark` frames of weights and gradients,
which wait in the desk's `mailbox`; nothing is ever unpickled.  Every request carries the Barista's
own token.

The learner never waits for a request and a request never waits for the learner: they meet in
`RoundDesk`.
"""

from __future__ import annotations

import errno
import hmac
import json
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from param_server.errors import BadRequest
from param_server.ports import holder
from param_server.wire import MEDIA_TYPE

from barista.mailbox import Mailbox, decode_order, decode_target
from barista.rounds import RoundRequest

if TYPE_CHECKING:
    from collections.abc import Callable

BASE_PORT = 50001
"""The 2015 project's port; taken ones are stepped over."""

_MAX_BODY_BYTES = 65536
_MAX_FRAME_BYTES = 1 << 31


class PortTakenError(OSError):
    """The port that was asked for by name is in use."""


class RoundDesk:
    """Where rounds are handed in, worked on and reported.  Safe to call from many threads.

    Invariant: at most one round is current, and round numbers only grow.
    """

    def __init__(self, progress: Callable[[], dict[str, Any]]) -> None:
        self._progress = progress
        self._changed = threading.Condition()
        self.mailbox = Mailbox(self._changed)
        self._current: RoundRequest | None = None
        self._taken = False
        self._metrics: dict[str, Any] | None = None
        self._error: str | None = None
        self.interrupt = threading.Event()  # set: leave the running round at the next update
        self.stopped = threading.Event()  # set: leave for good

    def submit(self, request: RoundRequest) -> None:
        """Start `request`, or join it when it is the current round already.

        Raises:
            ValueError: If the round is older than the current one; nothing has changed then.
        """
        with self._changed:
            current = self._current
            if current is not None and request.number < current.number:
                raise ValueError(f"round {request.number} is over: at round {current.number}")
            if current is not None and request.number == current.number:
                return
            self._current, self._taken, self._metrics = request, False, None
            self.interrupt.set()
            self._changed.notify_all()

    def next_round(self, timeout_s: float | None = None) -> RoundRequest | None:
        """Wait for a round to work on; None when told to stop, or after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.stopped.is_set() or (self._current is not None and not self._taken),
                timeout_s,
            )
            if self.stopped.is_set() or self._current is None or self._taken:
                return None
            self._taken = True
            self.interrupt.clear()
            return self._current

    def finish(self, request: RoundRequest, metrics: dict[str, Any]) -> None:
        """Report that `request` is over; ignored when a newer round has come in."""
        with self._changed:
            if self._current is not None and request.number == self._current.number:
                self._metrics = metrics
                self._changed.notify_all()

    def fail(self, error: str) -> None:
        """Leave the reason for a failure for the task to read."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """Have the learner leave for good."""
        with self._changed:
            self.stopped.set()
            self.interrupt.set()
            self.mailbox.close()

    def status(
        self,
        wait_for_round: int | None = None,
        timeout_s: float = 0.0,
        *,
        wait_for_push: bool = False,
    ) -> dict[str, Any]:
        """Return round, metrics (once over), error, the worker's progress and target.

        With `wait_for_round`, wait up to `timeout_s` for that round to be over, or with
        `wait_for_push` for a push in the mailbox.
        """
        with self._changed:
            if wait_for_round is not None:
                self._changed.wait_for(
                    lambda: (
                        self._error is not None
                        or self._is_over(wait_for_round)
                        or (wait_for_push and self.mailbox.push_frame)
                    ),
                    timeout_s,
                )
            number = None if self._current is None else self._current.number
            state = {"round": number, "metrics": self._metrics, "error": self._error}
        return {**state, "progress": self._progress(), "target": self.mailbox.target}

    def _is_over(self, number: int) -> bool:
        current = self._current
        return current is not None and current.number == number and self._metrics is not None


class RequestServer:
    """HTTP on loopback in front of a desk.

    `POST /round`, `GET /status`, `POST /stop`; and for synchronous updates `POST /order` and
    `POST /target`, whose bodies are frames, and `GET /push`, answered with a frame once there is
    one, and else like `/status`.
    """

    def __init__(self, desk: RoundDesk, token: str, port: int, *, exact: bool) -> None:
        self._server = _listen(port, exact=exact)
        self._server.desk, self._server.token = desk, token
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.5},
            name="requests",
            daemon=True,
        )

    def start(self) -> None:
        """Answer requests from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    desk: RoundDesk
    token: str

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's name, which can take seconds."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])


def _listen(port: int, *, exact: bool) -> _Server:
    for candidate in range(port, min(port + 1000, 65536)):
        try:
            return _Server(("127.0.0.1", candidate), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            if exact:
                why = (
                    f"is taken{holder(port)}" if error.errno == errno.EADDRINUSE else "is not ours"
                )
                raise PortTakenError(f"--port {port} {why}; choose another") from error
    return _Server(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 120  # seconds a silent connection may stay open

    def do_GET(self) -> None:
        """Answer `/status` and `/push`, waiting for the end of a round where asked to."""
        path, _, query = self.path.partition("?")
        if path not in {"/status", "/push"} or not self._allowed():
            self._answer(HTTPStatus.NOT_FOUND, {"error": "no such page, or no token"})
            return
        asked = dict(part.partition("=")[::2] for part in query.split("&") if part)
        try:
            number = int(asked["round"]) if "round" in asked else None
            timeout_s = min(float(asked.get("wait_s", 0)), 60.0)
        except ValueError:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": "round and wait_s are numbers"})
            return
        desk, wants_push = self.server.desk, path == "/push"
        status = desk.status(number, timeout_s, wait_for_push=wants_push)
        if wants_push and (frame := desk.mailbox.push_frame):
            self._send(HTTPStatus.OK, frame, MEDIA_TYPE)
        else:
            self._answer(HTTPStatus.OK, status)

    def do_POST(self) -> None:
        """Answer `/round`, `/order`, `/target` and `/stop`."""
        length = int(self.headers.get("Content-Length") or 0)
        limit = _MAX_FRAME_BYTES if self._allowed() else _MAX_BODY_BYTES
        body = self.rfile.read(length) if 0 <= length <= limit else b""
        if not self._allowed():
            self._answer(HTTPStatus.NOT_FOUND, {"error": "no such page, or no token"})
        elif self.path in {"/order", "/target"}:
            try:
                self._deliver(body)
            except BadRequest as error:
                self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            else:
                self._answer(HTTPStatus.OK, {})
        elif self.path == "/stop":
            self._answer(HTTPStatus.OK, {})
            self.server.desk.stop()
        elif self.path == "/round":
            try:
                self.server.desk.submit(RoundRequest(**json.loads(body)))
            except (TypeError, ValueError) as error:
                self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            else:
                self._answer(HTTPStatus.OK, self.server.desk.status())
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": f"no such page: {self.path}"})

    def _deliver(self, frame: bytes) -> None:
        mailbox = self.server.desk.mailbox
        if self.path == "/order":
            mailbox.deliver(decode_order(frame))
        else:
            mailbox.deliver_target(decode_target(frame))

    def _allowed(self) -> bool:
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        return hmac.compare_digest(given, f"Bearer {self.server.token}".encode())

    def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def setup(self) -> None:
        """Send small answers at once."""
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the parent's name)
        """Keep requests out of the log: they are many and say nothing."""
