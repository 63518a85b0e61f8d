"""``torch.distributed.rpc``: one call that sends the gradient and returns the weights.

TensorPipe, which on one host moves tensors through shared memory, its threads spinning.  The
server applies the same rule as ours; weights are copied under the lock, as they leave it after.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.server.children import UnavailableError
from benchmarks.server.peer import Peer, gradient_of

if TYPE_CHECKING:
    from param_server.engine import Engine

_SERVER = "server"
_THREADS = 16
_TIMEOUT_S = 60.0


class _Held:
    """What the remote functions find in the server's process."""

    engine: Engine
    lock = threading.Lock()


def serve(engine: Engine, rendezvous: str, workers: int) -> None:
    """Join the workers and answer them from threads of its own."""
    _Held.engine = engine
    _join(_SERVER, 0, rendezvous, workers)


def _join(name: str, rank: int, rendezvous: str, workers: int) -> None:
    from torch.distributed import rpc  # noqa: PLC0415 - not in every build

    for variable in ("TP_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        os.environ[variable] = "lo"
    torch.set_num_threads(1)
    rpc.init_rpc(  # type: ignore[no-untyped-call]
        name,
        rank=rank,
        world_size=1 + workers,
        rpc_backend_options=rpc.TensorPipeRpcBackendOptions(
            num_worker_threads=_THREADS,
            rpc_timeout=_TIMEOUT_S,
            init_method=f"file://{rendezvous}",
        ),
    )


def _pull() -> torch.Tensor:
    with _Held.lock:
        return torch.from_numpy(_Held.engine.weights.copy())


def _push(gradient: torch.Tensor) -> None:
    with _Held.lock:
        _Held.engine.apply(gradient.numpy())


def _exchange(gradient: torch.Tensor) -> torch.Tensor:
    with _Held.lock:
        _Held.engine.apply(gradient.numpy())
        return torch.from_numpy(_Held.engine.weights.copy())


class RpcWorker(Peer):
    """A worker that calls."""

    def __init__(self, config: dict[str, Any]) -> None:
        if not (torch.distributed.is_available() and torch.distributed.rpc.is_available()):
            raise UnavailableError("this PyTorch was built without it")
        from torch.distributed import rpc  # noqa: PLC0415 - not in every build

        rank = 1 + config["worker"]
        _join(f"worker{rank}", rank, config["address"], config["workers"])
        self._call = rpc.rpc_sync
        self._gradient = torch.from_numpy(gradient_of(config["size"]))

    def pull(self) -> None:
        """Call for the weights."""
        self._call(_SERVER, _pull)

    def push(self) -> None:
        """Call with a gradient."""
        self._call(_SERVER, _push, (self._gradient,))

    def exchange(self) -> None:
        """Call with a gradient, for the weights."""
        self._call(_SERVER, _exchange, (self._gradient,))
