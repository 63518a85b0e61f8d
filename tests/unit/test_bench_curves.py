"""The benchmark of curves: what it asks of ddq.py, what it repeats, what it draws and prints."""

import json
import sys

import pytest

from benchmarks import bench_curves as bench
from benchmarks.training import runs


def write_run(home, seed):
    """A run's folder as ddq.py leaves it: two rounds of two workers, whose return goes up."""
    run = home / "run"
    run.mkdir()
    summary = {
        "version": 80, "steps": 900,
        "greedy": {"returns": [seed, seed + 1.0]}, "random": {"returns": [-1.0]},
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    worker = {"applied": 20, "gathered": 0, "rejected": 0, "late": 0}
    rows = [
        {
            "workers": [worker, worker], "seconds": 20.0, "staleness_mean": 0.5,
            "version": version, "steps": 10 * version, "return_mean": returned,
        }
        for version, returned in ((40, None), (60, 1.0), (80, 2.0))
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return run


@pytest.fixture
def asked(monkeypatch):
    asked = []

    def train(begin, options, home, **_):
        asked.append((begin, options))
        return write_run(home, options["--seed"])

    monkeypatch.setattr(runs, "train", train)
    return asked


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench_curves", *arguments])
    return bench.main()


def test_what_is_missing_is_run_and_all_is_drawn(asked, tmp_path, monkeypatch, capsys):
    output = tmp_path / "results" / "snake.json"
    names = ["2 workers, on Spark", "4 asynchronous, simulated"]
    for seeds in (["1"], ["1", "3"]):
        options = ["--seeds", *seeds, "--contenders", *names, "--output", str(output)]
        assert call(monkeypatch, "snake", *options, "--gamma", "0.9") == 0
    assert len(asked) == 4
    spark = [(begin, options) for begin, options in asked if begin[0] == "spark-submit"]
    serial = [(begin, options) for begin, options in asked if "--serial" in begin]
    assert len(spark) == len(serial) == 2
    assert all(begin[-2:] == ["--gamma", "0.9"] for begin, _ in asked)
    assert spark[0][1]["--updates-per-round"] == 500
    assert serial[0][1]["--updates-per-round"] == 250
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in reversed(lines) if line.startswith("| 2 workers, on Spark "))
    assert row == "| 2 workers, on Spark | 2 | 2.50 ± 1.00 (1.50, 3.50) | 120 | 80 | 0.50 | 1.0 |"
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    curve = json.loads(output.read_text())["runs"][0]["curve"]
    assert curve == [[60, 600, 1.0], [80, 800, 2.0]]


def test_no_run_begins_after_the_time_is_up(asked, tmp_path, monkeypatch):
    assert call(monkeypatch, "pong", "--minutes", "0", "--output", str(tmp_path / "p.json")) == 0
    assert asked == []


def test_an_unknown_contender_is_one_line(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "pong", "--contenders", "nobody")
    assert "'nobody' is none of 1 worker" in capsys.readouterr().err
