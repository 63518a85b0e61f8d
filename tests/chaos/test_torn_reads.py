"""No reader ever sees half of one version and half of another, by either transport.

A real server in its own process holds a model whose parameters are all equal: they begin at 0 and
every gradient is 1 with a learning rate of 1, so version v is −v everywhere, exactly.  Writers push
without pause while readers pull weights and target; a copy that holds any other value is torn, or
is not of the version that its header names.

`DDQ_WRITE_RESULTS=1` has the long form write what it counted to docs/results/torn-reads.json.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from param_server.client import Client
from param_server.errors import ParamServerError
from param_server.same_host_client import SameHostClient
from param_server.wire import Push

from tests.embedded import answering

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a token of the tests"
READERS = WRITERS = 2
TRANSPORTS = ["http", "same host"]

NET = """
name: "equal"
layer { name: "state" type: "Input" top: "state" input_param { shape { dim: 1 dim: 1000 } } }
layer { name: "Q_out" type: "InnerProduct" bottom: "state" top: "Q_out" loss_weight: 1
        inner_product_param { num_output: 150 weight_filler { type: "constant" value: 0 } } }
"""
SOLVER = 'net: "{net}" type: "SGD" base_lr: 1 lr_policy: "fixed" momentum: 0 weight_decay: 0'

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("no_stray_processes")]


@contextlib.contextmanager
def serving(folder):
    """Run a server of the equal parameters; yield its address."""
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER.format(net=folder / "net.prototxt"))
    process = subprocess.Popen(
        [
            sys.executable, str(ROOT / "param-server/server.py"), str(folder / "solver.prototxt"),
            "--embedded", "--port", "0", "--target-period", "3", "--snapshot-seconds", "0",
            "--snapshot-dir", str(folder / "snapshots"),
        ],
        env={**os.environ, "DDQ_TOKEN": TOKEN, "DDQ_ROOT": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    with answering(process) as address:
        yield address


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("torn")) as address:
        yield address


class Hammer:
    """Readers and writers of one server, and what the readers counted."""

    def __init__(self, address, transport):
        self._http = Client(address, TOKEN)
        prototxt = self._http.prototxt()
        self._layout, self._path = prototxt.layout, prototxt.same_host
        assert self._path, "the server offers no shared memory"
        self._address, self._transport = address, transport
        self._epoch = self._http.pull().epoch
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.pulls = self.torn = self.pushes = 0
        self.versions = set()
        self.failures = []

    def run(self, pulls):
        """Read so many times, under fire."""
        readers = [threading.Thread(target=self._do, args=(self._read, pulls // READERS))
                   for _ in range(READERS)]  # fmt: skip
        writers = [
            threading.Thread(target=self._do, args=(self._write, f"w{index}"))
            for index in range(WRITERS)
        ]
        for thread in (*writers, *readers):
            thread.start()
        for thread in readers:
            thread.join()
        self._stop.set()
        for thread in writers:
            thread.join()
        self._http.close()

    def _connected(self, worker=""):
        """A connection of the calling thread's own."""
        if self._transport == "http":
            return Client(self._address, TOKEN, run="r1", worker=worker, retry_s=0)
        return SameHostClient(self._path, TOKEN, run="r1", worker=worker)

    def _do(self, work, argument):
        try:
            work(argument)
        except (ParamServerError, OSError) as error:
            self.failures.append(error)
            self._stop.set()

    def _write(self, worker):
        """Push ones until told to stop; every other answer brings weights, which are looked at."""
        client = self._connected(worker)
        gradient = np.ones(self._layout.size, np.float32)
        out = np.empty_like(gradient)
        incarnation, sequence = f"{time.monotonic_ns()}", 0
        while not self._stop.is_set():
            sequence += 1
            push = Push(
                run="r1", worker=worker, incarnation=incarnation, sequence=sequence,
                epoch=self._epoch, version=0, layout=self._layout.digest,
                want_model=sequence % 2 == 0,
            )  # fmt: skip
            answer, model = client.push(push, gradient, out)
            assert answer.status == "applied", answer
            if model is not None:
                self._see(out, model.version)
        with self._lock:
            self.pushes += sequence
        client.close()

    def _read(self, pulls):
        """Pull weights, and each fourth time the target; the whole copy must be its version."""
        client = self._connected()
        out = np.empty(self._layout.size, np.float32)
        for number in range(pulls):
            if self._stop.is_set():
                break
            if number % 4 == 3:
                self._see(out, client.pull_target(None, out).target_version)
            else:
                self._see(out, client.pull(None, out).version)
        client.close()

    def _see(self, weights, version):
        is_torn = bool(np.any(weights != np.float32(-version)))
        with self._lock:
            self.pulls += 1
            self.torn += is_torn
            self.versions.add(version)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_two_thousand_pulls_and_none_is_torn(address, transport):
    hammer = Hammer(address, transport)
    hammer.run(2000)
    assert hammer.failures == []
    assert hammer.torn == 0
    assert hammer.pulls >= 2000
    assert len(hammer.versions) > 200  # else nobody wrote meanwhile, and this shows nothing


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_pulls_and_none_is_torn(address):
    rows = {}
    for transport in TRANSPORTS:
        hammer = Hammer(address, transport)
        began = time.monotonic()
        hammer.run(100_000)
        assert hammer.failures == []
        rows[transport] = {
            "pulls": hammer.pulls,
            "torn": hammer.torn,
            "pushes": hammer.pushes,
            "versions_seen": len(hammer.versions),
            "parameters": hammer._layout.size,
            "readers": READERS,
            "writers": WRITERS,
            "seconds": round(time.monotonic() - began),
        }
    if os.environ.get("DDQ_WRITE_RESULTS") == "1":
        text = json.dumps(rows, indent=2) + "\n"
        (ROOT / "docs/results/torn-reads.json").write_text(text)
    assert [row["torn"] for row in rows.values()] == [0, 0]
    assert all(row["pulls"] >= 100_000 for row in rows.values())
