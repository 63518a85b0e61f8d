"""Which pushes were answered already, and how far the round has come.

The design.  Two questions, two small tables.  *Was this push answered?*  A worker's process (its
incarnation) numbers its pushes upwards and sends the next one only after the last was answered, so
the highest number seen and the verdict it got are enough: a lower number is an old repeat, the
same number is a repeat whose answer was lost and gets that verdict again.  Remembering every push
would answer the same and grow without bound.  *Is the round over?*  Rounds only rise, so one
counter serves: a push of a lower round is late, of a higher one opens that round.

Both go into every snapshot, beside the weights they belong to: after a restart a repeat of
something the snapshot holds is still a repeat.

Invariants (``check``): 0 <= credited <= quota while a round has a quota; every recorded sequence
is at least 1; no more incarnations than the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.errors import BadRequest
from param_server.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Incarnations remembered, the least recently heard forgotten first.  A worker that restarts every
#: minute fills it in a day; a repeat older than that would count again.
INCARNATION_LIMIT = 2048


class Verdict(NamedTuple):
    """What was decided about a push: its status, why, and its staleness in updates."""

    status: str
    reason: str = ""
    staleness: int = 0


class Round(NamedTuple):
    """The newest round: pushes credited to it, and how many complete it (0: it has no end)."""

    number: int = 0
    credited: int = 0
    quota: int = 0

    @property
    def over(self) -> bool:
        """Whether every push of this round was answered."""
        return self.quota > 0 and self.credited >= self.quota


class Ledger:
    """The answered pushes of each incarnation and the credits of the newest round.

    Not thread-safe: the store calls it under its lock.
    """

    def __init__(self, *, incarnation_limit: int = INCARNATION_LIMIT) -> None:
        self.run = ""
        self.round = Round()
        self._limit = incarnation_limit
        #: (worker, incarnation) → highest sequence and its verdict, least recently heard first
        self._answered: dict[tuple[str, str], tuple[int, Verdict]] = {}

    def repeated(self, worker: str, incarnation: str, sequence: int) -> Verdict | None:
        """Return the verdict this push got before, or None if it is new."""
        last, verdict = self._answered.get((worker, incarnation), (0, Verdict("")))
        if sequence > last:
            return None
        return verdict if sequence == last else Verdict("superseded")

    def is_late(self, number: int, quota: int) -> bool:
        """Whether the round of a new push is over, or was left behind by a later one.

        A push without a quota belongs to no round and is never late.
        """
        if quota == 0 or number > self.round.number:
            return False
        return number < self.round.number or self.round.over

    def record(self, worker: str, incarnation: str, sequence: int, verdict: Verdict) -> None:
        """Remember the verdict on a new push."""
        key = (worker, incarnation)
        self._answered.pop(key, None)  # so that it moves to the end
        self._answered[key] = (sequence, verdict)
        if len(self._answered) > self._limit:
            del self._answered[next(iter(self._answered))]

    def credit(self, number: int, quota: int) -> None:
        """Count an answered push that is not late.

        The first push of a round fixes its quota; later ones cannot move the end.
        """
        if quota == 0:
            return
        if number > self.round.number or self.round.quota == 0:
            self.round = Round(number, 0, quota)
        self.round = self.round._replace(credited=self.round.credited + 1)

    def open_run(self, run: str) -> None:
        """Begin the rounds anew if this is another run than the one they belong to."""
        if run != self.run:
            self.run = run
            self.round = Round()

    def state(self) -> dict[str, Any]:
        """Return everything as JSON for a snapshot's manifest."""
        answered = [[*key, last, *verdict] for key, (last, verdict) in self._answered.items()]
        return {"run": self.run, "round": list(self.round), "answered": answered}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a snapshot.

        Raises:
            BadRequest: If it is not what ``state`` returns; the ledger is unchanged.
        """
        fields = Fields(state)
        run = fields.text("run")
        numbers = fields.integers("round")
        if len(numbers) != len(Round._fields):
            raise BadRequest(f"the ledger's round is damaged: {numbers}")
        answered: dict[tuple[str, str], tuple[int, Verdict]] = {}
        try:
            for worker, incarnation, last, status, reason, staleness in state["answered"]:
                verdict = Verdict(str(status), str(reason), int(staleness))
                answered[str(worker), str(incarnation)] = (int(last), verdict)
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequest(f"the ledger's answered pushes are damaged: {error}") from None
        self.run = run
        self.round = Round(*numbers)
        self._answered = answered

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._answered) <= self._limit, len(self._answered)
        assert all(last >= 1 for last, _ in self._answered.values()), self._answered
        assert min(self.round) >= 0, self.round
        assert self.round.credited <= self.round.quota, self.round
