"""Which run the server serves, and which workers it has heard from.

A run binds the server with its first push or by opening it.  Nobody else may push while it is
alive.  A server embedded in one run's driver never changes hands; a standalone one does when its
run was closed, or has been silent for longer than a lease.

Invariant (``check``): there are members only while a run is bound, and no more than the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.errors import BadRequest, WrongRun

if TYPE_CHECKING:
    from collections.abc import Callable

LEASE_S = 60.0
_MEMBERS_LIMIT = 1024


class Member(NamedTuple):
    """A worker of the bound run: its process, when it was last heard, its pushes so far."""

    incarnation: str
    last_contact: float  # of the clock
    pushes: int


class Membership:
    """The bound run and its workers.

    Not thread-safe: the store calls it under its lock.
    """

    def __init__(self, clock: Callable[[], float], *, run: str, may_change_run: bool) -> None:
        self.run = run
        self._clock = clock
        self._may_change_run = may_change_run
        self._last_contact = clock()
        self._members: dict[str, Member] = {}

    def admit(self, run: str) -> None:
        """Let a run's push in, binding the run if none is bound.

        Raises:
            WrongRun: If another run is bound; nothing changed.
        """
        if not run:
            raise BadRequest("field 'run' is empty")
        if not self.run:
            self._bind(run)
        if run != self.run:
            raise WrongRun(f"the server is bound to run {self.run!r}", run=self.run)

    def open(self, run: str) -> None:
        """Bind a run, in place of one that has fallen silent if this server may change hands.

        Raises:
            WrongRun: If another run is bound and alive; nothing changed.
        """
        silent = self._clock() - self._last_contact > LEASE_S
        if run and run != self.run and self._may_change_run and silent:
            self._bind(run)
        self.admit(run)
        self._last_contact = self._clock()

    def close(self, run: str) -> None:
        """Unbind a run that is done; a server of one run only stays bound.

        Raises:
            WrongRun: If another run is bound; nothing changed.
        """
        if self.run:
            self.admit(run)
        if self._may_change_run:
            self._bind("")

    def hear(self, worker: str, incarnation: str = "", *, pushes: int = 0) -> None:
        """Renew the leases of the run and of one of its workers."""
        now = self._clock()
        self._last_contact = now
        if not worker:
            return
        before = self._members.pop(worker, Member(incarnation, now, 0))
        if incarnation and incarnation != before.incarnation:
            before = Member(incarnation, now, 0)
        self._members[worker] = Member(before.incarnation, now, before.pushes + pushes)
        if len(self._members) > _MEMBERS_LIMIT:
            del self._members[next(iter(self._members))]  # the longest silent

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the workers as JSON, by name."""
        now = self._clock()
        return {
            name: {
                "incarnation": member.incarnation,
                "last_contact_s": now - member.last_contact,
                "pushes": member.pushes,
            }
            for name, member in sorted(self._members.items())
        }

    def check(self) -> None:
        """Assert the invariants."""
        assert self.run or not self._members, self._members
        assert len(self._members) <= _MEMBERS_LIMIT, len(self._members)

    def _bind(self, run: str) -> None:
        self.run = run
        self._last_contact = self._clock()
        self._members.clear()
