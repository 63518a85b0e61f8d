"""Synthetic workers, a process each: ``python -m benchmarks.scaling.clients``; told by stdin.

A sleep stands for the gradients, as if another machine computed them; pushes and pulls are real.
"""

from __future__ import annotations

import ctypes
import os
import random
import time
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from benchmarks.scaling.model import SPREAD
from benchmarks.server.ours import Ours
from benchmarks.server.worker import cpu_s, read_order, write_answer

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


class SyntheticWorker(Ours):
    """Pushes the same gradient for ever, and pulls as often as it is told."""

    def cycle(self, *, want_model: bool) -> int:
        """Push; return the gradient's staleness in updates."""
        sequence = self._push.sequence + 1
        self._push = replace(self._push, sequence=sequence, want_model=want_model)
        answer, _ = self._path.push(self._push, self._gradient, out=self._weights)
        assert answer.status == "applied", answer
        if want_model:
            self._push = replace(self._push, version=answer.version)
        return answer.staleness

    def work(self, order: dict[str, Any], chance: random.Random) -> dict[str, float]:
        """Follow an order; return counts and sums over what ended within its window."""
        compute_s = order["compute_s"] * order["push_period"]
        self.cycle(want_model=True)  # what is held from the order before is too old
        time.sleep(compute_s * chance.random())
        found = {"updates": 0.0, "staleness": 0.0, "exchange_s": 0.0, "cpu_s": 0.0}
        began_s, cycles = cpu_s(), 0
        while True:
            if compute_s:
                time.sleep(compute_s * chance.uniform(1 - SPREAD, 1 + SPREAD))
            cycles += 1
            started = time.monotonic()
            staleness = self.cycle(want_model=cycles % order["pull_period"] == 0)
            now = time.monotonic()
            if now >= order["until"]:
                return found
            if now < order["from"]:
                began_s = cpu_s()
                continue
            found["updates"] += 1
            found["staleness"] += staleness
            found["exchange_s"] += now - started
            found["cpu_s"] = cpu_s() - began_s


def main() -> None:
    """Start the workers, then hand them orders until stdin ends."""
    config = read_order()
    if config["namespace"]:
        _enter(config["namespace"])
    context = get_context("fork")  # one import for all
    pipes: list[Connection] = []
    for index in range(config["clients"]):
        ours, theirs = context.Pipe()
        pipes.append(ours)
        worker = context.Process(target=_follow, args=(theirs, pipes, config, index), daemon=True)
        worker.start()
        theirs.close()
    for pipe in pipes:
        pipe.recv()
    write_answer({"ways": []})
    while order := read_order():
        active = pipes[: order["clients"]]
        for pipe in active:
            pipe.send(order)
        answers = [pipe.recv() for pipe in active]
        write_answer({name: sum(each[name] for each in answers) for name in answers[0]})


def _follow(
    orders: Connection, inherited: list[Connection], config: dict[str, Any], index: int
) -> None:
    """Be one worker until nobody gives orders any more."""
    for pipe in inherited:  # else the others' would never hear of the parent's end
        pipe.close()
    worker = SyntheticWorker({**config, "worker": index})
    orders.send("ready")
    while True:
        try:
            order = orders.recv()
        except EOFError:
            return
        orders.send(worker.work(order, random.Random(f"{order['seed']} {index}")))  # noqa: S311


def _enter(namespace: str | Path) -> None:
    """Go into a network namespace (``os.setns`` came with Python 3.12)."""
    descriptor = os.open(namespace, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(namespace))
    os.close(descriptor)


if __name__ == "__main__":
    main()
