"""What is looked at on an executor, here without one."""

import os
import socket
import uuid

import pytest

from barista.games.models import q_network
from barista.spark import checkup, doctor
from tests import tiny

CONFIG = tiny.config(game="ddq/Snake-v0", num_envs=2, warmup=200)


def question(address, **changes):
    fields = {
        "number": uuid.uuid4().hex,
        "mark": "here",
        "address": address,
        "packages": ("numpy", "no-such-package"),
        "replay_dir": "",
        "tryout": {"config": CONFIG.to_json(), "net": "", "threads": 1},
    }
    return checkup.Question(**{**fields, **changes})


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path))
    with doctor.listening("here", "127.0.0.1", [0]) as port:
        net = q_network("snake", 4, 2, 16, 16)
        tryout = {"config": CONFIG.to_json(), "net": net, "threads": 1}
        yield question(("127.0.0.1", port), replay_dir=str(tmp_path / "new"), tryout=tryout)


def test_an_executor_tells_all_and_once(asked):
    (found,) = checkup.examine(asked)
    assert list(checkup.examine(asked)) == []
    assert (found.host, found.route) == (socket.gethostname(), "")
    assert abs(found.clock_s) < 5
    assert found.versions["numpy"]
    assert found.versions["no-such-package"] is None
    assert found.memory > 0
    assert found.disk > 0
    assert found.gpu is None
    assert found.tryout["engine"].endswith("caffe/__init__.py")
    assert found.tryout["memory"] > 50e6


def test_a_driver_that_is_not_there_is_no_route():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    route, clock_s = checkup._reach(question(address))
    assert "refused" in route
    assert clock_s is None


def test_somebody_else_at_the_address_is_no_route():
    with doctor.listening("another", "127.0.0.1", [0]) as port:
        assert checkup._reach(question(("127.0.0.1", port)))[0] == "somebody else answers"
        assert checkup._reach(question(("127.0.0.1", port), mark="")) == ("", None)


def test_a_barista_that_cannot_start_says_why():
    broken = {"config": {"no_such": 1}, "net": "", "threads": 1, "gpu": None}
    assert checkup._try_out(broken)["error"] == "ConfigError: there is no option --no-such"
    del broken["config"]
    assert checkup._try_out(broken)["error"] == "KeyError: 'config'"


def test_the_limit_of_a_container_counts(tmp_path):
    groups = tmp_path / "sys/fs/cgroup"
    groups.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert checkup.available_memory(tmp_path) == 8000 * 1024
    for limit, free in (("max", 8000 * 1024), ("5000000", 4_000_000), ("99000000", 8000 * 1024)):
        (groups / "memory.max").write_text(limit)
        (groups / "memory.current").write_text("1000000")
        assert checkup.available_memory(tmp_path) == free
    (groups / "memory.max").write_text("5000000")
    (groups / "memory.stat").write_text("anon 300000\ninactive_file 700000\n")
    assert checkup.available_memory(tmp_path) == 4_700_000


def test_a_folder_that_cannot_be_written_has_no_room(tmp_path):
    assert checkup._free(str(tmp_path / "a/b")) > 0
    assert checkup._free("/proc/replay") is None or os.geteuid() == 0


def test_without_a_server_there_is_no_route_to_look_for():
    assert checkup._reach(question(None)) == ("", None)


def test_a_folder_that_cannot_be_looked_into_has_no_room(monkeypatch):
    def exists(_):
        raise PermissionError(13, "Permission denied")  # which root never sees

    monkeypatch.setattr(checkup.Path, "exists", exists)
    assert checkup._free("/home/somebody/replay") is None


def test_a_task_that_is_tried_again_answers(asked, monkeypatch):
    """Else Spark's second attempt would answer nothing, and that nothing is wrong."""
    monkeypatch.setattr(checkup, "_gpus", lambda: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            list(checkup.examine(asked))
