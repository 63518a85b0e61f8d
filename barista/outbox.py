"""What the server has not been told: steps, episodes, and the mean of the newest gradients.

Steps and episodes stay until an answer confirms the push that reported them, so that each is
counted once whatever becomes of a push.  Gradients that are pushed as one mean are of one version
of the weights: the first one of another version begins the mean afresh.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from param_server.wire import Push

from barista.timings import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from param_server.wire import Layout

    from barista.learner import LearnStats

    Float32 = NDArray[np.float32]


class Identity(NamedTuple):
    """Who pushes: a push is known by these and its sequence."""

    run: str
    worker: str
    incarnation: str  # another one for each process


class Outbox:
    """What one worker is about to push.  Not thread-safe.

    Args:
        identity: of the worker.
        layout: of the network's parameters, P of them.
        period: gradients whose mean is one push; may be changed between two pushes.
        beside: whether a push is under way while the next gradients are computed.
    """

    def __init__(
        self, identity: Identity, layout: Layout, *, period: int = 1, beside: bool = False
    ) -> None:
        self._identity, self._layout = identity, layout
        self.period, self._beside = period, beside
        self._sequence = 0
        #: Agent steps that no answer has confirmed.
        self.steps = 0
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._rooms = list(np.zeros((2, layout.size), np.float32))  # one is pushed, one gathers
        self._sum = self._rooms[0]
        self._gathered: list[LearnStats] = []  # of the gradients in the sum
        self._version: tuple[int, int] | None = None  # (epoch, version) that they are of
        #: Float32 [P]: the mean that the newest push goes with, until the next one is made.
        self.gradient = self._rooms[1]
        self._sent = 0  # gradients in it
        self._seconds_then: Mapping[str, float] = {}  # when the newest push was made
        self._seconds_told: Mapping[str, float] = {}  # when the newest confirmed one was

    @property
    def is_full(self) -> bool:
        """Whether there is a push to be made."""
        return len(self._gathered) >= self.period

    def add_steps(self, steps: int, returns: list[float], lengths: list[int]) -> None:
        """Add agent steps, and returns and lengths of the episodes that they ended."""
        self.steps += steps
        self._returns += returns
        self._lengths += lengths

    def add_gradient(self, gradient: Float32, stats: LearnStats, of: tuple[int, int]) -> int:
        """Add a gradient; return how many others were given up, of other weights than it.

        Args:
            gradient: float32 [P]; copied, unless it is pushed and answered before the next one.
            stats: what it was computed from.
            of: (epoch, version) of the weights that it was computed at.
        """
        given_up = 0 if self._version == of else len(self._gathered)
        del self._gathered[:given_up]
        if self._gathered:
            self._sum += gradient
        elif self.period == 1 and not self._beside:  # it is pushed before there is another
            self._sum = gradient
        else:
            self._sum = self._rooms[self.gradient is self._rooms[0]]
            np.copyto(self._sum, gradient)
        self._gathered.append(stats)
        self._version = of
        return given_up

    def next_push(
        self,
        *,
        round_number: int,
        partition: int,
        quota: int,
        want_model: bool,
        stats: Mapping[str, float],
        seconds: Mapping[str, float],
    ) -> Push:
        """Return the push of what is gathered; its mean is in `gradient`.

        Args:
            round_number: of the round.
            partition: Spark's.
            quota: pushes that complete the round.
            want_model: whether newer weights are wanted with the answer.
            stats: to be reported beside those of the gradients.
            seconds: spent in each stage so far; what is new of it is reported.
        """
        assert self._version is not None
        epoch, version = self._version
        self.gradient = self._sum
        self._sent = len(self._gathered)
        if self._sent > 1:
            self.gradient /= self._sent
        means = {
            name: sum(getattr(each, name) for each in self._gathered) / self._sent
            for name in self._gathered[0]._fields
        }
        self._gathered = []
        self._sequence += 1
        self._seconds_then = seconds
        new_s = {
            f"{name}_s": seconds.get(name, 0.0) - self._seconds_told.get(name, 0.0)
            for name in STAGES
        }
        return Push(
            run=self._identity.run,
            worker=self._identity.worker,
            incarnation=self._identity.incarnation,
            sequence=self._sequence,
            epoch=epoch,
            version=version,
            layout=self._layout.digest,
            round=round_number,
            partition=partition,
            quota=quota,
            loss=means.pop("loss"),
            steps=self.steps,
            episodes=tuple(self._returns),
            episode_lengths=tuple(self._lengths),
            stats={**means, **new_s, **stats},
            want_model=want_model,
        )

    def confirm(self, push: Push) -> None:
        """Forget what an answered push has reported."""
        self.steps -= push.steps
        del self._returns[: len(push.episodes)]
        del self._lengths[: len(push.episode_lengths)]
        self._seconds_told = self._seconds_then

    def drop_gradients(self) -> int:
        """Give up the gradients of the newest push and all others; return how many."""
        dropped = self._sent + len(self._gathered)
        self._gathered, self._sent = [], 0
        return dropped
