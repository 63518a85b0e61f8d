"""The end of a process, whatever its daemon threads do."""

import subprocess
import sys

HOLDS_A_STREAM = """
import logging, sys, threading
from param_server.leaving import leave
logging.basicConfig(filename=sys.argv[1])
threading.Thread(target=sys.stdin.buffer.read, daemon=True).start()
logging.getLogger().error("logged")
sys.stdout.write("said")
leave(3)
"""


def test_leaving_is_no_abort_while_a_daemon_thread_is_anywhere(tmp_path):
    # sys.exit ends this program with "could not acquire lock ... at interpreter shutdown".
    log = tmp_path / "log"
    command = [sys.executable, "-c", HOLDS_A_STREAM, log]
    # Its stdin stays open, so that its thread holds that stream until the end.
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as silence:
        done = subprocess.run(
            command, check=False, stdin=silence.stdout, capture_output=True, timeout=60
        )
        silence.kill()
    assert (done.returncode, done.stdout, done.stderr) == (3, b"said", b"")
    assert "logged" in log.read_text()
