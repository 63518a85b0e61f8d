"""A discrete-event model of asynchronous training: workers, links, the parameter server.

    worker:  compute push_period gradients → push, with a pull in every pull_period-th → again
    push:    body in → request, by one thread of Python at a time → look at the gradient
             → under the lock: apply it, copy the weights → weights out

Work takes a core of the machine that it is on, a moment of each in turn; a transfer keeps sender,
link and receiver busy at once, as far as they overlap.  All that is shared is a ``simpy.Resource``.

Shards are alike, and every push asks each of them for its part.  So one shard is simulated, with
its part of the bytes; the workers' own work and links carry them all.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import simpy
from param_server.receiving import FEWEST, MOST

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Steps = Generator[simpy.Event, None, None]
    Work = Callable[[float], Steps]

T = TypeVar("T")

SPREAD = 0.2  # a computation takes its mean, more or less by up to this share
_FINE = 64  # workers up to whom cores and links are shared in small pieces
_SLICE_S = 0.001  # a core's
_REST_S = 0.001  # in which caches forget: less than any gradient takes
_PIECES = 16  # of a payload, each of which waits for the link by itself


@dataclass(frozen=True)
class Costs:
    """What one push or pull of one size takes: seconds of one core; what is no core's says so."""

    request: float  # server, in Python: one thread at a time
    receive: float  # server, a gradient's bytes
    check: float  # server, one look at all of a gradient
    apply: float  # server, under the lock
    copy: float  # server, under the lock: the weights, for whoever pulls
    send: float  # server, the weights' bytes
    worker_send: float
    worker_receive: float
    delay: float  # nobody's: in which a message is on its way and all sleep
    overlap: float  # the share of a transfer in which both sides work at once
    contention: float  # how much slower a core is while another works too
    worker_rest: float  # more for a worker that has computed: its caches have forgotten
    server_rest: float  # more for a server that nobody was speaking to


@dataclass(frozen=True)
class Scenario:
    """Who trains, and on what."""

    workers: int
    payload: float  # bytes of the weights, and of a gradient
    compute_s: float  # one gradient
    push_period: int = 1
    pull_period: int = 1
    cores: int = 2  # of the server's machine; of each shard's
    is_shared: bool = True  # these cores are the workers' too, but for the gradients
    bits_per_s: float = 0.0  # of every link, each way; 0: there is none
    round_trip_s: float = 0.0
    shards: int = 1


class Outcome(NamedTuple):
    """What came of it, once it had settled."""

    updates_per_s: float
    gradients_per_s: float
    staleness: float  # mean, in updates
    exchange_s: float  # mean, from a push to its answer
    busy: dict[str, float]  # share of its time, by resource


def simulate(
    scenario: Scenario, costs: Costs, *, updates: int = 0, warm_up: int = 0, seed: int = 0
) -> Outcome:
    """Return what happens.

    Args:
        scenario: Who, and on what.
        costs: Of a push of the bytes of one shard.
        updates: To be counted (default: a thousand, or a fifth of the workers).
        warm_up: Updates before (default: one of each worker, and a hundred).
        seed: Of the computations' lengths.
    """
    return _Simulation(scenario, costs, random.Random(seed)).run(  # noqa: S311
        warm_up or scenario.workers + 100, updates or max(1000, scenario.workers // 5)
    )


def bottleneck(outcome: Outcome) -> str:
    """Return the resource that is busiest, "workers" if none is nearly always."""
    name, share = max(outcome.busy.items(), key=lambda item: item[1])
    return name if share > 0.85 else "workers"


class _Simulation:
    def __init__(self, scenario: Scenario, costs: Costs, chance: random.Random) -> None:
        self._scenario, self._costs, self._chance = scenario, costs, chance
        self._env = simpy.Environment()
        self._resources = {
            name: simpy.Resource(self._env, scenario.cores if name == "cores" else 1)
            for name in ("cores", "Python", "lock", "link in", "link out")
        }
        # Of gradients to be received: more where workers send slowly, to many shards at once.
        self._turns = simpy.Resource(self._env, min(FEWEST * scenario.shards, MOST))
        self._is_fine = scenario.workers <= _FINE
        self._speaking, self._spoke_at = 0, 0.0  # workers, to the server; when one last ended
        self._version = 0
        self._milestones: dict[int, simpy.Event] = {}  # by version
        self._sums: dict[str, float] = defaultdict(
            float
        )  # the resources' names among them: busy seconds

    def run(self, warm_up: int, updates: int) -> Outcome:
        env, scenario, end = self._env, self._scenario, warm_up + updates
        self._milestones = {warm_up: env.event(), end: env.event()}
        for _ in range(scenario.workers):
            env.process(self._live())
        env.run(self._milestones[warm_up])
        began, self._sums = env.now, defaultdict(float)
        env.run(self._milestones[end])
        elapsed, sums = env.now - began, self._sums
        return Outcome(
            updates_per_s=updates / elapsed,
            gradients_per_s=updates * scenario.push_period / elapsed,
            staleness=sums["staleness"] / updates,
            exchange_s=sums["exchange_s"] / max(sums["exchanges"], 1),
            busy={
                name: sums[name] / elapsed / resource.capacity
                for name, resource in self._resources.items()
            },
        )

    def _live(self) -> Steps:
        """Be one worker."""
        env, scenario = self._env, self._scenario
        compute_s = scenario.compute_s * scenario.push_period
        yield env.timeout(compute_s * self._chance.random())
        held = self._version
        for cycle in count(1):
            yield env.timeout(compute_s * self._chance.uniform(1 - SPREAD, 1 + SPREAD))
            began = env.now
            pulls = cycle % scenario.pull_period == 0
            newest = yield from self._exchange(held, pulls=pulls)
            held = newest if pulls else held
            self._sums["exchanges"] += 1
            self._sums["exchange_s"] += env.now - began

    def _exchange(self, held: int, *, pulls: bool) -> Generator[simpy.Event, None, int]:
        """Push what was computed from a version; return the version that comes back."""
        costs, here, there = self._costs, self._serve, self._work
        rests = self._speaking == 0 and self._env.now - self._spoke_at > _REST_S
        self._speaking += 1
        yield from there(costs.worker_rest if self._scenario.compute_s else 0.0)
        yield self._env.timeout(costs.delay + self._scenario.round_trip_s)
        with self._turns.request() as turn:
            if self._scenario.bits_per_s > 0:
                yield turn
            yield from self._transfer(there, costs.worker_send, "link in", here, costs.receive)
        yield from here(costs.server_rest if rests else 0.0)
        yield from self._hold("Python", here(costs.request))
        yield from here(costs.check)
        version: int = yield from self._hold("lock", self._update(held, pulls=pulls))
        if pulls:
            receive_s = costs.worker_receive
            yield from self._transfer(here, costs.send, "link out", there, receive_s)
        self._speaking -= 1
        self._spoke_at = self._env.now
        return version

    def _update(self, held: int, *, pulls: bool) -> Generator[simpy.Event, None, int]:
        yield from self._serve(self._costs.apply)
        self._sums["staleness"] += self._version - held
        self._version += 1
        if self._version in self._milestones:
            self._milestones[self._version].succeed()
        if pulls:
            yield from self._serve(self._costs.copy)
        return self._version

    def _transfer(
        self, sender: Work, send_s: float, link: str, receiver: Work, receive_s: float
    ) -> Steps:
        """Move a payload: both sides work, in turn or at once, while the link carries it."""
        has_link = self._scenario.bits_per_s > 0
        at_once = 1.0 if has_link else self._costs.overlap
        yield from sender((1 - at_once) * send_s)
        parts = [sender(at_once * send_s), receiver(at_once * receive_s)]
        if has_link:
            parts.append(self._carry(link))
        yield self._env.all_of([self._env.process(part) for part in parts])
        yield from receiver((1 - at_once) * receive_s)

    def _carry(self, link: str) -> Steps:
        """Take a payload over the server's link; a worker's own carries all shards' at once."""
        scenario = self._scenario
        pieces = _PIECES if self._is_fine else 1
        own_s = 8 * scenario.payload / scenario.bits_per_s
        own = self._env.timeout(own_s if scenario.shards > 1 else 0.0)
        for _ in range(pieces):
            # By chance: flows share a link unevenly, and workers do not fall into step.
            share = self._chance.expovariate(1.0) if self._is_fine else 1.0
            yield from self._hold(link, self._wait(share * own_s / scenario.shards / pieces))
        yield own

    def _work(self, seconds: float) -> Steps:
        """Work as a worker: on a core of its own, or on the server's."""
        return self._serve(seconds) if self._scenario.is_shared else self._wait(seconds)

    def _serve(self, seconds: float) -> Steps:
        """Work on the server's machine."""
        while seconds > 0:
            piece = min(seconds, _SLICE_S) if self._is_fine else seconds
            yield from self._hold("cores", self._burst(piece))
            seconds -= piece

    def _burst(self, seconds: float) -> Steps:
        is_alone = self._resources["cores"].count == 1
        yield self._env.timeout(seconds * (1.0 if is_alone else 1.0 + self._costs.contention))

    def _wait(self, seconds: float) -> Steps:
        yield self._env.timeout(seconds)

    def _hold(
        self, name: str, work: Generator[simpy.Event, None, T]
    ) -> Generator[simpy.Event, None, T]:
        """Have a resource, or one of its places, for as long as some work takes."""
        with self._resources[name].request() as turn:
            yield turn
            began = self._env.now
            result = yield from work
            self._sums[name] += self._env.now - began
        return result
