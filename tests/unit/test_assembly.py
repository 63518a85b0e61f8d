"""A worker put together from what a real server hands out."""

import os

import pytest
from param_server.errors import ServerUnreachable
from param_server.rehearsal import EngineAbortError

import caffe
from barista import assembly, games
from barista.assembly import Orders, assemble
from barista.config import AgentConfig, ConfigError
from barista.rounds import RoundRequest
from barista.worker import Worker
from tests import tiny
from tests.server_rig import TOKEN, running


@pytest.fixture
def server(tmp_path):
    """A server that hands out catch's network."""
    net_file, _ = tiny.write_model(tmp_path)
    with running(tiny.sgd_store(caffe.Net(net_file, caffe.TRAIN))) as service:
        service.prototxt = {**service.prototxt, "net": tiny.MODEL}
        yield service.server


def orders(address, **changes):
    config = tiny.config(game="tests.catch_env:Catch-v0", warmup=100)
    return Orders(
        server=address, token=TOKEN, run="r", config=config.to_json(), worker="w",
        incarnation="i", local_token="t", local_workers=64, **changes,
    )  # fmt: skip


def test_the_worker_plays_and_pushes(server):
    told = orders(server.address)
    worker = assemble(told, AgentConfig.from_json(told.config))
    assert isinstance(worker, Worker)
    row = worker.run_round(RoundRequest(1, quota=3, deadline_s=60.0))
    worker.close()
    assert (row["applied"], row["worker"]) == (3, "w")


def test_an_unknown_game_is_said(server):
    told = orders(server.address)
    config = AgentConfig.from_json({**told.config, "game": "ALE/Pnog-v5"})
    with pytest.raises(games.UnknownGameError, match="did you mean"):
        assemble(told, config)


def test_an_unreachable_server_is_said(monkeypatch):
    monkeypatch.setattr(assembly.Client, "__init__", _impatient(assembly.Client.__init__))
    told = orders("127.0.0.1:9")
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9"):
        assemble(told, AgentConfig.from_json(told.config))


def _impatient(init):
    def wrapped(self, *args, **keywords):
        init(self, *args, **{**keywords, "retry_s": 0})

    return wrapped


@pytest.fixture
def modes(monkeypatch):
    """Record what the engine is told; no machine of ours has a GPU."""
    told = []
    monkeypatch.setattr(caffe, "set_mode_cpu", lambda: told.append("cpu"))
    monkeypatch.setattr(caffe, "set_mode_gpu", lambda: told.append("gpu"))
    monkeypatch.setattr(caffe, "set_device", told.append)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "unchanged")
    return told


@pytest.mark.parametrize(
    ("device", "gpu", "told", "visible"),
    [
        ("auto", None, ["cpu"], "unchanged"),
        ("cpu", "3", ["cpu"], "3"),
        ("auto", "3", [0, "gpu"], "3"),  # the only one that it sees
        ("cuda", None, [0, "gpu"], "unchanged"),
        ("cuda:1", None, [1, "gpu"], "unchanged"),
    ],
)
def test_the_device_is_the_one_asked_for_or_given(modes, device, gpu, told, visible):
    assembly._choose_device(device, gpu)
    assert modes == told
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_a_device_that_the_engine_refuses_is_the_users_mistake(modes, monkeypatch, error):
    def refuse(number):
        raise error(f"no device {number}")

    monkeypatch.setattr(caffe, "set_device", refuse)
    with pytest.raises(ConfigError, match="--device cuda:1: no device 1"):
        assembly._choose_device("cuda:1", None)


def test_a_device_that_the_engine_would_abort_on_is_the_users_mistake(modes, monkeypatch):
    def abort(*, device):
        raise EngineAbortError("Caffe gives up: Cannot use GPU in CPU-only Caffe")

    monkeypatch.setattr(assembly, "rehearse", abort)
    with pytest.raises(ConfigError, match="--device cuda: Caffe gives up"):
        assembly._choose_device("cuda", None)
    assert modes == []
