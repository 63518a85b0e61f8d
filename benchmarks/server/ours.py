"""Ours: the client that workers use, over HTTP or by the same-host path."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from param_server.best_exchange import BestExchange, best_exchange
from param_server.client import Client
from param_server.wire import Push

from benchmarks.server.children import UnavailableError
from benchmarks.server.peer import Peer, gradient_of

SAME_HOST = "same host"  # the path that is no dtype


class Ours(Peer):
    """A worker of ours, without its learning."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._worker = f"w{config['worker']}"
        self._path = self._path_to(config)
        model = self._path.pull()
        assert model is not None
        self._weights = model.weights
        self._gradient = gradient_of(self._weights.size)
        self._push = Push(
            run="bench",
            worker=self._worker,
            incarnation="i",
            sequence=0,
            epoch=model.epoch,
            version=model.version,
            layout=model.layout,
            loss=0.5,
            steps=4,
        )

    def _path_to(self, config: dict[str, Any]) -> Client | BestExchange:
        is_same_host = config["path"] == SAME_HOST
        client = Client(
            config["address"],
            config["token"],
            run="bench",
            worker=self._worker,
            retry_s=0,  # a server that is gone is no measurement
            dtype="float32" if is_same_host else config["path"],
        )
        if not is_same_host:
            return client
        path = best_exchange(client)
        if not (isinstance(path, BestExchange) and path.is_same_host):
            raise UnavailableError("the server offers no same-host path here")
        return path

    def pull(self) -> None:
        """Fetch the weights."""
        self._path.pull(out=self._weights)

    def push(self) -> None:
        """Push, and read the verdict."""
        self._send(want_model=False)

    def exchange(self) -> None:
        """Push, and read the verdict and the weights."""
        self._send(want_model=True)

    def _send(self, *, want_model: bool) -> None:
        self._push = replace(self._push, sequence=self._push.sequence + 1, want_model=want_model)
        answer, model = self._path.push(self._push, self._gradient, out=self._weights)
        assert answer.status == "applied", answer
        assert (model is not None) == want_model
        self._push = replace(self._push, version=answer.version)
