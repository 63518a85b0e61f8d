"""Tables and plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from benchmarks.scaling.runs import Case, is_calm

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    Point = Mapping[str, Any]

WITHIN = 0.15
_MEASURES = {"updates_per_s": "updates/s", "exchange_ms": "exchange, ms", "staleness": "staleness"}


def compared(
    predicted: Sequence[Point], measured: Sequence[Point]
) -> Iterator[tuple[Case, dict[str, tuple[float, float]]]]:
    """Yield each case that was predicted and run undisturbed, with both values of each measure."""
    runs = {case_of(run): run for run in measured if is_calm(run)}
    for prediction in predicted:
        case = case_of(prediction)
        if case in runs:
            yield case, {name: (prediction[name], runs[case][name]) for name in _MEASURES}


def case_of(run: Point) -> Case:
    """Return what was run, or is to be."""
    return Case(*(run[name] for name in Case._fields))


def table(predicted: Sequence[Point], measured: Sequence[Point]) -> str:
    """Return predictions beside runs, in Markdown, and how many are within 15 %."""
    rows, inside = [], 0
    for case, values in compared(predicted, measured):
        errors = {name: before / after - 1 for name, (before, after) in values.items() if after}
        inside += abs(errors["updates_per_s"]) <= WITHIN
        cells = []
        for name, (before, after) in values.items():
            error = f"{errors[name]:+.0%}" if name in errors else ""
            if name == "updates_per_s" and abs(errors[name]) > WITHIN:
                error = f"**{error}**"
            cells.append(f"{before:.3g}, {after:.3g} | {error}")
        link = f"{case.link_mbit} Mb/s" if case.link_mbit else "–"
        rows.append(
            f"| {case.transport} | {case.size} | {case.clients} | {case.compute_ms:g} "
            f"| {case.push_period} | {case.pull_period} | {link} | {' | '.join(cells)} |"
        )
    heads = " | ".join(f"{name}: predicted, measured | error" for name in _MEASURES.values())
    return "\n".join(
        [
            f"| transport | net | workers | gradient, ms | push | pull | link | {heads} |",
            "|---" * (7 + 2 * len(_MEASURES)) + "|",
            *rows,
            "",
            f"{inside} of {len(rows)} within {WITHIN:.0%} in updates/s.",
        ]
    )


def plot_agreement(
    attempts: Mapping[str, tuple[Sequence[Point], Sequence[Point]]], to: Path
) -> None:
    """Plot measured over predicted, of each attempt."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for ax, measure in zip(axes, ("updates_per_s", "exchange_ms"), strict=True):
        ends: list[float] = []
        for name, (predicted, measured) in attempts.items():
            pairs = [values[measure] for _, values in compared(predicted, measured)]
            ax.scatter(*zip(*pairs, strict=True), s=18, label=name)
            ends += [value for pair in pairs for value in pair]
        line = [min(ends) / 1.5, max(ends) * 1.5]
        ax.plot(line, line, "k", lw=0.8)
        for factor in (1 - WITHIN, 1 + WITHIN):
            ax.plot(line, [end / factor for end in line], "k:", lw=0.8)
        ax.set(
            xscale="log", yscale="log", xlim=line, ylim=line,
            xlabel=f"predicted {_MEASURES[measure]}", ylabel="measured",
        )  # fmt: skip
        ax.legend()
    figure.savefig(to, dpi=110)
    plt.close(figure)


def plot_scaling(points: Sequence[Point], measure: str, label: str, to: Path) -> None:
    """Plot a measure over the number of workers: a panel for each network and kind of worker."""
    networks, kinds = _values(points, "gbit"), _values(points, "kind")
    figure, axes = plt.subplots(
        len(kinds), len(networks), figsize=(10, 7), layout="constrained", sharex=True,
        sharey=True, squeeze=False,
    )  # fmt: skip
    for row, kind in enumerate(kinds):
        for column, gbit in enumerate(networks):
            here = [p for p in points if (p["kind"], p["gbit"]) == (kind, gbit)]
            _curves(axes[row, column], here, measure)
            axes[row, column].set_title(f"{kind}, {gbit} Gb/s", fontsize=10)
            axes[-1, column].set_xlabel("workers")
        axes[row, 0].set_ylabel(label)
    axes[0, 0].legend(title="shards", fontsize=8)
    figure.savefig(to, dpi=110)
    plt.close(figure)


def _curves(ax: Axes, points: Sequence[Point], measure: str) -> None:
    for shards in _values(points, "shards"):
        line = [(p["workers"], p[measure]) for p in points if p["shards"] == shards]
        ax.plot(*zip(*sorted(line), strict=True), marker=".", label=str(shards))
    ax.set(xscale="log", yscale="symlog" if measure == "staleness" else "log")
    ax.grid(alpha=0.3)


def _values(points: Sequence[Point], name: str) -> list[Any]:
    return sorted({point[name] for point in points})
