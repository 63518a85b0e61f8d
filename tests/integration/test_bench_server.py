"""The server's benchmark runs: every variant starts, exchanges, is measured and ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.server import report
from benchmarks.server.measuring import ratio, summary
from benchmarks.server.peer import ONE

ROOT = Path(__file__).resolve().parents[2]
BENCH = str(ROOT / "benchmarks/bench_server.py")
SMALL = ["--quick", "--sizes", "0.91 MB", "--rounds", "1", "--workers", "1", "2"]


def run(tmp_path, *options, timeout_s=180):
    """Run the benchmark on the smallest net; return what it printed and wrote."""
    output = tmp_path / "server.json"
    command = [sys.executable, BENCH, *SMALL, "--output", str(output), "--scratch", str(tmp_path)]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["server.json"]  # nothing is left
    return done.stdout, json.loads(output.read_text())


def test_figures_are_medians_and_ratios_those_of_medians():
    rounds = [[4.0, 1.0], [3.0, 2.0, 10.0]]
    assert summary(rounds) == {"median": 3, "quarter": 2, "three_quarters": 4, "count": 5}
    assert summary([[7.0]]) == {"median": 7, "quarter": 7, "three_quarters": 7, "count": 1}
    found = ratio([[4.0], [6.0], [9.0]], [[2.0], [2.0], [3.0]])
    assert found == {"median": 3, "quarter": 2.5, "three_quarters": 3, "count": 3}


@pytest.mark.parametrize(("ours", "is_met"), [(3.2, True), (3.3, False)])
def test_a_target_is_a_ratio_with_a_limit(ours, is_met):
    latency = {"HTTP": {ONE: [[ours]]}, "floor, TCP": {ONE: [[2.0]]}}
    (target,) = report.targets(latency, {})
    assert target["limit"] == 1.6
    assert target["met"] is is_met


@pytest.mark.timeout(200)
def test_ours_and_its_floor_are_measured(tmp_path, no_stray_processes):
    printed, found = run(tmp_path, "--variants", "HTTP", "floor, TCP")
    latency = found["latency_ms"]["0.91 MB"]
    assert set(latency) == {"HTTP", "floor, TCP"}
    for ways in latency.values():
        assert set(ways) == {"pull", "push", "push, then pull", "push that pulls"}
        for figure in ways.values():
            assert figure["count"] >= 3
            assert 0 < figure["quarter"] <= figure["median"] <= figure["three_quarters"]
    for by_workers in found["throughput"].values():
        assert set(by_workers) == {"1", "2"}
        assert by_workers["1"]["updates_per_s"]["median"] > 0
        assert by_workers["1"]["worker_cpu_ms"]["median"] > 0
    assert {"processor", "cores", "python", "packages"} <= set(found["machine"])
    assert any("floor, TCP: push that pulls" in each["below"] for each in found["targets"])
    assert "floor, TCP" in printed
    assert "Targets at 0.91 MB" in printed


@pytest.mark.slow
@pytest.mark.timeout(320)
def test_every_variant_runs(tmp_path, no_stray_processes):
    _, found = run(tmp_path, "--sections", "latency", "throughput", "durability", timeout_s=300)
    assert set(found["left_out"]) <= {"same host", "torch rpc"}
    assert len(found["latency_ms"]["0.91 MB"]) + len(found["left_out"]) == 8
    assert len(found["durability"]) >= 2


def test_an_interrupt_leaves_nothing(tmp_path, no_stray_processes):
    command = [sys.executable, BENCH, *SMALL, "--scratch", str(tmp_path)]
    command += ["--variants", "floor, Unix socket", "elephas", "--rounds", "100"]  # a minute's work
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as bench:
        deadline = time.monotonic() + 60
        while len(psutil.Process(bench.pid).children(recursive=True)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = psutil.Process(bench.pid).children(recursive=True)
        os.kill(bench.pid, signal.SIGINT)
        _, stderr = bench.communicate(timeout=60)
    assert bench.returncode == 130
    assert stderr == b"interrupted\n"
    assert not [child for child in children if child.is_running()]
    assert not list(tmp_path.iterdir())
