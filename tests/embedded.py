"""An embedded server's process, as its driver sees it: ready with a line, ended with its stdin."""

import contextlib
import json


@contextlib.contextmanager
def answering(process):
    """Wait until the server is ready; yield its address; have it end, in peace."""
    try:
        line = process.stdout.readline()
        assert line, f"the server ended with {process.wait(10)} before it was ready"
        yield json.loads(line)["address"]
    finally:
        process.stdin.close()
        try:
            code = process.wait(30)
        finally:
            process.kill()
            process.stdout.close()
    assert code == 0
