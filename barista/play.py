"""`python -m barista.play SNAPSHOT`: evaluate a network after training, and record an episode.

What it plays is a snapshot's folder, or a run's newest; how an evaluation counts lies in
`episodes.py`.  A random player is measured beside it, by the same rules.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from barista import games
from barista.config import CHOICES
from barista.driver.run_folder import RunFolder
from barista.games import human
from barista.games.protocol import named
from barista.playing import recording
from barista.playing.episodes import Evaluation, PlayError, Terms, play
from barista.playing.players import load_net, moves_of, network_player, random_player

if TYPE_CHECKING:
    import caffe


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's folder, as far as play needs it."""

    folder: Path
    game: str | None
    version: int | None
    agent: dict[str, Any] = field(default_factory=dict)  # of the run that it is from, if known


def find_snapshot(path: Path) -> Snapshot:
    """Return the snapshot that a folder is, or a run's newest.

    Raises:
        PlayError: If it is neither.
    """
    folder = path.resolve()
    numbered = [each for each in (folder / "snapshots").glob("*") if each.name.isdecimal()]
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
    agent = RunFolder(folder.parents[1]).config().get("agent", {})
    return Snapshot(folder, manifest.get("game"), manifest.get("version"), agent)


def table(rows: dict[str, Evaluation]) -> str:
    """Return players and what they reached as lines of text."""
    lines = [
        f"{'':10}{'mean':>10}{'± error':>10}{'median':>10}{'worst':>10}{'best':>10}{'steps':>10}"
    ]
    for name, result in rows.items():
        lines.append(
            f"{name:10}{result.mean:10.2f}{result.standard_error:10.2f}{result.median:10.1f}"
            f"{result.worst:10.1f}{result.best:10.1f}{sum(result.lengths):10d}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 after one line on stderr, or 130."""
    options = _parser().parse_args(arguments)
    if options.embedded:
        _leave_with_stdin()
    try:
        sys.stdout.write("\n".join(_evaluate(options)) + "\n")
    except (PlayError, recording.RecordingError, games.GameError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _evaluate(options: argparse.Namespace) -> list[str]:
    """Play, record and report; return what is to be said."""
    if options.record is not None:
        recording.check(options.record)
    snapshot = find_snapshot(options.snapshot)
    terms = _terms(options, snapshot)
    if options.record is not None:
        recording.check_screen(terms)
    net = load_net(snapshot.folder)
    player, actions = network_player(net, terms), list[int]()
    limits: dict[str, Any] = {
        "threads": options.threads,
        "progress": _progress_line if sys.stderr.isatty() else None,
    }
    rows = {"network": play(player, terms, **limits, actions=actions)}
    if options.random:
        rows["random"] = play(random_player(terms), terms, **limits)
    version = "" if snapshot.version is None else f", version {snapshot.version}"
    said = [
        f"{terms.game}{version}: {terms.episodes} episodes each, raw scores, protocol "
        f"{terms.protocol}, epsilon {terms.exploration:g}, seed {terms.seed}",
        table(rows),
        *_remarks(net, terms, rows),
    ]
    if options.record is not None:
        pictures = recording.record(options.record, terms, actions)
        score = rows["network"].returns[0]
        said.append(f"{options.record}: the first episode, score {score:g}, {pictures:,} pictures")
    if options.json is not None:
        _write_json(options.json, _document(snapshot, terms, rows))
    return said


def _terms(options: argparse.Namespace, snapshot: Snapshot) -> Terms:
    """Return the terms that were asked for, or the snapshot's and its protocol's own."""
    game = options.game or snapshot.game
    if not game:
        raise PlayError("say --game ID: the snapshot does not name its game")
    name = options.protocol or snapshot.agent.get("protocol", "ddq")
    episodes = options.episodes
    if episodes is None:
        episodes = named(name).evaluation_episodes
    num_actions = None
    if snapshot.agent.get("game") == game:
        trained = snapshot.agent.get("protocol", "ddq")
        num_actions = games.spec(game, trained).num_actions
    terms = Terms(game, episodes, options.seed, name, options.epsilon, num_actions)
    terms.check()
    return terms


def _remarks(net: caffe.Net, terms: Terms, rows: dict[str, Evaluation]) -> list[str]:
    """Return what else must be known to read the numbers."""
    said = []
    chance = rows.get("random")
    line = human.describe(terms.game, rows["network"].mean, chance.mean) if chance else None
    if line is not None:
        said.append(line)
    own, all_actions = len(moves_of(net, terms)), games.spec(terms.game, terms.protocol).num_actions
    if own < all_actions:
        said.append(
            f"the network keeps to the {own} actions of the game's minimal set, chance plays all "
            f"{all_actions} of protocol {terms.protocol}"
        )
    return said


def _document(snapshot: Snapshot, terms: Terms, rows: dict[str, Evaluation]) -> dict[str, Any]:
    """Return everything as a JSON object."""
    network, chance = rows["network"], rows.get("random")
    share = human.normalised(terms.game, network.mean, chance.mean) if chance else None
    return {
        "version": snapshot.version,
        **terms._asdict(),
        "epsilon": terms.exploration,
        "network": network.to_json(),
        "random": chance.to_json() if chance else None,
        "human": human.human_score(terms.game),
        "human_normalised": share,
    }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a file that is either whole or not there."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(json.dumps(document, indent=1) + "\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _leave_with_stdin() -> None:
    """End this process when stdin ends: whoever holds its other side is gone."""

    def watch() -> None:
        # Not through sys.stdin, whose lock would be missed when this process ends by itself.
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def _progress_line(finished: int, episodes: int) -> None:
    sys.stderr.write(
        f"\r{finished} of {episodes} episodes" + ("\r\x1b[K" if finished == episodes else "")
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m barista.play", description="Play with a snapshot's network."
    )
    parser.add_argument("snapshot", type=Path, help="a snapshot's folder, or a run's")
    parser.add_argument("--game", help="a Gymnasium id (default: the game it was trained on)")
    parser.add_argument("--episodes", type=int, help="how many count (default: the protocol's, 30)")
    parser.add_argument(
        "--protocol", choices=CHOICES["protocol"], help="(default: the one it was trained under)"
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        help="share of random actions; even 0.01 keeps a greedy player out of endless loops "
        "(default: the protocol's)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of games and exploration (default: 0)")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="the first episode as a video: .mp4 or .gif"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="all of it, each episode too")
    parser.add_argument(
        "--random",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure a random player too (default: yes)",
    )
    parser.add_argument("--threads", type=int, default=1, help="of the emulator (default: 1)")
    parser.add_argument(
        "--embedded", action="store_true", help="a driver's child: leave when stdin ends"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
