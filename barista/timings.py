"""Where the time of a loop goes, stage by stage.

After torchbeast's `prof.Timings` (Küttler et al., 2019): mean and variance are kept online
(Welford, 1962), so that a loop may run for days.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


STAGES = ("act", "sample", "compute", "exchange", "wait")
"""Of a worker's own thread.  What others do meanwhile is seen where it has to wait for them."""


class Stage(NamedTuple):
    """What is known of one stage."""

    times: int
    mean_s: float
    deviation_s: float  # standard deviation
    total_s: float


_NOTHING = Stage(0, 0.0, 0.0, 0.0)


class Timings:
    """Durations of the named stages of a loop.

    Every moment counts once: a stage that is measured within another one is taken out of it.

    Not thread-safe: one thread measures; others may read, as stages are replaced whole.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock  # seconds
        self._stages: dict[str, Stage] = {}
        self._within_s = 0.0  # spent in the stages within the one that is being measured

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Count the time spent in the `with` block, however it ends, for stage `name`."""
        beside_s, self._within_s = self._within_s, 0.0
        began = self._clock()
        try:
            yield
        finally:
            spent_s = self._clock() - began
            self.add(name, spent_s - self._within_s)
            self._within_s = beside_s + spent_s

    def add(self, name: str, seconds: float) -> None:
        """Count `seconds` for stage `name`."""
        times, mean_s, deviation_s, total_s = self._stages.get(name, _NOTHING)
        moment = deviation_s**2 * times + (seconds - mean_s) ** 2 * times / (times + 1)
        self._stages[name] = Stage(
            times=times + 1,
            mean_s=mean_s + (seconds - mean_s) / (times + 1),
            deviation_s=math.sqrt(moment / (times + 1)),
            total_s=total_s + seconds,
        )

    def totals_s(self) -> dict[str, float]:
        """Return the seconds spent in each stage so far."""
        return {name: stage.total_s for name, stage in self.stages().items()}

    def stages(self) -> dict[str, Stage]:
        """Return a copy of all stages, in the order in which they first ran."""
        return dict(self._stages)

    def __str__(self) -> str:
        """Return one line: milliseconds of each stage, their deviation, the share of the sum."""
        total_s = sum(stage.total_s for stage in self._stages.values()) or 1.0
        return ", ".join(
            f"{name} {1e3 * stage.mean_s:.2f} ± {1e3 * stage.deviation_s:.2f} ms"
            f" ({stage.total_s / total_s:.0%})"
            for name, stage in self._stages.items()
        )
