"""The parameter server of 2015's distributed-deep-q (kjchavez, ``param-server/server.py``).

Flask's development server with one thread; messages of a pickled table of shapes and the arrays'
bytes (``barista/messaging.py``), joined into one string; RMSProp in NumPy, layer by layer, every
expression a new array; a client that opens a connection for each request and copies each array
out of the message.  Every pull carries the target network too, as it did then: twice the bytes.
Written anew for Python 3 after reading it.

Left out, each in its favour: three round trips to Redis for a counter, what it prints, and Flask's
debugger.
"""

from __future__ import annotations

import pickle
import struct
import threading
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.server.peer import Peer, gradient_of, parts_of

if TYPE_CHECKING:
    from flask import Flask, Response
    from numpy.typing import NDArray
    from param_server.engine import Engine

    Arrays = dict[str, NDArray[np.float32]]

THREADED = False
_PREFIX = struct.Struct("ii")  # iteration, length of the table
_LEARNING_RATE, _DECAY = 1e-4, 0.9
_TARGET_PERIOD = 10  # updates; the target is copied by a pull


def application(engine: Engine) -> Flask:
    """Return the server's application, with the weights of an engine to begin with."""
    from flask import Flask, Response, request  # noqa: PLC0415 - workers need none

    model: Arrays = parts_of(engine.weights, engine.layout.entries)
    names = list(model)
    squares: Arrays = {}
    iteration = 0
    lock = threading.Lock()
    app = Flask(__name__)

    @app.get("/api/v1/latest_model")
    def latest_model() -> Response:
        with lock:
            if iteration % _TARGET_PERIOD == 0:
                model.update({f"P{name}": model[name] for name in names})
            return Response(_encode(model, iteration))

    @app.post("/api/v1/update_model")
    def update_model() -> str:
        nonlocal iteration
        gradients, _ = _decode(request.data)
        iteration += 1
        with lock:
            for name, gradient in gradients.items():
                mean = squares.get(name, gradient**2)
                squares[name] = _DECAY * mean + (1 - _DECAY) * gradient**2
            for name, gradient in gradients.items():
                model[name] = model[name] - _LEARNING_RATE * gradient / np.sqrt(
                    squares[name] + 1e-8
                )
        return "Updated"

    return app


def _encode(arrays: Arrays, iteration: int) -> bytes:
    table = pickle.dumps({name: array.shape for name, array in arrays.items()}, -1)
    parts = [array.tobytes() for array in arrays.values()]
    return b"".join([_PREFIX.pack(iteration, len(table)), table, *parts])


def _decode(message: bytes) -> tuple[Arrays, int]:
    iteration, length = _PREFIX.unpack(message[: _PREFIX.size])
    table = pickle.loads(message[_PREFIX.size : _PREFIX.size + length])  # noqa: S301 - as measured
    content = message[_PREFIX.size + length :]
    arrays, start = {}, 0
    for name, shape in table.items():
        stop = start + 4 * int(np.prod(shape))
        arrays[name] = np.frombuffer(content[start:stop], np.float32).reshape(shape)
        start = stop
    return arrays, iteration


class Barista2015(Peer):
    """A worker in that design."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._url = f"http://{config['address']}/api/v1"
        self._gradients = parts_of(gradient_of(config["size"]), config["parameters"])
        self._net: Arrays = {}

    def pull(self) -> None:
        """Fetch the message and copy its arrays into the net's."""
        with urllib.request.urlopen(f"{self._url}/latest_model") as answer:  # noqa: S310 - http
            arrays, _ = _decode(answer.read())
        for name, array in arrays.items():
            self._net.setdefault(name, np.empty_like(array)).flat[:] = array.ravel()

    def push(self) -> None:
        """Send the gradients' message."""
        request = urllib.request.Request(  # noqa: S310 - http
            f"{self._url}/update_model",
            _encode(self._gradients, 0),
            headers={"Content-Type": "application/deepQ"},
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - http
            answer.read()
