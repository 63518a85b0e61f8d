"""Play games with a Q-network: evaluation, and `python -m barista.play SNAPSHOT`.

This file decides how an evaluation counts.  N copies play in parallel, and each has a quota of
episodes fixed beforehand; what it plays beyond that is not counted.  Taking simply the first
episodes to finish would favour short ones: in most games, those that went badly.

Play is ε-greedy with ε = 0.01 by default.  A purely greedy policy in a deterministic game can
repeat the same few states until the episode is cut off; Mnih et al., 2015, used 0.05, which costs
points in games where one slip is fatal.  Returns are raw game scores, episodes are full games.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from param_server.rehearsal import rehearse

import caffe
from barista import dqn, games
from barista.learner import q_values
from barista.model import INPUT, OUTPUT

if TYPE_CHECKING:
    from barista.games.vector import Int64, UInt8

MAX_ENVS = 16  # copies in parallel: a larger batch costs little less per state
EPSILON = 0.01

Policy = Callable[["UInt8"], "Int64"]  # states [N, C, H, W] to actions [N]
Progress = Callable[[int, int], None]  # episodes finished, episodes wanted


class PlayError(ValueError):
    """Something asked for cannot be played; the message is one line for the user."""


@dataclass(frozen=True)
class Evaluation:
    """What a player reached, over the episodes that count."""

    returns: tuple[float, ...]  # raw scores
    lengths: tuple[int, ...]  # in steps
    complete: bool  # False: a limit came first; then short episodes are over-represented

    @property
    def mean(self) -> float:
        """The mean return; NaN without episodes."""
        return float(np.mean(self.returns)) if self.returns else math.nan

    @property
    def median(self) -> float:
        """The median return; NaN without episodes."""
        return float(np.median(self.returns)) if self.returns else math.nan

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; NaN with fewer than two episodes."""
        if len(self.returns) < 2:
            return math.nan
        return float(np.std(self.returns, ddof=1) / math.sqrt(len(self.returns)))


def check_fit(net: caffe.Net, game: games.GameSpec) -> None:
    """Compare a network's input and output with what a game needs.

    Raises:
        PlayError: If they differ; says both.
    """
    for blob in (INPUT, OUTPUT):
        if blob not in net.blobs:
            raise PlayError(f"the network has no blob {blob}, so it is no Q-network")
    wanted = (game.stack, *game.frame_shape)
    taken = tuple(net.blobs[INPUT].shape)[1:]
    if taken != wanted:
        raise PlayError(f"the network takes states of {taken}, but {game.game} shows {wanted}")
    actions = tuple(net.blobs[OUTPUT].shape)[1]
    if actions != game.num_actions:
        raise PlayError(
            f"the network has {actions} actions, but {game.game} has {game.num_actions}"
        )


def evaluate(
    net: caffe.Net,
    game: str,
    episodes: int,
    epsilon: float = EPSILON,
    seed: int = 0,
    *,
    deadline_s: float | None = None,
    max_steps: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Evaluation:
    """Return what a Q-network reaches, ε-greedy, with its weights as they are.

    Args:
        net: input `state`, output `Q_out`; used alone meanwhile, and left with another batch size.
        game: a Gymnasium id.
        episodes: how many count, at least 1.
        epsilon: exploration rate, in [0, 1].
        seed: of the games and of the exploration.
        deadline_s: give up after so many seconds and return what is finished.
        max_steps: give up after so many steps of all copies together.
        threads: of the emulator.
        progress: called with the episodes finished so far whenever there are more.

    Raises:
        PlayError: If the network does not fit the game, or a number is out of range.
        barista.games.GameError: If the game cannot be played.
    """
    if not 0 <= epsilon <= 1:
        raise PlayError(f"epsilon must lie between 0 and 1, got {epsilon}")
    _check(episodes, seed)
    check_fit(net, games.spec(game))
    rng = np.random.default_rng((seed, 1))
    return play(
        lambda states: dqn.epsilon_greedy(q_values(net, states), epsilon, rng),
        game,
        episodes,
        seed,
        deadline_s=deadline_s,
        max_steps=max_steps,
        threads=threads,
        progress=progress,
    )


def random_player(
    game: str,
    episodes: int,
    seed: int = 0,
    *,
    deadline_s: float | None = None,
    max_steps: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Evaluation:
    """Return what uniformly random actions reach.  Takes and raises what `evaluate` does."""
    _check(episodes, seed)
    num_actions = games.spec(game).num_actions
    rng = np.random.default_rng((seed, 2))
    return play(
        lambda states: rng.integers(num_actions, size=len(states)),
        game,
        episodes,
        seed,
        deadline_s=deadline_s,
        max_steps=max_steps,
        threads=threads,
        progress=progress,
    )


def play(
    policy: Policy,
    game: str,
    episodes: int,
    seed: int,
    *,
    deadline_s: float | None = None,
    max_steps: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Evaluation:
    """Return what a policy reaches, each of up to 16 copies playing its share of the episodes.

    Takes and raises what `evaluate` does.
    """
    _check(episodes, seed)
    num_envs = min(episodes, MAX_ENVS)
    # The quota of episodes that each copy still has to play.
    quota = [(episodes + num_envs - 1 - env) // num_envs for env in range(num_envs)]
    stop_at = math.inf if deadline_s is None else time.monotonic() + deadline_s
    steps = 0
    returns: list[float] = []
    lengths: list[int] = []
    vector = games.make(game, num_envs=num_envs, seed=seed, threads=threads, evaluation=True)
    try:
        vector.reset()
        while len(returns) < episodes:
            if time.monotonic() >= stop_at or (max_steps is not None and steps >= max_steps):
                break
            step = vector.step(policy(vector.states()))
            steps += num_envs
            finished = len(returns)
            ended = np.flatnonzero(step.terminated | step.truncated).tolist()
            for env, value, length in zip(
                ended, step.episode_returns, step.episode_lengths, strict=True
            ):
                if quota[env] > 0:
                    quota[env] -= 1
                    returns.append(value)
                    lengths.append(length)
            if progress is not None and len(returns) > finished:
                progress(len(returns), episodes)
    finally:
        vector.close()
    return Evaluation(tuple(returns), tuple(lengths), complete=len(returns) == episodes)


def _check(episodes: int, seed: int) -> None:
    if episodes < 1:
        raise PlayError(f"episodes must be at least 1, got {episodes}")
    if seed < 0:
        raise PlayError(f"seed must not be negative, got {seed}")


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's folder, as far as play needs it."""

    folder: Path
    game: str | None
    version: int | None


def find_snapshot(path: Path) -> Snapshot:
    """Return the snapshot that a folder is, or a run's newest.

    Raises:
        PlayError: If it is neither.
    """
    folder = path
    numbered = [each for each in (path / "snapshots").glob("*") if each.name.isdecimal()]
    if numbered:
        folder = max(numbered, key=lambda each: int(each.name))
    for name in ("manifest.json", "train_val.prototxt", "model.caffemodel"):
        if not (folder / name).is_file():
            raise PlayError(f"{path} is no snapshot: {folder / name} is missing")
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise PlayError(f"{folder / 'manifest.json'} is not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise PlayError(f"{folder / 'manifest.json'} holds no JSON object")
    return Snapshot(folder, manifest.get("game"), manifest.get("version"))


def table(rows: dict[str, Evaluation]) -> str:
    """Return players and what they reached as lines of text."""
    lines = [
        f"{'':10}{'mean':>10}{'± error':>10}{'median':>10}{'worst':>10}{'best':>10}{'steps':>10}"
    ]
    for name, result in rows.items():
        best, worst = max(result.returns, default=math.nan), min(result.returns, default=math.nan)
        lines.append(
            f"{name:10}{result.mean:10.2f}{result.standard_error:10.2f}{result.median:10.1f}"
            f"{worst:10.1f}{best:10.1f}{sum(result.lengths):10d}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 after one line on stderr, or 130."""
    options = _parser().parse_args(arguments)
    try:
        snapshot = find_snapshot(options.snapshot)
        game = options.game or snapshot.game
        if not game:
            raise PlayError("say --game ID: the snapshot does not name its game")  # noqa: TRY301
        games.spec(game)
        net = _load(snapshot.folder)
        show = _progress_line if sys.stderr.isatty() else None
        limits: dict[str, Any] = {"threads": options.threads, "progress": show}
        rows = {
            "network": evaluate(
                net, game, options.episodes, options.epsilon, options.seed, **limits
            ),
            "random": random_player(game, options.episodes, options.seed, **limits),
        }
    except (PlayError, games.GameError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    version = "" if snapshot.version is None else f", version {snapshot.version}"
    sys.stdout.write(
        f"{game}{version}: {options.episodes} episodes each, raw scores, "
        f"epsilon {options.epsilon:g}, seed {options.seed}\n{table(rows)}\n"
    )
    return 0


def _load(folder: Path) -> caffe.Net:
    """Return the net of a snapshot with its weights."""
    net, weights = str(folder / "train_val.prototxt"), str(folder / "model.caffemodel")
    try:
        rehearse(net=net, weights=weights)
        return caffe.Net(net, caffe.TEST, weights=weights)
    except (ValueError, RuntimeError) as error:  # what our engine raises, and a plain pycaffe
        raise PlayError(str(error)) from error


def _progress_line(finished: int, episodes: int) -> None:
    sys.stderr.write(
        f"\r{finished} of {episodes} episodes" + ("\r\x1b[K" if finished == episodes else "")
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m barista.play", description="Play with a snapshot's network."
    )
    parser.add_argument("snapshot", type=Path, help="a snapshot's folder, or a run's")
    parser.add_argument("--game", help="a Gymnasium id; default: the game it was trained on")
    parser.add_argument("--episodes", type=int, default=30, help="how many count")
    parser.add_argument(
        "--epsilon",
        type=float,
        default=EPSILON,
        help="share of random actions: 0.01 keeps a greedy player out of endless loops",
    )
    parser.add_argument("--seed", type=int, default=0, help="of games and exploration")
    parser.add_argument("--threads", type=int, default=1, help="of the emulator")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
