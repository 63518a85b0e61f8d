"""How a run ends."""

import json
from types import SimpleNamespace

import pytest

from barista.driver import results
from barista.driver.run_folder import RunFolder
from barista.playing.episodes import Evaluation, Players
from barista.playing.evaluation import Score

STATUS = {"run": "r", "version": 1200, "steps": 5000, "episodes": 90, "return_mean": 0.5}
PLAYERS = Players(
    Evaluation((1.0, 1.0), (4, 4), complete=True), Evaluation((-1.0, 0.0), (4, 4), complete=True)
)


def reached(*returns):
    return Evaluation(returns, (4,) * len(returns), complete=True)


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run")


def test_summary_and_curve_are_written(folder):
    folder.append({"round": 1, "steps": 10, "return_mean": 0.1, "loss": 0.2})
    results.conclude(
        folder, STATUS, title="Catch", game="catch", players=PLAYERS, interrupted=False
    )
    summary = json.loads((folder.path / "summary.json").read_text())
    assert (summary["version"], summary["interrupted"]) == (1200, False)
    assert summary["greedy"]["returns"] == [1.0, 1.0]
    assert folder.curve.stat().st_size > 5000


def test_a_full_disk_is_a_warning(folder, monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_summary", full)
    results.conclude(folder, STATUS, title="Catch", game="catch", players=None)
    assert "No space left" in capsys.readouterr().err


def test_the_lines_name_the_snapshot_that_there_is(folder, tmp_path):
    said = results.lines(folder, STATUS, game="catch", players=PLAYERS, snapshot=tmp_path / "1200")
    assert said[0] == "Trained: 1,200 updates, 5,000 steps, 90 episodes."
    assert "standard errors apart" in said[3]
    assert said[-1].endswith("/1200")
    none = results.lines(folder, {}, game="catch", players=None, snapshot=None)
    assert "none could be written" in none[-1]
    (folder.snapshots / "100").mkdir()
    older = results.lines(folder, {}, game="catch", players=None, snapshot=None)
    assert "100: the last good one" in older[-1]


@pytest.fixture
def best(folder):
    """The best score of a run, of version 600, with its snapshot."""
    (folder.snapshots / "600").mkdir()
    return Score(1, 600, PLAYERS.greedy, folder.snapshots / "600")


def test_a_better_one_than_the_final_snapshot_is_named(folder, best):
    evaluator = SimpleNamespace(best=best)
    assert results.better_one(evaluator, folder, folder.snapshots / "1200") == best
    said = results.lines(folder, STATUS, game="catch", players=PLAYERS, snapshot=None, best=best)
    assert any(line.startswith(f"  best     {best.snapshot}: greedy 1.00 ± 0.00") for line in said)
    results.conclude(folder, STATUS, title="Catch", game="catch", players=PLAYERS, best=best)
    told = json.loads((folder.path / "summary.json").read_text())["best"]
    assert (told["version"], told["return_mean"]) == (600, 1.0)
    assert told["snapshot"] == str(best.snapshot)


def test_the_final_snapshot_is_not_named_twice_nor_one_that_is_gone(folder, best):
    evaluator = SimpleNamespace(best=best)
    assert results.better_one(evaluator, folder, folder.snapshots / "600") is None
    assert results.better_one(evaluator, folder, None) is None  # the last good one
    assert results.better_one(None, folder, None) is None
    best.snapshot.rmdir()
    assert results.better_one(evaluator, folder, folder.snapshots / "1200") is None
    unsaved = SimpleNamespace(best=best._replace(snapshot=None))
    assert results.better_one(unsaved, folder, None) is None


def test_a_game_of_ales_is_told_beside_people(folder):
    players = Players(reached(14.6, 14.6), reached(-20.0, -21.4))
    said = results.lines(folder, STATUS, game="ALE/Pong-v5", players=players, snapshot=None)
    assert any(line.startswith("  human-normalised 100.0 %") for line in said)
    results.conclude(folder, STATUS, title="Pong", game="ALE/Pong-v5", players=players)
    summary = json.loads((folder.path / "summary.json").read_text())
    assert summary["human_normalised"] == pytest.approx(100)
    assert summary["random"]["mean"] == pytest.approx(-20.7)


def test_all_evaluations_are_in_the_summary(folder):
    scores = [Score(1, version, reached(1.0, 2.0), None, 7) for version in (100, 200)]
    evaluator = SimpleNamespace(scores=scores)
    results.conclude(folder, STATUS, title="Catch", game="catch", players=None, evaluator=evaluator)
    told = json.loads((folder.path / "summary.json").read_text())["evaluations"]
    assert [(each["version"], each["return_mean"], each["steps"]) for each in told] == [
        (100, 1.5, 7), (200, 1.5, 7),
    ]  # fmt: skip
