"""Put a worker together: networks from the server's prototxt, game, buffer, exchange."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from param_server.best_exchange import BestExchange, best_exchange
from param_server.client import Client
from param_server.rehearsal import rehearse

import caffe
from barista import cores, games, one_net, pipeline
from barista.actor import Actor
from barista.config import ConfigError
from barista.learner import Learner, load_nets
from barista.model import is_one_net
from barista.one_net import OneNetLearner, OneNets
from barista.outbox import Identity
from barista.priorities import SumTree
from barista.storage import open_storage
from barista.worker import Worker
from replay import ReplayBuffer

if TYPE_CHECKING:
    from barista.config import AgentConfig
    from barista.cores import Threads
    from barista.exchange import Exchange
    from barista.games.vector import VectorGame
    from barista.learner import Nets
    from barista.mailbox import Mailbox

_log = logging.getLogger(__name__)

# What transitions on disk depend on, beside the sizes that the buffer itself looks at.
_STORED_BY = ("game", "protocol", "reward_clip")


class Orders(NamedTuple):
    """What a Barista is told at its start."""

    server: str  # HOST:PORT
    token: str  # the parameter server's
    run: str
    config: dict[str, Any]  # fields of `AgentConfig`
    worker: str  # its name: host, executor, slot
    incarnation: str  # one for each process
    local_token: str  # of its own request loop
    local_workers: int = 1  # that share this host's processors
    threads: int = 0  # its share of them; 0: to be found out
    alone: bool = False  # whether no other workers than those are on this host
    ordinal: int = 0  # among the workers of the run: their seeds differ by it
    gpu: str | None = None  # the address that Spark gave its task
    executor: dict[str, float] | None = None  # pid and start time of whom it must not outlive
    ca: str = ""  # PEM of the certificates to trust, where the server speaks TLS
    net: str = ""  # the network's prototxt, where no server is there to be asked


def assemble(
    orders: Orders, config: AgentConfig, folder: Path, mailbox: Mailbox | None = None
) -> Worker:
    """Return a worker that is ready for its first round.

    Args:
        orders: what it is told.
        config: its hyper-parameters.
        folder: for files that it needs as long as it works.
        mailbox: its way to the driver, where there is no server.

    Raises:
        barista.games.GameError: If the game cannot be played.
        barista.config.ConfigError: If the engine does not have the device.
        barista.model.ModelError: If the server's network is not a Q-network.
        param_server.errors.ParamServerError: If there is no such server, or it refuses us, or we
            do not trust it.
    """
    threads = orders.threads or cores.share(orders.local_workers)
    own = hands(config, threads=threads, gpu=orders.gpu)
    net = folder / "train_val.prototxt"
    if orders.server:
        exchange = _served(orders, config, net)
    else:
        assert mailbox is not None
        exchange = mailbox
        net.write_text(orders.net)
    identity = Identity(orders.run, orders.worker, orders.incarnation)
    return build(config, net, own, exchange=exchange, identity=identity, ordinal=orders.ordinal)


def _served(orders: Orders, config: AgentConfig, net: Path) -> Exchange:
    """Return the way to the server, whose network is written to `net`."""
    ca = net.with_name("ca.pem")
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
    net.write_text(client.prototxt().net)
    return _exchange(client, config, is_tls=bool(orders.ca))


class Hands(NamedTuple):
    """What a worker's process works with."""

    threads: Threads
    overlaps: bool  # whether it acts, draws and exchanges while a gradient is computed


def hands(config: AgentConfig, *, threads: int, gpu: str | None = None) -> Hands:
    """Choose the engine's device, precision and threads, for this whole process.

    Args:
        config: of the run.
        threads: that may be used, in all.
        gpu: the address of the only GPU that may be.

    Raises:
        barista.config.ConfigError: If the engine does not have the device or the precision.
    """
    on_gpu = _choose_device(config.device, gpu)
    _choose_precision(config.precision)
    overlaps = pipeline.overlaps(config, threads)
    split = cores.split(threads, overlaps=overlaps, on_gpu=on_gpu)
    _limit_threads(split.engine)
    return Hands(split, overlaps)


def build(
    config: AgentConfig,
    net: Path,
    own: Hands,
    *,
    exchange: Exchange,
    identity: Identity,
    ordinal: int,
) -> Worker:
    """Return a worker with a game, networks and a replay of its own.

    Args:
        config: its hyper-parameters.
        net: prototxt of its network.
        own: from `hands`.
        exchange: its way to the server.
        identity: by which the server knows it.
        ordinal: among the workers of the run: its chances differ by it.

    Raises:
        barista.games.GameError: If the game cannot be played.
        barista.config.ConfigError: If the agent cannot learn with such a network, or the replay's
            folder cannot be used.
        barista.model.ModelError: If it is no Q-network.
    """
    nets = load(net, config)
    seed = config.seed_for(str(ordinal))
    game = games.make(
        config.game,
        num_envs=config.num_envs,
        seed=seed,
        threads=own.threads.games,
        protocol=config.protocol,
    )
    _log.info(
        "engine %s with %d threads, game %s with %d, %s",
        caffe.__file__,
        own.threads.engine,
        config.game,
        own.threads.games,
        "at once" if own.overlaps else "in turn",
    )
    return make_worker(
        config,
        game=game,
        nets=nets,
        exchange=exchange,
        identity=identity,
        seed=seed,
        ordinal=ordinal,
        overlaps=own.overlaps,
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
    nets: Nets | OneNets,
    exchange: Exchange,
    identity: Identity,
    seed: int | None = None,
    ordinal: int = 0,
    overlaps: bool = False,
) -> Worker:
    """Return a worker on these parts, with a replay buffer of its share of the capacity.

    Args:
        config: its hyper-parameters.
        game: what it plays.
        nets: its networks.
        exchange: its way to the server.
        identity: by which the server knows it.
        seed: of its chances; None takes the configuration's and the worker's name.
        ordinal: among the workers of the run.
        overlaps: whether it acts, draws and exchanges while a gradient is computed.

    Raises:
        barista.storage.StorageError: If the replay's folder cannot be used.
    """
    own_seed = config.seed_for(identity.worker) if seed is None else seed
    exploring, drawing = np.random.default_rng(own_seed).spawn(2)
    spec = game.spec
    kind = ReplayBuffer
    if config.replay_to or config.replay_from:
        from barista import experience  # noqa: PLC0415 (pyarrow: only where it is needed)

        kind = experience.KeptReplay if config.replay_to else kind
    storage = open_storage(
        Path(config.replay_dir, f"worker-{ordinal}") if config.replay_dir else None,
        compress=config.compress_replay,
        settings={name: getattr(config, name) for name in _STORED_BY},
    )
    replay = kind(
        config.replay_share,
        frame_shape=spec.frame_shape,
        frame_dtype=spec.dtype,
        stack=spec.stack,
        num_envs=game.num_envs,
        n_step=config.n_step,
        gamma=config.gamma,
        rng=drawing,
        priorities=SumTree if config.prioritised else None,
        priority_exponent=config.priority_exponent,
        storage=storage,
    )
    if config.replay_to or config.replay_from:
        experience.attach(replay, config, spec, ordinal=ordinal, storage=storage)
    learner = make_learner(nets, config, spec.num_actions)
    if isinstance(exchange, BestExchange) and isinstance(learner, Learner) and not overlaps:
        exchange.lend_to(learner.move)
    return Worker(
        actor=Actor(game, nets.act, replay, config, exploring),
        learner=learner,
        replay=replay,
        exchange=exchange,
        config=config,
        identity=identity,
        layout=learner.layout,
        ordinal=ordinal,
        overlaps=overlaps,
    )


def load(net: Path, config: AgentConfig) -> Nets | OneNets:
    """Return the networks of a prototxt file, whichever form it has.

    Raises:
        barista.model.ModelError: If it is no Q-network.
    """
    build = one_net.load if is_one_net(net.read_text()) else load_nets
    return build(str(net), batch_size=config.batch_size, num_envs=config.num_envs)


def make_learner(
    nets: Nets | OneNets, config: AgentConfig, num_actions: int
) -> Learner | OneNetLearner:
    """Return the learner that suits the networks.

    Raises:
        barista.config.ConfigError: If the configuration asks for what they cannot do.
        barista.model.ModelError: If they cannot learn.
    """
    if isinstance(nets, OneNets):
        return OneNetLearner(nets, config, num_actions)
    return Learner(nets, config, num_actions)


def _limit_threads(count: int) -> None:
    """Have the engine use so many threads; one that cannot be told heeds OMP_NUM_THREADS."""
    if hasattr(caffe, "set_num_threads"):
        caffe.set_num_threads(count)


def _choose_precision(precision: str) -> None:
    if precision == "auto":
        return
    if not hasattr(caffe, "set_precision"):
        raise ConfigError(f"--precision {precision}: {caffe.__file__} computes as it was built to")
    caffe.set_precision(precision)


def _choose_device(device: str, gpu: str | None) -> bool:
    """Set the engine's device: the one asked for, else the GPU that Spark gave, else the CPU.

    Returns:
        Whether it is a GPU.
    """
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # its own, and nobody else's
    if device == "cpu" or (device == "auto" and gpu is None):
        caffe.set_mode_cpu()
        return False
    number = int(device.partition(":")[2] or 0) if gpu is None else 0
    try:
        rehearse(device=number)
        caffe.set_device(number)
    except (ValueError, RuntimeError) as error:  # what our engine raises, and a plain pycaffe
        raise ConfigError(f"--device {device}: {error}") from error
    caffe.set_mode_gpu()
    return True
