"""How a run ends: summary, curve, the lines on the console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from barista.driver.report import draw_curve, quiet, verdict
from barista.driver.run_folder import bring
from barista.games import human

if TYPE_CHECKING:
    from pathlib import Path

    from barista.driver.run_folder import RunFolder
    from barista.playing.episodes import Players
    from barista.playing.evaluation import Evaluator, Score


def better_one(evaluator: Evaluator | None, folder: RunFolder, final: Path | None) -> Score | None:
    """Return the best score, if its snapshot is there and is another than the final one."""
    best = evaluator.best if evaluator else None
    if best is None or best.snapshot is None:
        return None
    path = bring(best.snapshot, folder.snapshots)
    last = final or folder.newest_snapshot()
    is_other = path.is_dir() and (last is None or path.name != last.name)
    return best._replace(snapshot=path) if is_other else None


def conclude(
    folder: RunFolder,
    status: dict[str, Any],
    *,
    title: str,
    game: str,
    players: Players | None,
    evaluator: Evaluator | None = None,
    best: Score | None = None,
    **more: Any,
) -> None:
    """Write summary.json and curve.png; what cannot be written is a warning.

    Args:
        folder: of the run.
        status: the server's last.
        title: of the picture.
        game: its id.
        players: the evaluation at the end, if there was one.
        evaluator: has the scores of all evaluations.
        best: an earlier version that was better, if there is one.
        more: further entries of the summary.
    """
    summary = {
        **more,
        **{key: status.get(key) for key in ("run", "version", "steps", "episodes", "return_mean")},
        "greedy": players.greedy.to_json() if players else None,
        "random": players.random.to_json() if players else None,
        "human_normalised": players
        and human.normalised(game, players.greedy.mean, players.random.mean),
        "evaluations": [
            {**score.to_json(), "steps": score.steps}
            for score in (evaluator.scores if evaluator else ())
        ],
        "best": {**best.to_json(), "snapshot": str(best.snapshot)} if best else None,
    }
    quiet(lambda: folder.write_summary(summary))
    rows = folder.metrics()
    if rows:
        means = {k: v.mean for k, v in players._asdict().items()} if players else {}
        quiet(lambda: draw_curve(folder.curve, rows, title=title, **means))


def lines(
    folder: RunFolder,
    status: dict[str, Any],
    *,
    game: str,
    players: Players | None,
    snapshot: Path | None,
    best: Score | None = None,
) -> list[str]:
    """Return what the console says in the end."""
    counts = ", ".join(
        f"{status.get(key, 0):,} {word}"
        for key, word in (("version", "updates"), ("steps", "steps"), ("episodes", "episodes"))
    )
    said = [f"Trained: {counts}."]
    if players is not None:
        said += verdict(players.greedy, players.random)
        relative = human.describe(game, players.greedy.mean, players.random.mean)
        said += [f"  {relative}"] if relative else []
    older = folder.newest_snapshot()
    if snapshot is not None:
        said.append(f"  snapshot {snapshot}")
    elif older is not None:
        said.append(f"  snapshot {older}: the last good one, the final one could not be written")
    else:
        said.append("  snapshot none could be written; see logs/param-server.log")
    if best is not None:
        said.append(f"  best     {best.snapshot}: greedy {best}")
    if folder.curve.exists():
        said.append(f"  curve    {folder.curve}")
    return said
