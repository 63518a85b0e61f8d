"""A Barista's start and end: its orders, its files, its exit codes."""

import json
from types import SimpleNamespace

import pytest
from param_server.errors import (
    BadRequest,
    Draining,
    ServerUnreachable,
    Untrusted,
    UserMistake,
    WrongRun,
)

from barista import __main__ as main
from barista.config import ConfigError
from barista.launch import FATAL
from barista.server import RoundDesk


@pytest.fixture
def desk():
    desk = RoundDesk(dict)
    desk.stop()  # nobody is there to ask why
    return desk


@pytest.mark.parametrize(
    ("error", "is_fatal"),
    [
        (Untrusted("not vouched for"), True),
        (UserMistake("--tls-ca x: it holds no certificate in PEM"), True),
        (WrongRun("another run"), True),
        (BadRequest("wrong in itself"), True),
        (ConfigError("--device tpu"), True),
        (Draining("going down"), False),
        (ServerUnreachable("127.0.0.1:9", "refused"), False),
        (RuntimeError("broken"), False),
    ],
)
def test_only_what_no_restart_can_mend_is_fatal(desk, error, is_fatal):
    def fail():
        raise error

    assert main._guarded(fail, desk) == (2 if is_fatal else 1)
    said = desk.status()["error"]
    assert said.startswith(FATAL) == is_fatal
    assert str(error) in said


def test_the_orders_files_are_private_and_gone_in_the_end(desk, monkeypatch):
    seen = []

    def assemble(orders, config, folder, mailbox):
        seen.append((folder, folder.stat().st_mode & 0o777))
        (folder / "ca.pem").write_text(orders.ca)
        raise ConfigError("enough")

    monkeypatch.setattr(main.assembly, "assemble", assemble)
    orders = SimpleNamespace(config={"game": "ddq/Snake-v0"}, ca="certificate", executor=None)
    with pytest.raises(ConfigError, match="enough"):
        main._work(orders, desk, [])
    ((folder, mode),) = seen
    assert mode == 0o700
    assert not folder.exists()


def test_started_by_hand_it_trusts_the_file_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DDQ_TOKEN", "t")
    (tmp_path / "ca.pem").write_text("certificate")
    given = ["--server", "h:1", "--tls-ca", str(tmp_path / "ca.pem")]
    assert main._own_orders(main._parser().parse_args(given)).ca == "certificate"
    assert main._own_orders(main._parser().parse_args(given[:2])).ca == ""


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b"\xff\xfe\x00", "it holds no PEM")]
)
def test_a_file_that_cannot_be_trusted_is_one_line(tmp_path, monkeypatch, capsys, content, said):
    monkeypatch.setenv("DDQ_TOKEN", "t")
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    assert main.main(["--server", "h:1", "--tls-ca", str(path)]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"barista: --tls-ca {path}: {said}")
    assert line.count("\n") == 1


def test_orders_survive_the_pipe():
    orders = main.Orders("h:1", "t", "r", {}, "w", "i", "l", ca="certificate")
    assert main.Orders(**json.loads(json.dumps(orders._asdict()))) == orders


def test_a_start_that_computes_shows_signs_of_life_for_as_long_as_it_likes(monkeypatch):
    now = SimpleNamespace(wall=0.0, cpu=0.0)
    clock = SimpleNamespace(monotonic=lambda: now.wall, process_time=lambda: now.cpu)
    monkeypatch.setattr(main, "time", clock)

    def changes(wall_s, *, cpu_s):
        before = main._signs_of_life(0.0)
        now.wall += wall_s
        now.cpu += cpu_s
        return main._signs_of_life(0.0) != before

    assert changes(60, cpu_s=0)  # at first waiting will do
    now.wall = 300.0
    assert changes(60, cpu_s=40)
    assert not changes(60, cpu_s=0.1)
