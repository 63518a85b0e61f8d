"""How good the weights are: play them, beside training and at the end, and tell the server.

An evaluation beside training runs in a process of its own, one at a time: no round waits for it,
and its score comes when it comes.  It plays a copy of the snapshot, made of links, for the server
removes old snapshots meanwhile.  The server keeps the snapshot with the best score beside its
newest ones; where it has removed that one before the score came, the copy becomes `best/<version>`
in the run's folder.  So a run that gets worse again still has it.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from param_server.errors import ParamServerError
from param_server.network import parameters_of

import caffe
from barista.playing.background import BackgroundPlay
from barista.playing.episodes import PlayError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from param_server.wire import Model

    from barista.playing.episodes import Evaluation, Players, Terms

    # Plays a prototxt's network with flat float32 weights, and a player who acts by chance.
    Hall = Callable[[Terms, str, NDArray[Any]], Players]

FINISH_S = 300.0  # how long the end of a run waits for an evaluation that is under way


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
    steps: int | None = None  # agent steps that had been taken when they were the newest

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
    """What an evaluation needs of the parameter server; see `barista.driver.server_link`."""

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


class _UnderWay(NamedTuple):
    """An evaluation beside training."""

    play: BackgroundPlay
    written: Written
    copy: Path
    steps: int | None


class Evaluator:
    """Plays the server's weights.  Not thread-safe.

    Args:
        server: has the weights.
        net: prototxt of the network.
        terms: of each evaluation: the same games.
        folder: of the run; copies of snapshots lie in `evaluating/` and `best/` there.
        say: takes a line for the user.
    """

    def __init__(
        self,
        server: Server,
        net: Path,
        terms: Terms,
        *,
        folder: Path,
        say: Callable[[str], object],
    ) -> None:
        self._server = server
        self._net_file = net
        self.terms = terms
        self._copies, self._best_folder = folder / "evaluating", folder / "best"
        self._say = say
        self._under_way: _UnderWay | None = None
        self.scores: list[Score] = []  # each better or worse; the oldest first

    @property
    def best(self) -> Score | None:
        """The best score so far, the newest of equal ones."""
        complete = [score for score in self.scores if score.evaluation.complete]
        return max(reversed(complete), key=lambda score: score.evaluation.mean, default=None)

    def begin(self, steps: int | None = None) -> None:
        """Begin to play the newest weights beside training, unless others still are played.

        What goes wrong costs this evaluation, and is said.

        Args:
            steps: agent steps that they were trained with.
        """
        if self._under_way is not None:
            version = self._under_way.written.version
            self._say(f"no new evaluation: version {version:,} is still played")
            return
        try:
            written = self._copy()
            copy = self._copies / str(written.version)
            play = BackgroundPlay(copy, self.terms, self._copies)
        except (ParamServerError, OSError) as error:
            self._say(f"warning: no evaluation: {error}")
            shutil.rmtree(self._copies, ignore_errors=True)
            return
        self._under_way = _UnderWay(play, written, copy, steps)

    def poll(self) -> Score | None:
        """Return the score of the evaluation beside training, once, when it has come."""
        if self._under_way is None:
            return None
        play, written, copy, steps = self._under_way
        try:
            evaluation = play.result()
        except PlayError as error:
            self._say(f"warning: no evaluation of version {written.version:,}: {error}")
            self.stop()
            return None
        if evaluation is None:
            return None
        score = Score(written.epoch, written.version, evaluation, written.path, steps)
        self.scores.append(score)
        is_best = self.best is score
        is_taken = self._report(score)
        if not is_taken or written.path == copy or not written.path.is_dir():
            score = score._replace(snapshot=self._keep(copy) if is_best else None)
            self.scores[-1] = score
        best = ", the best so far" if is_best and len(self.scores) > 1 else ""
        self._say(f"evaluated version {score.version:,}: greedy {score}{best}")
        self.stop()
        return score

    def final(self, hall: Hall) -> Players:
        """Play the newest weights, and by chance; report their score.

        An evaluation of an earlier version that is under way is waited for: it may be the best.

        Args:
            hall: where they are played.

        Raises:
            ParamServerError: If the server does not hand out the weights.
            barista.playing.episodes.PlayError: If the network does not fit the game.
        """
        try:
            written = self._server.snapshot()
            model = self._server.model()
            age = (model.epoch, model.version)
            if self._under_way is not None and self._under_way.written[1:] == age:
                self.stop()
            with self._server.kept_in_touch():
                players = hall(self.terms, self._net_file.read_text(), model.weights)
                is_kept = written is not None and (written.epoch, written.version) == age
                path = written.path if written is not None and is_kept else None
                score = Score(*age, players.greedy, path, model.counters.steps)
                self.scores.append(score)
                self._report(score)
                self._finish()
            return players
        finally:
            self.stop()

    def stop(self) -> None:
        """End an evaluation that is under way, and forget its copy."""
        if self._under_way is not None:
            self._under_way.play.stop()
            self._under_way = None
        shutil.rmtree(self._copies, ignore_errors=True)

    def _finish(self) -> None:
        if self._under_way is not None:
            self._say(f"waiting for the evaluation of version {self._under_way.written.version:,}")
            self._under_way.play.wait(FINISH_S)
            self.poll()

    def _copy(self) -> Written:
        """Have a snapshot written, and copy it; where it lies elsewhere, write the weights."""
        written = self._server.snapshot()
        shutil.rmtree(self._copies, ignore_errors=True)
        self._copies.mkdir(parents=True)
        if written is not None and written.path.is_dir():
            target = self._copies / str(written.version)
            shutil.copytree(written.path, target, copy_function=_link)
            return written
        model = self._server.model()
        target = self._copies / str(model.version)
        target.mkdir()
        net = caffe.Net(str(self._net_file), caffe.TEST)
        parameters_of(net).set_weights(model.weights)
        net.save(str(target / "model.caffemodel"))
        shutil.copyfile(self._net_file, target / "train_val.prototxt")
        manifest = {"game": self.terms.game, "epoch": model.epoch, "version": model.version}
        (target / "manifest.json").write_text(json.dumps(manifest) + "\n")
        return Written(target, model.epoch, model.version)

    def _keep(self, copy: Path) -> Path | None:
        """Make a copy the run's best; None where that cannot be."""
        target = self._best_folder / copy.name
        try:
            shutil.rmtree(self._best_folder, ignore_errors=True)
            self._best_folder.mkdir(parents=True)
            copy.rename(target)
        except OSError as error:
            self._say(f"warning: the best snapshot is not kept: {error}")
            return None
        return target

    def _report(self, score: Score) -> bool:
        """Tell the server; returns whether it has the snapshot and keeps it if it is the best."""
        if not score.evaluation.complete:
            return False
        try:
            self._server.report(score)
        except ParamServerError as error:
            self._say(f"warning: the server does not take the score: {error}")
            return False
        return True


def _link(source: str, target: str) -> str:
    """Copy a file that nobody changes: as a link, where the file system has them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target
