"""A Barista process beside a server process: it learns, idles, learns on, and leaves."""

import os
import time

import psutil
import pytest
from param_server.client import Client
from param_server.launch import start_embedded

import caffe
from barista import launch
from barista.learner import q_values
from tests import tiny

TOKEN = "a token of the tests"
UPDATES = 1200


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("DDQ_ROOT", str(tmp_path))
    _, solver = tiny.write_model(tmp_path)
    server = start_embedded(
        [solver, "--seed", "0", "--target-period", "50", "--port", "0", "--run", "canary",
         "--snapshot-dir", str(tmp_path / "snapshots")],
        token=TOKEN, log_path=tmp_path / "server.log", timeout_s=60,
    )  # fmt: skip
    yield server
    assert server.stop(30) == 0


@pytest.fixture
def barista(server, tmp_path):
    me = psutil.Process()
    orders = {
        "server": server.address,
        "token": TOKEN,
        "run": "canary",
        "config": tiny.config(game="tests.catch_env:Catch-v0", seed=3).to_json(),
        "worker": "w",
        "local_workers": os.cpu_count(),  # one thread: the net is tiny
        "executor": {"pid": me.pid, "created": me.create_time()},
    }
    with launch.take_slot(tmp_path, ["0"]) as slot:
        barista = launch.start(slot, orders, tmp_path / "barista.log")
        yield barista
        barista.stop()
        assert not barista.is_alive()


def metrics_of(barista, number, deadline_s):
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        status = barista.status(round_number=number, wait_s=5)
        assert status["error"] is None, barista.last_lines(30)
        if status["metrics"] is not None and status["round"] == number:
            return status["metrics"]
    return pytest.fail(barista.last_lines(30))


@pytest.mark.timeout(200)
def test_a_barista_learns_catch(server, barista, tmp_path, no_stray_processes):
    half = {"partition": 0, "quota": UPDATES // 2, "deadline_s": 150.0}
    for number in (1, 2):  # its replay and its network outlive a round
        barista.start_round({"number": number, **half})
        metrics = metrics_of(barista, number, 150)
        assert metrics["applied"] == UPDATES // 2
    with pytest.raises(launch.BaristaRefusalError, match="round 1 is over"):
        barista.start_round({"number": 1, **half})
    assert 0 < metrics["epsilon"] < 0.5

    client = Client(server.address, TOKEN, run="canary")
    assert client.status()["version"] == UPDATES
    net = caffe.Net(str(tmp_path / "train_val.prototxt"), caffe.TEST)
    client.pull(None, net.param_arena)
    client.close()
    score = tiny.play_greedily(tiny.Catch(8, seed=99), lambda s: q_values(net, s, 3), 400)
    assert score >= 0.9
