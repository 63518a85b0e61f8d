"""Put a worker together: networks from the server's prototxt, game, buffer, exchange."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from param_server.client import Client
from param_server.rehearsal import rehearse
from param_server.same_host_client import BestExchange, best_exchange

import caffe
from barista import games
from barista.actor import Actor
from barista.config import ConfigError
from barista.learner import Learner, load_nets
from barista.worker import Identity, Worker
from replay import ReplayBuffer

if TYPE_CHECKING:
    from pathlib import Path

    from barista.config import AgentConfig
    from barista.exchange import Exchange
    from barista.games.vector import VectorGame
    from barista.learner import Nets

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
    ca: str = ""  # PEM of the certificates to trust, where the server speaks TLS


def assemble(orders: Orders, config: AgentConfig, folder: Path) -> Worker:
    """Return a worker that is ready for its first round.

    Args:
        orders: what it is told.
        config: its hyper-parameters.
        folder: for files that it needs as long as it works.

    Raises:
        barista.games.GameError: If the game cannot be played.
        barista.config.ConfigError: If the engine does not have the device.
        barista.model.ModelError: If the server's network is not a Q-network.
        param_server.errors.ParamServerError: If there is no such server, or it refuses us, or we
            do not trust it.
    """
    _choose_device(config.device, orders.gpu)
    ca = folder / "ca.pem"
    if orders.ca:
        ca.write_text(orders.ca)
    # Short tries: the worker itself asks again for a lease, and its heart beats meanwhile.
    client = Client(
        orders.server,
        orders.token,
        run=orders.run,
        worker=orders.worker,
        timeout_s=10,
        retry_s=5,
        tls_ca=ca if orders.ca else None,
        dtype=config.wire_dtype,
    )
    net = folder / "train_val.prototxt"
    net.write_text(client.prototxt().net)
    nets = load_nets(str(net), batch_size=config.batch_size, num_envs=config.num_envs)
    seed = config.seed_for(str(orders.ordinal))
    game = games.make(config.game, num_envs=config.num_envs, seed=seed, threads=1)
    exchange = _exchange(client, config, is_tls=bool(orders.ca))
    _log.info("engine %s, game %s", caffe.__file__, config.game)
    identity = Identity(orders.run, orders.worker, orders.incarnation)
    return make_worker(
        config, game=game, nets=nets, exchange=exchange, identity=identity, seed=seed
    )


def _exchange(client: Client, config: AgentConfig, *, is_tls: bool) -> Exchange:
    """Return the way to the server: shared memory on its own host, where float32 is wanted."""
    # Rounding to bfloat16 saves bytes on a network, and would only cost something here.
    exchange = best_exchange(client) if config.wire_dtype == "float32" else client
    if isinstance(exchange, BestExchange) and exchange.is_same_host:
        way = "shared memory"
    else:
        way = f"{'HTTPS' if is_tls else 'HTTP'}, {config.wire_dtype}"
    _log.info("exchanging with %s by %s", client.address, way)
    return exchange


def make_worker(
    config: AgentConfig,
    *,
    game: VectorGame,
    nets: Nets,
    exchange: Exchange,
    identity: Identity,
    seed: int | None = None,
) -> Worker:
    """Return a worker on these parts, with a replay buffer of its share of the capacity.

    Its chances are drawn from `seed`; None takes the configuration's and the worker's name.
    """
    own_seed = config.seed_for(identity.worker) if seed is None else seed
    exploring, drawing = np.random.default_rng(own_seed).spawn(2)
    spec = game.spec
    replay = ReplayBuffer(
        config.replay_share,
        frame_shape=spec.frame_shape,
        stack=spec.stack,
        num_envs=game.num_envs,
        n_step=config.n_step,
        gamma=config.gamma,
        rng=drawing,
    )
    learner = Learner(nets, config)
    return Worker(
        actor=Actor(game, nets.act, replay, config, exploring),
        learner=learner,
        replay=replay,
        exchange=exchange,
        config=config,
        identity=identity,
        layout=learner.layout,
    )


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
