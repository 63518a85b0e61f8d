"""What becomes of a gradient that was computed from weights of the past.

With s the staleness of a push (version now - version of its weights), each policy says whether
the gradient is taken, changed, scaled, or has to wait.  When to choose which, with a measured
table, is in docs/consistency.md.

    accept          Downpour SGD: every gradient counts as it is
    reject:S        none older than S updates
    scale           the step times 1 / (1 + s)
    dc[:LAMBDA]     the gradient corrected for the way the weights have moved
    ssp:S           nobody more than S pushes ahead of the slowest
    sync[:N]        one update is the mean of one push of each member, or of the first N

The last two look at members: workers that push now.  One whose round is over, or that has been
silent for a lease, is none, so nobody waits for it; one that joins begins where the slowest is.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from param_server.wire import Float32

_RING_BYTES = 256 << 20
_RING_VERSIONS = 64
_DEFAULT_LAMBDA = 0.04  # Zheng et al. (2017), section 6, DC-ASGD-c


class PolicyError(ValueError):
    """A policy was misspelled; the message is one line."""


class Adapted(NamedTuple):
    """A gradient as it is to be applied, and the factor of the step that follows from it."""

    gradient: Float32
    scale: float = 1.0


class Policy:
    """Accept all: Downpour SGD (Dean et al., 2012, section 4.1).

    The base of all policies: each overrides what it does otherwise.  Not thread-safe: the store
    calls it under its lock.
    """

    waits: ClassVar[bool] = False  # whether pushes may have to wait for others
    gathers: ClassVar[bool] = False  # whether an update is the mean of several workers' pushes

    def __init__(self, name: str = "accept") -> None:
        self.name = name  # as typed

    def objection(self, staleness: int) -> str:
        """Return why a gradient of this staleness is rejected, "" if it is not."""
        del staleness
        return ""

    def must_wait(
        self, worker: str, clock: int, race: Mapping[str, int], gathered: Collection[str]
    ) -> str:
        """Return why a worker may not push yet, "" if it may.

        Args:
            worker: Its name.
            clock: Pushes it has made.
            race: The clocks of all members, by name.
            gathered: Whose pushes the next update holds already.
        """
        del worker, clock, race, gathered
        return ""

    def is_complete(self, gathered: Collection[str], race: Mapping[str, int]) -> bool:
        """Whether these workers' pushes make an update."""
        del race
        return len(gathered) >= 1

    def adapt(self, gradient: Float32, version: int, weights: Float32, now: int) -> Adapted:
        """Return what to apply for a gradient of ``version``, the weights being those of ``now``.

        The result's array is the gradient itself or the policy's own, good until the next call.
        """
        del version, weights, now
        return Adapted(gradient)

    def remember(self, version: int, weights: Float32) -> None:
        """Take note of the weights of a new version."""

    def forget(self) -> None:
        """Drop what was noted: version numbers begin anew."""


class RejectOlder(Policy):
    """Reject what is older than S updates (Nair et al., 2015, Gorila: gradients too old)."""

    def __init__(self, name: str, most: int) -> None:
        super().__init__(name)
        self._most = most

    def objection(self, staleness: int) -> str:
        """See ``Policy``."""
        return f"stale: {staleness} updates, at most {self._most}" if staleness > self._most else ""


class ScaleStep(Policy):
    """Scale the step by 1 / (1 + s): staleness-aware ASGD (Zhang et al., 2016, equation 6).

    The paper divides the learning rate by the staleness counted from 1.  The step is what is
    scaled, not the gradient: rules such as Adam and RMSProp divide a gradient's scale out again.
    """

    def adapt(self, gradient: Float32, version: int, weights: Float32, now: int) -> Adapted:
        """See ``Policy``."""
        del weights
        return Adapted(gradient, 1.0 / (1 + now - version))


class DelayCompensation(ScaleStep):
    """Correct a gradient to first order: g + λ g ⊙ g ⊙ (θ_now - θ_then).

    DC-ASGD (Zheng et al., 2017, equation 10), where g ⊙ g stands for the Hessian's diagonal.  The
    weights of past versions are kept in a ring of at most 64 versions and 256 MiB; for a
    gradient older than that, its step is scaled instead.
    """

    def __init__(self, name: str, strength: float) -> None:
        super().__init__(name)
        self._strength = np.float32(strength)
        self._past: OrderedDict[int, Float32] = OrderedDict()  # by version, oldest first

    def adapt(self, gradient: Float32, version: int, weights: Float32, now: int) -> Adapted:
        """See ``Policy``."""
        if version == now:
            return Adapted(gradient)
        then = self._past.get(version)
        if then is None:
            return super().adapt(gradient, version, weights, now)
        correction = weights - then
        correction *= gradient
        correction *= gradient
        correction *= self._strength
        correction += gradient
        return Adapted(correction)

    def remember(self, version: int, weights: Float32) -> None:
        """See ``Policy``."""
        most = max(2, min(_RING_VERSIONS, _RING_BYTES // weights.nbytes))
        spare = self._past.popitem(last=False)[1] if len(self._past) >= most else None
        if spare is None:
            spare = np.empty_like(weights)
        np.copyto(spare, weights)
        self._past[version] = spare

    def forget(self) -> None:
        """See ``Policy``."""
        self._past.clear()


class BoundedStaleness(Policy):
    """Stale synchronous parallel (Ho et al., 2013, section 3): nobody runs far ahead.

    A worker's clock counts its pushes.  It may push while it is at most S ahead of the slowest
    member; with S = 0 all go in step.
    """

    waits = True

    def __init__(self, name: str, bound: int) -> None:
        super().__init__(name)
        self._bound = bound

    def must_wait(
        self, worker: str, clock: int, race: Mapping[str, int], gathered: Collection[str]
    ) -> str:
        """See ``Policy``."""
        del worker, gathered
        ahead = clock - min(race.values(), default=clock)
        if ahead <= self._bound:
            return ""
        return f"{ahead} pushes ahead of the slowest worker, at most {self._bound}"


class Synchronous(Policy):
    """Synchronous SGD: an update is the mean of one push of each member, or of the first N.

    Chen et al. (2016): with N below the number of workers the slowest are backups, whose
    gradients come too late for their version and are dropped.
    """

    waits = gathers = True

    def __init__(self, name: str, size: int | None) -> None:
        super().__init__(name)
        self._size = size  # pushes in an update; None: the members'

    def objection(self, staleness: int) -> str:
        """See ``Policy``."""
        return "stale: the update it belongs to is complete" if staleness else ""

    def must_wait(
        self, worker: str, clock: int, race: Mapping[str, int], gathered: Collection[str]
    ) -> str:
        """See ``Policy``."""
        del clock, race
        return "the other workers' part of this update is not here yet" * (worker in gathered)

    def is_complete(self, gathered: Collection[str], race: Mapping[str, int]) -> bool:
        """See ``Policy``."""
        if self._size is not None and len(gathered) >= self._size:
            return True
        return set(race) <= set(gathered)


def parse_policy(text: str) -> Policy:
    """Return the policy that a text names.

    Raises:
        PolicyError: If it names none.
    """
    match = re.fullmatch(r"([a-z]+)(?::(.+))?", text, re.ASCII)
    make = _MAKERS.get(match[1]) if match else None
    if match is None or make is None:
        raise PolicyError(f"{text!r} is none of {', '.join(_SPELLINGS)}")
    try:
        return make(text, match[2])
    except ValueError:
        spelling = next(each for each in _SPELLINGS if each.startswith(match[1]))
        raise PolicyError(f"{text!r} is not of the form {spelling}") from None


def _plain(make: Callable[[str], Policy]) -> Callable[[str, str | None], Policy]:
    def without_parameter(name: str, parameter: str | None) -> Policy:
        if parameter is not None:
            raise ValueError(parameter)
        return make(name)

    return without_parameter


def _count(parameter: str | None, least: int) -> int:
    if parameter is None or not (parameter.isascii() and parameter.isdigit()):
        raise ValueError(parameter)
    if not least <= int(parameter) < 2**31:
        raise ValueError(parameter)
    return int(parameter)


def _strength(parameter: str | None) -> float:
    value = _DEFAULT_LAMBDA if parameter is None else float(parameter)
    if not 0 <= value < float("inf"):
        raise ValueError(parameter)
    return value


_SPELLINGS = ("accept", "reject:S", "scale", "dc[:LAMBDA]", "ssp:S", "sync[:N]")
_MAKERS: Mapping[str, Callable[[str, str | None], Policy]] = {
    "accept": _plain(Policy),
    "reject": lambda name, given: RejectOlder(name, _count(given, 0)),
    "scale": _plain(ScaleStep),
    "dc": lambda name, given: DelayCompensation(name, _strength(given)),
    "ssp": lambda name, given: BoundedStaleness(name, _count(given, 0)),
    "sync": lambda name, given: Synchronous(name, None if given is None else _count(given, 1)),
}
