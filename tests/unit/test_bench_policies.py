"""The benchmark of policies: what it collects, what it repeats, what it prints."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench():
    path = ROOT / "benchmarks/bench_policies.py"
    spec = importlib.util.spec_from_file_location("bench_policies", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_run(home, returns):
    """A run's folder as ddq.py leaves it, with two rounds of two workers."""
    run = home / "run"
    run.mkdir()
    summary = {
        "version": 80, "steps": 900, "greedy": {"returns": returns}, "random": {"returns": [-1.0]},
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    worker = {"applied": 10, "gathered": 30, "rejected": 8, "late": 2}
    row = {"workers": [worker, worker], "seconds": 20.0, "staleness_mean": 0.5}
    (run / "metrics.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    return run


def test_a_run_is_collected(bench, tmp_path):
    found = bench.runs.collect(write_run(tmp_path, [1.0, 2.0, 3.0]))
    assert (found["return"], found["return_se"]) == (2.0, pytest.approx(1 / 3**0.5))
    assert (found["gradients"], found["updates"], found["rejected"]) == (200, 80, 32)
    assert (found["staleness"], found["train_s"], found["random"]) == (0.5, 40.0, -1.0)


def test_what_is_known_is_not_run_again(bench, tmp_path, monkeypatch, capsys):
    asked = []

    def train(policy, seed, given, home):
        asked.append((policy, seed))
        return write_run(home, [float(seed), float(seed)])

    monkeypatch.setattr(bench, "train", train)
    output = tmp_path / "results" / "policies.json"
    options = ["--gradients", "400", "--output", str(output)]
    for policies, seeds in ((["scale"], ["1"]), (["scale", "sync"], ["1", "3"])):
        arguments = ["--policies", *policies, "--seeds", *seeds, *options]
        monkeypatch.setattr(sys, "argv", ["bench_policies", *arguments])
        assert bench.main() == 0
    assert asked == [("scale", 1), ("sync", 1), ("scale", 3), ("sync", 3)]
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert rows[-2] == "| `scale` | 2 | 2.00 ± 1.00 | 200 | 80 | 16.0% | 0.50 | 40 |"
    assert len(json.loads(output.read_text())["runs"]) == 4


def test_other_numbers_of_gradients_are_other_runs(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "train", lambda policy, seed, given, home: write_run(home, [1.0, 2]))
    output = tmp_path / "policies.json"
    for gradients in ("400", "800"):
        arguments = ["--policies", "dc", "--seeds", "1", "--gradients", gradients]
        monkeypatch.setattr(sys, "argv", ["bench", *arguments, "--output", str(output)])
        bench.main()
    assert [run["asked"] for run in json.loads(output.read_text())["runs"]] == [400, 800]


def test_a_run_that_fails_says_what_it_said(bench, tmp_path, monkeypatch):
    (tmp_path / "spark-submit").write_text("#!/bin/sh\necho no such option; exit 2\n")
    (tmp_path / "spark-submit").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", ["bench", "--output", str(tmp_path / "p.json")])
    with pytest.raises(RuntimeError, match=r"--staleness accept --seed 1 .*: exit code 2\nno such"):
        bench.main()
    assert not (tmp_path / "p.json").exists()
