"""Server and worker on a plain pycaffe do what they do on our own engine, number for number.

The plain one is a stand-in: our engine without any name that a real pycaffe lacks.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from param_server.client import Client
from param_server.errors import ServerStartError
from param_server.launch import start_embedded

import caffe
from barista import launch
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ROOT / "tests/plain_pycaffe"
PLAIN_FILE = str(PLAIN / "caffe/__init__.py")
TOKEN = "a token of the tests"
UPDATES = 60
pytestmark = pytest.mark.usefixtures("no_stray_processes")


@pytest.fixture
def choose(monkeypatch):
    """Choose the engine of the processes that are started from here on.

    Updates are Caffe's, operation by operation: those in one pass differ in the last bits.
    """
    monkeypatch.setenv("DDQ_FUSED", "0")

    def choose(*, plain):
        if plain:
            monkeypatch.setenv("DDQ_CAFFE", str(PLAIN))
        else:
            monkeypatch.delenv("DDQ_CAFFE", raising=False)

    return choose


def engine_run(folder):
    folder.mkdir()
    command = [sys.executable, "-m", "tests.engine_run", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    with np.load(folder / "run.npz") as results:
        return dict(results)


def test_engine_and_learner_compute_the_same(choose, tmp_path):
    choose(plain=False)
    ours = engine_run(tmp_path / "ours")
    choose(plain=True)
    plain = engine_run(tmp_path / "plain")
    assert (ours.pop("engine"), plain.pop("engine")) == (caffe.__file__, PLAIN_FILE)
    assert ours.keys() == plain.keys()
    assert [key for key in ours if not np.array_equal(ours[key], plain[key])] == []

    assert plain["gradients"].any(axis=1).all()
    assert (plain["history"][1:] != plain["history"][:-1]).any(axis=1).all()
    assert np.array_equal(plain["weights_file"], plain["history"][-1])
    assert np.array_equal(plain["reset"], plain["history"][0])
    assert np.array_equal(plain["target"], plain["history"][0])
    assert not np.array_equal(plain["q_values"], plain["q_values_of_target"])


def server(folder, *options):
    _, solver = tiny.write_model(folder)
    return start_embedded(
        [solver, "--seed", "0", "--target-period", "20", "--port", "0", "--run", "r",
         "--snapshot-dir", str(folder / "snapshots"), *options],
        token=TOKEN, log_path=folder / "server.log", timeout_s=60,
    )  # fmt: skip


def train(folder):
    """One worker trains for a round; return the weights of each snapshot."""
    folder.mkdir()
    me = psutil.Process()
    orders = {
        "token": TOKEN, "run": "r", "worker": "w", "local_workers": os.cpu_count(),
        "config": tiny.config(game="tests.catch_env:Catch-v0", seed=3).to_json(),
        "executor": {"pid": me.pid, "created": me.create_time()},
    }  # fmt: skip
    running = server(folder)
    client = Client(running.address, TOKEN, run="r")
    try:
        with launch.take_slot(folder, ["0"]) as slot:
            told = {**orders, "server": running.address}
            barista = launch.start(slot, told, folder / "barista.log")
            request = {"number": 1, "partition": 0, "quota": UPDATES, "deadline_s": 60.0}
            barista.start_round(request)
            status = barista.status(round_number=1, wait_s=60)
            assert status["error"] is None, barista.last_lines(30)
            assert status["metrics"]["applied"] == UPDATES
            barista.stop()
        weights = client.pull().weights
    finally:
        client.close()
        assert running.stop(30) == 0
    snapshot = folder / "snapshots" / str(UPDATES)
    net, file = str(snapshot / "train_val.prototxt"), str(snapshot / "model.caffemodel")
    assert np.array_equal(caffe.Net(net, caffe.TEST, weights=file).param_arena, weights)
    return weights


@pytest.mark.slow  # the end-to-end test of a plain engine runs always
def test_server_and_worker_train_the_same(choose, tmp_path, monkeypatch):
    monkeypatch.setenv("DDQ_ROOT", str(tmp_path))
    choose(plain=False)
    ours = train(tmp_path / "ours")
    choose(plain=True)
    plain = train(tmp_path / "plain")
    assert np.array_equal(plain, ours)
    for file, said in (
        ("logs/param-server.log", f"the engine is {PLAIN_FILE}"),
        ("plain/barista.log", f"engine {PLAIN_FILE}"),
    ):
        log = (tmp_path / file).read_text()
        assert said in log
        assert "Initializing" not in log  # glog's chatter
        assert "Traceback" not in log


@pytest.mark.parametrize(
    ("text", "change", "said"),
    [
        ("MODEL", ('bottom: "scaled"', 'bottom: "nothing"'), "nothing"),
        ("SOLVER", ('"Adam"', '"RMSProp"'), "momentum"),
    ],
)
def test_what_it_aborts_on_is_one_line(choose, tmp_path, monkeypatch, text, change, said):  # noqa: PLR0917
    monkeypatch.setenv("DDQ_ROOT", str(tmp_path))
    monkeypatch.setattr(tiny, text, getattr(tiny, text).replace(*change))
    choose(plain=True)
    with pytest.raises(ServerStartError) as caught:
        server(tmp_path)
    assert caught.value.exit_code == 2
    line = caught.value.last_lines.splitlines()[-1]
    assert line.startswith("param-server: ")
    assert said in line


def test_a_damaged_snapshot_is_one_line(choose, tmp_path):
    choose(plain=True)
    net, _ = tiny.write_model(tmp_path)
    caffe.Net(net, caffe.TEST).save(str(tmp_path / "model.caffemodel"))
    (tmp_path / "manifest.json").write_text('{"game": "ddq/Snake-v0"}')
    Path(net).write_text(tiny.MODEL.replace("num_output: 32", "num_output: 31"))
    done = subprocess.run(
        [sys.executable, "-m", "barista.play", str(tmp_path)],
        cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("Caffe gives up: Check failed:")
    assert "fc1" in done.stderr
