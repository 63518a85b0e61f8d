"""The composition root: each mistake is one line and exit code 2, and nothing is left behind."""

import logging
import shutil
import signal
import socket
from pathlib import Path

import pytest
from param_server import cli, process
from param_server.cli import main
from param_server.engine import Engine
from param_server.recovery import fill
from param_server.snapshot import Folder
from param_server.store import Store

from tests import tiny
from tests.store_rig import make_push, ones


@pytest.fixture(autouse=True)
def own_logs(tmp_path, monkeypatch):
    """A logs folder, log handlers and signal handlers of the test's own."""
    monkeypatch.setenv("DDQ_ROOT", str(tmp_path))
    root, handlers = logging.getLogger(), list(logging.getLogger().handlers)
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    level = root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    for number, handler in signals.items():
        signal.signal(number, handler)


@pytest.fixture
def solver(tmp_path):
    (tmp_path / "model").mkdir()
    return tiny.write_model(tmp_path / "model")[1]


@pytest.fixture
def stops_at_once(monkeypatch):
    """A server that is told to stop as soon as it serves."""
    monkeypatch.setattr(process, "set_at_signals", lambda stop: stop.set())


def mistake(capsys, *arguments):
    """Run a command line that is wrong; return the one line it prints."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("param-server: ")
    return captured.err


@pytest.mark.usefixtures("stops_at_once")
def test_standalone_server_says_where_it_is_and_leaves_no_record(solver, tmp_path, capsys):
    assert main([solver, "--port", "0", "--game", "catch"]) == 0
    said = capsys.readouterr().out
    assert "/current_status" in said
    assert "stopped at version 0" in said
    assert list((tmp_path / "logs").glob("*.json")) == []
    assert list((tmp_path / "logs").rglob(".tmp-*")) == []
    assert "serving" in (tmp_path / "logs/param-server.log").read_text()


def test_record_is_there_while_it_serves(solver, tmp_path, monkeypatch):
    seen = []

    def look(parts):
        parts.core.snapshotter.stop()
        seen.extend((tmp_path / "logs").glob("param-server-*.json"))
        return 0

    monkeypatch.setattr(cli, "_drain", look)
    monkeypatch.setattr(process, "set_at_signals", lambda stop: stop.set())
    main([solver, "--port", "0"])
    assert len(seen) == 1
    assert list((tmp_path / "logs").glob("*.json")) == []


def test_flag_that_is_wrong_is_a_mistake(capsys):
    assert "'x' is not a number from 0 to 65535" in mistake(capsys, "--port", "x")


def test_missing_solver_is_a_mistake(tmp_path, capsys):
    line = mistake(capsys, tmp_path / "nothing.prototxt", "--port", "0")
    assert "nothing.prototxt: No such file" in line


def test_malformed_solver_is_a_mistake(tmp_path, capsys):
    (tmp_path / "bad.prototxt").write_text("net {{{")
    assert "bad.prototxt" in mistake(capsys, tmp_path / "bad.prototxt", "--port", "0")


def test_taken_port_is_a_mistake(solver, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is taken" in mistake(capsys, solver, "--port", port)


def test_host_that_is_not_ours_is_a_mistake(solver, capsys):
    assert "cannot bind to 203.0.113.7" in mistake(capsys, solver, "--host", "203.0.113.7")


def test_logs_folder_that_cannot_be_written_is_a_mistake(solver, tmp_path, capsys):
    (tmp_path / "logs").write_text("a file")
    assert "cannot write the log" in mistake(capsys, solver, "--port", "0")


def test_snapshot_folder_that_cannot_be_written_is_a_mistake(solver, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = mistake(capsys, solver, "--port", "0", "--snapshot-dir", tmp_path / "file" / "x")
    assert "cannot write snapshots" in line


def test_nothing_to_resume_is_a_mistake(solver, tmp_path, capsys):
    line = mistake(capsys, solver, "--port", "0", "--resume", tmp_path / "nothing")
    assert "no snapshot in" in line


def test_weights_and_resume_exclude_each_other(solver, tmp_path, capsys):
    line = mistake(capsys, solver, "--port", "0", "--resume", tmp_path, "--weights", tmp_path)
    assert "exclude each other" in line


@pytest.fixture
def snapshot(solver, tmp_path):
    """A snapshot of one update of the tiny model, for a game called catch."""
    (tmp_path / "work").mkdir()
    engine = Engine(Path(solver), roots=[], work=tmp_path / "work", seed=1)
    store = Store(
        engine.layout, engine.weights, apply=engine.apply, reset=engine.reset, epoch=5,
        clock=lambda: 0.0, game="catch",
    )  # fmt: skip
    push = make_push(layout=engine.layout.digest, epoch=5)
    store.apply(push, ones(engine.layout))
    folder = Folder(tmp_path / "old")
    return folder.write(lambda path: fill(path, engine, store, seed=1)).path


@pytest.mark.usefixtures("stops_at_once")
@pytest.mark.parametrize("given", [".", ".."])
@pytest.mark.parametrize("names_solver", [True, False])
def test_server_resumes_and_says_from_where(solver, snapshot, given, names_solver, capsys):
    arguments = [solver] if names_solver else []
    assert main([*arguments, "--port", "0", "--resume", str(snapshot / given)]) == 0
    said = capsys.readouterr().out
    assert "resumed at version 1 from" in said
    assert "4 steps, 0 episodes" in said


@pytest.mark.usefixtures("stops_at_once")
def test_damaged_snapshot_is_passed_over_with_a_warning_to_read(solver, snapshot, capsys):
    newer = snapshot.with_name("2")
    shutil.copytree(snapshot, newer)
    manifest = (newer / "manifest.json").read_text().replace('"version": 1', '"version": 2')
    (newer / "manifest.json").write_text(manifest)
    (newer / "model.caffemodel").write_bytes(b"damaged")
    assert main([solver, "--port", "0", "--resume", str(snapshot.parent)]) == 0
    said = capsys.readouterr()
    assert f"resumed at version 1 from {snapshot}" in said.out
    assert said.err.startswith(f"warning: snapshot {newer} is damaged: model.caffemodel")


@pytest.mark.usefixtures("stops_at_once")
def test_server_whose_snapshots_another_one_writes_is_a_mistake(solver, tmp_path, capsys):
    other = Folder(tmp_path / "there")
    other.prepare()
    line = mistake(capsys, solver, "--port", "0", "--snapshot-dir", tmp_path / "there")
    assert "another server writes its snapshots to" in line
    other.close()


def test_resume_of_another_game_is_a_mistake(solver, snapshot, capsys):
    line = mistake(capsys, solver, "--port", "0", "--resume", snapshot, "--game", "other")
    assert "its game is 'catch', not 'other'" in line


def test_resume_with_another_solver_type_is_a_mistake(solver, snapshot, capsys):
    net = Path(solver).with_name("train_val.prototxt")
    Path(solver).write_text(f'net: "{net}" type: "SGD" lr_policy: "fixed"')
    line = mistake(capsys, solver, "--port", "0", "--resume", snapshot)
    assert "its solver type is 'Adam', not 'SGD'" in line


@pytest.mark.parametrize(
    "change", [("num_output: 32", "num_output: 16"), ("scale: 0.0039", "scale: 0.0040")]
)
def test_resume_with_another_net_is_a_mistake(solver, snapshot, change, capsys):
    net = Path(solver).with_name("train_val.prototxt")
    assert change[0] in net.read_text()
    net.write_text(net.read_text().replace(*change))
    line = mistake(capsys, solver, "--port", "0", "--resume", snapshot)
    assert "its network is not the one" in line


def test_resume_of_a_damaged_ledger_is_a_mistake(solver, snapshot, capsys):
    path = snapshot / "manifest.json"
    path.write_text(path.read_text().replace('"round"', '"sound"'))
    assert "its manifest is damaged" in mistake(capsys, solver, "--port", "0", "--resume", snapshot)
