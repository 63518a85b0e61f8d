"""Real server processes: start, stop, kill, resume, and what each mistake says."""

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from param_server.client import Client
from param_server.engine import Engine
from param_server.errors import Draining, EpochChanged, ServerUnreachable
from param_server.launch import find_standalone, start_embedded
from param_server.wire import Push

from tests import tiny
from tests.server_rig import until

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
pytestmark = pytest.mark.usefixtures("no_stray_processes")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A model, and logs of the test's own."""
    monkeypatch.setenv("DDQ_ROOT", str(tmp_path))
    monkeypatch.delenv("DDQ_TOKEN", raising=False)
    tiny.write_model(tmp_path)
    return tmp_path


def embedded(folder, *arguments, solver=None):
    return start_embedded(
        [str(solver or folder / "solver.prototxt"), "--port", "0", "--run", "r1",
         "--game", "catch", "--seed", "1", *map(str, arguments)],
        token="tok", log_path=folder / "err.log", timeout_s=START_S,
    )  # fmt: skip


def snapshots(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


class Worker:
    """Pushes the same gradients whenever it is asked to."""

    def __init__(self, server):
        self.client = Client(server.address, "tok", run="r1", worker="w0", retry_s=0)
        self.layout = self.client.prototxt().layout
        self.rng = np.random.default_rng(0)
        self.sequence = 0

    def push(self, count=1):
        for _ in range(count):
            model = self.client.pull()
            self.sequence += 1
            gradient = self.rng.normal(size=self.layout.size).astype(np.float32)
            push = Push(
                run="r1", worker="w0", incarnation="i0", sequence=self.sequence, round=1, quota=99,
                epoch=model.epoch, version=model.version, layout=self.layout.digest, steps=4,
                episodes=(1.0,),
            )  # fmt: skip
            answer, _ = self.client.push(push, gradient)
            assert answer.status == "applied"
        return answer

    def weights(self):
        return self.client.pull().weights


def test_resumed_run_goes_on_bit_for_bit_in_a_new_epoch(folder):
    (folder / "work").mkdir()
    straight = Engine(folder / "solver.prototxt", roots=[], work=folder / "work", seed=1)
    begin, rng = straight.weights.copy(), np.random.default_rng(0)
    for _ in range(6):
        straight.apply(rng.normal(size=straight.layout.size).astype(np.float32))

    server = embedded(folder, "--snapshot-dir", folder / "a")
    first = Worker(server)
    assert np.array_equal(first.weights(), begin)
    first.push(4)
    assert server.stop(START_S) == 0
    assert snapshots(folder / "a") == [0, 4]

    resumed = embedded(folder, "--resume", folder / "a", "--snapshot-dir", folder / "b")
    assert resumed.version == 4
    assert resumed.epoch > server.epoch
    second = Worker(resumed)
    assert second.client.pull().counters == (16, 4, 4)
    second.rng, second.sequence = first.rng, first.sequence
    answer = second.push(2)
    assert (answer.version, answer.durable_version, answer.counters.steps) == (6, 4, 24)
    assert np.array_equal(second.weights(), straight.weights)

    cleared = second.client.clear()
    assert (cleared["version"], cleared["epoch"] > resumed.epoch) == (0, True)
    assert np.array_equal(second.weights(), begin)
    assert resumed.stop(START_S) == 0


def test_killed_server_loses_what_came_after_its_last_snapshot(folder):
    server = embedded(folder)
    worker = Worker(server)
    worker.push(3)
    assert worker.client.snapshot()["version"] == 3
    answer = worker.push(2)
    assert (answer.version, answer.durable_version) == (5, 3)
    before = worker.client.pull()
    os.kill(server.pid, signal.SIGKILL)
    assert server.stop(START_S) == -signal.SIGKILL
    with pytest.raises(ServerUnreachable):
        worker.client.pull()

    server = embedded(folder, "--resume", folder / "logs/r1")
    again = Worker(server)
    model = again.client.pull((before.epoch, before.version))
    assert (model.version, model.counters.steps) == (3, 12)
    stale = Push(
        run="r1", worker="w0", incarnation="i0", sequence=6, epoch=before.epoch, version=5,
        layout=again.layout.digest,
    )  # fmt: skip
    with pytest.raises(EpochChanged) as caught:
        again.client.push(stale, np.zeros(again.layout.size, np.float32))
    assert caught.value.epoch == model.epoch
    repeat = Push(**{**vars(stale), "sequence": 3})
    assert (
        again.client.push(repeat, np.zeros(again.layout.size, np.float32))[0].status == "duplicate"
    )
    assert server.stop(START_S) == 0


def test_killed_server_that_journals_loses_nothing(folder):
    server = embedded(folder, "--durability", "acknowledged")
    worker = Worker(server)
    answer = worker.push(3)
    assert (answer.version, answer.durable_version) == (3, 3)
    cleared = worker.client.clear()
    answer = worker.push(2)
    before = worker.client.pull()
    os.kill(server.pid, signal.SIGKILL)
    assert server.stop(START_S) == -signal.SIGKILL

    server = embedded(folder, "--resume", folder / "logs/r1", "--durability", "acknowledged")
    again = Worker(server)
    model = again.client.pull()
    assert model.epoch > before.epoch == cleared["epoch"]
    assert (model.version, model.counters) == (2, before.counters)
    assert np.array_equal(model.weights, before.weights)
    resumed = again.client.status()["resumed"]
    assert (resumed["version"], resumed["lost_updates"]) == (2, 0)
    assert server.stop(START_S) == 0
    said = (folder / "err.log").read_text()
    assert "resumed at version 2" in said
    assert "nothing acknowledged is lost" in said


class Standalone:
    """A server started by hand."""

    def __init__(self, folder, *arguments):
        command = [sys.executable, str(ROOT / "param-server/server.py"), *map(str, arguments)]
        paths = [str(ROOT), str(ROOT / "caffe/python"), os.environ.get("PYTHONPATH", "")]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ,
            cwd=folder,
        )  # fmt: skip
        self.found = until(lambda: find_standalone(folder / "logs"), START_S)

    def end(self, number):
        self.process.send_signal(number)
        return self.process.communicate(timeout=START_S)[0], self.process.returncode


def page(found, path):
    """Return status and content of a page, asked for without the token."""
    host, port = found.address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_standalone_server_is_found_used_and_stopped(folder, number):
    server = Standalone(folder, "solver.prototxt", "--port", "0", "--game", "catch")
    found = server.found
    assert (found.game, found.pid) == ("catch", server.process.pid)
    client = Client(found.address, found.token, run="r1", retry_s=0)
    layout = client.prototxt().layout
    model = client.open_run()
    push = Push("r1", "w0", "i0", 1, model["epoch"], 0, layout.digest)
    client.push(push, np.zeros(layout.size, np.float32))
    pages = {path: page(found, path) for path in ("/current_status", "/metrics", "/healthz")}
    assert [status for status, _ in pages.values()] == [200, 200, 200]
    assert b"ddq_updates_total 1.0" in pages["/metrics"][1]
    assert json.loads(pages["/healthz"][1])["pid"] == server.process.pid
    assert page(found, "/api/v1/latest_model")[0] == 401
    said, code = server.end(number)
    assert code == 0
    assert "stopped at version 1, snapshot" in said
    assert found.token not in said
    assert find_standalone(folder / "logs") is None


def test_draining_server_takes_no_push_that_its_snapshot_would_miss(folder):
    """Push until it refuses: the last applied version is the snapshot's."""
    server = embedded(folder)
    worker = Worker(server)
    last = worker.push(1).version
    os.kill(server.pid, signal.SIGTERM)
    worker.client._retry_s = -1
    try:
        while True:
            last = worker.push(1).version
    except (Draining, ServerUnreachable):
        pass
    assert server.stop(START_S) == 0
    assert snapshots(folder / "logs/r1/snapshots") == [0, last]
