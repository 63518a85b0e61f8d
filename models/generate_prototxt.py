"""Write a Q-network and its solvers as prototxt, for any game, number of actions or size.

    python models/generate_prototxt.py --game ALE/Breakout-v5 --output models/breakout
    python models/generate_prototxt.py --actions 4 --size 16x16 --stack 4 --arch snake
    python models/generate_prototxt.py --actions 2 --size 4 --dueling --quantiles 51
    python models/generate_prototxt.py --game ddq/Snake-v0 --form one-net
    python models/generate_prototxt.py --committed

The first writes a folder, with a picture of the network; the next three print a network; the last
rewrites the files of this folder.  The text itself is made by `barista.games.models`, where a run
finds its default model, the pictures by `models/draw.py`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# Run as a script, only models/ is on the path.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from barista.games import GameError, GameSpec, spec  # noqa: E402 - needs the path above
from barista.games.architectures import ARCHITECTURES  # noqa: E402 - needs the path above
from barista.games.models import (  # noqa: E402 - needs the path above
    BATCH,
    architecture_of,
    network,
    one_net,
)
from barista.games.solvers import adam_solver, solvers_for  # noqa: E402 - needs the path above
from models.draw import svg_of_text  # noqa: E402 - needs the path above

FORMS = ("q-network", "one-net")


class Model(NamedTuple):
    """A network for a game, by default the plain Q-network."""

    game: GameSpec
    arch: str
    form: str = FORMS[0]
    dueling: bool = False
    quantiles: int = 1
    batch: int = BATCH
    gamma: float = 0.99  # of the form one-net

    @property
    def text(self) -> str:
        """The prototxt.

        Raises:
            GameError: If there is no such network.
        """
        actions, shape = self.game.num_actions, (self.game.stack, *self.game.frame_shape)
        if self.form == "one-net":
            if self.dueling or self.quantiles > 1:
                raise GameError("the form one-net has neither --dueling nor --quantiles: drop them")
            return one_net(self.arch, actions, shape, batch=self.batch, gamma=self.gamma)
        return network(
            self.arch,
            actions,
            shape,
            batch=self.batch,
            dueling=self.dueling,
            quantiles=self.quantiles,
        )

    def files(self, folder: str) -> dict[str, str]:
        """Return the texts of network, picture and solvers by their names in a folder.

        Args:
            folder: its path, as the solvers see it.

        Raises:
            GameError: If there is no such network.
        """
        name, picture = "train_val.prototxt", "net.svg"
        solvers = solvers_for(self.arch, dueling=self.dueling, quantiles=self.quantiles)
        if self.form == "one-net":
            name, picture = "one_net.prototxt", "one_net.svg"
            solvers = {"solver_one_net.prototxt": adam_solver}
        files = {name: self.text, picture: svg_of_text(self.text)}
        return files | {
            solver: write(self.arch, f"{folder}/{name}") for solver, write in solvers.items()
        }


PONG = GameSpec("ALE/Pong-v5", 6, (84, 84), 4)
SNAKE = GameSpec("ddq/Snake-v0", 4, (16, 16), 2)
CART_POLE = GameSpec("CartPole-v1", 2, (4,), 1, "float32")

# By the folders of models/.
COMMITTED = {
    "deepq": (Model(PONG, "nature"), Model(PONG, "nature", form="one-net")),
    "snake": (Model(SNAKE, "snake"),),
    "mlp": (Model(CART_POLE, "mlp"),),
    "dueling": (Model(PONG, "nature", dueling=True),),
    "quantile": (Model(PONG, "nature", quantiles=200),),  # as many as Dabney et al., 2018
    "rainbow": (Model(PONG, "nature", dueling=True, quantiles=51),),  # as --agent rainbow
}


def committed_files() -> dict[str, str]:
    """Return the committed files' texts by their path under models/."""
    return {
        f"{folder}/{name}": text
        for folder, models in COMMITTED.items()
        for model in models
        for name, text in model.files(f"models/{folder}").items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, or 2 after one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        if options.committed:
            _write(ROOT / "models", committed_files())
        elif options.output is None:
            sys.stdout.write(_asked_for(options).text)
        else:
            _write(options.output, _asked_for(options).files(options.output.as_posix()))
    except (GameError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _asked_for(options: argparse.Namespace) -> Model:
    """Return the model that the options describe.

    Raises:
        GameError: If they describe none.
    """
    if options.game:
        game = spec(options.game, options.protocol)
    elif options.actions:
        # A vector is no film: what moves is in its values.
        stack = options.stack if len(options.size) == 2 else 1
        game = GameSpec("the given size", options.actions, options.size, stack)
    else:
        raise GameError("say --game ID, or --actions N with --size and --stack")
    return Model(
        game,
        options.arch or architecture_of(game),
        options.form,
        options.dueling,
        options.quantiles,
        options.batch,
        options.gamma,
    )


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path}\n")


def _size(text: str) -> tuple[int, ...]:
    """Read HEIGHTxWIDTH, or the size of a vector."""
    sizes = tuple(int(size) for size in text.lower().split("x"))
    if len(sizes) > 2:
        raise ValueError(text)
    return sizes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--game", help="a game's id: its actions, size and stack")
    parser.add_argument(
        "--protocol",
        default="ddq",
        help="rules of an Atari game; by those of ale it has 18 actions",
    )
    parser.add_argument("--actions", type=int, help="number of actions, where no game is given")
    parser.add_argument(
        "--size",
        type=_size,
        default=(84, 84),
        metavar="HxW",
        help="of a frame; one number: values of a vector",
    )
    parser.add_argument("--stack", type=int, default=4, help="frames in a state")
    parser.add_argument("--batch", type=int, default=BATCH, help="states in a batch")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), help="default: by the frame size")
    parser.add_argument("--dueling", action="store_true", help="value and advantages apart")
    parser.add_argument(
        "--quantiles", type=int, default=1, help="of the return for each action; 1: its mean"
    )
    parser.add_argument(
        "--form",
        choices=FORMS,
        default=FORMS[0],
        help="one-net: both networks and the loss in one net, as in 2015",
    )
    parser.add_argument(
        "--gamma", type=float, default=0.99, help="discount inside the form one-net"
    )
    parser.add_argument("--output", type=Path, help="folder to write; without it, print the net")
    parser.add_argument(
        "--committed", action="store_true", help=f"rewrite {', '.join(COMMITTED)} in models/"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
