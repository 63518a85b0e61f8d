"""A server's same-host path in a folder of its own, and frames written by hand."""

import contextlib
import json
import os
import resource
import socket
import tempfile
from pathlib import Path

from param_server import wire
from param_server.same_host import Limits, SameHostServer

from tests.server_rig import TOKEN
from tests.store_rig import LAYOUT


@contextlib.contextmanager
def sharing(service, *, limits=None, user=None):
    """Serve a service by shared memory too; yield the server."""
    with tempfile.TemporaryDirectory(prefix="ddq-") as folder:
        path = Path(folder) / "5500-test.sock"
        server = SameHostServer(service, path, limits=limits or Limits(), user=user)
        service.prototxt["same_host"] = str(path)
        server.start()
        try:
            yield server
        finally:
            server.close()
            service.prototxt["same_host"] = ""


def frame(**fields):
    """Return a frame of any fields, with the dtype that all frames have."""
    return frame_of(json.dumps({"dtype": "float32", **fields}).encode())


def frame_of(text):
    return wire.PREFIX.pack(b"DDQ1", len(text)) + text


def hello(**changes):
    return frame(
        **{
            "kind": "hello", "token": TOKEN, "run": "r1", "worker": "w0", "layout": LAYOUT.digest,
            **changes,
        }
    )  # fmt: skip


class Peer:
    """One connection to a path, by hand."""

    def __init__(self, path, greeting=b""):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile("rb")
        if greeting:
            self.say(greeting)

    def say(self, *frames):
        self.socket.sendall(b"".join(frames))

    def hear(self):
        """Return the header of the next frame, None at the end."""
        try:
            prefix = self.stream.read(wire.PREFIX.size)
        except ConnectionResetError:  # closed before it had read everything
            prefix = b""
        if not prefix:
            return None
        return json.loads(self.stream.read(wire.PREFIX.unpack(prefix)[1]))

    def problem(self):
        """Return status and kind of the problem that comes next."""
        header = self.hear()
        assert header["kind"] == "problem", header
        document = header["problem"]
        assert document["detail"]
        return document["status"], document["type"].removeprefix("urn:ddq:problem:")

    def end(self):
        """Send no more."""
        self.socket.shutdown(socket.SHUT_WR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()
        self.socket.close()


@contextlib.contextmanager
def no_descriptors():
    """Leave this process, server and all, not one descriptor more."""
    os.close(lowest := os.dup(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
