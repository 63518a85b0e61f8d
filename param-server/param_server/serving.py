"""A threaded WSGI server whose large bodies are not copied.

The design.  A push is one large body in, a pull one large body out, and the server's time per
update bounds the whole training.  So a request's body is handed to the application as a stream
that reads from the socket into the application's own memory, a response's parts go from that
memory to the socket, connections are kept alive, and Nagle's algorithm is off.  The standard
library's ``http.server`` parses requests and ``socketserver`` owns the threads: one per
connection, which is one per worker.  Figures beside other servers are in
docs/decisions/0001-http-server.md.

A request whose body the application did not read (its token was wrong, say) is answered first and
then read and thrown away, so that the client finds the answer and not a broken connection.  What
cannot be thrown away within the limit closes the connection.  Chunked bodies are not understood,
on purpose: a push says how long it is.
"""

from __future__ import annotations

import io
import json
import logging
import socket
import socketserver
import sys
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from param_server.errors import problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication

_log = logging.getLogger(__name__)

IDLE_S = 75.0  # a silent connection is closed after this long
_SOCKET_BUFFER_BYTES = 1 << 20
_DISCARD_LIMIT_BYTES = 64 << 20
_DISCARD_S = 5.0  # between two pieces of a body that nobody wants
_JOIN_LIMIT_BYTES = 16 << 10  # parts of a response up to this size share the headers' packet


class Server(socketserver.ThreadingTCPServer):
    """Serves one application, one thread per connection.

    The constructor binds and listens; requests wait until ``serve_forever`` runs.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, host: str, port: int) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.application: WSGIApplication | None = None
        super().__init__((host, port), _Handler)

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

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log what broke a connection; a peer that went away is no error."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            _log.exception("connection of %s failed", client_address[0])


class _Body(io.RawIOBase):
    """A request's body: as many bytes of the connection as its Content-Length says."""

    def __init__(self, connection: io.BufferedIOBase, length: int) -> None:
        self._connection = connection
        self.remaining = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")[: self.remaining]
        count = self._connection.readinto(view) if view else 0
        self.remaining -= count
        return count

    def discard(self) -> bool:
        """Read and forget the rest; return whether the end was reached."""
        scratch = bytearray(1 << 18)
        budget = _DISCARD_LIMIT_BYTES
        while self.remaining and budget > 0:
            count = self.readinto(scratch)
            if not count:
                break
            budget -= count
        return self.remaining == 0


class _Handler(BaseHTTPRequestHandler):
    """One connection: parses requests and runs the application for each."""

    server: Server
    connection: socket.socket
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # so that even nonsense gets a status line
    timeout = IDLE_S

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.request.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_BYTES)
        super().setup()

    def _respond(self) -> None:
        length = self._body_length()
        if length is None:
            self.close_connection = True
            self.send_error(400, "Content-Length is not one number")
            return
        body = _Body(self.rfile, length)
        if "Transfer-Encoding" in self.headers or length > _DISCARD_LIMIT_BYTES:
            self.close_connection = True
        assert self.server.application is not None
        parts = self.server.application(self._environ(body), self._start_response)
        try:
            self._send(parts)
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()
        if body.remaining:
            self.connection.settimeout(_DISCARD_S)
            if not body.discard():
                self.close_connection = True
            self.connection.settimeout(IDLE_S)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _respond  # noqa: N815

    def _body_length(self) -> int | None:
        values = self.headers.get_all("Content-Length", [])
        if not values:
            return 0
        value = values[0].strip()
        is_number = len(values) == 1 and value.isascii() and value.isdigit() and len(value) < 20
        return int(value) if is_number else None

    def _environ(self, body: _Body) -> dict[str, Any]:
        path, _, query = self.path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": self.server.host,
            "SERVER_PORT": str(self.server.port),
            "SERVER_PROTOCOL": self.request_version,
            "REMOTE_ADDR": self.client_address[0],
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": body,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in self.headers.items():
            if "_" in name:  # would pass for another header
                continue
            key = name.upper().replace("-", "_")
            if key not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
                key = f"HTTP_{key}"
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        return environ

    def _start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: OptExcInfo | None = None,
        /,
    ) -> Any:
        assert exc_info is None, "the application answers its own errors"
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")

    def _send(self, parts: Iterable[bytes]) -> None:
        self._headers_buffer: list[bytes]
        pending = b"".join([*self._headers_buffer, b"\r\n"])
        self._headers_buffer = []
        for part in parts:
            if len(part) <= _JOIN_LIMIT_BYTES:
                pending += part
                continue
            if pending:
                self.connection.sendall(pending)
                pending = b""
            self.connection.sendall(part)
        if pending:
            self.connection.sendall(pending)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that never reached the application, as problem JSON."""
        document = problem("bad-request", code, explain or message or "not HTTP as expected")
        body = json.dumps(document).encode()
        self.close_connection = True
        self.send_response(code, message)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Name the server, and not the versions it runs on."""
        return "ddq-param-server"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing per request; counts are at /metrics."""
