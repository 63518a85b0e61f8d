"""What the user sees: the progress line, the curve, the summary."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from barista.playing.episodes import Evaluation


class Progress:
    """One tidy line on a terminal; a line a round where there is none.

    The bar's length is the run's limit: minutes, or rounds where no minutes are set.
    """

    def __init__(self, *, minutes: float | None, rounds: int | None) -> None:
        self._by_time = minutes is not None
        self._began = time.monotonic()
        self._total = 60 * minutes if minutes is not None else float(rounds or 1)
        terminal = find_terminal()
        if terminal is not None and not _width(terminal):
            terminal = None  # nothing can be drawn on it
        self._stream = terminal or sys.stderr
        self._bar = tqdm(
            total=self._total,
            file=self._stream,
            disable=terminal is None,
            leave=False,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}% {bar:10} {desc}",
        )

    def show(self, text: str, rounds_done: int) -> None:
        """Refresh the line."""
        at = time.monotonic() - self._began if self._by_time else rounds_done
        self._bar.n = min(at, self._total)
        self._bar.set_description_str(text)

    def end_of_round(self, text: str) -> None:
        """Write the round's line where there is no terminal to refresh."""
        if self._bar.disable:
            self.say(text)

    def say(self, line: str) -> None:
        """Write a line that stays."""
        tqdm.write(line, file=self._stream)

    def close(self) -> None:
        """Remove the line."""
        self._bar.close()


def _width(terminal: TextIO) -> int:
    """Return a terminal's number of columns, 0 where it has none."""
    try:
        return os.get_terminal_size(terminal.fileno()).columns
    except (OSError, ValueError):
        return 0


def find_terminal() -> TextIO | None:
    """Return the terminal that the user looks at, if there is one.

    spark-submit gives the driver's Python a pipe for stdout and stderr; whether a person reads the
    other end, spark-submit's own stdout tells.
    """
    if sys.stderr.isatty():
        return sys.stderr
    try:
        path = Path(f"/proc/{os.getppid()}/fd/1").readlink()
        if str(path).startswith(("/dev/pts/", "/dev/tty")):
            return path.open("w")
    except OSError:
        pass
    return None


def describe(status: dict[str, Any], *, epsilon: float, round_number: int) -> str:
    """Return a server's status as a line."""
    parts = [
        f"round {round_number}",
        f"{status.get('version', 0):,} updates",
        f"{status.get('steps', 0):,} steps",
        f"ε {epsilon:.2f}",
    ]
    if status.get("loss") is not None:
        parts.append(f"loss {status['loss']:.4f}")
    if status.get("return_mean") is not None:
        parts.append(f"return {status['return_mean']:.2f}")
    if status.get("updates_per_s"):
        parts.append(f"{status['updates_per_s']:.1f} updates/s")
    return " · ".join(parts)


def verdict(greedy: Evaluation, random: Evaluation) -> list[str]:
    """Return the evaluation beside the random player's, as lines."""

    def line(name: str, result: Evaluation) -> str:
        return (
            f"  {name:8s} {result.mean:8.2f} ± {result.standard_error:.2f}"
            f"  (mean ± standard error of {len(result.returns)} episodes; median {result.median:g})"
        )

    error = math.hypot(greedy.standard_error, random.standard_error)
    difference = greedy.mean - random.mean
    lines = [line("greedy", greedy), line("random", random)]
    if error > 0:
        lines.append(f"  {difference / error:+.1f} standard errors apart")
    return lines


def profile(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return where the workers' time went in these rounds, as a table: one line a stage."""
    stages = ("act", "sample", "compute", "exchange", "wait")
    workers = [worker for row in rows for worker in row.get("workers", ())]
    spent_s = {stage: sum(w.get(f"{stage}_s") or 0.0 for w in workers) for stage in stages}
    total_s = sum(spent_s.values())
    gradients = sum(w["applied"] + w["gathered"] + w["rejected"] for w in workers)
    if not total_s or not gradients:
        return []
    lines = [f"Where the workers' time went ({total_s:.0f} s, {gradients:,} gradients):"]
    for stage, seconds in spent_s.items():
        share = seconds / total_s
        each_ms = 1e3 * seconds / gradients
        lines.append(f"  {stage:9}{share:6.1%}{each_ms:9.2f} ms  {'█' * round(40 * share)}")
    return lines


def draw_curve(
    path: Path,
    rows: Sequence[dict[str, Any]],
    *,
    title: str,
    greedy: float | None = None,
    random: float | None = None,
) -> None:
    """Draw return and loss over agent steps to `path` (PNG).

    Args:
        path: The file to write.
        rows: Lines of metrics.jsonl, one a round, some with an evaluation.
        title: What was run.
        greedy: Mean return of the evaluation, for a horizontal line.
        random: Mean return of the random player, for another.
    """
    import matplotlib as mpl  # noqa: PLC0415 (half a second that only the end of a run needs)

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(8, 6), height_ratios=[2, 1])
    _plot(upper, rows, "return_mean", "C0", "training, mean of the last 100 episodes")
    _plot_evaluations(upper, rows)
    if random is not None:
        upper.axhline(random, color="0.6", linestyle=":", label=f"random player {random:.2f}")
    if greedy is not None:
        upper.axhline(greedy, color="C2", linestyle="--", label=f"greedy at the end {greedy:.2f}")
    upper.set_ylabel("episode return")
    upper.set_title(title)
    if upper.get_legend_handles_labels()[0]:
        upper.legend(loc="best", fontsize="small")
    _plot(lower, rows, "loss", "C1", None)
    lower.set_ylabel("Huber loss")
    lower.set_xlabel("agent steps")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot(
    axes: Any, rows: Sequence[dict[str, Any]], key: str, color: str, label: str | None
) -> None:
    points = [(row["steps"], row[key]) for row in rows if row.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=color, label=label, marker=".", markersize=3)


def _plot_evaluations(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Mark the scores of evaluations beside training, with their standard errors."""
    found = [
        (score.get("steps") or row["steps"], score["return_mean"], score["return_se"] or 0.0)
        for row in rows
        if (score := row.get("evaluation")) and score["return_mean"] is not None
    ]
    if found:
        steps, means, errors = zip(*found, strict=True)
        axes.errorbar(
            steps, means, yerr=errors, color="C2", fmt="o", markersize=4, label="greedy, evaluated"
        )


def quiet(action: Callable[[], object]) -> None:
    """Run `action`; what goes wrong with a picture is a warning, not the end of a run."""
    try:
        action()
    except (OSError, ValueError, RuntimeError) as error:
        tqdm.write(f"warning: {error}", file=sys.stderr)
