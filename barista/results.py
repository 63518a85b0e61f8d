"""How a run ends: evaluation beside a random player, summary, curve, the lines on the console."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.network import parameters_of

import caffe
from barista import play
from barista.report import draw_curve, quiet, verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from barista.play import Evaluation
    from barista.run_folder import RunFolder

EVALUATION_LIMIT_S = 900.0  # of each player


class Players(NamedTuple):
    """What the trained player reached, and one that plays by chance."""

    greedy: Evaluation
    random: Evaluation


def evaluate(
    net_file: Path,
    weights: NDArray[np.float32],
    game: str,
    *,
    episodes: int,
    seed: int,
    say: Callable[[str], object],
) -> Players:
    """Play `episodes` with the weights, flat float32 [P], and as many by chance.

    Raises:
        barista.play.PlayError: If the network does not fit the game.
    """
    net = caffe.Net(str(net_file), caffe.TEST)
    parameters_of(net).set_weights(weights)
    last = [time.monotonic()]

    def progress(finished: int, wanted: int) -> None:
        if time.monotonic() - last[0] > 10:
            last[0] = time.monotonic()
            say(f"  {finished} of {wanted} episodes")

    limits: dict[str, Any] = {"deadline_s": EVALUATION_LIMIT_S, "progress": progress}
    greedy = play.evaluate(net, game, episodes, seed=seed, **limits)
    return Players(greedy, play.random_player(game, episodes, seed=seed, **limits))


def conclude(
    folder: RunFolder, status: dict[str, Any], *, title: str, players: Players | None, **more: Any
) -> None:
    """Write summary.json and curve.png; what cannot be written is a warning.

    Args:
        folder: of the run.
        status: the server's last.
        title: of the picture.
        players: the evaluation, if there was one.
        more: further entries of the summary.
    """
    summary = {
        **more,
        **{key: status.get(key) for key in ("run", "version", "steps", "episodes", "return_mean")},
        "greedy": asdict(players.greedy) if players else None,
        "random": asdict(players.random) if players else None,
    }
    quiet(lambda: folder.write_summary(summary))
    rows = folder.metrics()
    if rows:
        means = {k: v.mean for k, v in players._asdict().items()} if players else {}
        quiet(lambda: draw_curve(folder.curve, rows, title=title, **means))


def lines(
    folder: RunFolder, status: dict[str, Any], *, players: Players | None, snapshot: Path | None
) -> list[str]:
    """Return what the console says in the end."""
    counts = ", ".join(
        f"{status.get(key, 0):,} {word}"
        for key, word in (("version", "updates"), ("steps", "steps"), ("episodes", "episodes"))
    )
    said = [f"Trained: {counts}."]
    if players is not None:
        said += verdict(players.greedy, players.random)
    older = folder.newest_snapshot()
    if snapshot is not None:
        said.append(f"  snapshot {snapshot}")
    elif older is not None:
        said.append(f"  snapshot {older}: the last good one, the final one could not be written")
    else:
        said.append("  snapshot none could be written; see logs/param-server.log")
    if folder.curve.exists():
        said.append(f"  curve    {folder.curve}")
    return said
