"""The worker's side of the protocol: pull weights, push gradients.

Payloads go from the caller's array to the socket as they are, and come back through one piece of
bytes: ``requests``, streaming both ways.  The figures are in docs/decisions/0001-http-server.md.
Each thread has a session of its own with one connection, kept alive; nothing of the environment
(proxies, .netrc) has a say in it.

Only what is safe is repeated, and only here: connections that failed, and 503.  A repeated push
carries the same sequence, so the server applies it once however often it arrives.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import requests
import requests.adapters
import urllib3

from param_server import wire
from param_server.errors import BadRequest, Draining, ServerFailed, ServerUnreachable, from_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from param_server.wire import Float32, Layout, Model, Push, PushAnswer

T = TypeVar("T")

_SOCKET_BUFFER_BYTES = 1 << 20
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES),
    (socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES),
]
# What a connection that failed raises.  Not all of RequestException: a URL or a header that
# cannot be sent stays so, and its message quotes it.
_CONNECTION_FAILURES = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,  # what reading the body raises
)
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


class _Adapter(requests.adapters.HTTPAdapter):
    """Keeps one connection, and repeats nothing by itself."""

    def __init__(self) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = False,  # noqa: FBT001, FBT002 - the signature of requests
        **options: Any,
    ) -> None:
        options["socket_options"] = _SOCKET_OPTIONS
        super().init_poolmanager(connections, maxsize, block, **options)


class _Body:
    """The parts of a request's body; each is sent as it is, and they are never joined."""

    def __init__(self, *parts: bytes | memoryview) -> None:
        self._parts = parts

    def __len__(self) -> int:
        """Return the number of bytes, which becomes the Content-Length."""
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[bytes]:
        return cast("Iterator[bytes]", iter(self._parts))


_NO_BODY = _Body()


class _Reply:
    """An answer whose body is still on the connection."""

    def __init__(self, response: requests.Response) -> None:
        self.status = response.status_code
        self.length: int = response.raw.length_remaining or 0
        self._raw = response.raw

    def readinto(self, buffer: memoryview, /) -> int:
        """Read a piece of the body; an early end is a failed connection, not a bad frame."""
        count: int = self._raw.readinto(buffer)
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
        host, port = split_address(address)
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._headers = {
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {token}",
            "Host": address,
        }
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

        body = _Body(wire.encode_push(push), wire.payload_bytes(gradient))
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
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is not None:
            session.close()
            self._local.session = None

    # -- requests

    def _json(
        self, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        body = b"" if document is None else json.dumps(document).encode()
        headers = {"Content-Type": "application/json"}
        return self._request(method, path, _Reply.document, headers, _Body(body))

    def _request(
        self,
        method: str,
        path: str,
        read: Callable[[_Reply], T],
        headers: Mapping[str, str],
        body: _Body = _NO_BODY,
    ) -> T:
        """Send a request until it is answered and read; raise what a refusal stands for."""
        deadline = time.monotonic() + self._retry_s
        pause_s = _FIRST_PAUSE_S
        while True:
            kept_alive = self._is_connected()
            try:
                # Leaving closes the connection unless the answer was read to its end.
                with self._send(method, path, headers, body) as response:
                    reply = _Reply(response)
                    if reply.status < 400 or reply.status == 422:
                        return read(reply)
                    error = from_problem(reply.status, reply.document())
            except _CONNECTION_FAILURES as failure:
                self.close()
                if kept_alive:  # the server closes idle connections: that is no failure
                    continue
                error = ServerUnreachable(self.address, _reason(failure))
            except BaseException:
                self.close()
                raise
            if not isinstance(error, Draining | ServerUnreachable) or time.monotonic() > deadline:
                raise error
            self._sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: _Body
    ) -> requests.Response:
        """Return the answer's head.

        A server may refuse, and close, before it read everything: urllib3 passes over the broken
        pipe and reads the answer, which says why.
        """
        return self._session().request(
            method,
            self._url + path,
            data=body,
            headers=headers,
            timeout=self._timeout_s,
            allow_redirects=False,
            stream=True,
        )

    def _is_connected(self) -> bool:
        """Tell whether this thread's session has served: its connection may be kept alive."""
        return getattr(self._local, "session", None) is not None

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False  # no proxies; no .netrc in the place of the token
            session.headers.clear()
            session.headers.update(self._headers)
            session.mount("http://", _Adapter())
            self._local.session = session
        return session


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


def _reason(failure: BaseException) -> str:
    """Return what the innermost error says: requests and urllib3 wrap it several times."""
    while True:
        wrapped = (part for part in failure.args if isinstance(part, BaseException))
        inner = failure.__cause__ or next(wrapped, None)
        if inner is None:
            return str(failure) or type(failure).__name__
        failure = inner


def _read_weights(reply: _Reply, length: int, out: Float32 | None) -> Float32:
    weights = np.empty(length // 4, np.float32) if out is None else out
    wire.read_payload(reply, length, weights)
    return weights
