"""The worker's benchmark runs: ours and its parts start, take turns, are counted and end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--quick", "--seconds", "0.6", "--capacity", "600", "--warmup", "120"]


def command(tmp_path, *options):
    """The command line of a small run."""
    scratch, output = tmp_path / "scratch", tmp_path / "worker.json"
    scratch.mkdir(exist_ok=True)
    bench = [sys.executable, str(ROOT / "benchmarks/bench_worker.py"), *SMALL, *options]
    return [*bench, "--scratch", str(scratch), "--output", str(output)]


def run(tmp_path, *names):
    """Run the benchmark on some contenders; return what it wrote and printed."""
    done = subprocess.run(
        command(tmp_path, "--only", *names),
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "scratch").iterdir())  # nothing is left
    return json.loads((tmp_path / "worker.json").read_text()), done.stdout


PARTS, OURS = "parts, plain, float32", "ours, plain, float32, 1 core"


@pytest.mark.timeout(180)
def test_each_part_is_done_alone(tmp_path, no_stray_processes):
    found, printed = run(tmp_path, PARTS)
    (window,) = found["windows"][PARTS]
    assert set(window["parts"]) == {"env", "act", "sample", "compute", "exchange"}
    assert all(part["times"] and part["wall_s"] > 0 for part in window["parts"].values())
    assert "Parts of a cycle" in printed


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ours_takes_turns_with_its_parts(tmp_path, no_stray_processes):
    found, printed = run(tmp_path, OURS, PARTS)
    (window,) = found["windows"][OURS]
    assert window["steps"] >= 4 * (window["gradients"] - 2) > 0
    assert window["wall_s"] >= 0.6
    assert window["cpu_s"] > 0
    assert len(found["targets"]) == 2  # the cycle's, by either clock
    assert "Where workers say" in printed


def test_an_interrupt_leaves_nothing(tmp_path, no_stray_processes):
    bench_command = command(tmp_path, "--only", "2 workers, default, bf16", "--seconds", "60")
    with subprocess.Popen(
        bench_command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as bench:
        deadline = time.monotonic() + 60
        while len(psutil.Process(bench.pid).children(recursive=True)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = psutil.Process(bench.pid).children(recursive=True)
        os.kill(bench.pid, signal.SIGINT)
        _, stderr = bench.communicate(timeout=60)
    assert bench.returncode == 130, stderr
    assert stderr == b"interrupted\n"
    assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    assert not list((tmp_path / "scratch").iterdir())
