"""`--push-period auto`: after each round, how many gradients the pushes of the next one hold.

The design.  A worker computes a gradient in c seconds and needs e more for an exchange, so with n
gradients in a push the exchange takes e / (n c + e) of its time, and W workers push W / (n c + e)
times a second, which keeps a server that spends s processor seconds on each busy to the share
W s / (n c + e).  n is the smallest that holds both shares down.  What is measured with one n says
little of another where a link or the server was saturated: e is then mostly waiting.  So n may
rise at once and is corrected by the next round; it falls only where half of it would do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXCHANGE_SHARE = 0.2  # of a worker's time, at most
BUSY_SHARE = 0.6  # of one processor, the server's: where it comes to rest, pushes queue
LONGEST = 64  # a mean of more gradients of one version learns too little from each


class Costs(NamedTuple):
    """What a round has cost, in seconds."""

    gradient_s: float  # c, of one worker
    exchange_s: float  # e, of one worker, waiting included
    server_s: float  # s, of the server's processor

    def period(self, workers: int) -> int:
        """Return the smallest number of gradients in a push that holds both shares down."""
        by_exchange = self.exchange_s * (1 / EXCHANGE_SHARE - 1)
        by_server = workers * self.server_s / BUSY_SHARE - self.exchange_s
        needed = max(by_exchange, by_server) / self.gradient_s
        return min(max(1, math.ceil(needed)), LONGEST)

    def pushes_per_s(self, workers: int, period: int) -> float:
        """Return the rate of all workers together."""
        return workers / (period * self.gradient_s + self.exchange_s)


def costs(
    rows: Sequence[Mapping[str, Any]],
    period: int,
    *,
    seconds: float,
    busy: float,
    in_step: bool = False,
) -> Costs | None:
    """Return what the round of these rows has cost, None where it says nothing.

    Args:
        rows: Of its workers.
        period: Gradients in each of its pushes.
        seconds: Its length.
        busy: The server's processor seconds per second.
        in_step: Whether workers wait for each other.  An exchange then takes what it takes the
            slowest worker, who waits for nobody: longer pushes make no one wait less.
    """
    pushes_of = [
        sum(row[verdict] for verdict in ("applied", "gathered", "rejected", "late")) for row in rows
    ]
    exchanging_s = [row["exchange_s"] + row["wait_s"] for row in rows]
    pushes = sum(pushes_of)
    working_s = sum(row["act_s"] + row["sample_s"] + row["compute_s"] for row in rows)
    if not pushes or not working_s or not seconds:
        return None
    least_s = min(each / many for each, many in zip(exchanging_s, pushes_of, strict=True) if many)
    return Costs(
        gradient_s=working_s / (pushes * period),
        exchange_s=least_s if in_step else sum(exchanging_s) / pushes,
        server_s=busy * seconds / pushes,
    )


class PushPeriod:
    """The number of gradients in a push, round by round.

    Args:
        configured: Of `--push-period`; 0 is auto.
        workers: That push.
    """

    def __init__(self, configured: int, workers: int) -> None:
        self._chooses, self._workers = not configured, workers
        self.now = configured or 1  #: Gradients in a push.

    def follow(self, found: Costs | None) -> str:
        """Choose for the next round; return a line that says so, empty where nothing changes."""
        if found is None or not self._chooses:
            return ""
        needed, before = found.period(self._workers), self.now
        if before // 2 < needed <= before:
            return ""
        self.now = needed
        rate = found.pushes_per_s(self._workers, before)
        exchange = rate * found.exchange_s / self._workers
        return (
            f"push period {needed}: with {before} the exchange took {exchange:.0%} of a worker's "
            f"time, and the server was {rate * found.server_s:.0%} busy"
        )
