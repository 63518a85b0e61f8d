"""The weights of a network, the copy of them that targets are computed with, their versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from param_server.staleness import Policy
    from param_server.wire import Float32


class Probe(Protocol):
    """Whoever looks at single updates."""

    def begin(self, weights: Float32, /) -> bool:
        """Say whether the update that follows is to be looked at; take note of the weights."""

    def end(self, gradient: Float32, weights: Float32, /) -> None:
        """Look at the update: its gradient, and what has become of the weights."""


class Weights:
    """Online and target weights.  Not thread-safe: the store calls it under its lock.

    Args:
        values: float32 [P], the memory that ``apply`` and ``reset`` change.
        apply: Called with a gradient, float32 [P], and the factor of its step; it applies the
            gradient, or raises and leaves the values alone.
        reset: Restores the values of version 0.
        target_period: Updates between two refreshes of the target (Mnih et al., 2015: C).
        policy: Is told of every version.
        probe: May look at updates.
    """

    def __init__(
        self,
        values: Float32,
        *,
        apply: Callable[[Float32, float], None],
        reset: Callable[[], None],
        target_period: int,
        policy: Policy,
        probe: Probe | None = None,
    ) -> None:
        self.values = values
        self.target = values.copy()
        self.version = self.target_version = 0  # updates applied
        self.target_period = target_period
        self._apply, self._reset = apply, reset
        self._policy, self._probe = policy, probe
        policy.remember(0, values)

    def step(self, gradient: Float32, scale: float) -> None:
        """Apply an update, its step multiplied by ``scale``."""
        is_probed = self._probe is not None and self._probe.begin(self.values)
        self._apply(gradient, scale)
        self.version += 1
        if self.version % self.target_period == 0:
            np.copyto(self.target, self.values)
            self.target_version = self.version
        self._policy.remember(self.version, self.values)
        if is_probed and self._probe is not None:
            self._probe.end(gradient, self.values)

    def clear(self) -> None:
        """Go back to version 0."""
        self._reset()
        self.version = self.target_version = 0
        np.copyto(self.target, self.values)
        self._policy.forget()
        self._policy.remember(0, self.values)

    def restore(self, version: int, target_version: int, target: Float32) -> None:
        """Take up a moment of before; the values themselves were restored already."""
        self.version, self.target_version = version, target_version
        np.copyto(self.target, target)
        self._policy.forget()
        self._policy.remember(version, self.values)

    def check(self) -> None:
        """Assert the invariants."""
        assert self.values.shape == self.target.shape
        assert 0 <= self.target_version <= self.version, (self.target_version, self.version)
        if self.target_version == self.version:
            assert np.array_equal(self.target, self.values), "target and weights differ"
