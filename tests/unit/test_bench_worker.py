"""The worker's benchmark: what it counts, how it reckons, and that it goes on where it stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import peers
from benchmarks.worker import accounting, contenders, figures, record, report

ROOT = Path(__file__).resolve().parents[2]
BUSY = "import time\nuntil = time.process_time() + {}\nwhile time.process_time() < until: pass\n"


def window(steps, *, wall_s=10.0, cpu_s=10.0, **more):
    """What a worker does that takes a gradient every 4 steps."""
    return {"steps": steps, "gradients": steps // 4, "wall_s": wall_s, "cpu_s": cpu_s, **more}


def alone(**milliseconds):
    """A window of parts, each done 10 times, with half as much processor time as time."""
    parts = {k: {"times": 10, "wall_s": v / 100, "cpu_s": v / 200} for k, v in milliseconds.items()}
    return {"parts": parts, "envs": 8}


def test_rates_are_per_second_of_either_clock():
    found = figures.rates(window(400, wall_s=5.0, cpu_s=8.0))
    assert [found[rate] for rate in figures.RATES] == [80, 20, 50, 12.5]


def test_a_cycle_takes_half_a_step_of_eight_games():
    parts = alone(env=8.0, act=2.0, sample=1.0, compute=30.0, exchange=4.0)
    found = figures.cycle_of_parts(parts, 8)
    assert found["wall_s"] == pytest.approx(0.040)
    assert found["cpu_s"] == pytest.approx(0.020)
    assert figures.cycle(window(400, cpu_s=4.0)) == {"wall_s": 0.1, "cpu_s": 0.04}


def test_targets_are_against_the_better_peer_and_the_sum_of_parts():
    windows = {
        "SB3, 1 core": [window(400), window(500), window(4000)],
        "CleanRL, 1 core": [window(600), window(600), window(600)],
        "ours, plain, float32, 1 core": [window(1000), window(1200), window(800)],
        "parts, plain, float32": [alone(env=8.0, compute=36.0)] * 3,
    }
    found = {each.what: each for each in report.verdicts(windows)}
    name = "ours, plain, float32, 1 core"
    peer = found[f"{name} / CleanRL, 1 core: steps_per_cpu_s"]
    assert (peer.ratio, peer.limit, peer.is_met) == (pytest.approx(1000 / 600), 1.5, True)
    cycle = found[f"{name}: cycle / sum of its parts, wall_s"]
    assert (cycle.ratio, cycle.is_met) == (pytest.approx(1.0), True)
    cpu = found[f"{name}: cycle / sum of its parts, cpu_s"]
    assert (cpu.ratio, cpu.is_met) == (pytest.approx(2.0), False)
    assert len(found) == 3


def test_tables_are_of_what_was_measured(capsys):
    name = "2 workers, default, bf16, 2 cores"
    windows = {
        name: [window(1600, stages={"act_s": 0.8, "compute_s": 8.0})],
        "SB3, 2 cores": [window(400, cpu_s=20.0)],
        "SB3, 8 environments, 2 cores": [window(500, cpu_s=20.0)],
    }
    report.print_all(windows)
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith(f"  {name}"))
    assert row.split()[-7:] == ["160.0", "40.0", "160.0", "40.0", "3.20", "6.40", "1"]
    assert "met    2 workers" in printed
    assert "one core" not in printed
    conclusions = report.conclusions(windows)
    assert conclusions["rates"][name]["steps_per_s"]["median"] == 160
    assert conclusions["stages_ms"][name] == {"act_s": 2.0, "compute_s": 20.0}
    assert json.dumps(conclusions)


def test_a_record_goes_on_where_it_stopped(tmp_path):
    path, section = tmp_path / "results/worker.json", contenders.SECTIONS["one core"][:3]
    kept = record.Record(path, {"product": "a", "machine": {"cores": 2}})
    assert kept.lacking(section, 1) == section
    kept.add(section[0], window(400))
    kept.write(rates={})
    again = record.Record(path, {"product": "a", "machine": {"cores": 2}})
    assert again.put_aside is None
    assert again.lacking(section, 1) == section[1:]
    assert again.lacking(section, 2) == [*section[1:], section[0]]  # the fewest first


def test_figures_of_another_program_are_put_aside(tmp_path):
    path, contender = tmp_path / "worker.json", contenders.SECTIONS["one core"][0]
    record.Record(path, {"product": "a", "peers": "p"}).add(contender, window(400))
    kept = record.Record(path, {"product": "b", "peers": "p"})
    assert kept.windows == {}
    aside, differing = kept.put_aside
    assert differing == ["product"]
    assert contender.name in json.loads(aside.read_text())["windows"]


def test_a_digest_is_of_names_and_contents(tmp_path):
    (tmp_path / "barista").mkdir()
    file = tmp_path / "barista/worker.py"
    file.write_text("1")
    first = record.digest(tmp_path, ["barista"])
    (tmp_path / "barista/notes.txt").write_text("2")
    assert record.digest(tmp_path, ["barista"]) == first
    file.rename(tmp_path / "barista/player.py")
    assert record.digest(tmp_path, ["barista"]) != first


def test_processor_time_is_of_the_whole_tree_and_of_those_that_ended():
    inner = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY.format(0.2)!r}])"
    outer = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {inner!r}])\ninput()"
    with subprocess.Popen([sys.executable, "-c", f"{outer}"], stdin=subprocess.PIPE) as process:
        child = psutil.Process(process.pid)
        while not child.cpu_times().children_user:  # both below it have ended
            os.sched_yield()
        found = accounting.tree_cpu_s(process.pid)
        own = child.cpu_times()
        process.communicate(b"\n")
    assert found > own.user + own.system + 0.15


def test_a_process_that_ends_between_two_looks_is_not_missed():
    class Fake:
        def __init__(self, pid, used):
            self.pid, self._used = pid, used

        def cpu_times(self):
            return type("Times", (), {
                "user": self._used, "system": 0.0, "children_user": 0.0, "children_system": 0.0,
            })  # fmt: skip

    looks = iter([[1, 2], [1, 2], [1], [1], [1], [1]])  # 2 ends after it was counted
    found = accounting.tree_cpu_s(1, lambda _: [Fake(pid, 1.0) for pid in next(looks)])
    assert found == 1.0
    crowd = iter(range(1000))
    with pytest.raises(RuntimeError, match="do not stand still"):
        accounting.tree_cpu_s(1, lambda _: [Fake(next(crowd), 1.0)])


def test_all_below_a_process_is_ended():
    outer = (  # the child is named: one that is forgotten would be waited for
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'])\n"
        "input()"
    )
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE) as process:
        while not (below := psutil.Process(process.pid).children()):
            os.sched_yield()
        accounting.end_below(process.pid)
        while below[0].status() != psutil.STATUS_ZOMBIE:  # its parent does not wait for it
            os.sched_yield()
        assert process.poll() is None
        process.kill()


def test_the_gate_counts_between_orders_and_keeps_what_is_printed_out_of_its_answers():
    loop = (
        "from benchmarks.worker.gate import Channel, Gate\n"
        "gate = Gate(Channel(), lead=3)\n"
        "for step in range(10**9):\n"
        "    gate.at(step, step // 4)\n"
        "    print('noise')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", loop], input='{"seconds": 0.02}\n{"seconds": 0.02}\n', cwd=ROOT,
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    ready, first, second = map(json.loads, done.stdout.splitlines())
    assert ready == {"ready": True}
    for answer in (first, second):
        assert answer["steps"] > 0
        assert abs(answer["gradients"] - answer["steps"] / 4) <= 1
        assert answer["wall_s"] >= 0.02


def test_every_contender_has_a_name_of_its_own_and_a_module():
    everybody = [each for section in contenders.SECTIONS.values() for each in section]
    assert len({each.name for each in everybody}) == len(everybody)
    for each in everybody:
        assert (ROOT / f"benchmarks/worker/{each.module}.py").is_file()


def test_what_the_peers_share_with_us_is_pinned_once():
    pinned = (ROOT / "constraints.txt").read_text()
    shared = [package for package in peers.PACKAGES if "==" not in package]
    assert all(f"\n{package}==" in pinned for package in ["torch", *shared])
    assert any(package.startswith("stable-baselines3==2.") for package in peers.PACKAGES)
