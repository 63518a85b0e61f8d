"""The worker's side of the protocol: pull weights, push gradients.

Payloads go from the caller's array to the socket and back into it; ``http_session`` says how.
Each thread has a session of its own with one connection, kept alive.

Only what is safe is repeated, and only here: connections that failed, and what the server asks to
have repeated (503, 425).  A repeated push carries the same sequence, so the server applies it once
however often it arrives.  A server that cannot be trusted is not asked again.
"""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from param_server import wire
from param_server.errors import (
    BadRequest,
    Crowded,
    Draining,
    ServerUnreachable,
    TooEarly,
    from_problem,
)
from param_server.http_session import FAILURES, Body, Endpoint, HttpSession, Reply, split_address
from param_server.incidents import TEXT_LIMIT
from param_server.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from param_server.wire import Float32, Layout, Model, Push, PushAnswer

__all__ = ["Client", "Prototxt", "split_address"]

T = TypeVar("T")

_REPEATED = (ServerUnreachable, Draining, Crowded, TooEarly)
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True)
class Prototxt:
    """What a worker needs to build the server's network, and what it is for."""

    net: str
    solver: str
    layout: Layout
    game: str
    solver_type: str
    target_period: int  # updates
    same_host: str = ""  # path of the socket for workers of the server's host, if there is one


class Client:
    """Talks to one server on behalf of one worker of one run.

    Safe to call from many threads.

    Args:
        address: HOST:PORT.
        token: The server's token.
        run: The run this client belongs to; any request renews its lease.
        worker: The worker's name; any request renews its lease.
        timeout_s: For connecting, for sending, and for each piece of an answer.
        retry_s: How long failed connections, 503 and 425 are tried again; 0: not at all.
        sleep: Waits between two tries.
        tls_ca: PEM file; the server is spoken to by TLS, and must be vouched for by it.
        dtype: Of gradients and weights on the wire: float32, or bfloat16 for half the bytes.

    Raises:
        ValueError: If the address is none.
        UserMistake: If ``tls_ca`` cannot be read.
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
        tls_ca: str | Path | None = None,
        dtype: str = wire.DTYPE,
    ) -> None:
        assert dtype in wire.DTYPES, dtype
        self.address = address
        self.token, self.run, self.worker = token, run, worker
        tls = client_context(tls_ca) if tls_ca else None
        self._endpoint = Endpoint(address, tls=tls, tls_ca=str(tls_ca or ""))
        self._dtype = dtype
        self._headers = {
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {token}",
            "Host": address,
        }
        if run:
            self._headers["DDQ-Run"] = run
        if worker:
            self._headers["DDQ-Worker"] = worker
        self.timeout_s = timeout_s
        self._retry_s = retry_s
        self._sleep = sleep
        self._local = threading.local()

    # -- the model

    def prototxt(self) -> Prototxt:
        """Fetch the network, the solver and the layout of the flat arena."""
        document = self._json("GET", "/api/v1/prototxt")
        layout = wire.Layout.from_entries(document["layout"]["entries"])
        if layout.digest != document["layout"]["digest"]:
            raise BadRequest("the server's layout and its digest differ")
        return Prototxt(
            net=document["net"],
            solver=document["solver"],
            layout=layout,
            game=document["game"],
            solver_type=document["solver_type"],
            target_period=document["target_period"],
            same_host=str(document.get("same_host", "")),
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

        def read(reply: Reply) -> tuple[PushAnswer, Model | None]:
            if reply.status == 422:
                return wire.answer_from_fields(reply.document()["answer"]), None
            header, length = wire.read_header(reply, reply.length)
            answer = wire.decode_answer(header)
            if header.get("model") is None:
                return answer, None
            weights = _read_weights(reply, header, length, out)
            return answer, wire.decode_model(header, weights)

        if push.model_dtype != self._dtype:
            push = replace(push, model_dtype=self._dtype)
        gradient_bytes = wire.payload_bytes(gradient, self._dtype)
        body = Body(wire.encode_push(push, self._dtype), gradient_bytes)
        headers = {"Content-Type": wire.MEDIA_TYPE}
        return self._request("POST", "/api/v1/update_model", read, headers, body)

    def _pull(self, path: str, tag: str | None, out: Float32 | None) -> Model | None:
        def read(reply: Reply) -> Model | None:
            if reply.status == 304:
                reply.text()
                return None
            header, length = wire.read_header(reply, reply.length)
            return wire.decode_model(header, _read_weights(reply, header, length, out))

        headers = {"If-None-Match": tag} if tag else {}
        if self._dtype != wire.DTYPE:
            headers["DDQ-Dtype"] = self._dtype
        return self._request("GET", path, read, headers)

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
        return self._json("POST", "/api/v1/run", {"run": self.run})

    def close_run(self) -> dict[str, Any]:
        """Unbind this client's run, so that another may use the server."""
        return self._json("DELETE", "/api/v1/run", {"run": self.run})

    def leave(self, worker: str, incarnation: str) -> dict[str, Any]:
        """Say that a worker pushes no more for now, so that nobody waits for it."""
        return self._json("POST", "/api/v1/leave", {"worker": worker, "incarnation": incarnation})

    def evaluation(self, version: int, result: Mapping[str, Any]) -> dict[str, Any]:
        """Note how well the weights of a snapshot play; the best snapshot is kept.

        Args:
            version: The snapshot's.
            result: ``return_mean``, ``return_se``, ``episodes``.
        """
        return self._json("POST", "/api/v1/evaluation", {"version": version, **result})

    def incident(self, text: str) -> None:
        """Have the dashboard show what has happened to a process of the run."""
        self._json("POST", "/api/v1/incident", {"text": text[:TEXT_LIMIT]})

    def close(self) -> None:
        """Close this thread's connection; the next request opens another."""
        session: HttpSession | None = getattr(self._local, "session", None)
        if session is not None:
            session.close()
            self._local.session = None

    # -- requests

    def _json(
        self, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        body = None if document is None else Body(json.dumps(document).encode())
        headers = {"Content-Type": "application/json"}
        return self._request(method, path, Reply.document, headers, body)

    def _request(
        self,
        method: str,
        path: str,
        read: Callable[[Reply], T],
        headers: Mapping[str, str],
        body: Body | None = None,
    ) -> T:
        """Send a request until it is answered and read; raise what a refusal stands for."""
        deadline = time.monotonic() + self._retry_s
        backoff_s = _FIRST_PAUSE_S
        while True:
            kept_alive = self._is_connected()
            asked_s = None
            try:
                # Leaving closes the connection unless the answer was read to its end.
                with self._session().send(method, path, headers, body) as response:
                    reply = Reply(response)
                    if reply.status < 400 or reply.status == 422:
                        return read(reply)
                    error = from_problem(reply.status, reply.document())
                    asked_s = reply.retry_after_s
            except FAILURES as failure:
                self.close()
                if distrust := self._endpoint.distrust(failure):
                    raise distrust from None
                if kept_alive:  # the server closes idle connections: that is no failure
                    continue
                error = ServerUnreachable(self.address, _reason(failure))
            except BaseException:
                self.close()
                raise
            if not isinstance(error, _REPEATED) or time.monotonic() > deadline:
                raise error
            if isinstance(error, TooEarly) and asked_s is not None:
                self._sleep(min(asked_s, _LONGEST_PAUSE_S))
                continue
            self._sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries
            backoff_s = min(2 * backoff_s, _LONGEST_PAUSE_S)

    def _is_connected(self) -> bool:
        """Tell whether this thread's session has served: its connection may be kept alive."""
        return getattr(self._local, "session", None) is not None

    def _session(self) -> HttpSession:
        session: HttpSession | None = getattr(self._local, "session", None)
        if session is None:
            session = HttpSession(self._endpoint, self._headers, timeout_s=self.timeout_s)
            self._local.session = session
        return session


def _reason(failure: BaseException) -> str:
    """Return what the innermost error says: requests and urllib3 wrap it several times."""
    while True:
        wrapped = (part for part in failure.args if isinstance(part, BaseException))
        inner = failure.__cause__ or next(wrapped, None)
        if inner is None:
            return str(failure) or type(failure).__name__
        failure = inner


def _read_weights(
    reply: Reply, header: Mapping[str, Any], length: int, out: Float32 | None
) -> Float32:
    dtype = wire.payload_dtype(header)
    size = length // wire.payload_size(1, dtype)
    weights = np.empty(size, np.float32) if out is None else out
    wire.read_payload(reply, length, weights, dtype)
    return weights
