"""The weights, their version, and every rule about who may change them.

The design.  The store knows no socket, file or network library: it is given the weights as one
flat array, a callable that applies a gradient to them in place, a clock, and a journal.  All that
is true of the server at a moment changes under one lock, so each answer, each copy and each
snapshot describes one moment.
Readers get copies made under that lock into memory they bring: 6.75 MB take under a millisecond,
little beside the solver's rule.  A sequence lock was measured and retries without end under load;
without a lock a quarter of all reads were torn.

The order of judgement for a push, cheapest and most final first:
    closed          the server is draining                      Draining, nothing changes
    another run     the server is bound                         WrongRun, nothing changes
    repeat          its sequence was answered                   "duplicate", nothing changes
    another epoch   computed from weights of another life       EpochChanged, nothing changes
    another layout  not a gradient of this network              LayoutMismatch, nothing changes
    late            its round is over                           "late", its steps count
    the future      a version that does not exist yet           "rejected", steps and credit count
    not finite      or so large that its square is not          "rejected", steps and credit count
    too stale       for the policy                              "rejected", steps and credit count
    too early       the policy has it wait for others           TooEarly, nothing changes
    outlier         its loss stands out, where that is asked    "rejected", steps and credit count
    incomplete      others belong to its update                 "gathered", kept for that
    else                                                        "applied"

Repeats come before epochs: a push that a snapshot holds is a repeat after the restart too, and its
worker must not report its steps again.  What a push changes is written to the journal before it
happens; ``replay`` does it again, from the verdict that it was given, not judging anew.

Invariants (``check``): target_version and durable_version <= version; with target_version ==
version the target equals the weights; no gradient is applied twice.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from param_server import wire
from param_server.errors import Draining, TooEarly
from param_server.fields import Fields
from param_server.finiteness import first_not_finite
from param_server.judgement import Judge, Rules
from param_server.ledger import Verdict
from param_server.membership import LEASE_S, Membership
from param_server.outliers import Outliers
from param_server.staleness import Adapted, Policy
from param_server.state import TAKEN, Capture, Journal, State
from param_server.weights import Probe, Weights
from param_server.wire import Counters, Float32, Layout, Model, Push, PushAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

_SLICE_S = 0.1  # how soon a push that waits sees that a lease has ended


class Store:
    """The weights of one network and the rules by which they change.

    Safe to call from many threads.  ``apply`` and ``reset`` (see ``Weights``) run under the lock.
    """

    def __init__(
        self,
        layout: Layout,
        weights: Float32,
        *,
        apply: Callable[[Float32, float], None],
        reset: Callable[[], None],
        epoch: int,
        clock: Callable[[], float],
        run: str = "",
        may_change_run: bool = False,
        target_period: int = 500,
        game: str = "",
        lease_s: float = LEASE_S,
        rules: Rules | None = None,
        journal: Journal | None = None,
        probe: Probe | None = None,
    ) -> None:
        self.layout = layout
        self.game = game
        self._rules = rules = rules or Rules(Policy(), Outliers(0))
        held = Weights(
            weights,
            apply=apply,
            reset=reset,
            target_period=target_period,
            policy=rules.policy,
            probe=probe,
        )
        self._state = State(held, rules, clock)
        self._clock = clock
        self._members = Membership(clock, run=run, may_change_run=may_change_run, lease_s=lease_s)
        self._judge = Judge(rules, layout, self._state, self._members)
        self._journal = journal
        self._lock = threading.RLock()
        self._moved = threading.Condition(self._lock)
        self._closed = False
        self._started = clock()
        self.epoch = epoch
        self.durable_version = 0

    @property
    def changes(self) -> int:
        """Answered pushes and clears; a snapshot is due when it moved."""
        return self._state.changes

    @property
    def version(self) -> int:
        """Updates applied."""
        return self._state.weights.version

    @property
    def run(self) -> str:
        """The run that the server is bound to, empty while there is none."""
        return self._members.run

    # -- pushes

    def apply(self, push: Push, gradient: Float32, *, patience_s: float = 0.0) -> PushAnswer:
        """Judge a push and, if it is good, apply its gradient.

        Args:
            push: What its worker says about it.
            gradient: float32 [P]; read, not kept.
            patience_s: How long the push may wait here for other workers'.

        Raises:
            Draining, WrongRun, EpochChanged, LayoutMismatch, TooEarly: As the table above says;
                the store is unchanged.
            JournalFailed: It cannot be made durable; the store is unchanged.
        """
        offender = first_not_finite(self.layout, gradient)
        with self._lock:
            return self._decide_in_time(push, gradient, offender, patience_s)

    def exchange(
        self, push: Push, gradient: Float32, out: Float32, *, patience_s: float = 0.0
    ) -> tuple[PushAnswer, Model | None]:
        """Apply a push and copy the weights of just that moment into ``out``.

        ``out`` may be the gradient's own memory.  There is no model for a rejected push, nor
        where its worker has these weights already.
        """
        offender = first_not_finite(self.layout, gradient)
        with self._lock:
            answer = self._decide_in_time(push, gradient, offender, patience_s)
            is_rejected = answer.status == "rejected"
            known = push.epoch, push.version
            return answer, None if is_rejected else self.read(known, out=out)

    def _decide_in_time(
        self, push: Push, gradient: Float32, offender: str, patience_s: float
    ) -> PushAnswer:
        """Judge a push, waiting for others where the policy asks for that."""
        slices = math.ceil(patience_s / _SLICE_S)
        while True:
            try:
                answer = self._decide(push, gradient, offender)
                break
            except TooEarly:
                if slices == 0:
                    raise
            slices -= 1
            self._moved.wait_for(lambda: not self._judge.obstacle(push), _SLICE_S)
            self._complete_if_due()
        # A gathered push's worker can do nothing with the weights it has: it waits for the others.
        waits = answer.status == "gathered" and self._rules.policy.gathers
        while waits and slices and not (self._closed or answer.round_over):
            slices -= 1
            waits = not self._moved.wait_for(lambda: self.version != push.version, _SLICE_S)
            self._complete_if_due()
            answer = self._answer(Verdict("gathered", "", answer.staleness), push)
        return answer

    def _decide(self, push: Push, gradient: Float32, offender: str) -> PushAnswer:
        self._require_open()
        self._members.require(push.run)
        repeated = self._state.ledger.repeated(push.worker, push.incarnation, push.sequence)
        if repeated is not None:
            self.hear(push.run, push.worker, push.incarnation)
            self._state.tally.duplicates += 1
            reason = f"{repeated.status}: {repeated.reason}".removesuffix(": ")
            return self._answer(Verdict("duplicate", reason), push)
        self._judge.check_origin(push, epoch=self.epoch)
        self._bind(push.run, self._members.admit)
        verdict = self._judge.verdict(push, offender)
        adapted = Adapted(gradient)
        if verdict.status in TAKEN:
            weights, version = self._state.weights.values, self._state.weights.version
            adapted = self._rules.policy.adapt(gradient, push.version, weights, version)
        self._change(
            lambda: {
                "kind": "push",
                "push": wire.push_fields(push),
                "verdict": list(verdict),
                "scale": adapted.scale,
            },
            lambda: self._state.settle(push, verdict, adapted),
            adapted.gradient if verdict.status in TAKEN else None,
        )
        self._members.hear(push.worker, push.incarnation, pushes=1)
        self._moved.notify_all()
        return self._answer(verdict, push)

    def _complete_if_due(self) -> None:
        """Apply what was gathered if those it still waited for are gone."""
        if self._judge.is_due():
            self._change(lambda: {"kind": "complete"}, self._state.complete)
            self._moved.notify_all()

    # -- changes

    def _change(
        self,
        record: Callable[[], Mapping[str, Any]],
        change: Callable[[], None],
        gradient: Float32 | None = None,
    ) -> None:
        """Write a change to the journal, then do it; both, or neither."""
        if self._journal is None:
            change()
            return
        self._journal.append(record(), gradient)
        try:
            change()
        except BaseException:
            self._journal.undo()
            raise
        self.durable_version = self.version  # to whoever hears of it: answers wait for the sync

    def replay(self, record: Mapping[str, Any], gradient: Float32 | None) -> None:
        """Do again what a journal's record says was done.

        Raises:
            BadRequest: If it is damaged.
        """
        with self._lock:
            self._state.replay(record, gradient)
            self.durable_version = self.version  # it comes from the disk

    def _answer(self, verdict: Verdict, push: Push) -> PushAnswer:
        return PushAnswer(
            status=verdict.status,
            reason=verdict.reason,
            epoch=self.epoch,
            version=self.version,
            durable_version=self.durable_version,
            target_version=self._state.weights.target_version,
            counters=self.counters(),
            round_over=self._state.ledger.is_late(push.round, push.quota),
            staleness=verdict.staleness,
        )

    # -- pulls

    def counters(self) -> Counters:
        """Return the totals over all workers."""
        return Counters(self._state.tally.steps, self._state.tally.episodes, self.version)

    def read(self, known: tuple[int, int] | None = None, *, out: Float32) -> Model | None:
        """Copy the weights into ``out``, unless (epoch, version) is known."""
        with self._lock:
            if known == (self.epoch, self.version):
                return None
            np.copyto(out, self._state.weights.values)
            return self._model(out)

    def read_target(self, known: tuple[int, int] | None = None, *, out: Float32) -> Model | None:
        """Copy the target weights into ``out``, unless (epoch, target_version) is known."""
        with self._lock:
            if known == (self.epoch, self._state.weights.target_version):
                return None
            np.copyto(out, self._state.weights.target)
            return self._model(out)

    def _model(self, weights: Float32) -> Model:
        return Model(
            epoch=self.epoch,
            version=self.version,
            target_version=self._state.weights.target_version,
            layout=self.layout.digest,
            counters=self.counters(),
            weights=weights,
        )

    # -- runs and members

    def hear(self, run: str, worker: str, incarnation: str = "") -> None:
        """Renew the leases of the bound run and of its worker; another run's name does nothing."""
        with self._lock:
            if run and run == self.run:
                self._members.hear(worker, incarnation)

    def leave(self, worker: str, incarnation: str) -> None:
        """Note that a worker pushes no more for now: nobody waits for it any longer."""
        with self._lock:
            self._members.leave(worker, incarnation)
            self._complete_if_due()
            self._moved.notify_all()

    def open_run(self, run: str) -> None:
        """Bind the server to a run; see ``Membership.open``."""
        with self._lock:
            self._require_open()
            self._bind(run, self._members.open)
            self._state.tally.forget_failures()

    def close_run(self, run: str) -> None:
        """Unbind a run that is done; what it trained stays.  See ``Membership.close``."""
        with self._lock:
            self._members.close(run)

    def _require_open(self) -> None:
        if self._closed:
            raise Draining("the server is going down and takes no more pushes")

    def _bind(self, run: str, admit: Callable[[str], None]) -> None:
        admit(run)
        self._state.ledger.open_run(run)

    # -- lives

    def clear(self, epoch: int) -> None:
        """Go back to version 0 in a new epoch: weights, solver, target, ledger, counters."""
        with self._lock:
            assert epoch > self.epoch, (epoch, self.epoch)
            self._require_open()
            self._change(lambda: {"kind": "clear"}, self._state.clear)
            self.epoch = epoch
            self.durable_version = 0
            self._moved.notify_all()

    def close(self) -> None:
        """Take no more pushes; what was answered before is in any capture made after."""
        with self._lock:
            self._closed = True
            self._moved.notify_all()

    def capture(self, save: Callable[[], T]) -> tuple[Capture, T]:
        """Call ``save`` and describe the store, all in one moment."""
        with self._lock:
            moment = self._state.capture()
            state = {
                "epoch": self.epoch,
                "game": self.game,
                "layout": self.layout.digest,
                "journal": self._journal.rotate() if self._journal else 0,
                **moment.state,
            }
            return moment._replace(state=state), save()

    def restore(
        self,
        state: Mapping[str, Any],
        target: Float32,
        *,
        epoch: int,
        gathered: Float32 | None = None,
    ) -> None:
        """Continue a captured moment in a new epoch; the weights were restored before.

        Raises:
            BadRequest: If the state is damaged; the store is then of no use.
        """
        with self._lock:
            fields = Fields(state)
            assert epoch > fields.integer("epoch"), (epoch, state["epoch"])
            self._state.restore(state, target, gathered)
            self.epoch = epoch
            self.durable_version = self.version

    def mark_durable(self, epoch: int, version: int) -> None:
        """Say that a snapshot of this version is safe on disk."""
        with self._lock:
            if epoch == self.epoch:
                self.durable_version = max(self.durable_version, version)

    # -- inspection

    def status(self) -> dict[str, Any]:
        """Return what the status page shows, as JSON."""
        with self._lock:
            now = self._clock()
            return {
                "epoch": self.epoch,
                "durable_version": self.durable_version,
                "run": self.run,
                "game": self.game,
                "layout": self.layout.digest,
                **self._rules.status(),
                **self._state.status(now),
                "workers": self._members.status(),
                "uptime_s": now - self._started,
            }

    def check(self) -> None:
        """Assert the invariants."""
        with self._lock:
            self._state.check()
            assert 0 <= self.durable_version <= self.version, (self.durable_version, self.version)
            self._members.check()
