"""Every variant of the agent learns a small game in serial mode, and chance does not.

The whole system but Spark and the network: options, model, games, replay, learner, store, solver,
snapshots, evaluation.
"""

import hashlib
import json
import os

import pytest
import torch

import caffe
import ddq
from tests import tiny

GAME = "tests.catch_env:Catch-v0"
QUICK = {
    "--batch-size": 32,
    "--gamma": 0.9,
    "--replay-capacity": 2000,
    "--warmup": 300,
    "--epsilon-steps": 1500,
    "--target-period": 30,
    "--rounds": 1,
    "--seed": 1,
}
UPDATES = 1000
COUNTS = ("applied", "gathered", "rejected")
LEARNED = 0.75  # of 1; a random player gets about -0.6
ONE_STEP = ["--agent", "dqn"]
VARIANTS = {
    "dqn": ONE_STEP,
    "double": [*ONE_STEP, "--double"],
    "n-step": [*ONE_STEP, "--n-step", "3"],
    "dueling": [*ONE_STEP, "--dueling"],
    "prioritised": [*ONE_STEP, "--prioritised"],
    "ladder": [*ONE_STEP, "--epsilon-ladder"],
    "quantiles": [*ONE_STEP, "--quantiles", "11"],
    "squared": [*ONE_STEP, "--loss", "squared"],
    "rescaled": [*ONE_STEP, "--value-rescaling", "--no-reward-clip"],
    "compressed": [*ONE_STEP, "--compress-replay"],
    "ddq": [],
    "rainbow": ["--agent", "rainbow", "--quantiles", "11"],
    "apex": ["--agent", "apex"],
    "two workers": ["--workers", "2", "--updates-per-round", str(UPDATES // 2)],
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DDQ_ROOT", str(tmp_path))
    monkeypatch.setattr(ddq.Interrupts, "install", lambda _: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield tmp_path
    caffe.set_num_threads(len(os.sched_getaffinity(0)))


def train(run, *options, evaluate=100):
    """Train serially; return what the run's summary says."""
    solver = run.parent / "solver.prototxt"
    solver.write_text(tiny.SOLVER.format(net="none: ddq.py names it"))
    sizes = [str(part) for pair in QUICK.items() for part in pair]
    known = ["--serial", "--game", GAME, *sizes, "--updates-per-round", str(UPDATES)]
    more = ["--solver", str(solver), "--evaluate", str(evaluate), "--run-dir", str(run)]
    assert ddq.main([*known, *more, *options]) == 0
    return json.loads((run / "summary.json").read_text())


def score(player):
    return sum(player["returns"]) / len(player["returns"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_learns(home, variant, capsys):
    summary = train(home / "run", *VARIANTS[variant])
    assert summary["version"] == UPDATES
    assert score(summary["random"]) < 0
    assert score(summary["greedy"]) > LEARNED
    assert "this process" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_learns_on_a_gpu(home):
    summary = train(home / "run", "--device", "cuda")
    assert score(summary["greedy"]) > LEARNED


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_one_line(home, capsys):
    arguments = ["--serial", "--game", GAME, "--device", "cuda", "--run-dir", str(home / "run")]
    assert ddq.main(arguments) == 2
    assert "ddq.py: --device cuda: " in capsys.readouterr().err
    assert not (home / "run").exists()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_is_a_function_of_its_seed(home, workers):
    digests = {}
    for name, seed in (("first", "5"), ("again", "5"), ("other", "6")):
        options = ["--workers", str(workers), "--updates-per-round", "60", "--seed", seed]
        summary = train(home / name, *options, evaluate=0)
        weights = (home / name / "snapshots" / str(summary["version"])) / "model.caffemodel"
        digests[name] = hashlib.sha256(weights.read_bytes()).hexdigest()
        (row,) = map(json.loads, (home / name / "metrics.jsonl").read_text().splitlines())
        # Since a worker pulled, each of the others has pushed once.
        stale = [each["staleness_mean"] for each in row["workers"]]
        assert stale == pytest.approx([workers - 1] * workers, abs=0.1)
    assert digests["first"] == digests["again"] != digests["other"]


def test_synchronous_updates_hold_a_push_of_each_worker(home):
    options = ["--workers", "2", "--staleness", "sync", "--updates-per-round", "60"]
    summary = train(home / "run", *options, evaluate=0)
    (row,) = map(json.loads, (home / "run" / "metrics.jsonl").read_text().splitlines())
    counts = [[each[name] for name in COUNTS] for each in row["workers"]]
    # Who comes first is alone for one update, and the other's first is too late for it.
    assert [sum(count) for count in zip(*counts, strict=True)] == [60, 59, 1], counts
    assert summary["version"] == 60


def test_a_run_goes_on_where_it_ended(home):
    train(home / "first", "--updates-per-round", "60", evaluate=0)
    resumed = ["--resume", str(home / "first"), "--updates-per-round", "40"]
    assert train(home / "second", *resumed, evaluate=0)["version"] == 100
    rows = (home / "second" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["version"] for row in rows] == [60, 100]
