"""A threaded WSGI server whose large bodies are not copied.

The design.  A push is one large body in, a pull one large body out, and the server's time per
update bounds the whole training.  So a request's body is handed to the application as a stream
that reads from the socket into the application's own memory, a response's parts go from that
memory to the socket, connections are kept alive, and Nagle's algorithm is off.  One thread per
connection, which is one per worker; who may have a thread, and for how long, is said in
``connections`` and by ``Limits``.  Figures beside other servers are in
docs/decisions/0001-http-server.md.

An application that has seen the token says so by calling ``environ["ddq.recognise"]``.

A request whose body the application did not read (its token was wrong, say) is answered first and
then read and thrown away, so that the client finds the answer and not a broken connection.  What
cannot be thrown away within the limit closes the connection.  Chunked bodies are not understood,
on purpose: a push says how long it is.  An answer without a length (server-sent events) is sent
part by part, and its end is the connection's.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import logging
import socket
import socketserver
import ssl
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from param_server.connections import Connections
from param_server.errors import Crowded, problem
from param_server.request_head import NotHttp, parse_head
from param_server.stream import TLS_RECORD, Body, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication

    from param_server.request_head import Head

_log = logging.getLogger(__name__)

# A sender's buffer that stays in the processor's cache, and room for what a reader is behind:
# 256 KiB and 1 MiB were the fastest of 64 KiB to 4 MiB.
_SEND_BUFFER_BYTES = 256 << 10
_RECEIVE_BUFFER_BYTES = 1 << 20
_DISCARD_LIMIT_BYTES = 64 << 20
_JOIN_LIMIT_BYTES = 16 << 10  # parts of a response up to this size share the headers' packet


@dataclass(frozen=True)
class Limits:
    """How many may be connected, and how long each step may take them."""

    strangers: int = 128
    known: int = 512
    head_s: float = 10.0  # for a request's head; for a stranger's first word too
    idle_s: float = 75.0  # between two requests of somebody known
    discard_s: float = 5.0  # for a body that nobody wants
    # A body in, or a part of an answer out, may take head_s and as long as this rate needs.
    bytes_per_s: float = 64 << 10

    def transfer_s(self, size: int) -> float:
        """Return the seconds that so many bytes may take, an hour at most."""
        return self.head_s + min(size / self.bytes_per_s, 3600.0)


class Server(socketserver.TCPServer):
    """Serves one application, one thread per connection.

    The constructor binds and listens; requests wait until ``serve_forever`` runs.

    Args:
        host: The address to bind to.
        port: The port; 0 is any.
        tls: Makes it an https server.
        limits: How many may be connected, and for how long.
    """

    allow_reuse_address = True
    request_queue_size = 1024  # where it is full, who connects waits a second for its next try

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
    ) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.application: WSGIApplication | None = None
        self.tls = tls
        self.limits = limits or Limits()
        self.connections = Connections(strangers=self.limits.strangers, known=self.limits.known)
        super().__init__((host, port), socketserver.BaseRequestHandler)

    @property
    def host(self) -> str:
        """The address it is bound to."""
        return str(self.server_address[0])

    @property
    def port(self) -> int:
        """The port it is bound to."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """HOST:PORT, as a URL has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Its address as a person enters it."""
        return f"{'https' if self.tls else 'http'}://{self.address}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a new connection in a thread of its own, if there may be another."""
        connection = _Connection(self, request, str(client_address[0]))
        if not self.connections.admit(connection):
            request.close()
            return
        try:
            threading.Thread(target=connection.serve, name="http", daemon=True).start()
        except RuntimeError:  # no more threads
            connection.close()
            raise

    def server_close(self) -> None:
        """Stop listening, and end all connections."""
        super().server_close()
        self.connections.close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log why a connection could not be served."""
        _log.exception("connection of %s failed", client_address[0])


class _Connection:
    """One connection: reads requests and runs the application for each."""

    def __init__(self, server: Server, connection: socket.socket, peer: str) -> None:
        self._server = server
        self._limits = server.limits
        self._socket = connection
        self._stream = Stream(connection)
        self._peer = peer
        self._is_cut = False
        self._closes = False  # after this request
        self._method = ""
        self._unsent = b""  # head and first parts of the response
        self._is_whole = True  # the response says how long it is

    def cut(self) -> None:
        """End it from another thread: whatever it waits for fails."""
        self._is_cut = True
        with contextlib.suppress(OSError):
            # A TLS socket's own method would touch what its thread is working with.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it, and have it struck from the book."""
        self._socket.close()
        self._server.connections.leave(self)

    def serve(self) -> None:
        """Answer requests until either side has enough."""
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._server.tls is not None:
                self._begin_tls(self._server.tls)
            while not (self._closes or self._is_cut):
                self._exchange()
        except (ConnectionError, TimeoutError, ssl.SSLError):
            pass  # it went away, was cut, or was too slow
        except Exception:  # noqa: BLE001 - of the application; other connections go on
            _log.exception("connection of %s failed", self._peer)
        finally:
            self.close()

    def _begin_tls(self, context: ssl.SSLContext) -> None:
        self._socket.settimeout(self._limits.head_s)
        if self._socket.recv(1, socket.MSG_PEEK) not in {b"", TLS_RECORD[:1]}:
            self._refuse(NotHttp(400, "this server speaks TLS: give --tls-ca, or use https"))
            return
        self._socket = context.wrap_socket(
            self._socket, server_side=True, do_handshake_on_connect=False
        )
        self._stream = Stream(self._socket)
        if not self._is_cut:  # else perhaps while the socket was changing hands
            self._socket.do_handshake()

    def _recognise(self) -> None:
        """Take the peer for somebody known: it may stay, and move large bodies.

        Raises:
            Crowded: If there are too many of them; the connection closes after this request.
        """
        book = self._server.connections
        if book.is_known(self):
            return
        try:
            book.recognise(self)
        except Crowded:
            self._closes = True
            raise
        for option, size in (
            (socket.SO_SNDBUF, _SEND_BUFFER_BYTES),
            (socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES),
        ):
            self._socket.setsockopt(socket.SOL_SOCKET, option, size)

    def _exchange(self) -> None:
        """Read one request and answer it."""
        limits = self._limits
        deadline = time.monotonic() + limits.head_s
        if self._server.connections.is_known(self):
            self._stream.wait(time.monotonic() + limits.idle_s)
            deadline = time.monotonic() + limits.head_s
        try:
            text = self._stream.read_head(deadline)
            if not text:
                self._closes = True
                return
            head = parse_head(text)
            length = head.body_length
        except NotHttp as error:
            self._refuse(error)
            return
        self._closes = not head.keeps_alive or head.is_chunked or length > _DISCARD_LIMIT_BYTES
        body = Body(
            self._stream,
            length,
            time.monotonic() + limits.transfer_s(length),
            awaits_continue=head.awaits_continue,
        )
        self._answer(head, body)
        self._discard(head, body)

    def _discard(self, head: Head, body: Body) -> None:
        """Throw away what the application did not read: closed on it, the answer could be lost."""
        deadline = time.monotonic() + self._limits.discard_s
        if head.is_chunked or body.is_withheld:
            self._closes = True
            self._stream.linger(_DISCARD_LIMIT_BYTES, deadline)
        elif body.remaining and not body.discard(_DISCARD_LIMIT_BYTES, deadline):
            self._closes = True

    def _answer(self, head: Head, body: Body) -> None:
        """Run the application and send what it returns."""
        application = self._server.application
        assert application is not None
        self._method = head.method
        parts = application(self._environ(head, body), self._start_response)
        try:
            self._send(parts)
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()

    def _environ(self, head: Head, body: Body) -> dict[str, Any]:
        path, _, query = head.target.partition("?")
        return {
            "REQUEST_METHOD": head.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": self._server.host,
            "SERVER_PORT": str(self._server.port),
            "SERVER_PROTOCOL": head.version,
            "REMOTE_ADDR": self._peer,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https" if self._server.tls else "http",
            "wsgi.input": body,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "ddq.recognise": self._recognise,
            **head.fields,
        }

    def _start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: OptExcInfo | None = None,
        /,
    ) -> Any:
        assert exc_info is None, "the application answers its own errors"
        has_length = any(name.lower() == "content-length" for name, _ in headers)
        self._is_whole = has_length or status.startswith("304") or self._method == "HEAD"
        if not self._is_whole:
            self._closes = True
        self._unsent = _response_head(status, headers, closes=self._closes)

    def _send(self, parts: Iterable[bytes]) -> None:
        """Send the response; small parts of one that is whole go with its head."""
        for part in parts:
            if self._is_whole and len(part) <= _JOIN_LIMIT_BYTES:
                self._unsent += part
            else:
                self._flush()
                self._stream.send(part, self._limits.transfer_s(len(part)))
        self._flush()

    def _flush(self) -> None:
        if self._unsent:
            self._stream.send(self._unsent, self._limits.transfer_s(len(self._unsent)))
            self._unsent = b""

    def _refuse(self, error: NotHttp) -> None:
        """Answer what never reached the application, as problem JSON; it is the last answer."""
        self._closes = True
        status = f"{error.status} {HTTPStatus(error.status).phrase}"
        body = json.dumps(problem("bad-request", error.status, str(error))).encode()
        headers = [
            ("Content-Type", "application/problem+json"),
            ("Content-Length", str(len(body))),
        ]
        head = _response_head(status, headers, closes=True)
        self._stream.send(head + body, self._limits.head_s)
        self._stream.linger(_DISCARD_LIMIT_BYTES, time.monotonic() + self._limits.discard_s)


def _response_head(status: str, headers: list[tuple[str, str]], *, closes: bool) -> bytes:
    """Return a response's status line and headers, with the empty line."""
    lines = [
        f"HTTP/1.1 {status}",
        "Server: ddq-param-server",
        f"Date: {email.utils.formatdate(usegmt=True)}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    if closes:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
