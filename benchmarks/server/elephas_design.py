"""A parameter server in the design of elephas 7.3 (``elephas/parameter/server.py``, ``client.py``).

Flask's threaded development server; ``GET /parameters`` answers the pickled list of arrays,
``POST /update`` takes a pickled list of deltas; a lock of many readers or one writer; a client that
opens a connection for each request with urllib.  Its rule is its own: weights become the weights
less the deltas, in new arrays, which is cheaper than any solver's rule.  Written anew after
reading it; Flask's debugger, which elephas leaves on, is off.
"""

from __future__ import annotations

import pickle
import threading
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.server.peer import Peer, gradient_of, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from param_server.engine import Engine

THREADED = True


class _ReadWriteLock:
    """Held by many readers or by one writer."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        with self._changed:
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._readers == 0)
            yield


def application(engine: Engine) -> Flask:
    """Return the server's application, with the weights of an engine to begin with."""
    from flask import Flask, request  # noqa: PLC0415 - workers need none

    weights = list(parts_of(engine.weights, engine.layout.entries).values())
    lock = _ReadWriteLock()
    app = Flask(__name__)

    @app.get("/parameters")
    def parameters() -> bytes:
        with lock.read():
            return pickle.dumps(weights, pickle.HIGHEST_PROTOCOL)

    @app.post("/update")
    def update() -> str:
        nonlocal weights
        deltas = pickle.loads(request.data)  # noqa: S301 - what is measured
        with lock.write():
            weights = [before - delta for before, delta in zip(weights, deltas, strict=True)]
        return "done"

    return app


class ElephasWorker(Peer):
    """A worker in that design."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._url = f"http://{config['address']}"
        self._deltas = list(parts_of(gradient_of(config["size"]), config["parameters"]).values())

    def pull(self) -> None:
        """Fetch the list of arrays."""
        with urllib.request.urlopen(f"{self._url}/parameters") as answer:  # noqa: S310 - http
            pickle.loads(answer.read())  # noqa: S301 - what is measured

    def push(self) -> None:
        """Send a list of deltas."""
        body = pickle.dumps(self._deltas, pickle.HIGHEST_PROTOCOL)
        request = urllib.request.Request(  # noqa: S310 - http
            f"{self._url}/update", body, headers={"Content-Type": "application/elephas"}
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - http
            answer.read()
