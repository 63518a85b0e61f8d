"""How far bf16 gradients of a trained network are from float32's: bench_precision [SNAPSHOT].

The snapshot's network plays its game (ε-greedily) into a replay buffer; gradients of the same
minibatches, the worker's own (double Q-learning, Huber), are computed in both precisions.
Reported are medians over the minibatches: the cosine between the two and the norm of their
difference relative to float32's, of all parameters and layer by layer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  # after the path is set

import caffe  # noqa: E402
from barista import games  # noqa: E402
from barista.actor import Actor  # noqa: E402
from barista.config import AgentConfig  # noqa: E402
from barista.learner import Learner, load_nets  # noqa: E402
from barista.play import find_snapshot  # noqa: E402
from replay import ReplayBuffer  # noqa: E402

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from param_server.wire import Layout

    Float32 = NDArray[np.float32]


def gradients(
    snapshot: Path, game: str, *, batches: int, steps: int
) -> tuple[dict[str, list[Float32]], Layout]:
    """Return the gradient of every minibatch in every precision, and their layout."""
    config = replace(AgentConfig(), game=game)
    nets = load_nets(
        str(snapshot / "train_val.prototxt"),
        batch_size=config.batch_size,
        num_envs=config.num_envs,
    )
    nets.online.copy_from(str(snapshot / "model.caffemodel"))
    nets.target.copy_from(str(snapshot / "target.caffemodel"))
    vector = games.make(game, num_envs=config.num_envs, seed=0, threads=1)
    rng = np.random.default_rng(0)
    replay = ReplayBuffer(
        2 * steps,
        frame_shape=vector.spec.frame_shape,
        stack=vector.spec.stack,
        num_envs=config.num_envs,
        n_step=config.n_step,
        gamma=config.gamma,
        rng=rng,
    )
    actor = Actor(vector, nets.act, replay, config, rng)
    while actor.steps < steps:
        actor.act(0.05)
    actor.close()
    learner = Learner(nets, config, vector.spec.num_actions)
    found: dict[str, list[Float32]] = {"float32": [], "bf16": [], "bf16-all": []}
    for _ in range(batches):
        batch = replay.sample(config.batch_size)
        for precision, kept in found.items():
            caffe.set_precision(precision)
            learner.gradient(batch)
            kept.append(learner.flat_gradient.copy())
    caffe.set_precision("float32")
    return found, learner.layout


def compare(exact: list[Float32], half: list[Float32]) -> dict[str, float]:
    """Return the medians of cosine and relative error."""
    pairs = [(a.astype(float), b.astype(float)) for a, b in zip(exact, half, strict=True)]
    norm = np.linalg.norm
    return {
        "cosine": statistics.median(float(a @ b / (norm(a) * norm(b))) for a, b in pairs),
        "relative_error": statistics.median(float(norm(a - b) / norm(a)) for a, b in pairs),
        "worst_relative_error": max(float(norm(a - b) / norm(a)) for a, b in pairs),
    }


def main() -> None:
    """Measure, print the table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("snapshot", type=Path, nargs="?", help="by default of the newest run")
    parser.add_argument("--game")
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/precision.json")
    options = parser.parse_args()
    runs = sorted((ROOT / "logs").glob("*/snapshots"), key=lambda path: path.stat().st_mtime)
    if options.snapshot is None and not runs:
        print("no run in logs/: train first, or name a snapshot")
        return
    snapshot = find_snapshot(options.snapshot or runs[-1].parent)
    game = options.game or snapshot.game or "ALE/Pong-v5"
    found, layout = gradients(snapshot.folder, game, batches=options.batches, steps=options.steps)
    parts = {"all": slice(None), **dict(layout.slices())}
    results: dict[str, dict[str, dict[str, float]]] = {}
    for precision in ("bf16", "bf16-all"):
        print(f"{game}, version {snapshot.version}, {options.batches} minibatches: {precision}")
        results[precision] = {}
        for name, part in parts.items():
            row = compare(*([g[part] for g in found[key]] for key in ("float32", precision)))
            results[precision][name] = row
            print(
                f"  {name:12} cosine {row['cosine']:.5f}   "
                f"relative error {row['relative_error']:6.2%}, "
                f"at worst {row['worst_relative_error']:6.2%}"
            )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"game": game, "medians": results}, indent=1))


if __name__ == "__main__":
    main()
