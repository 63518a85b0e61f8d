"""Put a worker together: networks from the server's prototxt, game, buffer, exchange."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.client import Client
from param_server.rehearsal import rehearse

import caffe
from barista import games
from barista.config import ConfigError
from barista.learner import load_nets
from barista.worker import Identity, Worker, make_worker

if TYPE_CHECKING:
    from barista.config import AgentConfig

_log = logging.getLogger(__name__)


class Orders(NamedTuple):
    """What a Barista is told at its start."""

    server: str  # HOST:PORT
    token: str  # the parameter server's
    run: str
    config: dict[str, Any]  # fields of `AgentConfig`
    worker: str  # its name: host, executor, slot
    incarnation: str  # one for each process
    local_token: str  # of its own request loop
    local_workers: int = 1  # that share this host's processors: `launch` gives each its threads
    ordinal: int = 0  # among the workers of the run: their seeds differ by it
    gpu: str | None = None  # the address that Spark gave its task
    executor: dict[str, float] | None = None  # pid and start time of whom it must not outlive


def assemble(orders: Orders, config: AgentConfig) -> Worker:
    """Return a worker that is ready for its first round.

    Raises:
        barista.games.GameError: If the game cannot be played.
        barista.config.ConfigError: If the engine does not have the device.
        barista.model.ModelError: If the server's network is not a Q-network.
        param_server.errors.ParamServerError: If there is no such server, or it refuses us.
    """
    _choose_device(config.device, orders.gpu)
    # Short tries: the worker itself asks again for a lease, and its heart beats meanwhile.
    client = Client(
        orders.server, orders.token, run=orders.run, worker=orders.worker, timeout_s=10, retry_s=5
    )
    with tempfile.TemporaryDirectory(prefix="ddq-") as folder:
        net = Path(folder) / "train_val.prototxt"
        net.write_text(client.prototxt().net)
        nets = load_nets(str(net), batch_size=config.batch_size, num_envs=config.num_envs)
    seed = config.seed_for(str(orders.ordinal))
    game = games.make(config.game, num_envs=config.num_envs, seed=seed, threads=1)
    _log.info("engine %s, game %s", caffe.__file__, config.game)
    identity = Identity(orders.run, orders.worker, orders.incarnation)
    return make_worker(config, game=game, nets=nets, exchange=client, identity=identity, seed=seed)


def _choose_device(device: str, gpu: str | None) -> None:
    """Set the engine's device: the one asked for, else the GPU that Spark gave, else the CPU."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # its own, and nobody else's
    if device == "cpu" or (device == "auto" and gpu is None):
        caffe.set_mode_cpu()
        return
    number = int(device.partition(":")[2] or 0) if gpu is None else 0
    try:
        rehearse(device=number)
        caffe.set_device(number)
    except (ValueError, RuntimeError) as error:  # what our engine raises, and a plain pycaffe
        raise ConfigError(f"--device {device}: {error}") from error
    caffe.set_mode_gpu()
