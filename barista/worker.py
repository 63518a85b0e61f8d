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

Whether these parts come in turn or overlap is `pipeline`'s affair.  Here it shows in one place: a
push is answered at once or just before the next one, whose gradients are then of weights one push
older.  Weights change between two gradients in either case, and no round ends before its last push
is answered.

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
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from param_server.errors import EpochChanged, LayoutMismatch, ParamServerError
from param_server.wire import Layout

from barista.outbox import Outbox
from barista.patience import Patience
from barista.pipeline import AtOnce, InTurn
from barista.rounds import TAKEN, RoundTally, mean
from barista.schedules import Schedules
from barista.timings import Timings

if TYPE_CHECKING:
    from collections.abc import Callable

    from param_server.wire import Model, Push, PushAnswer

    from barista.actor import Actor, Epsilon
    from barista.config import AgentConfig
    from barista.exchange import Exchange
    from barista.learner import Learner
    from barista.one_net import OneNetLearner
    from barista.outbox import Identity
    from barista.pipeline import Pipeline
    from barista.rounds import RoundMetrics, RoundRequest
    from replay import ReplayBuffer

T = TypeVar("T")

_log = logging.getLogger(__name__)

_RETURNS_SHOWN = 100  # episodes in the mean return that `progress` shows


class Worker:
    """The loop of one worker, round by round.

    One thread runs it; `progress` is safe to call from any other, and so is setting the event
    `stop` that a round is run with: the worker then leaves the round, its warm-up, or its wait for
    a silent server, at the next step.

    Args:
        layout: of the network's parameters.
        ordinal: among the workers of the run: which rungs of the ladder of ε are its own.
        overlaps: whether it acts, draws and exchanges beside computing.
        clock: seconds.
    """

    def __init__(
        self,
        *,
        actor: Actor,
        learner: Learner | OneNetLearner,
        replay: ReplayBuffer,
        exchange: Exchange,
        config: AgentConfig,
        identity: Identity,
        layout: Layout,
        ordinal: int = 0,
        overlaps: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._actor, self._learner, self._replay = actor, learner, replay
        self._exchange, self._config, self._identity = exchange, config, identity
        self._layout = layout
        self._stop = threading.Event()
        self._clock = clock
        self._began = self._deadline = math.inf  # of the round
        self._patience = Patience(clock)
        #: Where the time goes; to be read by the thread that runs the worker.
        self.timings = Timings()
        self._pipeline: Pipeline = (
            AtOnce(actor, replay, self.timings) if overlaps else InTurn(actor, replay)
        )
        self._schedules = Schedules(config, ordinal)
        self._tally = RoundTally({})
        self._inherited = replay.size  # transitions that were there before us
        # As far as this worker knows.
        self._known: tuple[int, int] | None = None  # (epoch, version) of θ
        self._known_target: tuple[int, int] | None = None  # (epoch, target version) of θ⁻
        self._reported_steps = 0  # agent steps of all workers
        # What the server has not been told, and what it was told and has not answered.
        self._outbox = Outbox(identity, layout, period=config.push_period or 1, beside=overlaps)
        self._pushed: Push | None = None
        self._weights = np.zeros(layout.size, np.float32)  # what pulls are read into
        self._pushes_since_pull = 0
        self._steps_owed = 0
        self._updates = self._episodes = 0
        self._recent_returns: list[float] = []
        self._newest_loss: list[float] = []
        self._progress: dict[str, Any] = {}
        self._show("idle")

    @property
    def epsilon(self) -> float:
        """The exploration rate now, the mean of all copies'."""
        return float(rates.mean()) if isinstance(rates := self._epsilons(), np.ndarray) else rates

    @property
    def is_warm(self) -> bool:
        """Whether this worker's own replay holds its share of the warm-up."""
        held = self._inherited + self._actor.steps
        return held >= self._config.warmup_share and self._replay.size > 0

    def warm_up(self, deadline: float = math.inf) -> None:
        """Play until the replay holds its share; `run_round` begins with this.

        Ends early when `stop` is set or the clock shows `deadline`.

        Raises:
            ServerUnreachable: If no server has answered for the length of a lease.
        """
        if not self.is_warm:
            self._retire()  # one of this worker's name may have been killed a moment ago
        if self._known is None:
            self.pull()
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
        try:
            self.begin_round(request, stop)
            self.warm_up(self._deadline)
            is_over = False
            while not is_over and not self._leaves(self._deadline):
                answer = self.update(request)
                is_over = answer is not None and answer.round_over
            self._settle()
        finally:
            self._pipeline.halt(self._stop)
            self._retire()
        return self._take_row(request)

    def begin_round(self, request: RoundRequest, stop: threading.Event | None = None) -> None:
        """Take over the newest weights, with the errors of `run_round`, which begins with this."""
        self._stop = stop or self._stop
        self._began = self._clock()
        self._deadline = self._began + request.deadline_s
        self._outbox.period = request.push_period or self._outbox.period
        self.pull()

    def end_round(self, request: RoundRequest) -> RoundMetrics:
        """Follow the answer that is still to come, leave, and return the row of the round."""
        self._settle()
        self._retire()
        return self._take_row(request)

    def update(self, request: RoundRequest) -> PushAnswer | None:
        """Act, sample, compute one gradient, and exchange when enough are gathered.

        Returns:
            The server's answer: to this push, or where the parts of a cycle overlap, to the one
            before.  None where nothing was pushed or its epoch had ended.
        """
        assert self._known is not None
        self._steps_owed += self._config.steps_per_update
        while self._steps_owed > 0:
            self._steps_owed -= self._act()
        with self.timings.measure("sample"):
            beta = self._schedules.beta(self._all_steps)
            batch = self._pipeline.sample(self._config.batch_size, beta)
        with self.timings.measure("compute"):
            stats = self._learner.gradient(batch)
        if self._config.prioritised:
            with self.timings.measure("sample"):
                self._pipeline.update_priorities(batch.ids, self._learner.td_errors)
        self._tally.add_gradient(stats)
        self._newest_loss = [stats.loss]
        with self.timings.measure("exchange"):
            dropped = self._outbox.add_gradient(self._learner.flat_gradient, stats, self._known)
            self._tally.add_dropped(dropped)
            answer = self._push(request) if self._outbox.is_full else None
        self._show("training")
        return answer

    def pull(self, *, afresh: bool = False) -> None:
        """Take over the weights, if there are newer ones, and the target's."""
        known = None if afresh else self._known
        model = self._patiently(lambda: self._exchange.pull(known, self._weights))
        if model is not None:
            self._take_over(model)

    def progress(self) -> dict[str, Any]:
        """Return a JSON object of how far the worker is.  Safe to call from many threads.

        `heartbeat` changes whenever the worker does anything, even wait for a silent server.
        """
        return self._progress  # replaced whole, never changed

    def close(self) -> None:
        """Close game and replay, end all threads; the worker must not be used afterwards."""
        self._pipeline.close()
        self._actor.close()
        self._replay.close()

    # -- the steps of the loop

    def _act(self) -> int:
        """Step the games once and return the agent steps taken."""
        with self.timings.measure("act"):
            steps = self._pipeline.act(self._epsilons())
        returns, lengths = self._actor.take_episodes()
        self._outbox.add_steps(steps, returns, lengths)
        self._episodes += len(returns)
        self._recent_returns = (self._recent_returns + returns)[-_RETURNS_SHOWN:]
        self._tally.add_steps(steps, returns)
        return steps

    def _epsilons(self) -> Epsilon:
        return self._schedules.epsilon(self._all_steps)

    @property
    def _all_steps(self) -> int:
        """Agent steps of all workers, as far as this one knows."""
        return self._reported_steps + self._outbox.steps

    def _push(self, request: RoundRequest) -> PushAnswer | None:
        """Push the mean of the gathered gradients, and follow the answer that is there."""
        answer, beside = self._settle(), self._pipeline.overlaps
        if not self._outbox.is_full:
            return answer  # there is a new epoch
        if beside and (self._leaves(self._deadline) or (answer and answer.round_over)):
            return answer  # this push would be late
        push = self._pushed = self._next_push(request)
        gradient, wait = self._outbox.gradient, self._wait_beside if beside else self._wait
        self._pipeline.send(
            lambda: self._patience.ask(
                lambda: self._exchange.push(push, gradient, self._weights), wait, self._deadline
            )
        )
        return answer if beside else self._settle()

    def _settle(self) -> PushAnswer | None:
        """Follow the answer to the push that is under way, if there is one."""
        push, self._pushed = self._pushed, None
        try:
            answered = self._pipeline.answer()
        except EpochChanged as error:
            dropped = self._outbox.drop_gradients()
            _log.info("%s; dropping %d gradients", error, dropped)
            self._tally.add_dropped(dropped)
            self.pull(afresh=True)
            return None
        except LayoutMismatch as error:
            theirs = Layout.from_entries(error.members.get("entries", ()))
            difference = self._layout.difference(theirs)
            raise LayoutMismatch(
                f"the server holds another network than this worker: {difference}"
            ) from error
        if push is None or answered is None:
            return None
        answer: PushAnswer = answered[0]
        self._follow(push, answer, answered[1])
        return answer

    def _next_push(self, request: RoundRequest) -> Push:
        self._pushes_since_pull += 1
        action_share = self._actor.action_share()
        told = {} if action_share is None else {"action_share": action_share}
        if self._config.reward_clip and self._config.gamma < 1:  # no return is larger
            told["q_bound"] = 1.0 / (1.0 - self._config.gamma)
        return self._outbox.next_push(
            round_number=request.number,
            partition=request.partition,
            quota=request.quota,
            want_model=self._pushes_since_pull >= self._config.pull_period,
            stats={"epsilon": self.epsilon, **told},
            seconds=self.timings.totals_s(),
        )

    def _follow(self, push: Push, answer: PushAnswer, model: Model | None) -> None:
        """Do as an answer says: whatever the verdict, the steps of the push are counted."""
        self._tally.add_answer(answer)
        self._updates += answer.status in TAKEN
        self._outbox.confirm(push)
        self._reported_steps = answer.counters.steps
        if model is not None:
            self._take_over(model)  # before anything else is read into the same array
            return
        self._refresh_target(answer.epoch, answer.target_version)
        if push.want_model:
            self._pushes_since_pull = 0
            if (answer.epoch, answer.version) != self._known:
                self.pull()

    # -- following the server

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
        return self._patience.ask(call, self._wait, self._deadline)

    def _wait(self, seconds: float) -> bool:
        """Wait; return whether to stop."""
        with self.timings.measure("wait"):
            return self._wait_beside(seconds)

    def _wait_beside(self, seconds: float) -> bool:
        """Wait in another thread than the worker's own, which shows what it waits for itself."""
        self._show("waiting")
        return self._stop.wait(seconds)

    def _retire(self) -> None:
        """Tell the server, if it hears, that this worker does not push for now."""
        try:
            self._exchange.leave(self._identity.worker, self._identity.incarnation)
        except ParamServerError as error:
            _log.info("could not leave: %s", error)

    def _leaves(self, deadline: float) -> bool:
        return self._stop.is_set() or self._clock() >= deadline

    # -- reporting

    def _take_row(self, request: RoundRequest) -> RoundMetrics:
        self._show("idle")
        stages_s = self.timings.totals_s()
        row = self._tally.row(
            self._identity.worker,
            request,
            epsilon=self.epsilon,
            seconds=self._clock() - self._began,
            stages_s=stages_s,
        )
        self._tally = RoundTally(stages_s)
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
