"""One kept-alive connection to a server, by ``requests`` used leanly.

A request goes through one adapter to one pool of one connection.  What a session of ``requests``
adds for browsing (cookies, redirects, merged settings, the environment's proxies and .netrc) would
take a fifth of a millisecond each time and has no say here.  A body's parts go from the caller's
memory to the socket as they are; an answer comes back through pieces that fit the cache.  Figures
are in docs/decisions/0001-http-server.md.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, cast

import requests
import requests.adapters
import urllib3
from requests.structures import CaseInsensitiveDict

from param_server.errors import ServerFailed
from param_server.tls import distrust, handshake_failure

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

    from param_server.errors import Untrusted

# A sender's buffer that stays in the processor's cache, and room for what a reader is behind.
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_SNDBUF, 256 << 10),
    (socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20),
]
# urllib3 reads into bytes of its own, which are copied: in pieces, because a whole payload's worth
# would be fresh pages of memory each time.
_PIECE_BYTES = 512 << 10
_TEXT_LIMIT_BYTES = 16 << 20

# What a connection that failed raises.  Not all of RequestException: a URL or a header that
# cannot be sent stays so, and its message quotes it.
FAILURES = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,  # what reading the body raises
)


class Endpoint:
    """Where a server is, and how it is to be spoken to.  Immutable, so safe for many threads.

    Args:
        address: HOST:PORT as the user wrote it.
        tls: Has it spoken to by https.
        tls_ca: The file that ``tls`` trusts.

    Raises:
        ValueError: If the address is none.
    """

    def __init__(
        self, address: str, *, tls: ssl.SSLContext | None = None, tls_ca: str = ""
    ) -> None:
        self.address = address
        self.peer = split_address(address)
        self.name = _host_and_port(address)[0]
        self._tls, self._tls_ca = tls, tls_ca
        host, port = self.peer
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def pool(self) -> urllib3.HTTPConnectionPool:
        """Return a pool of one connection, which is opened when it is first used."""
        host, port = self.peer
        options: dict[str, Any] = {"maxsize": 1, "socket_options": _SOCKET_OPTIONS}
        if self._tls is None:
            return urllib3.HTTPConnectionPool(host, port, **options)
        return urllib3.HTTPSConnectionPool(
            host, port, ssl_context=self._tls, server_hostname=self.name, **options
        )

    def distrust(self, failure: BaseException) -> Untrusted | None:
        """Return what a failed request means if it failed in TLS, None if not there."""
        error = handshake_failure(failure) if self._tls else None
        if error is None:
            return None
        return distrust(error, self.address, peer=self.peer, host=self.name, ca=self._tls_ca)


class Body:
    """The parts of a request's body; each is sent as it is, and they are never joined."""

    def __init__(self, *parts: bytes | memoryview) -> None:
        self._parts = parts

    def __len__(self) -> int:
        """Return the number of bytes, which becomes the Content-Length."""
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[bytes]:
        return cast("Iterator[bytes]", iter(self._parts))


class Reply:
    """An answer whose body is still on the connection."""

    def __init__(self, response: requests.Response) -> None:
        self.status = response.status_code
        self.length: int = response.raw.length_remaining or 0
        self._headers = response.headers
        self._raw = response.raw

    @property
    def retry_after_s(self) -> float | None:
        """The seconds after which the server wants to be asked again, None if it says nothing."""
        text = self._headers.get("Retry-After", "")
        return float(text) if text.isascii() and text.isdigit() else None

    def readinto(self, buffer: memoryview, /) -> int:
        """Read a piece of the body; an early end is a failed connection, not a bad frame."""
        count: int = self._raw.readinto(buffer[:_PIECE_BYTES])
        if not count:
            raise requests.ConnectionError("the answer was cut off")
        return count

    def text(self) -> bytes:
        """Read the rest of the body, which is small."""
        text: bytes = self._raw.read(_TEXT_LIMIT_BYTES)
        return text

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


class HttpSession:
    """Sends requests over one connection.  Not thread-safe.

    Args:
        endpoint: The server.
        headers: Of each request.
        timeout_s: For connecting, for sending, and for each piece of an answer.
    """

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str], *, timeout_s: float) -> None:
        self._url = endpoint.url
        self._headers = headers
        self._timeout_s = timeout_s
        self._pool = endpoint.pool()
        self._adapter = _Adapter(self._pool)

    def send(
        self, method: str, path: str, headers: Mapping[str, str], body: Body | None = None
    ) -> requests.Response:
        """Return the answer's head; the body is read through a ``Reply``.

        A server may refuse, and close, before it read everything: urllib3 passes over the broken
        pipe and reads the answer, which says why.
        """
        request = requests.PreparedRequest()
        request.method, request.url = method, self._url + path
        request.headers = CaseInsensitiveDict({**self._headers, **headers})
        if body is not None:
            request.headers["Content-Length"] = str(len(body))
            request.body = cast("bytes", body)  # an iterable, as requests allows
        return self._adapter.send(request, stream=True, timeout=self._timeout_s)

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()


class _Adapter(requests.adapters.HTTPAdapter):
    """Sends everything through one pool, and repeats nothing by itself."""

    def __init__(self, pool: urllib3.HTTPConnectionPool) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._pool = pool

    def get_connection_with_tls_context(
        self, *_request: Any, **_settings: Any
    ) -> urllib3.HTTPConnectionPool:
        return self._pool

    def cert_verify(self, *_settings: Any) -> None:
        """Leave the pool as it is: its context says whom it trusts."""


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT or [HOST]:PORT.

    ``localhost`` becomes 127.0.0.1: not every container's hosts file has it.

    Raises:
        ValueError: If there is no host or no port.
    """
    host, port = _host_and_port(address)
    return "127.0.0.1" if host == "localhost" else host, port


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit()):
        raise ValueError(f"address {address!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)
