"""Numbers as the pages show them; static/format.js says the same in the browser."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOTHING = "–"


def show(value: Any, kind: str = "text") -> str:
    """Return a value as text of a kind: a key of ``KINDS``, or a number of decimals."""
    if value is None:
        return NOTHING
    if kind.isdigit():
        return f"{value:,.{kind}f}"
    return KINDS[kind](value)


def general(value: float) -> str:
    """Return a number of any size with three digits that count: 12,345, 0.0123, 1.2e-7."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 1e-3 or value == 0:
        return f"{value:.3g}"
    return scientific(value)


def scientific(value: float) -> str:
    """Return a number with two digits and its power of ten: 1.2e-7."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if value else "0"


def score(evaluation: Mapping[str, Any]) -> str:
    """Return an evaluation's mean return, with its standard error where there is one."""
    mean, error = evaluation["return_mean"], evaluation.get("return_se")
    return show(mean, "2") if error is None else f"{show(mean, '2')} ± {show(error, '2')}"


def duration(seconds: float) -> str:
    """Return a time in its two largest units: 4.2 s, 3 m 09 s, 2 h 05 m, 3 d 11 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // part:02d} {part_name}"
    return f"{whole // 60} m {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def size(count: float) -> str:
    """Return a number of bytes in its largest decimal unit: 912 B, 40.6 MB."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def moment(seconds: float) -> str:
    """Return a time since 1970 as date and time; a browser shows it in its own time zone."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def round_text(newest: Mapping[str, Any]) -> str:
    """Return how far the newest round is."""
    if not newest["quota"]:
        return "no rounds"
    return f"round {newest['number']}: {newest['credited']} of {newest['quota']} pushes"


def resumed(origin: Mapping[str, Any]) -> str:
    """Return which snapshot a server goes on from, and what was lost on the way."""
    lost = origin["lost_updates"]
    gone = f"{lost:,}" if lost else "none"
    return (
        f"Resumed at version {origin['version']:,} from {origin['path']}. "
        f"Acknowledged updates that are gone: {gone}."
    )


KINDS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "general": general,
    "scientific": scientific,
    "score": score,
    "percent": lambda value: f"{100 * value:.0f} %",
    "duration": duration,
    "size": size,
    "moment": moment,
    "resumed": resumed,
    "round": round_text,
    "sigmas": lambda value: f"{general(value)} σ" if value else "off",
    "shape": lambda value: " × ".join(map(str, value)),
}


class Pace(NamedTuple):
    """Where a layer's update-to-weight ratio lies on a track from 1e-6 to 1."""

    percent: float  # from the track's beginning
    word: str  # empty where there is no ratio


def pace_of(ratio: float | None) -> Pace:
    """Judge an update-to-weight ratio: within a factor of ten of 1e-3 is healthy."""
    if ratio is None:
        return Pace(0.0, "")
    percent = 100 * (math.log10(ratio) + 6) / 6 if ratio > 0 else 0.0
    word = "slow" if ratio < 1e-4 else "fast" if ratio > 1e-2 else "healthy"
    return Pace(min(100.0, max(0.0, percent)), word)


class Part(NamedTuple):
    """One stage's share of the workers' time."""

    stage: str
    words: str
    seconds: float
    share: float  # of 1


_STAGE_WORDS = {
    "act": "play the game",
    "sample": "draw minibatches",
    "compute": "compute gradients",
    "exchange": "talk with the server",
    "wait": "wait for what is under way",
}


def split(worker_s: Mapping[str, float]) -> list[Part]:
    """Return where the workers' time went, stage by stage; all shares are 0 where none did."""
    total = sum(worker_s.values()) or 1.0
    return [
        Part(stage, words, worker_s[stage], worker_s[stage] / total)
        for stage, words in _STAGE_WORDS.items()
    ]


def find(status: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path, such as ``stats.epsilon``; None where there is none."""
    value: Any = status
    for name in path.split("."):
        value = (value or {}).get(name)
    return value


def refusals(status: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return why pushes were not applied, and how many for each reason."""
    rejected = ((f"rejected: {reason}", count) for reason, count in status["rejected"].items())
    return [
        *rejected,
        ("late: their round was over", status["late"]),
        ("repeats, answered again", status["duplicates"]),
    ]


def census(workers: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how many workers there are."""
    lost = sum(bool(worker.get("lost")) for worker in workers.values())
    return f"{len(workers) - lost} live" + (f", {lost} lost" if lost else "")
