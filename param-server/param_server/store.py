"""The weights, their version, and every rule about who may change them.

The design.  The store knows no socket, file, clock or network library: it is given the weights as
one flat array, a callable that applies a gradient to them in place, and a clock.  Everything that
is true of the server at a moment (weights, target, version, ledger, counters, members) changes
under one lock, so each answer, each copy and each snapshot describes one moment.

Readers get copies made under that lock into memory they bring.  A copy of 6.75 MB takes under a
millisecond, little beside the solver's rule.  A buffer per version shared by all readers would
save it, at the price of knowing when the last slow reader is done; a sequence lock was measured
and retries without end under load; without a lock a quarter of all reads were torn.

The order of judgement for a push, cheapest and most final first:
    closed          the server is draining                      Draining, nothing changes
    another run     the server is bound                         WrongRun, nothing changes
    repeat          its sequence was answered                   "duplicate", nothing changes
    another epoch   computed from weights of another life       EpochChanged, nothing changes
    another layout  not a gradient of this network              LayoutMismatch, nothing changes
    late            its round is over                           "late", its steps count
    the future      a version that does not exist yet           "rejected", steps and credit count
    not finite      or so large that its square is not          "rejected", steps and credit count
    else                                                        "applied"

Repeats come before epochs: a push that a snapshot holds is a repeat after the restart too, and its
worker must not report its steps again.

Invariants (``check``): version counts the applied pushes of this epoch's history; target_version
<= version and durable_version <= version; with target_version == version the target equals the
weights; no gradient is applied twice; weights change only where version does.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from param_server.errors import Draining, EpochChanged, LayoutMismatch
from param_server.fields import Fields
from param_server.ledger import Ledger, Verdict
from param_server.membership import Membership
from param_server.tally import Tally
from param_server.wire import Counters, Float32, Layout, Model, Push, PushAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


class Capture(NamedTuple):
    """One moment of the store, for a snapshot."""

    state: dict[str, Any]
    target: Float32  # [P], a copy
    changes: int


class Store:
    """The weights of one network and the rules by which they change.

    Safe to call from many threads.  ``apply`` is called under the lock and must either change the
    weights in place or raise and leave them alone; ``reset`` must restore those of version 0.
    """

    def __init__(
        self,
        layout: Layout,
        weights: Float32,
        *,
        apply: Callable[[Float32], None],
        reset: Callable[[], None],
        epoch: int,
        clock: Callable[[], float],
        run: str = "",
        may_change_run: bool = False,
        target_period: int = 500,
        game: str = "",
    ) -> None:
        assert weights.shape == (layout.size,), (weights.shape, layout.size)
        self.layout = layout
        self.game = game
        self._weights = weights
        self._apply = apply
        self._reset = reset
        self._clock = clock
        self._members = Membership(clock, run=run, may_change_run=may_change_run)
        self._target_period = target_period
        self._lock = threading.RLock()
        self._closed = False
        self._started = clock()
        self.epoch = epoch
        self.version = 0
        self.durable_version = 0
        self._target = weights.copy()
        self._target_version = 0
        self._ledger = Ledger()
        self._tally = Tally()
        #: answered pushes, clears and restores; a snapshot is due when it moved
        self.changes = 0

    @property
    def run(self) -> str:
        """The run that the server is bound to, empty while there is none."""
        return self._members.run

    # -- pushes

    def apply(self, push: Push, gradient: Float32) -> PushAnswer:
        """Judge a push and, if it is good, apply its gradient.

        Args:
            push: What its worker says about it.
            gradient: float32 [P]; read, not kept.

        Raises:
            Draining, WrongRun, EpochChanged, LayoutMismatch: As the table above says; the store
                is unchanged.
        """
        offender = first_not_finite(self.layout, gradient)
        with self._lock:
            return self._decide(push, gradient, offender)

    def exchange(
        self, push: Push, gradient: Float32, out: Float32
    ) -> tuple[PushAnswer, Model | None]:
        """Apply a push and copy the weights of just that moment into ``out``.

        ``out`` may be the gradient's own memory.  A rejected push gets no model.
        """
        offender = first_not_finite(self.layout, gradient)
        with self._lock:
            answer = self._decide(push, gradient, offender)
            return answer, None if answer.status == "rejected" else self.read(out=out)

    def _decide(self, push: Push, gradient: Float32, offender: str) -> PushAnswer:
        self._admit(push.run, self._members.admit)
        repeated = self._ledger.repeated(push.worker, push.incarnation, push.sequence)
        if repeated is not None:
            self._members.hear(push.worker, push.incarnation)
            self._tally.duplicates += 1
            reason = f"{repeated.status}: {repeated.reason}".removesuffix(": ")
            return self._answer(Verdict("duplicate", reason), push)
        self._check_origin(push)
        verdict = self._judge(push, offender)
        if verdict.status == "applied":
            self._update(push, gradient, verdict.staleness)
        # Nothing below can fail: a push is counted, credited and remembered, or none of these.
        self._members.hear(push.worker, push.incarnation, pushes=1)
        self._ledger.record(push.worker, push.incarnation, push.sequence, verdict)
        if verdict.status != "late":
            self._ledger.credit(push.round, push.quota)
        self._tally.count_push(push, verdict, offender)
        self.changes += 1
        return self._answer(verdict, push)

    def _check_origin(self, push: Push) -> None:
        if push.epoch != self.epoch:
            raise EpochChanged(
                f"the gradient is of epoch {push.epoch}, the server is in epoch {self.epoch}",
                epoch=self.epoch,
                version=self.version,
            )
        if push.layout != self.layout.digest:
            raise LayoutMismatch(
                f"the gradient has layout {push.layout!r}, the server {self.layout.digest!r}",
                layout=self.layout.digest,
            )

    def _judge(self, push: Push, offender: str) -> Verdict:
        if self._ledger.is_late(push.round, push.quota):
            return Verdict("late", "the round is over")
        if push.version > self.version:
            return Verdict(
                "rejected", f"future-version: {push.version}, the server is at {self.version}"
            )
        if offender:
            return Verdict("rejected", f"non-finite: {offender}")
        return Verdict("applied", "", self.version - push.version)

    def _update(self, push: Push, gradient: Float32, staleness: int) -> None:
        self._apply(gradient)
        self.version += 1
        if self.version % self._target_period == 0:
            np.copyto(self._target, self._weights)
            self._target_version = self.version
        self._tally.count_update(push.loss, staleness, self._clock())

    def _answer(self, verdict: Verdict, push: Push) -> PushAnswer:
        return PushAnswer(
            status=verdict.status,
            reason=verdict.reason,
            epoch=self.epoch,
            version=self.version,
            durable_version=self.durable_version,
            target_version=self._target_version,
            counters=self.counters(),
            round_over=self._ledger.is_late(push.round, push.quota),
            staleness=verdict.staleness,
        )

    # -- pulls

    def counters(self) -> Counters:
        """Return the totals over all workers."""
        return Counters(self._tally.steps, self._tally.episodes, self.version)

    def read(self, known: tuple[int, int] | None = None, *, out: Float32) -> Model | None:
        """Copy the weights into ``out``, unless (epoch, version) is what the reader knows."""
        with self._lock:
            if known == (self.epoch, self.version):
                return None
            np.copyto(out, self._weights)
            return self._model(out)

    def read_target(self, known: tuple[int, int] | None = None, *, out: Float32) -> Model | None:
        """Copy the target weights into ``out``, unless (epoch, target_version) is known."""
        with self._lock:
            if known == (self.epoch, self._target_version):
                return None
            np.copyto(out, self._target)
            return self._model(out)

    def _model(self, weights: Float32) -> Model:
        return Model(
            epoch=self.epoch,
            version=self.version,
            target_version=self._target_version,
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

    def open_run(self, run: str) -> None:
        """Bind the server to a run; see ``Membership.open``."""
        with self._lock:
            self._admit(run, self._members.open)
            self._tally.forget_failures()

    def close_run(self, run: str) -> None:
        """Unbind a run that is done; what it trained stays.  See ``Membership.close``."""
        with self._lock:
            self._members.close(run)

    def _admit(self, run: str, admit: Callable[[str], None]) -> None:
        if self._closed:
            raise Draining("the server is going down and takes no more pushes")
        admit(run)
        self._ledger.open_run(run)

    # -- lives

    def clear(self, epoch: int) -> None:
        """Go back to version 0 in a new epoch: weights, solver, target, ledger, counters."""
        with self._lock:
            assert epoch > self.epoch, (epoch, self.epoch)
            if self._closed:
                raise Draining("the server is going down")
            self._reset()
            self.epoch = epoch
            self.version = self.durable_version = 0
            np.copyto(self._target, self._weights)
            self._target_version = 0
            self._ledger = Ledger()
            self._tally = Tally()
            self.changes += 1

    def close(self) -> None:
        """Take no more pushes; what was answered before is in any capture made after."""
        with self._lock:
            self._closed = True

    def capture(self, save: Callable[[], T]) -> tuple[Capture, T]:
        """Call ``save`` and describe the store, all in one moment."""
        with self._lock:
            state = {
                "epoch": self.epoch,
                "version": self.version,
                "target_version": self._target_version,
                "run": self._ledger.run,
                "game": self.game,
                "layout": self.layout.digest,
                "ledger": self._ledger.state(),
                "tally": self._tally.state(),
            }
            return Capture(state, self._target.copy(), self.changes), save()

    def restore(self, state: Mapping[str, Any], target: Float32, *, epoch: int) -> None:
        """Continue a captured moment in a new epoch; the weights were restored before.

        Raises:
            BadRequest: If the state is damaged; the store is then of no use.
        """
        with self._lock:
            fields = Fields(state)
            assert epoch > fields.integer("epoch"), (epoch, state["epoch"])
            self._ledger.restore(state["ledger"])
            self._tally.restore(state["tally"])
            self.epoch = epoch
            self.version = self.durable_version = fields.integer("version")
            self._target_version = fields.integer("target_version")
            np.copyto(self._target, target)

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
            newest = self._ledger.round
            return {
                "version": self.version,
                "epoch": self.epoch,
                "durable_version": self.durable_version,
                "target_version": self._target_version,
                "target_period": self._target_period,
                "run": self.run,
                "game": self.game,
                "layout": self.layout.digest,
                **self._tally.status(now),
                "workers": self._members.status(),
                "round": {**newest._asdict(), "over": newest.over},
                "uptime_s": now - self._started,
            }

    def check(self) -> None:
        """Assert the invariants."""
        with self._lock:
            self._ledger.check()
            self._tally.check()
            assert 0 <= self.durable_version <= self.version, (self.durable_version, self.version)
            assert 0 <= self._target_version <= self.version, (self._target_version, self.version)
            assert self._weights.shape == self._target.shape == (self.layout.size,)
            if self._target_version == self.version:
                assert np.array_equal(self._target, self._weights), "target and weights differ"
            self._members.check()


def first_not_finite(layout: Layout, gradient: Float32) -> str:
    """Return the first parameter whose squares do not sum to a finite number, "" if none.

    A gradient that large would leave infinity in Adam's or RMSProp's history for ever.  One pass
    over everything settles the usual case.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.dot(gradient, gradient)):
            return ""
        squares = {
            name: float(np.dot(gradient[part], gradient[part])) for name, part in layout.slices()
        }
    for name, square in squares.items():
        if not np.isfinite(square):
            return name
    return max(squares, key=squares.__getitem__)
