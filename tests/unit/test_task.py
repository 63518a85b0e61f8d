"""What a Spark task does with a Barista that behaves, dies, hangs or refuses."""

import gc
import socket
import time
from types import SimpleNamespace

import psutil
import pytest

from barista import launch
from barista.spark import task


class Scripted:
    """A Barista that answers as told: each status is a dictionary, or an exception."""

    pid, log, incarnation = 7, "nowhere", "a"

    def __init__(self, *statuses, alive=True):
        self.statuses, self.alive, self.requests = list(statuses), alive, []

    def start_round(self, request):
        self.requests.append(request)

    def status(self, **_):
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if isinstance(status, Exception):
            raise status
        return status

    def is_alive(self):
        return self.alive

    def new_lines(self, _):
        return ["a line"]


def status(*, number=1, metrics=None, error=None, heartbeat=0.0):
    progress = {"heartbeat": heartbeat, "replay_size": 9}
    return {"round": number, "metrics": metrics, "error": error, "progress": progress}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(task, "STALLED_S", 0.2)
    monkeypatch.setattr(task, "_RETRY_S", 0.01)
    monkeypatch.setattr(launch, "executor_process", psutil.Process)


def watch(barista):
    return task._watch_round(barista, 1, {"number": 1})


def test_the_metrics_of_the_round_are_the_row():
    barista = Scripted(status(heartbeat=1.0), status(metrics={"applied": 3}))
    assert watch(barista) == {"applied": 3, "replay_size": 9}
    assert barista.requests == [{"number": 1}]


def test_what_another_host_has_logged_comes_with_the_row_and_not_with_a_push(monkeypatch):
    assignment = task.Assignment({"number": 1, "deadline_s": 9.0}, {}, 1, "elsewhere", "there")
    for found, told in (({"applied": 3}, ["a line"]), ({"push": b"frame"}, None)):
        monkeypatch.setattr(task, "_watch_round", lambda *_, found=found: found)
        slot = SimpleNamespace(find=lambda: Scripted(status()))
        assert task._run_round(assignment, 0, slot, None).get("log") == told


def test_a_slot_is_held_until_then_and_not_when_it_is_past():
    until = time.time() + 0.05
    assert list(task.held(iter([7]), until)) == [7]
    assert time.time() >= until
    assert list(task.held(iter([7]), until)) == [7]


@pytest.fixture
def frozen(monkeypatch):
    """How often this process was frozen: it is not."""
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    task._spare_the_collector.cache_clear()
    task._connections.cache_clear()
    yield frozen
    for connection in task._connections():
        connection.close()
    task._spare_the_collector.cache_clear()
    task._connections.cache_clear()


def test_what_a_python_worker_has_imported_is_spared_the_collector_once(frozen, monkeypatch):
    monkeypatch.setattr(psutil.Process, "net_connections", lambda *_: [])
    for _ in range(2):
        items = iter([7])
        task.read_all(items)
        assert list(items) == []
    assert frozen == [True]


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux has TCP_QUICKACK")
@pytest.mark.usefixtures("frozen")
def test_what_spark_has_sent_is_acknowledged_before_more_is_read():
    quick = socket.IPPROTO_TCP, socket.TCP_QUICKACK
    spark = socket.create_server(("127.0.0.1", 0))
    with spark, socket.create_connection(spark.getsockname()) as ours, spark.accept()[0]:
        at_reading = []
        for _ in range(2):
            ours.setsockopt(*quick, 0)
            task.read_all(at_reading.append(ours.getsockopt(*quick)) for _ in range(1))
        assert at_reading == [1, 1]


@pytest.mark.usefixtures("frozen")
def test_connections_that_cannot_be_listed_are_left_as_they_are(monkeypatch):
    def list_them(*_):
        raise RuntimeError("malformed line")

    monkeypatch.setattr(psutil.Process, "net_connections", list_them)
    task.read_all(iter([7]))
    assert task._connections() == []


def test_another_rounds_metrics_are_not():
    barista = Scripted(status(number=2, metrics={"applied": 3}))
    assert "made no progress" in watch(barista)


def test_a_dead_barista_is_reported():
    assert "died in round 1" in watch(Scripted(ConnectionRefusedError(), alive=False))


def test_one_that_does_not_answer_is_hung_in_the_end():
    assert "made no progress" in watch(Scripted(TimeoutError()))


def test_one_that_moves_is_not_hung():
    moving = [status(heartbeat=float(n)) for n in range(50)]
    assert watch(Scripted(*moving, status(metrics={}))) == {"replay_size": 9}


def test_a_failure_is_reported_and_a_fatal_one_raised():
    assert "failed in round 1: boom" in watch(Scripted(status(error="boom")))
    with pytest.raises(launch.BaristaRefusalError, match=r"^no such game$"):
        watch(Scripted(status(error=f"{launch.FATAL}no such game")))


def assignment(tmp_path):
    round_ = {"number": 1, "quota": 1, "deadline_s": 60.0}
    return task.Assignment(round_, {}, 1, str(tmp_path / "barista.log"), "another-host")


def test_a_barista_is_restarted_a_few_times_then_it_is_sparks_turn(tmp_path, monkeypatch):
    started = []

    def start(slot, orders, log):
        started.append(orders["worker"])
        return dead

    dead = Scripted(ConnectionRefusedError(), alive=False)
    dead.kill = lambda: None
    dead.last_lines = lambda: "last words"
    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path))
    slot = launch.Slot(tmp_path, "0")
    with pytest.raises(launch.LaunchError, match="last words"):
        task._run_round(assignment(tmp_path), 0, slot, None)
    assert len(started) == task.MAX_RESTARTS + 1
    assert len(set(started)) == 1


def test_a_restart_is_in_the_row(tmp_path, monkeypatch):
    dead = Scripted(ConnectionRefusedError(), alive=False)
    dead.kill = lambda: None
    baristas = [dead, Scripted(status(metrics={"applied": 1}))]
    monkeypatch.setattr(launch, "start", lambda *_: baristas.pop(0))
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path))
    row = task._run_round(assignment(tmp_path), 4, launch.Slot(tmp_path, "0"), None)
    assert (row["applied"], row["partition"]) == (1, 4)
    assert row["restarts"] == ["Barista 7 died in round 1"]
    assert row["log"] == ["a line"]
    assert row["incarnation"] == "a"


def test_the_log_is_the_drivers_on_its_own_host_only(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path / "local"))
    given = assignment(tmp_path)
    assert task._log_path(given).parent == tmp_path / "local" / "barista"
    here = given._replace(host=task.socket.gethostname())
    assert task._log_path(here) == tmp_path / "barista.log"


def test_workers_differ_by_ordinal_and_name(tmp_path):
    given = assignment(tmp_path)
    for executor in "ab":
        (tmp_path / executor).mkdir()
    first = task._orders(given, 0, launch.Slot(tmp_path / "a", "0"), None)
    second = task._orders(given, 1, launch.Slot(tmp_path / "b", "0"), None)
    assert (first["ordinal"], second["ordinal"]) == (0, 1)
    assert first["worker"] != second["worker"]
    assert first["executor"]["pid"] > 0
