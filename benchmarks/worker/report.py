"""Tables and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.worker import contenders, figures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.worker.contenders import Contender
    from benchmarks.worker.figures import Verdict
    from benchmarks.worker.record import Window

_TITLES = ("steps/s", "grad./s", "steps/CPU-s", "grad./CPU-s")
_LEAST = {"float32": 1.5, "bf16": 2.5, "bf16-all": 2.5}  # per CPU-second, over the better peer's
_LEAST_TWO = 2.5  # in wall time, two workers over SB3, both on two cores
_MOST_CYCLE = 1.1


def verdicts(windows: Mapping[str, list[Window]]) -> Iterator[Verdict]:
    """Yield each target whose both sides were measured."""
    one, two = contenders.SECTIONS["one core"], contenders.SECTIONS["two cores"]
    sb3 = [each for each in two if each.module == "sb3"]
    both = [(agent, way) for agent in contenders.AGENTS for way in contenders.PRECISIONS]
    for agent, precision in both:
        worker = contenders.ours(agent, precision)
        found = figures.against_peer(windows, worker, one, "steps_per_cpu_s", _LEAST[precision])
        if found:
            yield found
    for agent, precision in both:
        pair = contenders.ours(agent, precision, workers=2, cores=2)
        found = figures.against_peer(windows, pair, sb3, "steps_per_s", _LEAST_TWO)
        if found:
            yield found
    for agent, precision in both:
        worker, alone = contenders.ours(agent, precision), contenders.parts(agent, precision)
        yield from figures.against_parts(windows, worker, alone, _MOST_CYCLE)


def conclusions(windows: Mapping[str, list[Window]]) -> dict[str, Any]:
    """Return all figures as JSON."""
    everybody = [each for section in contenders.SECTIONS.values() for each in section]
    return {
        "rates": figures.rows(windows, everybody),
        "parts_ms": figures.part_rows(windows, everybody),
        "stages_ms": figures.stage_rows(windows, everybody),
        "targets": [{**each._asdict(), "met": each.is_met} for each in verdicts(windows)],
    }


def print_all(windows: Mapping[str, list[Window]]) -> None:
    """Print every table that has rows, and the targets."""
    for title, section in contenders.SECTIONS.items():
        _print_rates(title, section, windows)
    everybody = [each for section in contenders.SECTIONS.values() for each in section]
    _print_parts(figures.part_rows(windows, everybody))
    _print_stages(figures.stage_rows(windows, everybody))
    found = list(verdicts(windows))
    if found:
        print("\nTargets: ratio of medians (quartiles of the ratios of neighbours)")
    for each in found:
        sign, verdict = "≥" if each.at_least else "≤", "met" if each.is_met else "MISSED"
        value = f"{each.ratio:.2f} ({each.quarter:.2f}–{each.three_quarters:.2f})"
        print(f"  {value:>18} {sign} {each.limit:<4} {verdict:6} {each.what}")


def _print_rates(
    title: str, section: Sequence[Contender], windows: Mapping[str, list[Window]]
) -> None:
    rows = figures.rows(windows, section)
    if not rows:
        return
    best = {rate: figures.best_peer(windows, section, rate) for rate in figures.RATES}
    print(f"\nPong on {title}: medians; × the best peer's in wall and in processor time")
    print(f"  {'':42}" + "".join(f"{name:>13}" for name in (*_TITLES, "× wall", "× CPU", "n")))
    for name, row in rows.items():
        cells = [f"{row[rate]['median']:13.1f}" for rate in figures.RATES]
        for rate in ("steps_per_s", "steps_per_cpu_s"):
            peer = best[rate]
            ratio = row[rate]["median"] / rows[peer][rate]["median"] if peer else None
            cells.append("            –" if ratio is None else f"{ratio:13.2f}")
        print(f"  {name:42}" + "".join(cells) + f"{row['steps_per_s']['count']:13}")


def _print_parts(rows: Mapping[str, Any]) -> None:
    if not rows:
        return
    names = list(next(iter(rows.values())))
    print("\nParts of a cycle, each alone: ms of wall (of processors, server's included)")
    print(f"  {'':42}" + "".join(f"{name:>16}" for name in (*names, "sum")))
    for name, parts in rows.items():
        cells = [f"{part['wall_s']:.2f} ({part['cpu_s']:.2f})" for part in parts.values()]
        sums = [sum(part[clock] for part in parts.values()) for clock in ("wall_s", "cpu_s")]
        cells.append(f"{sums[0]:.2f} ({sums[1]:.2f})")
        print(f"  {name:42}" + "".join(f"{cell:>16}" for cell in cells))


def _print_stages(rows: Mapping[str, Any]) -> None:
    if not rows:
        return
    names = list(next(iter(rows.values())))
    print("\nWhere workers say that a cycle goes, ms")
    print(f"  {'':42}" + "".join(f"{name.removesuffix('_s'):>12}" for name in names))
    for name, stages in rows.items():
        print(f"  {name:42}" + "".join(f"{stages[stage]:12.2f}" for stage in names))
