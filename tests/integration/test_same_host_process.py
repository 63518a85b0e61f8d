"""The same-host path of real server processes: offered, turned off, killed, and found again."""

import os
import signal
import socket
import tempfile
from pathlib import Path

import numpy as np
import pytest
from param_server.best_exchange import BestExchange
from param_server.client import Client
from param_server.errors import EpochChanged
from param_server.launch import start_embedded
from param_server.wire import Push

from tests import tiny

START_S = 60.0
pytestmark = pytest.mark.usefixtures("no_stray_processes")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A model, logs of the test's own, and a runtime directory with a short path."""
    tiny.write_model(tmp_path)
    monkeypatch.setenv("DDQ_ROOT", str(tmp_path))
    monkeypatch.delenv("DDQ_SAME_HOST", raising=False)
    with tempfile.TemporaryDirectory(prefix="ddq-") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield tmp_path


def embedded(folder, *arguments, port=0):
    return start_embedded(
        [str(folder / "solver.prototxt"), "--port", str(port), "--run", "r1", "--seed", "1",
         *map(str, arguments)],
        token="tok", log_path=folder / "err.log", timeout_s=START_S,
    )  # fmt: skip


def sockets():
    return sorted((Path(os.environ["XDG_RUNTIME_DIR"]) / "ddq").glob("*"))


class Worker:
    """Pushes by the best way there is."""

    def __init__(self, address):
        self.client = Client(address, "tok", run="r1", worker="w0", retry_s=START_S)
        self.exchange = BestExchange(self.client)
        self.layout = self.client.prototxt().layout
        self.sequence = 0
        self.model = self.exchange.pull()

    def push(self):
        self.sequence += 1
        push = Push(
            run="r1", worker="w0", incarnation="i0", sequence=self.sequence,
            epoch=self.model.epoch, version=self.model.version, layout=self.layout.digest,
            want_model=True,
        )  # fmt: skip
        gradient = np.full(self.layout.size, 1e-3, np.float32)
        answer, self.model = self.exchange.push(push, gradient)
        return answer


def test_worker_rides_through_a_kill_and_is_back_in_shared_memory(folder):
    server = embedded(folder)
    worker = Worker(server.address)
    assert worker.exchange.is_same_host
    assert worker.push().status == "applied"
    worker.client.snapshot()
    left = sockets()
    os.kill(server.pid, signal.SIGKILL)
    server.stop(START_S)
    assert sockets() == left  # a killed server cannot tidy up
    port = int(server.address.rpartition(":")[2])

    server = embedded(folder, "--resume", folder / "logs/r1", port=port)
    assert len(sockets()) == 1
    assert sockets() != left
    with pytest.raises(EpochChanged):  # over HTTP: the connection is gone, and so is its path
        worker.push()
    worker.model = worker.exchange.pull()
    assert worker.exchange.is_same_host
    assert worker.push().version == 2
    worker.exchange.close()
    assert server.stop(START_S) == 0
    assert sockets() == []


def test_worker_is_served_over_http_where_the_server_offers_nothing_else(folder):
    server = embedded(folder, "--no-same-host")
    worker = Worker(server.address)
    assert not worker.exchange.is_same_host
    assert worker.push().status == "applied"
    assert worker.client.prototxt().same_host == ""
    worker.exchange.close()
    assert server.stop(START_S) == 0


def test_running_server_keeps_its_socket_when_another_starts(folder):
    first = embedded(folder, "--snapshot-dir", folder / "a")
    second = embedded(folder, "--snapshot-dir", folder / "b")
    assert len(sockets()) == 2
    for path in sockets():
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
    for server in (first, second):
        assert Worker(server.address).exchange.is_same_host
    assert [first.stop(START_S), second.stop(START_S)] == [0, 0]
