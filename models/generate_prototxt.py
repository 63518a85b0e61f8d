"""Write a Q-network and its solvers as prototxt, for any game, number of actions or size.

    python models/generate_prototxt.py --game ALE/Breakout-v5 --output models/breakout
    python models/generate_prototxt.py --actions 4 --size 16x16 --stack 4 --arch snake
    python models/generate_prototxt.py --committed

The first writes a folder, the second prints the network, the third rewrites the files of this
folder.  The text itself is made by `barista.games.models`, where a run finds its default model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Run as a script, only models/ is on the path.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from barista.games import GameError, GameSpec, spec  # noqa: E402 - needs the path above
from barista.games.models import (  # noqa: E402 - needs the path above
    ARCHITECTURES,
    BATCH,
    SOLVERS,
    adam_solver,
    architecture_for,
    model_for,
    q_network,
    rmsprop_solver,
)

__all__ = [
    "COMMITTED",
    "adam_solver",
    "committed_files",
    "main",
    "model_for",
    "q_network",
    "rmsprop_solver",
]

# Folder of models/: architecture, game and the solvers that lie beside the network.
COMMITTED = {
    "deepq": ("nature", GameSpec("ALE/Pong-v5", 6, (84, 84), 4), tuple(SOLVERS)),
    "snake": ("snake", GameSpec("ddq/Snake-v0", 4, (16, 16), 2), ("solver.prototxt",)),
}


def committed_files() -> dict[str, str]:
    """Return the committed files' texts by their path under models/."""
    files = {}
    for folder, (arch, game, solvers) in COMMITTED.items():
        height, width = game.frame_shape
        files[f"{folder}/train_val.prototxt"] = q_network(
            arch, game.num_actions, game.stack, height, width
        )
        for solver in solvers:
            files[f"{folder}/{solver}"] = SOLVERS[solver](arch, None)
    return files


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, or 2 after one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        if options.committed:
            _write(ROOT / "models", committed_files())
        else:
            _generate(options)
    except (GameError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _generate(options: argparse.Namespace) -> None:
    """Print the network asked for, or write it with its solvers."""
    height, width = options.size
    game = GameSpec("the given size", options.actions or 0, (height, width), options.stack)
    if options.game:
        game = spec(options.game)
        height, width = game.frame_shape
    elif not options.actions:
        raise GameError("say --game ID, or --actions N with --size and --stack")
    arch = options.arch or architecture_for(height, width)
    net = q_network(arch, game.num_actions, game.stack, height, width, batch=options.batch)
    if options.output is None:
        sys.stdout.write(net)
        return
    path = (options.output / "train_val.prototxt").as_posix()
    files = {"train_val.prototxt": net}
    files |= {name: solver(arch, path) for name, solver in SOLVERS.items()}
    _write(options.output, files)


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path}\n")


def _size(text: str) -> tuple[int, int]:
    """Read HEIGHTxWIDTH."""
    height, width = text.lower().split("x")
    return int(height), int(width)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--game", help="a game's id: its actions, size and stack")
    parser.add_argument("--actions", type=int, help="number of actions, where no game is given")
    parser.add_argument("--size", type=_size, default=(84, 84), metavar="HxW", help="of a frame")
    parser.add_argument("--stack", type=int, default=4, help="frames in a state")
    parser.add_argument("--batch", type=int, default=BATCH, help="states in a batch")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), help="default: by the frame size")
    parser.add_argument("--output", type=Path, help="folder to write; without it, print the net")
    parser.add_argument(
        "--committed", action="store_true", help="rewrite models/deepq and models/snake"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
