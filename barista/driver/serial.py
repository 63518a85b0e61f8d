"""The whole system in one process: no Spark, no network, no thread but the snapshots'.

For debugging, and as the yardstick of what distribution costs: the same store, workers, learner and
solver.  `W` workers take turns, one push each.  What a worker computes from are the weights that
its last push brought, and since then each of the others has pushed once: every gradient is W − 1
updates stale, as those of W equally fast machines are on average.  Only chance is missing: a run
is a function of its seed, bit for bit.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

from barista import assembly, cores
from barista.outbox import Identity
from barista.rounds import RoundRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from barista.config import AgentConfig
    from barista.driver.local_server import LocalServer
    from barista.worker import Worker


def make_workers(config: AgentConfig, net: Path, server: LocalServer, run: str) -> list[Worker]:
    """Return the workers of a run, each with a game, networks and a replay of its own.

    Args:
        config: With their number.
        net: Prototxt of the network.
        server: Has the weights.
        run: The run's name in the server's ledger.

    Raises:
        barista.games.GameError: If the game cannot be played.
        barista.config.ConfigError: If the engine does not have the device, or a replay's folder
            cannot be used.
        barista.model.ModelError: If the network is not a Q-network.
    """
    config = replace(config, overlap="off")  # what happens at once may happen in any order
    asked = os.environ.get("OMP_NUM_THREADS", "")
    hands = assembly.hands(config, threads=int(asked) if asked.isdecimal() else cores.share(1))
    return [
        assembly.build(
            config,
            net,
            hands,
            exchange=server.exchange,
            identity=Identity(run, f"serial-{ordinal}", "first"),
            ordinal=ordinal,
        )
        for ordinal in range(config.workers)
    ]


class SerialRounds:
    """Rounds of workers that live here; see `barista.spark.rounds.Rounds`."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._turns = cycle(workers)

    def start(self, request: Mapping[str, Any], _description: str = "") -> SerialRound:
        """Begin a round; its work is done while it is waited for."""
        return SerialRound(self._workers, self._turns, RoundRequest(**request))

    def has_running_tasks(self) -> bool:
        """Whether anybody works: always."""
        return True

    def cancel(self) -> None:
        """Nothing runs by itself."""

    def stop_baristas(self) -> None:
        """Close the workers, which must not be used afterwards."""
        for worker in self._workers:
            worker.close()


class SerialRound:
    """A round under way."""

    def __init__(
        self,
        workers: Sequence[Worker],
        turns: Iterator[Worker],
        request: RoundRequest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers, self._turns, self._request = workers, turns, request
        self._clock = clock
        self._deadline = clock() + request.deadline_s
        self._rows: list[dict[str, Any]] = []
        self._waiting: set[Worker] = set()  # their newest push waits for those of others
        for worker in workers:
            worker.begin_round(request)

    def wait(self, timeout_s: float) -> bool:
        """Work for `timeout_s` or until the round is over; says whether it is."""
        until = min(self._clock() + timeout_s, self._deadline)
        while not self._rows and self._clock() < until:
            worker = next(self._turns)
            if not worker.is_warm:
                worker.warm_up(self._deadline)
                continue
            if worker in self._waiting:  # a server answers such a push when the others' are there
                self._waiting.remove(worker)
                worker.pull()
            answer = worker.update(self._request)
            if answer is not None and answer.status == "gathered":
                self._waiting.add(worker)
            if answer is not None and answer.round_over:
                self._end()
        if not self._rows and self._clock() >= self._deadline:
            self._end()
        return bool(self._rows)

    def rows(self) -> list[dict[str, Any]]:
        """Return the row of each worker."""
        return self._rows

    def _end(self) -> None:
        self._rows = [
            {**worker.end_round(self._request), "replay_size": worker.progress()["replay_size"]}
            for worker in self._workers
        ]
