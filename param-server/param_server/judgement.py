"""The verdict on a push that may count: the table in ``store`` from "late" on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.errors import EpochChanged, TooEarly
from param_server.ledger import Verdict

if TYPE_CHECKING:
    from param_server.membership import Membership
    from param_server.outliers import Outliers
    from param_server.staleness import Policy
    from param_server.state import State
    from param_server.wire import Layout, Push


class Rules(NamedTuple):
    """How pushes become updates."""

    policy: Policy
    outliers: Outliers
    gather: int = 1  # pushes in an update: the solver's iter_size

    def status(self) -> dict[str, Any]:
        """Return what the status page shows of them."""
        return {
            "staleness_policy": self.policy.name,
            "in_step": self.policy.waits,
            "outliers": self.outliers.status(),
        }


class Judge:
    """Applies the rules.  Not thread-safe: the store calls it under its lock."""

    def __init__(self, rules: Rules, layout: Layout, state: State, members: Membership) -> None:
        self._policy, self._outliers, self._gather = rules
        self._layout = layout
        self._state = state
        self._members = members

    def check_origin(self, push: Push, *, epoch: int) -> None:
        """See that a push is of this life of the server, and of its network.

        Raises:
            EpochChanged, LayoutMismatch: If it is not.
        """
        if push.epoch != epoch:
            raise EpochChanged(
                f"the gradient is of epoch {push.epoch}, the server is in epoch {epoch}",
                epoch=epoch,
                version=self._state.weights.version,
            )
        if push.layout != self._layout.digest:
            raise self._layout.mismatch(push.layout, push.entries)

    def verdict(self, push: Push, offender: str) -> Verdict:
        """Judge a push.

        Args:
            push: What its worker says about it.
            offender: The parameter whose gradient is not finite, "" if all are.

        Raises:
            TooEarly: It has to wait for other workers'; nothing changed.
        """
        if self._state.ledger.is_late(push.round, push.quota):
            return Verdict("late", "the round is over")
        version = self._state.weights.version
        staleness = version - push.version
        if staleness < 0:
            return Verdict(
                "rejected", f"future-version: {push.version}, the server is at {version}"
            )
        if offender:
            return Verdict("rejected", f"non-finite: {offender}")
        if self._policy.waits:  # from now on the others wait for it, even if this push is too stale
            self._members.enter(push.worker, push.incarnation)
        objection = self._policy.objection(staleness)
        if not objection:
            obstacle = self.obstacle(push)
            if obstacle:
                raise TooEarly(obstacle)
            objection = self._outliers.objection(push.loss)
        if objection:
            return Verdict("rejected", objection)
        return Verdict("applied" if self._completes(push) else "gathered", "", staleness)

    def obstacle(self, push: Push) -> str:
        """Return what a push has to wait for, "" if for nothing; its worker is in the race."""
        if not self._policy.waits:
            return ""
        clock = self._members.enter(push.worker, push.incarnation)
        race = self._members.race()
        return self._policy.must_wait(push.worker, clock, race, self._state.gathered)

    def _completes(self, push: Push) -> bool:
        """Whether a push is the last of its update."""
        workers = [*self._state.gathered, push.worker]
        if self._policy.gathers:
            return self._policy.is_complete(workers, self._members.race())
        return len(workers) >= self._gather

    def is_due(self) -> bool:
        """Whether what was gathered is an update as it is: those it waited for are gone."""
        workers = self._state.gathered
        if not (workers and self._policy.gathers):
            return False
        return self._policy.is_complete(workers, self._members.race())
