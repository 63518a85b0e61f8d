"""Evaluations beside training and at the end: what is played, reported, kept, which is the best."""

import contextlib
import json
import math
import shutil
from typing import ClassVar

import numpy as np
import pytest
from param_server.errors import BadRequest, ServerUnreachable
from param_server.wire import Counters, Model

import caffe
from barista.playing import evaluation
from barista.playing.episodes import Evaluation, PlayError, Players, Terms
from barista.playing.evaluation import Evaluator, Score, Written
from barista.playing.players import play_here
from tests import tiny
from tests.server_rig import until
from tests.snapshots import ECHO, write_snapshot


class Server:
    """Hands out weights as told, and snapshots of them; remembers what is asked of it."""

    def __init__(self, size, path):
        self.weights = np.zeros(size, np.float32)
        self.weights[-2] = 1.0
        self.path, self.version = path, 100
        self.written_version = None  # of the snapshot, if it is another
        self.reported, self.touched = [], 0
        self.refuses = self.full = self.silent = self.is_elsewhere = False

    def snapshot(self):
        if self.full:
            return None
        version = self.written_version or self.version
        folder = self.path / "snapshots" / str(version)
        if not self.is_elsewhere:
            write_snapshot(folder, prefers=int(self.weights[-3:].argmax()), version=version)
        return Written(folder, 1, version)

    def model(self):
        if self.silent:
            raise ServerUnreachable("127.0.0.1:1", "refused")
        return Model(1, self.version, 0, "layout", Counters(700), self.weights)

    def report(self, score):
        if self.refuses:
            raise BadRequest("no snapshot of version 100")
        self.reported.append(score)

    @contextlib.contextmanager
    def kept_in_touch(self):
        self.touched += 1
        yield


class Play:
    """In place of a process: its results are handed to it; `None` while it plays."""

    begun: ClassVar = []

    def __init__(self, snapshot, terms, files):
        net = caffe.Net(
            str(snapshot / "train_val.prototxt"),
            caffe.TEST,
            weights=str(snapshot / "model.caffemodel"),
        )
        assert files.is_dir()
        self.biases = net.params["Q_out"][1].data.tolist()
        self.outcome, self.stopped = None, False
        Play.begun.append(self)

    def result(self):
        if isinstance(self.outcome, PlayError):
            raise self.outcome
        return self.outcome

    def wait(self, timeout_s):
        """Nothing happens meanwhile."""

    def stop(self):
        self.stopped = True


def reached(*returns, complete=True):
    return Evaluation(returns, (4,) * len(returns), complete=complete)


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setattr(Play, "begun", [])
    monkeypatch.setattr(evaluation, "BackgroundPlay", Play)
    net = tiny.write_model(tmp_path)[0]
    server = Server(caffe.Net(net, caffe.TEST).param_arena.size, tmp_path)
    said = []
    terms = Terms(ECHO, 4, seed=1, epsilon=0.0)
    evaluator = Evaluator(
        server, tmp_path / "train_val.prototxt", terms, folder=tmp_path, say=said.append
    )
    return evaluator, server, said


def turn(evaluator, server, version, outcome):
    """Evaluate a version beside training; return what came of it."""
    server.version = version
    evaluator.begin(steps=10 * version)
    Play.begun[-1].outcome = outcome
    return evaluator.poll()


def test_a_copy_of_the_newest_snapshot_is_played_beside_training(make, tmp_path):
    evaluator, server, said = make
    evaluator.begin(steps=700)
    assert evaluator.poll() is None
    shutil.rmtree(tmp_path / "snapshots/100")  # the copy is what is played
    (play,) = Play.begun
    assert play.biases == [0, 1, 0]
    assert (tmp_path / "evaluating/100/model.caffemodel").exists()
    server.snapshot()
    play.outcome = reached(1.0, 2.0)
    score = evaluator.poll()
    assert (score.epoch, score.version, score.steps) == (1, 100, 700)
    assert score.snapshot == tmp_path / "snapshots/100"
    assert server.reported == [score]
    assert said == [
        "evaluated version 100: greedy 1.50 ± 0.50 (mean ± standard error of 2 episodes)"
    ]
    assert evaluator.poll() is None
    assert not (tmp_path / "evaluating").exists()
    assert not (tmp_path / "best").exists()


def test_one_is_played_at_a_time(make):
    evaluator, server, said = make
    evaluator.begin()
    server.version = 200
    evaluator.begin()
    assert len(Play.begun) == 1
    assert said == ["no new evaluation: version 100 is still played"]
    evaluator.stop()
    assert Play.begun[0].stopped
    evaluator.begin()
    assert len(Play.begun) == 2


def test_the_best_is_the_highest_mean_and_the_newest_of_equals(make):
    evaluator, server, said = make
    assert evaluator.best is None
    for version, mean in ((1, 2.0), (2, 3.0), (3, 3.0), (4, 1.0)):
        turn(evaluator, server, version, reached(mean))
    assert evaluator.best.version == 3
    turn(evaluator, server, 5, reached(9.0, complete=False))
    assert evaluator.best.version == 3
    assert [score.version for score in server.reported] == [1, 2, 3, 4]
    assert [line.endswith(", the best so far") for line in said] == [
        False,
        True,
        True,
        False,
        False,
    ]


def test_the_best_is_kept_where_the_server_has_removed_it_meanwhile(make, tmp_path):
    evaluator, server, said = make
    server.refuses = True
    for version, mean in ((1, 2.0), (2, 1.0), (3, 4.0)):
        turn(evaluator, server, version, reached(mean))
    assert [score.snapshot for score in evaluator.scores][1:] == [None, tmp_path / "best/3"]
    kept = tmp_path / "best/3"
    assert list((tmp_path / "best").iterdir()) == [kept]
    assert json.loads((kept / "manifest.json").read_text())["version"] == 3
    assert "the server does not take the score: no snapshot" in said[0]


def test_a_server_elsewhere_has_its_weights_played_and_the_best_kept_here(make, tmp_path):
    evaluator, server, _ = make
    server.is_elsewhere = True
    score = turn(evaluator, server, 100, reached(1.0))
    assert Play.begun[0].biases == [0, 1, 0]
    assert server.reported == [score._replace(snapshot=tmp_path / "evaluating/100")]
    assert score.snapshot == tmp_path / "best/100"
    assert (score.snapshot / "train_val.prototxt").read_text() == tiny.MODEL


def test_what_goes_wrong_costs_one_evaluation_and_is_said(make, tmp_path):
    evaluator, server, said = make
    assert turn(evaluator, server, 100, PlayError("no memory")) is None
    server.full = server.silent = True
    evaluator.begin()
    server.full = server.silent = False
    (tmp_path / "evaluating").write_text("in the way")
    evaluator.begin()
    assert said[0] == "warning: no evaluation of version 100: no memory"
    assert "refused" in said[1]
    assert said[2].startswith("warning: no evaluation: ")
    assert len(Play.begun) == 1
    (tmp_path / "evaluating").unlink()
    assert turn(evaluator, server, 200, reached(1.0)).version == 200


def test_the_final_evaluation_plays_the_newest_weights_and_chance(make, tmp_path):
    evaluator, server, said = make
    players = evaluator.final(play_here)
    assert players.greedy.returns == (10.0,) * 4
    assert 0 < players.random.mean < 10
    (score,) = server.reported
    assert (score.version, score.snapshot, score.steps) == (100, tmp_path / "snapshots/100", 700)
    assert evaluator.best is score
    assert server.touched == 1
    assert said == []


def hall(*means):
    """A place where everybody reaches these."""
    return lambda *_: Players(reached(*means), reached(0.0))


def test_an_earlier_version_under_way_is_waited_for_at_the_end(make, monkeypatch):
    evaluator, server, said = make
    evaluator.begin()
    server.version = 200
    monkeypatch.setattr(Play, "wait", lambda play, _: setattr(play, "outcome", reached(5.0)))
    evaluator.final(hall(3.0))
    assert [score.version for score in evaluator.scores] == [200, 100]
    assert evaluator.best.version == 100
    assert said[0] == "waiting for the evaluation of version 100"


def test_the_final_version_is_not_played_twice(make):
    evaluator, *_ = make
    evaluator.begin()
    evaluator.final(hall(3.0))
    assert Play.begun[0].stopped
    assert [score.version for score in evaluator.scores] == [100]


def test_the_end_waits_for_so_long_only(make, monkeypatch):
    monkeypatch.setattr(evaluation, "FINISH_S", 0.0)
    evaluator, server, _ = make
    evaluator.begin()
    server.version = 200
    evaluator.final(hall(3.0))
    assert Play.begun[0].stopped


def test_an_interrupt_at_the_end_ends_what_is_under_way(make, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    evaluator, server, _ = make
    evaluator.begin()
    server.version = 200
    with pytest.raises(KeyboardInterrupt):
        evaluator.final(interrupt)
    assert Play.begun[0].stopped
    assert not (tmp_path / "evaluating").exists()


def test_a_snapshot_of_other_weights_is_not_taken_for_theirs(make):
    evaluator, server, _ = make
    server.written_version = 99
    evaluator.final(hall(1.0))
    assert evaluator.scores[0].snapshot is None


def test_a_full_disk_or_a_refusal_does_not_lose_the_final_score(make):
    evaluator, server, said = make
    server.full = server.refuses = True
    assert evaluator.final(hall(1.0)).greedy.mean == 1.0
    assert evaluator.best.snapshot is None
    assert said == ["warning: the server does not take the score: no snapshot of version 100"]


def test_a_silent_server_is_said_at_the_end(make):
    evaluator, server, _ = make
    server.silent = True
    with pytest.raises(ServerUnreachable):
        evaluator.final(hall(1.0))


def test_a_score_in_json_has_no_nan():
    assert Score(1, 2, reached(complete=False), None).to_json() == {
        "version": 2, "return_mean": None, "return_se": None, "episodes": 0,
    }  # fmt: skip
    document = Score(1, 2, reached(3.0), None).to_json()
    assert document["return_se"] is None
    assert math.isfinite(document["return_mean"])


@pytest.mark.usefixtures("no_stray_processes")
def test_a_real_process_plays_what_the_final_evaluation_does(make, monkeypatch):
    monkeypatch.undo()
    evaluator, _, said = make
    evaluator.begin()
    score = until(evaluator.poll, timeout_s=60)
    assert score.evaluation == evaluator.final(play_here).greedy
    assert "greedy 10.00" in said[0]
