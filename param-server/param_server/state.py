"""All that a snapshot holds and a journal does again: weights, ledger, counts.

The store decides what becomes of a push; here it happens.  Nothing in here judges, waits, or knows
of members, so doing the same changes again gives the same state, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from param_server import wire
from param_server.errors import BadRequest
from param_server.fields import Fields
from param_server.gathering import Gathering
from param_server.ledger import Ledger, Verdict
from param_server.staleness import Adapted
from param_server.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from param_server.judgement import Rules
    from param_server.weights import Weights
    from param_server.wire import Float32, Push

TAKEN = ("applied", "gathered")  # verdicts on gradients that enter the weights, now or later


class Capture(NamedTuple):
    """One moment of a state, for a snapshot."""

    state: dict[str, Any]
    target: Float32  # [P], a copy
    gathered: Float32 | None  # [P], a copy: the part of the next update that is here already
    changes: int


class Journal(Protocol):
    """Whatever keeps changes until a snapshot holds them."""

    def append(self, record: Mapping[str, Any], gradient: Float32 | None, /) -> None:
        """Write a change that is about to happen; raise JournalFailed, and it does not happen."""

    def undo(self) -> None:
        """Take back the last record: its change did not happen."""

    def rotate(self) -> int:
        """Begin a new segment and return its number: what was before is in a snapshot."""


class State:
    """What training has come to.  Not thread-safe: the store calls it under its lock.

    Args:
        weights: At version 0.
        rules: Say whether updates consist of several pushes.
        clock: Seconds, for rates.
    """

    def __init__(self, weights: Weights, rules: Rules, clock: Callable[[], float]) -> None:
        self.weights = weights
        #: where updates of several pushes are gathered; None where each push is one
        self.gathering: Gathering | None = None
        if rules.policy.gathers or rules.gather > 1:
            self.gathering = Gathering(len(weights.values), averages=rules.policy.gathers)
        self.ledger = Ledger()
        self.tally = Tally()
        #: settled pushes and clears; a snapshot is due when it moved
        self.changes = 0
        self._clock = clock

    @property
    def gathered(self) -> list[str]:
        """Whose pushes the next update holds already."""
        return self.gathering.workers if self.gathering else []

    def settle(self, push: Push, verdict: Verdict, adapted: Adapted) -> None:
        """Do what was decided: apply or gather, then count, credit and remember."""
        if verdict.status in TAKEN:
            if self.gathering is None:
                self._step(*adapted)
            elif verdict.status == "gathered":
                self.gathering.add(push.worker, *adapted)
            else:
                self._step(*self.gathering.update(*adapted))
                self.gathering.clear()
            self.tally.count_gradient(push.loss, verdict.staleness)
        # Nothing below can fail: a push is counted, credited and remembered, or none of these.
        self.ledger.record(push.worker, push.incarnation, push.sequence, verdict)
        if verdict.status != "late":
            self.ledger.credit(push.round, push.quota)
        self.tally.count_push(push, verdict)
        self.changes += 1

    def complete(self) -> None:
        """Apply what was gathered, though some of it is missing."""
        assert self.gathering is not None
        self._step(*self.gathering.update())
        self.gathering.clear()
        self.changes += 1

    def _step(self, gradient: Float32, scale: float) -> None:
        self.weights.step(gradient, scale)
        self.tally.count_update(self._clock())

    def clear(self) -> None:
        """Go back to version 0: weights, target, ledger, counters."""
        self.weights.clear()
        if self.gathering is not None:
            self.gathering.clear()
        self.ledger = Ledger()
        self.tally = Tally()
        self.changes += 1

    def replay(self, record: Mapping[str, Any], gradient: Float32 | None) -> None:
        """Do again what a journal's record says was done.

        Raises:
            BadRequest: If it is damaged.
        """
        kind = record.get("kind")
        is_part = kind == "complete" or "gathered" in record.get("verdict", ())
        if is_part and self.gathering is None:
            raise BadRequest("updates of several pushes, which are not gathered any more")
        if kind == "push":
            push = wire.decode_push(record["push"])
            status, reason, staleness = record["verdict"]
            verdict = Verdict(str(status), str(reason), int(staleness))
            if gradient is None:
                if status in TAKEN:
                    raise BadRequest("a record of the journal has lost its gradient")
                gradient = np.empty(0, np.float32)
            self.ledger.open_run(push.run)
            self.settle(push, verdict, Adapted(gradient, float(record["scale"])))
        elif kind == "complete":
            self.complete()
        elif kind == "clear":
            self.clear()
        else:
            raise BadRequest(f"a journal holds no {kind!r}")

    def _describe(self) -> dict[str, Any]:
        """Return all but the arrays as JSON."""
        return {
            "version": self.weights.version,
            "target_version": self.weights.target_version,
            "changes": self.changes,
            "run": self.ledger.run,
            "ledger": self.ledger.state(),
            "tally": self.tally.state(),
            "gathering": self.gathering.state() if self.gathering else None,
        }

    def capture(self) -> Capture:
        """Describe this moment, with copies of the arrays that a solver does not save."""
        gathered = self.gathering.gradient() if self.gathering else None
        return Capture(self._describe(), self.weights.target.copy(), gathered, self.changes)

    def restore(self, state: Mapping[str, Any], target: Float32, gathered: Float32 | None) -> None:
        """Take up what ``capture`` returned; the weights' values were restored before.

        Raises:
            BadRequest: If it is damaged; this state is then of no use.
        """
        fields = Fields(state)
        version, target_version = fields.integer("version"), fields.integer("target_version")
        self.ledger.restore(state["ledger"])
        self.tally.restore(state["tally"])
        # What another policy has gathered is a part of an update that will never be, and
        # snapshots of before there was a gathering have none.
        if self.gathering is not None and state.get("gathering"):
            self.gathering.restore(state["gathering"], gathered)
        self.weights.restore(version, target_version, target)
        self.changes = int(state.get("changes", 0))

    def status(self, now: float) -> dict[str, Any]:
        """Return what there is to show, as JSON."""
        newest = self.ledger.round
        return {
            "version": self.weights.version,
            "target_version": self.weights.target_version,
            "target_period": self.weights.target_period,
            "gathered": len(self.gathered),
            **self.tally.status(now),
            "round": {**newest._asdict(), "over": newest.over},
        }

    def check(self) -> None:
        """Assert the invariants."""
        self.ledger.check()
        self.tally.check()
        self.weights.check()
