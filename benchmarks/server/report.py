"""Tables and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.server.measuring import ratio, summary
from benchmarks.server.peer import ONE, PULL, PUSH, TWO
from benchmarks.server.rig import DESIGN_2015, ELEPHAS, HTTP, RPC, SAME, TCP, UNIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.server.measuring import Rounds

_WAYS = (PULL, PUSH, TWO, ONE)
_COLUMNS = {
    "updates_per_s": "updates/s",
    "update_ms": "ms per update",
    "server_cpu_ms": "server's processor time per update, ms",
    "worker_cpu_ms": "workers' processor time per update, ms",
}


class Term(NamedTuple):
    """A measured quantity: of a variant, a way of exchanging or a number of workers."""

    variant: str
    what: str
    workers: str = ""  # empty: a latency


class Target(NamedTuple):
    """A ratio and what it should be."""

    above: Term
    below: Term
    limit: float
    at_least: bool = False


TARGETS = (
    Target(Term(HTTP, ONE), Term(TCP, ONE), 1.6),
    Target(Term(HTTP, TWO), Term(TCP, TWO), 1.6),
    Target(Term(SAME, ONE), Term(UNIX, ONE), 1.25),
    Target(Term(SAME, TWO), Term(UNIX, TWO), 1.25),
    Target(Term(SAME, ONE), Term(RPC, ONE), 1.0),
    Target(Term(HTTP, ONE), Term(RPC, ONE), 1.0),
    Target(Term(DESIGN_2015, TWO), Term(HTTP, ONE), 8, at_least=True),
    Target(Term(DESIGN_2015, TWO), Term(HTTP, TWO), 8, at_least=True),
    Target(Term(DESIGN_2015, TWO), Term(SAME, ONE), 8, at_least=True),
    Target(Term(ELEPHAS, TWO), Term(HTTP, ONE), 5, at_least=True),
    Target(Term(ELEPHAS, TWO), Term(HTTP, TWO), 5, at_least=True),
    Target(Term(ELEPHAS, TWO), Term(SAME, ONE), 5, at_least=True),
    Target(Term(HTTP, "server_cpu_ms", "1"), Term(TCP, "server_cpu_ms", "1"), 1.5),
    Target(Term(SAME, "server_cpu_ms", "1"), Term(UNIX, "server_cpu_ms", "1"), 1.5),
    Target(Term(HTTP, "updates_per_s", "8"), Term(HTTP, "updates_per_s", "2"), 0.85, at_least=True),
    Target(Term(SAME, "updates_per_s", "8"), Term(SAME, "updates_per_s", "2"), 0.85, at_least=True),
)


def targets(
    latency: Mapping[str, Rounds], throughput: Mapping[str, Mapping[str, Rounds]]
) -> Iterator[dict[str, Any]]:
    """Yield each target whose both sides were measured, with its ratio and whether it is met."""
    for target in TARGETS:
        above, below = (
            (
                throughput.get(term.variant, {}).get(term.workers)
                if term.workers
                else latency.get(term.variant)
            )
            for term in (target.above, target.below)
        )
        if not above or not below or target.above.what not in above:
            continue
        result = ratio(above[target.above.what], below[target.below.what])
        met = (
            (result["median"] >= target.limit)
            if target.at_least
            else (result["median"] <= target.limit)
        )
        yield {
            "above": _name(target.above),
            "below": _name(target.below),
            **result,
            "limit": target.limit,
            "at_least": target.at_least,
            "met": met,
        }


def _name(term: Term) -> str:
    what = _COLUMNS.get(term.what, term.what)
    return f"{term.variant}: {what}" + (f", {term.workers} worker(s)" if term.workers else "")


def print_latency(label: str, latency: Mapping[str, Rounds]) -> None:
    """Print one size's table: medians and quartiles."""
    print(f"\n{label}, one worker, ms: median (quartiles)")
    print(f"  {'':22}" + "".join(f"{way:>24}" for way in _WAYS))
    for variant, ways in latency.items():
        print(f"  {variant:22}" + "".join(f"{_cell(ways.get(way)):>24}" for way in _WAYS))


def _cell(rounds: list[list[float]] | None) -> str:
    if not rounds:
        return "–"
    found = summary(rounds)
    return f"{found['median']:.2f} ({found['quarter']:.2f}–{found['three_quarters']:.2f})"


def print_throughput(
    label: str,
    throughput: Mapping[str, Mapping[str, Rounds]],
    columns: Sequence[str] = ("updates_per_s", "server_cpu_ms", "worker_cpu_ms"),
) -> None:
    """Print a table for each column: variants, and numbers of workers."""
    for column in columns:
        title = _COLUMNS[column]
        counts = list(next(iter(throughput.values()), {}))
        print(f"\n{label}, {title}; workers:")
        print(f"  {'':26}" + "".join(f"{count:>10}" for count in counts))
        for variant, by_count in throughput.items():
            cells = (f"{summary(by_count[count][column])['median']:10.1f}" for count in counts)
            print(f"  {variant:26}" + "".join(cells))


def print_targets(label: str, found: list[dict[str, Any]]) -> None:
    """Print the ratios that were aimed at."""
    print(f"\nTargets at {label}: ratio of medians (quartiles of the rounds' ratios)")
    for each in found:
        sign = "≥" if each["at_least"] else "≤"
        value = f"{each['median']:.2f} ({each['quarter']:.2f}–{each['three_quarters']:.2f})"
        verdict = "met" if each["met"] else "MISSED"
        print(
            f"  {value:>20} {sign} {each['limit']:<5} {verdict:6} {each['above']} / {each['below']}"
        )
