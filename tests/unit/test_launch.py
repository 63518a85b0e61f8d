"""Slots, and real Baristas in them."""

import json
import os
import stat
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from barista import cores, launch


def orders(**changes):
    me = psutil.Process()
    return {
        # Nobody listens on the discard port: such a Barista starts, and says what is wrong.
        "server": "127.0.0.1:9",
        "token": "server-secret",
        "run": "r",
        "config": {"game": "ddq/Snake-v0"},
        "worker": "w",
        "executor": {"pid": me.pid, "created": me.create_time()},
        **changes,
    }


@pytest.fixture
def slot(tmp_path):
    with launch.take_slot(tmp_path, ["0"]) as slot:
        yield slot
        found = slot.find()
        if found is not None:
            found.kill()


def test_a_slot_is_held_once(tmp_path):
    with launch.take_slot(tmp_path, ["0", "1"]) as first:
        with launch.take_slot(tmp_path, ["0", "1"]) as second:
            assert (first.name, second.name) == ("0", "1")
            with pytest.raises(launch.LaunchError, match="taken by another task"):
                launch.take_slot(tmp_path, ["0", "1"]).__enter__()
        with launch.take_slot(tmp_path, ["0", "1"]) as again:
            assert again.name == "1"


def test_a_slot_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyError), launch.take_slot(tmp_path, ["0"]):
        raise KeyError
    with launch.take_slot(tmp_path, ["0"]) as slot:
        assert slot.name == "0"


def test_a_barista_is_started_found_and_stopped(slot, tmp_path, no_stray_processes):
    log = tmp_path / "barista.log"
    barista = launch.start(slot, orders(), log)
    assert barista.port >= 50001
    assert slot.find() == barista
    # Its secrets are in nobody's sight.
    process = psutil.Process(barista.pid)
    seen = " ".join(process.cmdline()) + json.dumps(process.environ())
    assert "server-secret" not in seen
    assert barista.token not in seen
    assert stat.S_IMODE((tmp_path / "slot-0.json").stat().st_mode) == 0o600
    assert os.getsid(barista.pid) == barista.pid
    barista.stop()
    assert not barista.is_alive()
    assert slot.find() is None


PARENT = """
import subprocess, sys
command = [sys.executable, "-c", "input()"]
child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
print(child.pid, flush=True)
input()
child.stdin.close()
input()
"""


@pytest.mark.timeout(30)
@pytest.mark.parametrize("ends", ["by itself", "by the kill"])
def test_one_whose_parent_does_not_see_its_end_is_not_waited_for(ends):
    # The Python worker that started a Barista may be idle while another one stops it.
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        barista = launch.Barista(pid, psutil.Process(pid).create_time(), 1, "token", "i", "log")
        assert barista.is_alive()
        if ends == "by itself":
            parent.stdin.write("\n")
            parent.stdin.flush()
            barista.stop(600.0)
        else:
            barista.stop(0.1)
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        parent.kill()


def test_a_barista_says_what_no_restart_can_mend(slot, tmp_path, no_stray_processes):
    config = {"game": "ddq/Snake-v0", "batch_size": 0}
    barista = launch.start(slot, orders(config=config), tmp_path / "barista.log")
    status = barista.status(round_number=1, wait_s=20)
    assert status["error"].startswith(f"{launch.FATAL}--batch-size")
    barista.stop()


def test_a_stranger_cannot_command_it(slot, tmp_path, no_stray_processes):
    barista = launch.start(slot, orders(), tmp_path / "barista.log")
    with pytest.raises(launch.BaristaRefusalError):
        barista._replace(token="guess").status(round_number=1, wait_s=0)
    barista.stop()


def test_a_reused_pid_is_not_the_barista(slot, tmp_path):
    me = psutil.Process()
    other = launch.Barista(me.pid, me.create_time() - 100, 1, "t", "i", str(tmp_path / "log"))
    slot.remember(other)
    assert slot.find() is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"pid": 1'])
def test_a_torn_slot_file_is_no_barista(slot, content):
    (slot.folder / "slot-0.json").write_text(content)
    assert slot.find() is None


def test_one_that_does_not_start_leaves_its_last_words(slot, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(launch.LaunchError, match="did not start"):
        launch.start(slot, orders(), tmp_path / "barista.log")
    assert slot.find() is None


def test_a_killed_executor_takes_its_barista_along(slot, tmp_path, no_stray_processes):
    executor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    created = psutil.Process(executor.pid).create_time()
    told = orders(executor={"pid": executor.pid, "created": created})
    barista = launch.start(slot, told, tmp_path / "barista.log")
    executor.kill()
    executor.wait()
    psutil.Process(barista.pid).wait(15)
    executor.stdin.close()
    assert not barista.is_alive()


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("1", {"alone": True, "local_workers": 2}, 1),
        ("0", {"alone": True, "local_workers": 1}, None),  # all of them
        ("1", {"alone": True, "local_workers": 10**6}, None),  # there are not enough
        ("1", {"local_workers": 2}, None),  # who knows who else is here
        ("gpu1", {"alone": True, "local_workers": 2}, None),
    ],
)
def test_workers_that_are_alone_on_a_host_keep_to_processors_of_their_own(
    tmp_path, monkeypatch, name, changes, expected
):
    usable = os.sched_getaffinity(0)
    if len(usable) < 2:
        pytest.skip("one processor cannot be shared out")
    seen, made = [], launch._popen

    def popen(said, log, folder, threads):
        seen.append((os.sched_getaffinity(0), threads))
        return made(said, log, folder, threads)

    monkeypatch.setattr(launch, "_popen", popen)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(launch.LaunchError):
        launch.start(launch.Slot(tmp_path, name), orders(**changes), tmp_path / "log")
    own = usable if expected is None else cores.slice_of(expected, 2)
    assert seen == [(own, cores.share(changes["local_workers"]))]
    assert os.sched_getaffinity(0) == usable


def test_the_environment_is_not_sparks(monkeypatch):
    for name in (
        "PYTHON_WORKER_FACTORY_SECRET",
        "SPARK_LOCAL_DIRS",
        "OMP_NUM_THREADS",
        "DDQ_TOKEN",
    ):
        monkeypatch.setenv(name, "x")
    monkeypatch.setattr(sys, "path", ["", "shipped.zip"])
    environment = launch.environment(3)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert "x" not in environment.values()
    assert environment["PYTHONPATH"] == str(launch.Path("shipped.zip").absolute())


def test_outside_a_task_there_are_no_slots(monkeypatch):
    monkeypatch.delenv("SPARK_LOCAL_DIRS", raising=False)
    with pytest.raises(launch.LaunchError, match="not inside a Spark task"):
        launch.slots_folder()


def test_the_folder_of_slots_is_private(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{tmp_path}/a,{tmp_path}/b")
    folder = launch.slots_folder()
    assert folder == tmp_path / "a" / "barista"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_log_is_read_once_and_not_without_end(slot, tmp_path, monkeypatch):
    log = tmp_path / "barista.log"
    barista = launch.Barista(1, 0.0, 1, "t", "i", str(log))
    assert barista.new_lines(slot) == []
    log.write_text("one\ntwo\n")
    assert barista.new_lines(slot) == ["one", "two"]
    assert barista.new_lines(slot) == []
    monkeypatch.setattr(launch, "_LOG_LIMIT_BYTES", 6)
    with log.open("a") as file:
        file.write("three\nfour\nfive\n")
    assert barista.new_lines(slot) == ["", "five"]
    log.write_text("new\n")  # it was begun anew
    assert barista.new_lines(slot) == ["new"]


def test_a_slots_successors_stand_in_for_its_first_barista(tmp_path):
    """Partitions race for slots: the one that restarts a Barista may not be the one that began."""
    first, second = (launch.Slot(tmp_path, name) for name in "01")
    assert (first.ordinal(0), second.ordinal(1)) == (0, 1)
    assert (first.ordinal(1), second.ordinal(0)) == (0, 1)


class Family:
    """A process with these names above it."""

    def __init__(self, *names):
        self.above = [SimpleNamespace(name=lambda name=name: name) for name in names]

    def parents(self):
        return self.above


def test_the_executor_is_the_nearest_jvm_and_is_remembered(monkeypatch):
    """A worker whose daemon was killed is nobody's child, and goes on being used."""
    launch.executor_process.cache_clear()
    worker = Family("python", "java", "java", "systemd")
    monkeypatch.setattr(launch.psutil, "Process", lambda: worker)
    assert launch.executor_process() is worker.above[1]
    worker = Family("systemd")
    assert launch.executor_process().name() == "java"
    launch.executor_process.cache_clear()
    with pytest.raises(launch.LaunchError, match="under no JVM"):
        launch.executor_process()
