"""From windows to rates, ratios and targets.  Pure."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.server.measuring import summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.worker.contenders import Contender
    from benchmarks.worker.record import Window

#: Per wall second and per second of processor time of all processes.
RATES = ("steps_per_s", "gradients_per_s", "steps_per_cpu_s", "gradients_per_cpu_s")
STEPS_PER_UPDATE = 4
_ONCE_A_STEP = ("env", "act")  # of all environments together; other parts: once a gradient


class Verdict(NamedTuple):
    """A ratio and what it should be."""

    what: str
    ratio: float
    quarter: float
    three_quarters: float
    limit: float
    at_least: bool

    @property
    def is_met(self) -> bool:
        """Whether the ratio is on the right side of its limit."""
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit


def rates(window: Window) -> dict[str, float]:
    """Return a window's rates, by their names in `RATES`."""
    return {
        f"{what}_per_{second}": window[what] / window[over]
        for what in ("steps", "gradients")
        for second, over in (("s", "wall_s"), ("cpu_s", "cpu_s"))
    }


def cycle(window: Window) -> dict[str, float]:
    """Return the seconds that one gradient and its share of everything else took."""
    return {name: window[name] / window["gradients"] for name in ("wall_s", "cpu_s")}


def cycle_of_parts(window: Window, envs: int) -> dict[str, float]:
    """Return the seconds that the parts of one cycle take alone, in sum."""
    parts = window["parts"]
    return {
        name: sum(
            part[name] / part["times"] * _times_a_cycle(key, envs) for key, part in parts.items()
        )
        for name in ("wall_s", "cpu_s")
    }


def _times_a_cycle(part: str, envs: int) -> float:
    return STEPS_PER_UPDATE / envs if part in _ONCE_A_STEP else 1.0


def rows(windows: Mapping[str, list[Window]], contenders: Sequence[Contender]) -> dict[str, Any]:
    """Return by contender each rate's median, quartiles and count."""
    found: dict[str, Any] = {}
    for each in contenders:
        if each.is_parts or not windows.get(each.name):
            continue
        measured = [rates(window) for window in windows[each.name]]
        found[each.name] = {rate: summary([[one[rate] for one in measured]]) for rate in RATES}
    return found


def best_peer(
    windows: Mapping[str, list[Window]], contenders: Sequence[Contender], rate: str
) -> str | None:
    """Return the name of the peer with the highest median, None where none was measured."""
    names = [each.name for each in contenders if each.is_peer and windows.get(each.name)]
    return max(names, key=lambda name: _median(windows[name], rate), default=None)


def _median(measured: Sequence[Window], rate: str) -> float:
    return median(rates(window)[rate] for window in measured)


def against_peer(
    windows: Mapping[str, list[Window]],
    contender: Contender,
    among: Sequence[Contender],
    rate: str,
    limit: float,
) -> Verdict | None:
    """Return a contender's rate over the best peer's, None where one of them is missing."""
    peer = best_peer(windows, among, rate)
    if peer is None or not windows.get(contender.name):
        return None
    what = f"{contender.name} / {peer}: {rate}"
    above, below = ([rates(w)[rate] for w in windows[name]] for name in (contender.name, peer))
    return _verdict(what, above, below, limit, at_least=True)


def against_parts(
    windows: Mapping[str, list[Window]], contender: Contender, alone: Contender, limit: float
) -> Iterator[Verdict]:
    """Yield a worker's cycle over the sum of its parts, in wall and in processor time."""
    if not (windows.get(contender.name) and windows.get(alone.name)):
        return
    for clock in ("wall_s", "cpu_s"):
        above = [cycle(window)[clock] for window in windows[contender.name]]
        below = [cycle_of_parts(w, w["envs"])[clock] for w in windows[alone.name]]
        what = f"{contender.name}: cycle / sum of its parts, {clock}"
        yield _verdict(what, above, below, limit, at_least=False)


def _verdict(
    what: str, above: list[float], below: list[float], limit: float, *, at_least: bool
) -> Verdict:
    """Return the ratio of two medians, and the quartiles of the ratios of neighbours in time."""
    spread = summary([[a / b for a, b in zip(above, below, strict=False)]])
    ratio = median(above) / median(below)
    return Verdict(what, ratio, spread["quarter"], spread["three_quarters"], limit, at_least)


def part_rows(
    windows: Mapping[str, list[Window]], contenders: Sequence[Contender]
) -> dict[str, Any]:
    """Return by contender each part alone, in milliseconds of a cycle's wall and processor time."""
    found: dict[str, Any] = {}
    for each in contenders:
        if not each.is_parts or not windows.get(each.name):
            continue
        measured = windows[each.name]
        found[each.name] = {
            part: {
                clock: median(
                    1000 * w["parts"][part][clock] / w["parts"][part]["times"]
                    * _times_a_cycle(part, w["envs"])
                    for w in measured
                )
                for clock in ("wall_s", "cpu_s")
            }
            for part in measured[0]["parts"]
        }  # fmt: skip
    return found


def stage_rows(
    windows: Mapping[str, list[Window]], contenders: Sequence[Contender]
) -> dict[str, Any]:
    """Return by contender of ours where its workers say a cycle goes, in milliseconds."""
    found: dict[str, Any] = {}
    for each in contenders:
        measured = [w for w in windows.get(each.name, ()) if w.get("stages")]
        if measured:
            found[each.name] = {
                stage: median(1000 * w["stages"][stage] / w["gradients"] for w in measured)
                for stage in measured[0]["stages"]
            }
    return found
