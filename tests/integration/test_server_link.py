"""The driver's link to real servers: started, joined, found dead and revived."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from param_server.discovery import find_standalone

from barista.games.models import adam_solver, q_network
from barista.server_link import ServerLink, ServerLinkError, Wish

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def solver(tmp_path, monkeypatch):
    monkeypatch.setenv("DDQ_ROOT", str(tmp_path))
    monkeypatch.delenv("DDQ_TOKEN", raising=False)
    net = tmp_path / "train_val.prototxt"
    net.write_text(q_network("snake", 4, 2, 16, 16))
    path = tmp_path / "solver.prototxt"
    path.write_text(adam_solver("snake", str(net)))
    return path


@pytest.fixture
def open_link(solver, tmp_path, no_stray_processes):
    links = []

    def open_link(address=None, *, run="r", may_join=True, options=(), game="ddq/Snake-v0"):
        arguments = [str(solver), "--snapshot-dir", str(tmp_path / run / "snapshots"), "--run", run]
        net = (tmp_path / "train_val.prototxt").read_text()
        wish = Wish(
            run=run, game=game, net=net, arguments=[*arguments, *options, "--port", "0"],
            logs=tmp_path / "logs", address=address, may_join=may_join, host="127.0.0.1",
        )  # fmt: skip
        links.append(ServerLink.open(wish))
        return links[-1]

    yield open_link
    for link in links:
        link.close()


def test_an_embedded_server_is_started_and_ends_with_a_snapshot(open_link, tmp_path):
    link = open_link()
    assert "own" in link.describe()
    assert link.status()["version"] == 0
    assert link.weights().shape == (link.about.layout.size,)
    snapshot = link.finish(tmp_path / "r" / "snapshots")
    assert snapshot == tmp_path / "r" / "snapshots" / "0"
    assert (snapshot / "model.caffemodel").is_file()
    assert link.status() is None


def test_a_second_run_never_joins_an_embedded_server(open_link):
    first, second = open_link(run="a"), open_link(run="b")
    assert first.address != second.address


def test_a_killed_server_is_revived_on_its_port(open_link):
    link = open_link()
    before, address = link.weights(), link.address
    assert link.revive() is None
    link._patient.snapshot()
    process = psutil.Process(link._own.process.pid)
    process.kill()
    process.wait(10)
    assert link.status() is None
    assert "restarted from version 0" in link.revive()
    assert link.address == address
    np.testing.assert_array_equal(link.weights(), before)


def test_a_server_that_hangs_is_replaced(open_link, monkeypatch):
    link = open_link()
    psutil.Process(link._own.process.pid).suspend()
    monkeypatch.setattr("barista.server_link.SILENT_S", 0.0)
    assert "was restarted" in link.revive()
    assert link.status()["version"] == 0


def test_a_wildcard_address_is_not_handed_out(open_link):
    link = open_link(options=("--host", "0.0.0.0"))
    assert link.address.startswith("127.0.0.1:")


@pytest.fixture
def standalone(solver, tmp_path):
    command = [sys.executable, str(ROOT / "param-server/server.py"), str(solver), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--snapshot-dir", str(tmp_path / "standalone")],
        stdout=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("token"):
            break
    yield find_standalone(tmp_path / "logs")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    process.stdout.close()


def test_a_standalone_server_of_the_same_model_is_joined_and_left_running(
    standalone, open_link, tmp_path
):
    link = open_link()
    assert link.describe().startswith(f"joined {standalone.address} at version 0")
    # Its final snapshot is in the run's folder too, so that the run can be resumed.
    assert link.finish(tmp_path / "run") == tmp_path / "run" / "0"
    assert (tmp_path / "run" / "0" / "manifest.json").is_file()
    assert link.status()["version"] == 0
    again = open_link(run="next")  # the first run has left it
    assert again.address == standalone.address
    third = open_link(run="third")
    assert third.address != standalone.address
    assert f"{standalone.address} is busy with another run" in third.describe()


def test_a_joined_server_that_falls_silent_ends_the_run(standalone, open_link, monkeypatch):
    link = open_link()
    assert link.revive() is None
    monkeypatch.setattr("barista.server_link.SILENT_S", 0.0)
    with pytest.raises(RuntimeError, match=f"{standalone.address} has not answered"):
        link.revive()


def test_a_named_server_takes_its_token_from_where_the_server_left_it(standalone, open_link):
    assert open_link(standalone.address).token == standalone.token


def test_one_that_is_not_to_be_joined_is_left_alone(standalone, open_link):
    assert open_link(may_join=False).address != standalone.address


def test_a_wrong_token_is_one_line(standalone, open_link, monkeypatch):
    monkeypatch.setenv("DDQ_TOKEN", "guess")
    with pytest.raises(ServerLinkError, match="DDQ_TOKEN") as raised:
        open_link(standalone.address)
    assert raised.value.exit_code == 2


def test_a_server_of_another_network_is_refused(standalone, open_link, solver):
    Path(solver.parent / "train_val.prototxt").write_text(q_network("snake", 3, 2, 16, 16))
    with pytest.raises(ServerLinkError, match="another network"):
        open_link(standalone.address)
    assert open_link().address != standalone.address


@pytest.mark.parametrize(
    ("address", "said"), [("127.0.0.1:9", "127.0.0.1:9"), ("nonsense", "not HOST:PORT")]
)
def test_an_unreachable_server_is_one_line(open_link, monkeypatch, address, said):
    monkeypatch.setenv("DDQ_TOKEN", "t")
    with pytest.raises(ServerLinkError, match=said) as raised:
        open_link(address)
    assert raised.value.exit_code == 2


def test_weights_that_match_nothing_are_one_line(open_link, tmp_path):
    (tmp_path / "x.caffemodel").write_bytes(b"")
    with pytest.raises(ServerLinkError) as raised:
        open_link(options=("--weights", str(tmp_path / "x.caffemodel")))
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)
