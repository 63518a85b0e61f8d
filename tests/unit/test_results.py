"""How a run ends."""

import json

import numpy as np
import pytest

import caffe
from barista import results
from barista.play import Evaluation
from barista.run_folder import RunFolder
from tests import tiny

GAME = "tests.catch_env:Catch-v0"
STATUS = {"run": "r", "version": 1200, "steps": 5000, "episodes": 90, "return_mean": 0.5}
PLAYERS = results.Players(
    Evaluation((1.0, 1.0), (4, 4), complete=True), Evaluation((-1.0, 0.0), (4, 4), complete=True)
)


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run")


def test_the_evaluation_plays_the_weights_it_is_given(tmp_path):
    net_file, _ = tiny.write_model(tmp_path)
    weights = np.zeros_like(caffe.Net(net_file, caffe.TEST).param_arena)
    weights[-2] = 1.0  # the bias of "stay"
    players = results.evaluate(net_file, weights, GAME, episodes=50, seed=1, say=print)
    assert len(players.greedy.returns) == len(players.random.returns) == 50
    assert set(players.greedy.lengths) == {4}


def test_summary_and_curve_are_written(folder):
    folder.append({"round": 1, "steps": 10, "return_mean": 0.1, "loss": 0.2})
    results.conclude(folder, STATUS, title="Catch", players=PLAYERS, interrupted=False)
    summary = json.loads((folder.path / "summary.json").read_text())
    assert (summary["version"], summary["interrupted"]) == (1200, False)
    assert summary["greedy"]["returns"] == [1.0, 1.0]
    assert folder.curve.stat().st_size > 5000


def test_a_full_disk_is_a_warning(folder, monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_summary", full)
    results.conclude(folder, STATUS, title="Catch", players=None)
    assert "No space left" in capsys.readouterr().err


def test_the_lines_name_the_snapshot_that_there_is(folder, tmp_path):
    said = results.lines(folder, STATUS, players=PLAYERS, snapshot=tmp_path / "1200")
    assert said[0] == "Trained: 1,200 updates, 5,000 steps, 90 episodes."
    assert "standard errors apart" in said[3]
    assert said[-1].endswith("/1200")
    none = results.lines(folder, {}, players=None, snapshot=None)
    assert "none could be written" in none[-1]
    (folder.snapshots / "100").mkdir()
    older = results.lines(folder, {}, players=None, snapshot=None)
    assert "100: the last good one" in older[-1]
