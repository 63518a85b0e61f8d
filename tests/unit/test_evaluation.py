"""Evaluations between rounds: what is played, what is reported, which is the best."""

import contextlib
import math

import numpy as np
import pytest
from param_server.errors import BadRequest, ServerUnreachable
from param_server.wire import Counters, Model

import caffe
from barista.evaluation import Evaluator, Score, Written
from barista.play import Evaluation
from tests import tiny

GAME = "tests.catch_env:Catch-v0"
STAY = -2  # the bias of that action


class Server:
    """Hands out weights as told; remembers what is asked of it."""

    def __init__(self, size, path):
        self.weights = np.zeros(size, np.float32)
        self.weights[STAY] = 1.0
        self.path, self.version = path, 100
        self.written_version = None  # of the snapshot, if it is another
        self.reported, self.touched = [], 0
        self.refuses = self.full = self.silent = False

    def snapshot(self):
        if self.full:
            return None
        version = self.written_version or self.version
        return Written(self.path / str(version), 1, version)

    def model(self):
        if self.silent:
            raise ServerUnreachable("127.0.0.1:1", "refused")
        return Model(1, self.version, 0, "layout", Counters(), self.weights)

    def report(self, score):
        if self.refuses:
            raise BadRequest("no snapshot of version 100")
        self.reported.append(score)

    @contextlib.contextmanager
    def kept_in_touch(self):
        self.touched += 1
        yield


@pytest.fixture
def make(tmp_path):
    net = tiny.write_model(tmp_path)[0]
    server = Server(caffe.Net(net, caffe.TEST).param_arena.size, tmp_path)
    said = []

    def make(episodes=20):
        evaluator = Evaluator(server, net, GAME, episodes=episodes, seed=1, say=said.append)
        return evaluator, server, said

    return make


def test_the_weights_of_the_server_are_played_and_reported(make, tmp_path):
    evaluator, server, said = make()
    score = evaluator.score()
    assert (score.epoch, score.version, score.snapshot) == (1, 100, tmp_path / "100")
    assert len(score.evaluation.returns) == 20
    assert set(score.evaluation.lengths) == {4}
    assert server.reported == [score]
    assert score.to_json()["return_mean"] == pytest.approx(np.mean(score.evaluation.returns))
    assert server.touched == 1
    assert said == []


def test_the_same_weights_are_played_once(make):
    evaluator, server, _ = make()
    assert evaluator.score() is evaluator.score()
    server.version = 200
    assert evaluator.score().version == 200
    assert [score.version for score in server.reported] == [100, 200]


def test_each_evaluation_plays_the_same_games(make):
    evaluator, server, _ = make()
    first = evaluator.score()
    server.version = 200
    assert evaluator.score().evaluation == first.evaluation


def test_the_best_is_the_highest_mean_and_the_newest_of_equals(make):
    evaluator, *_ = make()
    assert evaluator.best is None
    for version, value in ((1, 2.0), (2, 3.0), (3, 3.0), (4, 1.0)):
        result = Evaluation((value,), (4,), complete=True)
        evaluator.scores.append(Score(1, version, result, None))
    evaluator.scores.append(Score(1, 5, Evaluation((9.0,), (4,), complete=False), None))
    assert evaluator.best.version == 3


def test_a_snapshot_of_other_weights_is_not_taken_for_theirs(make):
    evaluator, server, _ = make()
    server.written_version = 99
    assert evaluator.score().snapshot is None


def test_a_full_disk_or_a_refusal_does_not_lose_the_score(make):
    evaluator, server, said = make()
    server.full = server.refuses = True
    score = evaluator.score()
    assert score.snapshot is None
    assert evaluator.best is score
    assert said == ["warning: the server does not take the score: no snapshot of version 100"]


def test_a_score_that_is_cut_short_is_not_reported(make, monkeypatch):
    monkeypatch.setattr("barista.evaluation.LIMIT_S", 0.0)
    evaluator, server, _ = make()
    score = evaluator.score()
    assert server.reported == []
    assert evaluator.best is None
    assert score.to_json() == {
        "version": 100, "return_mean": None, "return_se": None, "episodes": 0,
    }  # fmt: skip


def test_one_episode_has_no_standard_error(make):
    evaluator, *_ = make(episodes=1)
    document = evaluator.score().to_json()
    assert document["return_se"] is None
    assert math.isfinite(document["return_mean"])


def test_a_silent_server_is_said(make):
    evaluator, server, _ = make()
    server.silent = True
    with pytest.raises(ServerUnreachable):
        evaluator.score()


def test_a_long_evaluation_says_how_far_it_is(make, monkeypatch):
    monkeypatch.setattr("barista.evaluation._SAY_EVERY_S", -1.0)
    evaluator, _, said = make()
    evaluator.score()
    assert said[-1] == "  20 of 20 episodes"


def test_chance_plays_as_many(make):
    evaluator, server, _ = make()
    assert len(evaluator.by_chance().returns) == 20
    assert server.touched == 1
