"""Starting an embedded server: the ready line, or the reason why there is none.

The child here is a few lines of Python in place of the server, which needs seconds to start.
"""

import sys

import pytest
from param_server import launch
from param_server.errors import ServerStartError
from param_server.launch import start_embedded

READY = """
import json, os, sys
print(json.dumps({"ready": True, "address": "127.0.0.1:1", "pid": 1, "epoch": 5, "version": 2}))
sys.stdout.flush()
"""
UNTIL_STDIN_ENDS = "sys.stdin.read()\n"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a child that runs a script in place of the server's."""

    def start(script, timeout_s=20.0, arguments=("--port", "0")):
        child = tmp_path / "child.py"
        child.write_text(script)
        popen = launch.subprocess.Popen

        def replaced(command, **options):
            assert command[:3] == [sys.executable, "-m", "param_server.cli"]
            return popen([sys.executable, str(child), *command[3:]], **options)

        monkeypatch.setattr(launch.subprocess, "Popen", replaced)
        return start_embedded(
            arguments, token="s3cret", log_path=tmp_path / "logs/err.log", timeout_s=timeout_s
        )

    return start


@pytest.mark.usefixtures("no_stray_processes")
def test_ready_server_has_address_epoch_and_version(start):
    server = start(READY + UNTIL_STDIN_ENDS)
    assert (server.address, server.epoch, server.version) == ("127.0.0.1:1", 5, 2)
    assert server.alive()
    assert server.stop(20.0) == 0
    assert not server.alive()


def test_token_is_in_the_environment_and_not_in_argv(start, tmp_path):
    seen = f"""
open({str(tmp_path / "seen")!r}, "w").write(os.environ["DDQ_TOKEN"] + " " + " ".join(sys.argv[1:]))
"""
    start(READY.replace("print", seen + "print", 1)).stop(20.0)
    assert (tmp_path / "seen").read_text() == "s3cret --port 0 --embedded"


def test_child_finds_what_its_parent_finds(start, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "extra"))
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra/only_here.py").write_text("")
    start("import only_here" + READY).stop(20.0)


@pytest.mark.usefixtures("no_stray_processes")
def test_server_that_ends_early_passes_on_its_exit_code_and_last_line(start):
    with pytest.raises(ServerStartError, match="exit code 2") as caught:
        start("import sys\nprint('param-server: no such net', file=sys.stderr)\nsys.exit(2)")
    assert caught.value.exit_code == 2
    assert caught.value.last_lines == "param-server: no such net"


@pytest.mark.usefixtures("no_stray_processes")
def test_server_that_hangs_is_killed(start):
    with pytest.raises(ServerStartError, match=r"was not ready within 0\.5 s") as caught:
        start("import sys, time\nsys.stdin.read()\ntime.sleep(60)", timeout_s=0.5)
    assert caught.value.exit_code is None


@pytest.mark.usefixtures("no_stray_processes")
def test_server_that_says_something_else_is_not_ready(start):
    with pytest.raises(ServerStartError):
        start("print('hello')")


def test_earlier_lines_of_the_log_are_not_blamed(start, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/err.log").write_text("an older failure\n")
    with pytest.raises(ServerStartError) as caught:
        start("import sys\nsys.exit(3)")
    assert caught.value.last_lines == ""


@pytest.mark.usefixtures("no_stray_processes")
def test_server_that_does_not_stop_is_killed(start):
    server = start(READY + "import time\ntime.sleep(60)\n")
    assert server.stop(0.2) < 0
