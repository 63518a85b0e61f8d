"""The ceilings: ``python -m benchmarks.worker.parts OPTIONS`` does each part of a cycle alone.

Each part is the product's own, made as the product makes it, and repeated on what it needs: the
games step by chance, the network looks at the same states, the learner at the same minibatch.  What
a worker does besides (storing, schedules, statistics) has no ceiling here: a cycle has to find the
time for it within its margin.
"""

from __future__ import annotations

import os
import resource
import secrets
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from param_server.best_exchange import BestExchange, best_exchange
from param_server.client import Client
from param_server.wire import Push

import caffe
from barista import games
from barista.actor import Actor
from barista.learner import Learner, load_nets, q_values
from benchmarks.worker.accounting import tree_cpu_s
from benchmarks.worker.gate import Channel
from benchmarks.worker.ours import configuration, parser, start_server
from replay import ReplayBuffer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from barista.config import AgentConfig


def main() -> None:
    """Repeat each part for a share of the time that each order gives, until the hang-up."""
    given = parser().parse_args()
    channel = Channel()
    os.environ["DDQ_ROOT"] = str(given.folder)
    caffe.set_mode_cpu()
    config, token = configuration(given), secrets.token_urlsafe(16)
    with ExitStack() as stack:
        server = start_server(given.folder, config, token)
        stack.callback(server.stop, 20.0)
        client = Client(server.address, token, run="parts", worker="w0")
        parts = _parts(config, client, given.folder)
        for part in parts.values():
            _repeat(part, 0.5, server.pid)
        channel.answer(ready=True, envs=config.num_envs)
        while order := channel.order():
            seconds = order["seconds"] / len(parts)
            found = {name: _repeat(part, seconds, server.pid) for name, part in parts.items()}
            channel.answer(parts=found)


def _parts(config: AgentConfig, client: Client, folder: Path) -> dict[str, Callable[[], object]]:
    """Return what is done once in each part."""
    net = folder / "train_val.prototxt"
    net.write_text(client.prototxt().net)
    nets = load_nets(str(net), batch_size=config.batch_size, num_envs=config.num_envs)
    game = games.make(config.game, num_envs=config.num_envs, seed=0, threads=1)
    learner = Learner(nets, config, game.spec.num_actions)
    rng = np.random.default_rng(0)
    replay = ReplayBuffer(
        config.replay_share,
        frame_shape=game.spec.frame_shape,
        stack=game.spec.stack,
        num_envs=config.num_envs,
        n_step=config.n_step,
        gamma=config.gamma,
        rng=rng,
    )
    actor = Actor(game, nets.act, replay, config, rng)
    while actor.steps < config.warmup_share:
        actor.act(1.0)
    states, batch = game.states().copy(), replay.sample(config.batch_size)
    actions = rng.integers(game.spec.num_actions, size=(1000, config.num_envs))
    turn = iter(range(10**9))
    return {
        "env": lambda: game.step(actions[next(turn) % len(actions)]),
        "act": lambda: q_values(nets.act, states, game.spec.num_actions),
        "sample": lambda: replay.sample(config.batch_size),
        "compute": lambda: learner.gradient(batch),
        "exchange": _Exchanging(client, learner),
    }


class _Exchanging:
    """Pushes the newest gradient, pulls, and takes the weights over."""

    def __init__(self, client: Client, learner: Learner) -> None:
        self._exchange, self._learner = best_exchange(client), learner
        if isinstance(self._exchange, BestExchange):
            self._exchange.lend_to(learner.move)
        self._weights = np.empty_like(learner.flat_gradient)
        model = self._exchange.pull(None, self._weights)
        assert model is not None
        self._push = Push(
            run="parts",
            worker="w0",
            incarnation="i",
            sequence=0,
            epoch=model.epoch,
            version=model.version,
            layout=model.layout,
            loss=0.5,
            steps=4,
            want_model=True,
        )

    def __call__(self) -> None:
        push = replace(self._push, sequence=self._push.sequence + 1)
        answer, model = self._exchange.push(push, self._learner.flat_gradient, self._weights)
        assert answer.status == "applied", answer
        assert model is not None
        self._learner.set_weights(model.weights)
        self._push = replace(push, version=answer.version)


def _repeat(part: Callable[[], object], seconds: float, server: int) -> dict[str, Any]:
    """Do a part for a while; return how often, and the time of clock and of processors."""
    times, began = 0, time.perf_counter()
    cpu_s = -_cpu_s(server)
    while time.perf_counter() - began < seconds:
        part()
        times += 1
    wall_s = time.perf_counter() - began
    return {"times": times, "wall_s": wall_s, "cpu_s": cpu_s + _cpu_s(server)}


def _cpu_s(server: int) -> float:
    """Return the processor time of this process and of the server."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime + tree_cpu_s(server)


if __name__ == "__main__":
    main()
