"""One worker: it acts, remembers, learns and exchanges, until it is told to stop.

Design
------
Downpour SGD (Dean et al., 2012, section 4.1) around deep Q-learning (Mnih et al., 2015,
Algorithm 1).  With θ the weights of the server and n the push period, each worker does alone:

    pull θ; play by chance until the replay holds its share of the warm-up
    repeat
        take `steps_per_update` steps, ε-greedy on θ, and store them          act
        draw a minibatch                                                      sample
        compute the gradient of its Huber loss at θ                           compute
        every n gradients: push their mean, take over the newest θ and θ⁻     exchange
    until the round is over

There is no local step: weights change by pulls only, so all gradients of a push are of one version
and the server's answer can say how stale it was.  Copies of the game step together, N at once;
what `steps_per_update` asks for is owed until a step of all N pays it in advance.

Which steps, episodes and gradients the server knows of is decided by its answers alone.  A push
that is not answered, or comes too early, is sent again under the same sequence; one that was
answered is never sent again.  Gradients of another epoch are dropped, but the steps that they
reported stay owed.

Where workers wait for each other (SSP, synchronous rounds), nobody waits for one that does not
push: it says so at the end of a round, and before a warm-up.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from param_server.errors import EpochChanged, LayoutMismatch, ParamServerError
from param_server.wire import Layout, Push

from barista import dqn
from barista.patience import Patience
from barista.rounds import TAKEN, RoundTally, mean
from barista.timings import Timings

if TYPE_CHECKING:
    from collections.abc import Callable

    from param_server.wire import Model, PushAnswer

    from barista.actor import Actor
    from barista.config import AgentConfig
    from barista.exchange import Exchange
    from barista.learner import Learner, LearnStats
    from barista.rounds import RoundMetrics, RoundRequest
    from replay import ReplayBuffer

T = TypeVar("T")

_log = logging.getLogger(__name__)

_RETURNS_SHOWN = 100  # episodes in the mean return that `progress` shows


class Identity(NamedTuple):
    """Who pushes: a push is known by these and its sequence."""

    run: str
    worker: str
    incarnation: str  # another one for each process


class Worker:
    """The loop of one worker, round by round.

    One thread runs it; `progress` is safe to call from any other, and so is setting the event
    `stop` that a round is run with: the worker then leaves the round, its warm-up, or its wait for
    a silent server, at the next step.
    """

    def __init__(
        self,
        *,
        actor: Actor,
        learner: Learner,
        replay: ReplayBuffer,
        exchange: Exchange,
        config: AgentConfig,
        identity: Identity,
        layout: Layout,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._actor, self._learner, self._replay = actor, learner, replay
        self._exchange, self._config, self._identity = exchange, config, identity
        self._layout = layout
        self._stop = threading.Event()
        self._clock = clock  # seconds
        self._deadline = math.inf  # of the round
        self._patience = Patience(clock, lambda: self._show("waiting"))
        #: Where the time goes; to be read by the thread that runs the worker.
        self.timings = Timings()
        self._tally = RoundTally({})
        self._complained: set[str] = set()  # about kinds of rejections in this round
        # Where the server stands, as far as this worker knows.
        self._known: tuple[int, int] | None = None  # (epoch, version) of θ
        self._known_target: tuple[int, int] | None = None  # (epoch, target version) of θ⁻
        self._reported_steps = 0  # agent steps of all workers
        # What the server has not been told.
        self._sequence = 0
        self._steps = 0
        self._returns: list[float] = []
        self._lengths: list[int] = []
        # Gradients of the push that is being gathered; their sum.
        self._gathered: list[LearnStats] = []
        self._sum = np.zeros_like(learner.flat_gradient)
        self._weights = np.zeros_like(self._sum)  # what pulls are read into
        self._pushes_since_pull = 0
        self._steps_owed = 0
        # For those who watch.
        self._updates = self._episodes = 0
        self._recent_returns: list[float] = []
        self._newest_loss: list[float] = []
        self._progress: dict[str, Any] = {}
        self._show("idle")

    @property
    def epsilon(self) -> float:
        """The exploration rate now: the schedule begins where the warm-up ends."""
        config = self._config
        return dqn.linear_schedule(
            self._reported_steps + self._steps - config.warmup,
            start=config.epsilon_start,
            end=config.epsilon_end,
            duration=config.epsilon_steps,
        )

    @property
    def is_warm(self) -> bool:
        """Whether this worker's own replay holds its share of the warm-up."""
        return self._actor.steps >= self._config.warmup_share and self._replay.size > 0

    def warm_up(self, deadline: float = math.inf) -> None:
        """Play until the replay holds its share; `run_round` begins with this.

        Ends early when `stop` is set or the clock shows `deadline`.

        Raises:
            ServerUnreachable: If no server has answered for the length of a lease.
        """
        if not self.is_warm:
            self._retire()  # one of this worker's name may have been killed a moment ago
        if self._known is None:
            self._pull()
        while not self.is_warm and not self._leaves(deadline):
            self._act()
            self._show("warm-up")

    def run_round(self, request: RoundRequest, stop: threading.Event | None = None) -> RoundMetrics:
        """Warm up if need be, then push until the round is over.

        It is over when an answer says so, or the deadline has passed, or `stop` is set.

        Raises:
            ServerUnreachable: If no server has answered for the length of a lease.
            Refused: If the server holds another run or another network.
        """
        if stop is not None:
            self._stop = stop
        began = self._clock()
        deadline = self._deadline = began + request.deadline_s
        try:
            self._pull()
            self.warm_up(deadline)
            is_over = False
            while not is_over and not self._leaves(deadline):
                answer = self.update(request)
                is_over = answer is not None and answer.round_over
        finally:
            self._retire()
        self._show("idle")
        return self._take_row(request, self._clock() - began)

    def update(self, request: RoundRequest) -> PushAnswer | None:
        """Act, sample, compute one gradient, and exchange when enough are gathered.

        Returns:
            The server's answer, None where nothing was pushed or its epoch had ended.
        """
        self._steps_owed += self._config.steps_per_update
        while self._steps_owed > 0:
            self._steps_owed -= self._act()
        with self.timings.measure("sample"):
            batch = self._replay.sample(self._config.batch_size)
        with self.timings.measure("compute"):
            stats = self._learner.gradient(batch)
        self._tally.add_gradient(stats)
        self._newest_loss = [stats.loss]
        with self.timings.measure("exchange"):
            answer = self._push(request) if self._gather(stats) else None
        self._show("training")
        return answer

    def progress(self) -> dict[str, Any]:
        """Return a JSON object of how far the worker is.  Safe to call from many threads.

        `heartbeat` changes whenever the worker does anything, even wait for a silent server.
        """
        return self._progress  # replaced whole, never changed

    def close(self) -> None:
        """Close the game; the worker must not be used afterwards."""
        self._actor.close()

    # -- the steps of the loop

    def _act(self) -> int:
        """Step the games once and return the agent steps taken."""
        with self.timings.measure("act"):
            steps = self._actor.act(self.epsilon)
        returns, lengths = self._actor.take_episodes()
        self._steps += steps
        self._returns += returns
        self._lengths += lengths
        self._episodes += len(returns)
        self._recent_returns = (self._recent_returns + returns)[-_RETURNS_SHOWN:]
        self._tally.add_steps(steps, returns)
        return steps

    def _gather(self, stats: LearnStats) -> bool:
        """Add the newest gradient to the sum; say whether the sum is a push."""
        gradient = self._learner.flat_gradient
        if self._gathered:
            self._sum += gradient
        else:
            np.copyto(self._sum, gradient)
        self._gathered.append(stats)
        return len(self._gathered) == self._config.push_period

    def _push(self, request: RoundRequest) -> PushAnswer | None:
        """Push the mean of the gathered gradients and follow the answer."""
        if len(self._gathered) > 1:
            self._sum /= len(self._gathered)
        push = self._next_push(request)
        try:
            answered = self._patiently(lambda: self._exchange.push(push, self._sum, self._weights))
        except EpochChanged as error:
            _log.info("%s; dropping %d gradients", error, len(self._gathered))
            self._tally.add_dropped(len(self._gathered))
            self._gathered = []
            self._pull(afresh=True)
            return None
        except LayoutMismatch as error:
            theirs = Layout.from_entries(error.members.get("entries", ()))
            difference = self._layout.difference(theirs)
            raise LayoutMismatch(
                f"the server holds another network than this worker: {difference}"
            ) from error
        self._gathered = []
        if answered is None:
            return None
        answer, model = answered
        self._follow(answer)
        if model is not None:
            self._take_over(model)
        elif push.want_model:
            self._pushes_since_pull = 0
            if (answer.epoch, answer.version) != self._known:
                self._pull()
        return answer

    def _next_push(self, request: RoundRequest) -> Push:
        assert self._known is not None
        epoch, version = self._known
        self._sequence += 1
        self._pushes_since_pull += 1
        stats = [np.mean(values) for values in zip(*self._gathered, strict=True)]
        loss, td_error_mean, q_mean, q_max = map(float, stats)
        return Push(
            run=self._identity.run,
            worker=self._identity.worker,
            incarnation=self._identity.incarnation,
            sequence=self._sequence,
            epoch=epoch,
            version=version,
            layout=self._layout.digest,
            round=request.number,
            partition=request.partition,
            quota=request.quota,
            loss=loss,
            steps=self._steps,
            episodes=tuple(self._returns),
            episode_lengths=tuple(self._lengths),
            stats={
                "td_error_mean": td_error_mean,
                "q_mean": q_mean,
                "q_max": q_max,
                "epsilon": self.epsilon,
            },
            want_model=self._pushes_since_pull >= self._config.pull_period,
        )

    def _follow(self, answer: PushAnswer) -> None:
        """Note what an answer says: whatever the verdict, the steps of the push are counted."""
        self._tally.add_answer(answer)
        self._updates += answer.status in TAKEN
        if answer.status == "rejected":
            self._complain(answer.reason)
        self._steps, self._returns, self._lengths = 0, [], []
        self._reported_steps = answer.counters.steps
        self._refresh_target(answer.epoch, answer.target_version)

    def _complain(self, reason: str) -> None:
        """Log why a gradient is rejected: of each kind of reason the first one in a round."""
        kind = reason.partition(":")[0]
        if kind not in self._complained:
            self._complained.add(kind)
            _log.warning("the server rejects a gradient: %s", reason)

    # -- following the server

    def _pull(self, *, afresh: bool = False) -> None:
        """Take over the weights, if there are newer ones, and the target's."""
        known = None if afresh else self._known
        model = self._patiently(lambda: self._exchange.pull(known, self._weights))
        if model is not None:
            self._take_over(model)

    def _take_over(self, model: Model) -> None:
        if model.layout != self._layout.digest:
            raise LayoutMismatch(
                f"the server's network has layout {model.layout!r}, "
                f"this worker's {self._layout.digest!r}",
                layout=model.layout,
            )
        self._learner.set_weights(model.weights)
        self._known = (model.epoch, model.version)
        self._reported_steps = model.counters.steps
        self._pushes_since_pull = 0
        self._gathered = []  # of older weights than those that the next gradients will be of
        self._refresh_target(model.epoch, model.target_version)

    def _refresh_target(self, epoch: int, target_version: int) -> None:
        if self._known_target == (epoch, target_version):
            return
        known = self._known_target
        model = self._patiently(lambda: self._exchange.pull_target(known, self._weights))
        if model is not None:
            self._learner.set_target_weights(model.weights)
            self._known_target = (model.epoch, model.target_version)

    def _patiently(self, call: Callable[[], T]) -> T | None:
        """Repeat a request while the server cannot take it; see `Patience.ask`."""
        return self._patience.ask(call, self._stop, self._deadline)

    def _retire(self) -> None:
        """Tell the server, if it hears, that this worker does not push for now."""
        try:
            self._exchange.leave(self._identity.worker, self._identity.incarnation)
        except ParamServerError as error:
            _log.info("could not leave: %s", error)

    def _leaves(self, deadline: float) -> bool:
        return self._stop.is_set() or self._clock() >= deadline

    # -- reporting

    def _take_row(self, request: RoundRequest, seconds: float) -> RoundMetrics:
        stages_s = self.timings.totals_s()
        row = self._tally.row(
            self._identity.worker,
            request,
            epsilon=self.epsilon,
            seconds=seconds,
            stages_s=stages_s,
        )
        self._tally = RoundTally(stages_s)
        self._complained = set()
        return row

    def _show(self, phase: str) -> None:
        self._progress = {
            "phase": phase,  # idle, warm-up, training, waiting (for a server)
            "updates": self._updates,  # pushes of this worker that were taken
            "steps": self._actor.steps,
            "episodes": self._episodes,
            "return_mean": mean(self._recent_returns),
            "loss": mean(self._newest_loss),
            "epsilon": self.epsilon,
            "replay_size": self._replay.size,
            "stages_s": self.timings.totals_s(),
            "heartbeat": self._clock(),
        }
