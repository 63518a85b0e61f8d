"""The driver's link to real servers: started, joined, found dead and revived."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from param_server.client import Client
from param_server.discovery import find_standalone
from param_server.errors import ParamServerError
from param_server.wire import Push

from barista.driver.server_link import NEWS_S, ServerLink, ServerLinkError, Wish
from barista.games.models import q_network
from barista.games.solvers import adam_solver
from barista.playing.episodes import Evaluation
from barista.playing.evaluation import Score
from tests.server_rig import until
from tests.tls_rig import Authority

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

    def open_link(
        address=None, *, run="r", may_join=True, options=(), game="ddq/Snake-v0", ca=None
    ):
        arguments = [str(solver), "--snapshot-dir", str(tmp_path / run / "snapshots"), "--run", run]
        net = (tmp_path / "train_val.prototxt").read_text()
        wish = Wish(
            run=run, game=game, net=net, arguments=[*arguments, *options, "--port", "0"],
            logs=tmp_path / "logs", address=address, may_join=may_join, host="127.0.0.1",
            ca=ca,
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
    assert link.model().weights.shape == (link.about.layout.size,)
    snapshot = link.finish(tmp_path / "r" / "snapshots")
    assert snapshot == tmp_path / "r" / "snapshots" / "0"
    assert (snapshot / "model.caffemodel").is_file()
    assert link.status() is None


def kill(link):
    os.kill(link._own.process.pid, signal.SIGKILL)
    until(lambda: not link._own.process.alive())


def push(link, count, worker="w"):
    """Push gradients of zeros, each from the newest weights, as a new worker."""
    gradient = np.zeros(link.about.layout.size, np.float32)
    client = Client(link.address, link.token, run="r", worker=worker)
    for sequence in range(1, count + 1):
        status = link.status()
        told = Push(
            run="r", worker=worker, incarnation="i", sequence=sequence, epoch=status["epoch"],
            version=status["version"], layout=link.about.layout.digest,
        )  # fmt: skip
        assert client.push(told, gradient)[0].status == "applied"
    client.close()


@pytest.mark.parametrize(
    ("durability", "line"),
    [
        ("interval", "restarted from version 2; 3 acknowledged updates are gone"),
        ("acknowledged", "restarted from version 5; nothing acknowledged is lost"),
    ],
)
def test_a_restart_says_what_is_gone(open_link, durability, line):
    link = open_link(options=("--durability", durability))
    push(link, 2)
    assert link.snapshot().version == 2
    push(link, 3, worker="v")
    kill(link)
    assert link.revive() == f"the parameter server died (-9) and was {line}"
    assert link.revive() is None


def test_a_restart_keeps_every_flag(open_link):
    link = open_link(options=("--no-same-host", "--staleness", "ssp:2", "--keep", "3"))
    assert link.about.same_host == ""
    kill(link)
    link.revive()
    assert link.status()["staleness_policy"] == "ssp:2"
    assert link.status()["in_step"]
    assert link._client.prototxt().same_host == ""


def test_the_plan_says_what_is_unusual(open_link):
    usual = open_link().describe()
    assert "\n" not in usual
    options = ("--staleness", "ssp:2", "--outliers", "4", "--durability", "acknowledged")
    link = open_link(run="b", options=options)
    first, second = link.describe().splitlines()
    assert first.endswith("this run's own")
    assert second.strip() == "staleness ssp:2, outliers 4, durability acknowledged"


def test_the_best_version_is_kept_by_its_score(open_link, tmp_path):
    link = open_link(options=("--keep", "1"))
    for number in range(3):
        push(link, 1, worker=f"w{number}")
        written = link.snapshot()
        result = Evaluation((2.0 - number, 4.0 - number), (9, 9), complete=True)
        link.report(Score(written.epoch, written.version, result, written.path))
    kept = {path.name for path in (tmp_path / "r" / "snapshots").iterdir() if path.name.isdecimal()}
    assert {"1", "3"} <= kept
    assert "2" not in kept


def test_a_version_without_a_snapshot_has_no_score(open_link):
    link = open_link()
    result = Evaluation((1.0,), (9,), complete=True)
    with pytest.raises(ParamServerError, match="77"):
        link.report(Score(1, 77, result, None))


def test_a_busy_driver_stays_in_touch(open_link, monkeypatch):
    monkeypatch.setattr("barista.driver.server_link.TOUCH_S", 0.01)
    link = open_link()
    before = link._heard
    with link.kept_in_touch():
        until(lambda: link._heard > before)
    assert not [thread for thread in threading.enumerate() if thread.name == "in touch"]


def test_a_server_is_told_what_happens_while_it_answers(open_link):
    link = open_link()
    link.incident("it died")
    link._heard -= NEWS_S
    link.incident("nobody waits for an answer to this")
    assert [each["text"] for each in link.status()["incidents"]] == ["it died"]


def test_a_second_run_never_joins_an_embedded_server(open_link):
    first, second = open_link(run="a"), open_link(run="b")
    assert first.address != second.address


def test_a_killed_server_is_revived_on_its_port(open_link):
    link = open_link()
    before, address = link.model().weights, link.address
    assert link.revive() is None
    kill(link)
    assert link.status() is None
    assert link.revive().endswith("restarted from version 0; nothing acknowledged is lost")
    assert link.address == address
    np.testing.assert_array_equal(link.model().weights, before)


def test_a_server_that_hangs_is_replaced(open_link, monkeypatch):
    link = open_link()
    psutil.Process(link._own.process.pid).suspend()
    monkeypatch.setattr("barista.driver.server_link.SILENT_S", 0.0)
    assert "was restarted" in link.revive()
    assert link.status()["version"] == 0


def test_a_wildcard_address_is_not_handed_out(open_link):
    link = open_link(options=("--host", "0.0.0.0"))
    assert link.address.startswith("127.0.0.1:")


@pytest.fixture
def start_standalone(solver, tmp_path):
    processes = []

    def start(*options):
        command = [sys.executable, str(ROOT / "param-server/server.py"), str(solver)]
        process = subprocess.Popen(
            [*command, "--port", "0", "--snapshot-dir", str(tmp_path / "standalone"), *options],
            stdout=subprocess.PIPE, text=True, env=os.environ,
        )  # fmt: skip
        processes.append(process)
        for line in process.stdout:
            if line.startswith("token"):
                break
        return find_standalone(tmp_path / "logs")

    yield start
    for process in processes:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()


@pytest.fixture
def standalone(start_standalone):
    return start_standalone()


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
    monkeypatch.setattr("barista.driver.server_link.SILENT_S", 0.0)
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


def test_an_own_server_speaks_tls_and_tells_executors_whom_to_trust(open_link, tmp_path):
    files = Authority(tmp_path).sign("127.0.0.1")
    both = tmp_path / "both.pem"
    both.write_text(files.key.read_text() + files.cert.read_text())
    link = open_link(options=("--tls-cert", str(both)), ca=both)
    assert link.describe().endswith(f"https://{link.address}/current_status")
    assert link.trusted() == files.cert.read_text()  # and not the key
    kill(link)
    assert "restarted from version 0" in link.revive()
    assert link.status()["version"] == 0


def test_a_certificate_for_another_name_is_one_line(open_link, tmp_path):
    files = Authority(tmp_path).sign("example.org")
    options = ("--tls-cert", str(files.cert), "--tls-key", str(files.key))
    with pytest.raises(ServerLinkError, match=r"is for example\.org, not for 127") as raised:
        open_link(options=options, ca=files.cert)
    assert raised.value.exit_code == 2


@pytest.fixture
def tls_files(tmp_path):
    return Authority(tmp_path).sign("127.0.0.1")


@pytest.fixture
def tls_server(tls_files, start_standalone):
    return start_standalone("--tls-cert", str(tls_files.cert), "--tls-key", str(tls_files.key))


def test_a_standalone_server_with_tls_is_found_named_or_distrusted(
    tls_server, tls_files, open_link, tmp_path
):
    link = open_link()
    assert link.describe().startswith(f"joined {tls_server.address} at version 0")
    assert link.trusted() == tls_files.cert.read_text()
    link.close()
    # Named by its address, it has left its user all that is needed.
    link = open_link(tls_server.address)
    assert link.model().version == 0
    link.close()
    stranger = Authority(tmp_path, "other").file
    with pytest.raises(ServerLinkError, match=r"not vouched for by .*other\.pem") as raised:
        open_link(tls_server.address, ca=stranger)
    assert raised.value.exit_code == 2
