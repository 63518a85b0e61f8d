"""How good the weights are: play them, between rounds and at the end, and tell the server.

The server keeps the snapshot with the best score beside its newest ones, so that a run that gets
worse again still has it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from param_server.errors import ParamServerError
from param_server.network import parameters_of

import caffe
from barista import play

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from param_server.wire import Model

    from barista.play import Evaluation

LIMIT_S = 900.0  # of each player
_SAY_EVERY_S = 10.0


class Written(NamedTuple):
    """A snapshot on disk."""

    path: Path
    epoch: int
    version: int


class Score(NamedTuple):
    """What one version of the weights has reached."""

    epoch: int
    version: int
    evaluation: Evaluation
    snapshot: Path | None  # of just these weights

    def to_json(self) -> dict[str, Any]:
        """Return the score without the single episodes; what is not a number is null."""
        result = self.evaluation
        return {
            "version": self.version,
            "return_mean": result.mean if result.returns else None,
            "return_se": result.standard_error if len(result.returns) > 1 else None,
            "episodes": len(result.returns),
        }

    def __str__(self) -> str:
        result = self.evaluation
        return (
            f"{result.mean:.2f} ± {result.standard_error:.2f} "
            f"(mean ± standard error of {len(result.returns)} episodes)"
        )


class Server(Protocol):
    """What an evaluation needs of the parameter server; see `barista.server_link`."""

    def snapshot(self) -> Written | None:
        """Have a snapshot written now; None if none can be written."""

    def model(self) -> Model:
        """Return the newest weights."""

    def report(self, score: Score) -> None:
        """Tell the server how good a version is.

        Raises:
            ParamServerError: If it does not take the score.
        """

    def kept_in_touch(self) -> AbstractContextManager[None]:
        """Stay in touch with the server inside the block."""


class Evaluator:
    """Plays the server's weights in this process.

    Args:
        server: has the weights.
        net: prototxt of the network.
        game: a Gymnasium id.
        episodes: how many count; at least 1.
        seed: of the games: each evaluation plays the same ones.
        say: takes a line for the user.
    """

    def __init__(
        self,
        server: Server,
        net: Path,
        game: str,
        *,
        episodes: int,
        seed: int,
        say: Callable[[str], object],
    ) -> None:
        self._server = server
        self._net_file = net
        self._game = game
        self.episodes = episodes
        self._seed = seed
        self._say = say
        self._net: caffe.Net | None = None
        self.scores: list[Score] = []  # each better or worse; the oldest first

    @property
    def best(self) -> Score | None:
        """The best score so far, the newest of equal ones."""
        complete = [score for score in self.scores if score.evaluation.complete]
        return max(reversed(complete), key=lambda score: score.evaluation.mean, default=None)

    def score(self) -> Score:
        """Play the newest weights, unless they were played last, and report their score.

        Raises:
            ParamServerError: If the server does not hand out the weights.
            barista.play.PlayError: If the network does not fit the game.
        """
        written = self._server.snapshot()
        model = self._server.model()
        age = (model.epoch, model.version)
        if self.scores and (self.scores[-1].epoch, self.scores[-1].version) == age:
            return self.scores[-1]
        if self._net is None:
            self._net = caffe.Net(str(self._net_file), caffe.TEST)
        parameters_of(self._net).set_weights(model.weights)
        with self._server.kept_in_touch():
            evaluation = play.evaluate(self._net, self._game, self.episodes, **self._limits())
        is_kept = written is not None and (written.epoch, written.version) == age
        score = Score(*age, evaluation, written.path if written and is_kept else None)
        self.scores.append(score)
        if evaluation.complete:
            self._report(score)
        return score

    def by_chance(self) -> Evaluation:
        """Play as many episodes by chance."""
        with self._server.kept_in_touch():
            return play.random_player(self._game, self.episodes, **self._limits())

    def _report(self, score: Score) -> None:
        try:
            self._server.report(score)
        except ParamServerError as error:
            self._say(f"warning: the server does not take the score: {error}")

    def _limits(self) -> dict[str, Any]:
        last = [time.monotonic()]

        def progress(finished: int, wanted: int) -> None:
            if time.monotonic() - last[0] > _SAY_EVERY_S:
                last[0] = time.monotonic()
                self._say(f"  {finished} of {wanted} episodes")

        return {"seed": self._seed, "deadline_s": LIMIT_S, "progress": progress}
