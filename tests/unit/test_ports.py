"""Who holds a port."""

import os
import socket

from param_server.ports import holder


def test_the_holder_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        said = holder(listener.getsockname()[1])
    assert f"(process {os.getpid()})" in said


def test_nobody_is_nobody():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert holder(port) == ""
