"""A worker put together from what a real server hands out."""

import itertools
import os
from types import SimpleNamespace

import pytest
import torch
from caffe.precision import arithmetic
from param_server.errors import ServerUnreachable, Untrusted
from param_server.rehearsal import EngineAbortError
from param_server.tls import server_context

import caffe
from barista import assembly, games
from barista.assembly import Orders, assemble
from barista.config import AgentConfig, ConfigError
from barista.exchange import LocalExchange
from barista.learner import load_nets
from barista.outbox import Identity
from barista.rounds import RoundRequest
from barista.worker import Worker
from tests import tiny
from tests.server_rig import TOKEN, running
from tests.tls_rig import Authority


@pytest.fixture(autouse=True)
def threads():
    """Leave the engine as many as it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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


def test_the_worker_plays_and_pushes(server, tmp_path):
    told = orders(server.address)
    worker = assemble(told, AgentConfig.from_json(told.config), tmp_path)
    assert isinstance(worker, Worker)
    row = worker.run_round(RoundRequest(1, quota=3, deadline_s=60.0))
    worker.close()
    assert (row["applied"], row["worker"]) == (3, "w")


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (("auto", 1), "with 1 threads, game tests.catch_env:Catch-v0 with 1, in turn"),
        (("auto", 3), "with 2 threads, game tests.catch_env:Catch-v0 with 1, at once"),
        (("off", 3), "with 3 threads, game tests.catch_env:Catch-v0 with 3, in turn"),
    ],
)
def test_threads_are_shared_out(server, tmp_path, caplog, asked, line):
    caplog.set_level("INFO", "barista")
    overlap, threads = asked
    told = orders(server.address, threads=threads)
    config = AgentConfig.from_json({**told.config, "overlap": overlap})
    worker = assemble(told, config, tmp_path)
    assert line in caplog.text
    assert torch.get_num_threads() == int(line.split()[1])
    assert worker.run_round(RoundRequest(1, quota=3, deadline_s=60.0))["applied"] == 3
    worker.close()


def test_the_engine_computes_as_asked():
    before = arithmetic()
    try:
        assembly.hands(tiny.config(precision="bf16-all"), threads=1)
        assert arithmetic() == "bf16-all"
        assembly.hands(tiny.config(precision="auto"), threads=1)
        assert arithmetic() == "bf16-all"  # the engine's own choice stays
    finally:
        caffe.set_precision(before)


def test_an_engine_without_precisions_is_told_nothing(monkeypatch):
    plain = SimpleNamespace(__file__="/opt/caffe", set_mode_cpu=lambda: None)
    monkeypatch.setattr(assembly, "caffe", plain)
    assembly.hands(tiny.config(), threads=1)
    with pytest.raises(ConfigError, match="--precision bf16: /opt/caffe computes as it was built"):
        assembly.hands(tiny.config(precision="bf16"), threads=1)


_incarnations = itertools.count()


def made(tmp_path, store, **changes):
    """A worker of `make_worker` that plays catch."""
    net_file, _ = tiny.write_model(tmp_path)
    return assembly.make_worker(
        tiny.config(warmup=100, **changes),
        game=tiny.Catch(8, seed=0),
        nets=load_nets(net_file, batch_size=16, num_envs=8),
        exchange=LocalExchange(store),
        identity=Identity("r", "w", f"process {next(_incarnations)}"),
        ordinal=1,
    )


@pytest.fixture
def store(tmp_path):
    net_file, _ = tiny.write_model(tmp_path)
    return tiny.sgd_store(caffe.Net(net_file, caffe.TRAIN))


def test_priorities_follow_the_errors(tmp_path, store):
    """β has not risen: what is drawn more often counts less."""
    worker = made(tmp_path, store, prioritised=True)
    drawn, sample = [], worker._replay.sample

    def keep(*arguments):
        drawn.append((arguments, sample(*arguments)))
        return drawn[-1][1]

    worker._replay.sample = keep
    worker.run_round(RoundRequest(1, quota=40))
    worker._replay.check()
    (_, first), (arguments, last) = drawn[0], drawn[-1]
    assert arguments == (16, pytest.approx(0.4, abs=1e-3))
    assert set(first.weights) == {1.0}  # nothing is known of any of them
    assert last.weights.max() == 1.0 > last.weights.min()
    worker.close()


def test_a_replay_on_disk_is_warm_when_it_is_found_again(tmp_path, store):
    folder = tmp_path / "replay"
    worker = made(tmp_path, store, replay_dir=str(folder))
    worker.run_round(RoundRequest(1, quota=3))
    size = worker.progress()["replay_size"]
    worker.close()
    assert [path.name for path in folder.iterdir()] == ["worker-1"]
    again = made(tmp_path, store, replay_dir=str(folder))
    assert again.is_warm
    assert 100 - 2 * 8 <= again.progress()["replay_size"] <= size
    assert again.run_round(RoundRequest(2, quota=3))["steps"] <= 16
    again.close()
    with pytest.raises(ConfigError):
        made(tmp_path, store, replay_dir=str(folder), gamma=0.5)


def test_experience_of_one_worker_warms_another(tmp_path, store):
    folder = str(tmp_path / "experience")
    worker = made(tmp_path, store, replay_to=folder)
    worker.run_round(RoundRequest(1, quota=3))
    size = worker.progress()["replay_size"]
    worker.close()
    again = made(tmp_path, store, replay_from=folder, n_step=1)
    assert again.progress()["replay_size"] >= size
    assert again.is_warm
    again.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_way_to_the_server_is_said_in_one_line(server, tmp_path, caplog, dtype):
    caplog.set_level("INFO", "barista")
    told = orders(server.address)
    config = AgentConfig.from_json({**told.config, "wire_dtype": dtype})
    worker = assemble(told, config, tmp_path)
    assert f"exchanging with {server.address} by HTTP, {dtype}" in caplog.text
    assert worker.run_round(RoundRequest(1, quota=2, deadline_s=60.0))["applied"] == 2
    worker.close()


def test_a_server_with_tls_is_trusted_by_the_orders(tmp_path, caplog):
    caplog.set_level("INFO", "barista")
    authority = Authority(tmp_path)
    files = authority.sign("127.0.0.1")
    net_file, _ = tiny.write_model(tmp_path)
    store = tiny.sgd_store(caffe.Net(net_file, caffe.TRAIN))
    with running(store, tls=server_context(files.cert, files.key)) as service:
        service.prototxt = {**service.prototxt, "net": tiny.MODEL}
        told = orders(service.server.address, ca=authority.file.read_text())
        config = AgentConfig.from_json(told.config)
        worker = assemble(told, config, tmp_path)
        assert "by HTTPS, float32" in caplog.text
        assert worker.run_round(RoundRequest(1, quota=2, deadline_s=60.0))["applied"] == 2
        worker.close()
        stranger = told._replace(ca=Authority(tmp_path, "other").file.read_text())
        with pytest.raises(Untrusted, match="not vouched for"):
            assemble(stranger, config, tmp_path)


def test_an_unknown_game_is_said(server, tmp_path):
    told = orders(server.address)
    config = AgentConfig.from_json({**told.config, "game": "ALE/Pnog-v5"})
    with pytest.raises(games.UnknownGameError, match="did you mean"):
        assemble(told, config, tmp_path)


def test_an_unreachable_server_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(assembly.Client, "__init__", _impatient(assembly.Client.__init__))
    told = orders("127.0.0.1:9")
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9"):
        assemble(told, AgentConfig.from_json(told.config), tmp_path)


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
