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
from param_server.errors import Draining, EpochChanged, ServerStartError, ServerUnreachable
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
    server = embedded(folder)
    straight = Worker(server)
    straight.push(6)
    expected, epoch = straight.weights(), straight.client.pull().epoch
    assert server.stop(START_S) == 0

    server = embedded(folder, "--snapshot-dir", folder / "a")
    first = Worker(server)
    first.push(4)
    assert server.stop(START_S) == 0
    assert [path.name for path in (folder / "a").iterdir()] == ["4"]

    server = embedded(folder, "--resume", folder / "a", "--snapshot-dir", folder / "b")
    assert (server.version, server.epoch > epoch) == (4, True)
    second = Worker(server)
    assert second.client.pull().counters == (16, 4, 4)
    second.rng, second.sequence = first.rng, first.sequence
    answer = second.push(2)
    assert (answer.version, answer.durable_version, answer.counters.steps) == (6, 4, 24)
    assert np.array_equal(second.weights(), expected)
    assert server.stop(START_S) == 0


def test_killed_server_loses_what_came_after_its_last_snapshot(folder):
    server = embedded(folder)
    worker = Worker(server)
    worker.push(3)
    assert worker.client.snapshot()["version"] == 3
    answer = worker.push(2)
    assert (answer.version, answer.durable_version) == (5, 3)
    before = worker.client.pull()
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.alive())
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
    assert again.client.push(repeat, np.zeros(again.layout.size, np.float32))[0].status == "duplicate"
    assert server.stop(START_S) == 0


def test_cleared_model_is_that_of_the_beginning(folder):
    server = embedded(folder)
    worker = Worker(server)
    first = worker.client.pull()
    worker.push(2)
    assert worker.client.clear()["version"] == 0
    assert np.array_equal(worker.weights(), first.weights)
    worker.push(1)
    assert server.stop(START_S) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--game", "other"), "its game is 'catch', not 'other'"),
        (("SGD",), "its solver type is 'Adam', not 'SGD'"),
        (("num_output: 32", "num_output: 16"), "its network is not the one"),
    ],
)
def test_resume_of_something_else_is_one_line_and_exit_code_2(folder, change, message):
    server = embedded(folder)
    Worker(server).push(1)
    server.stop(START_S)
    arguments = ["--resume", folder / "logs/r1"]
    if change[0] == "--game":
        arguments += change
    elif change == ("SGD",):
        text = f'net: "{folder / "train_val.prototxt"}" type: "SGD" lr_policy: "fixed"'
        (folder / "solver.prototxt").write_text(text)
    else:
        net = folder / "train_val.prototxt"
        net.write_text(net.read_text().replace(*change))
    with pytest.raises(ServerStartError) as caught:
        embedded(folder, *arguments)
    assert caught.value.exit_code == 2
    assert message in caught.value.last_lines
    assert "\n" not in caught.value.last_lines


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
    said, code = server.end(number)
    assert code == 0
    assert "stopped at version 1, snapshot" in said
    assert found.token not in said
    assert find_standalone(folder / "logs") is None


def test_pages_of_a_running_server(folder):
    server = Standalone(folder, "solver.prototxt", "--port", "0")
    host, port = server.found.address.split(":")
    pages = {}
    for path in ("/current_status", "/metrics", "/healthz", "/api/v1/latest_model"):
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        pages[path] = (response.status, response.read())
        connection.close()
    assert [status for status, _ in pages.values()] == [200, 200, 200, 401]
    assert b"ddq_updates_total 0.0" in pages["/metrics"][1]
    assert json.loads(pages["/healthz"][1])["pid"] == server.process.pid
    server.end(signal.SIGTERM)


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
    assert [path.name for path in (folder / "logs/r1/snapshots").iterdir()] == [str(last)]
