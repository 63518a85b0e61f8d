"""Which run the server serves, and which workers it has heard from.

A run binds the server with its first push or by opening it.  Nobody else may push while it is
alive.  A server embedded in one run's driver never changes hands; a standalone one does when its
run was closed, or has been silent for longer than a lease.

Policies that have workers wait for each other look at the *race*: the workers that push now.  One
enters with its first push, at the clock of the slowest, and is out when it leaves (its round is
over), when it is silent for a lease, or when another process takes its name.

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
    last_contact: float  # seconds, of the server's clock
    pushes: int = 0
    clock: int | None = None  # pushes in the race; None: it is not in it


class Membership:
    """The bound run and its workers.

    Not thread-safe: the store calls it under its lock.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        run: str,
        may_change_run: bool,
        lease_s: float = LEASE_S,
    ) -> None:
        self.run = run
        self._clock = clock
        self._lease_s = lease_s
        self._may_change_run = may_change_run
        self._last_contact = clock()
        self._members: dict[str, Member] = {}

    def require(self, run: str) -> None:
        """See that a run may push: it is bound, or none is.

        Raises:
            WrongRun: If another run is bound.
        """
        if not run:
            raise BadRequest("field 'run' is empty")
        if run != (self.run or run):
            raise WrongRun(f"the server is bound to run {self.run!r}", run=self.run)

    def admit(self, run: str) -> None:
        """Let a run in, binding it if none is bound.

        Raises:
            WrongRun: If another run is bound; nothing changed.
        """
        self.require(run)
        if not self.run:
            self._bind(run)

    def open(self, run: str) -> None:
        """Bind a run, in place of one that has fallen silent if this server may change hands.

        Raises:
            WrongRun: If another run is bound and alive; nothing changed.
        """
        silent = self._clock() - self._last_contact > self._lease_s
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
        before = self._members.pop(worker, Member(incarnation, now))
        if incarnation and incarnation != before.incarnation:
            before = Member(incarnation, now)
        clock = None if self._is_lost(before) or before.clock is None else before.clock + pushes
        self._members[worker] = before._replace(
            last_contact=now, pushes=before.pushes + pushes, clock=clock
        )
        if len(self._members) > _MEMBERS_LIMIT:
            del self._members[next(iter(self._members))]  # the longest silent

    def enter(self, worker: str, incarnation: str) -> int:
        """Let a worker that pushes into the race, where the slowest is; return its clock."""
        self.hear(worker, incarnation)
        member = self._members.get(worker)
        if member is None:  # a push without a name is in nobody's way
            return 0
        if member.clock is None:
            others = self.race().values()
            member = self._members[worker] = member._replace(clock=min(others, default=0))
        assert member.clock is not None
        return member.clock

    def leave(self, worker: str, incarnation: str) -> None:
        """Take a worker out of the race, with whatever process of it was killed before this one."""
        if worker in self._members:
            self.hear(worker, incarnation)
            self._members[worker] = self._members[worker]._replace(clock=None)

    def race(self) -> dict[str, int]:
        """Return the clocks of the workers that push now, by name."""
        return {
            name: member.clock
            for name, member in self._members.items()
            if member.clock is not None and not self._is_lost(member)
        }

    def _is_lost(self, member: Member) -> bool:
        return self._clock() - member.last_contact > self._lease_s

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the workers as JSON, by name."""
        now = self._clock()
        return {
            name: {
                "incarnation": member.incarnation,
                "last_contact_s": now - member.last_contact,
                "pushes": member.pushes,
                "lost": self._is_lost(member),
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
