"""A real server process that speaks TLS: its own user finds it, and nobody else is let in."""

import http.client
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from param_server.client import Client
from param_server.errors import BadRequest, Unauthorized, Untrusted
from param_server.launch import find_standalone
from param_server.tls import client_context
from param_server.wire import Push

from tests import tiny
from tests.server_rig import until
from tests.tls_rig import Authority

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
pytestmark = pytest.mark.usefixtures("no_stray_processes")


def start(folder, *arguments):
    """Start a server as a person would, in a folder with a model."""
    command = [sys.executable, str(ROOT / "param-server/server.py"), *map(str, arguments)]
    paths = [str(ROOT), str(ROOT / "caffe/python"), os.environ.get("PYTHONPATH", "")]
    environ = {key: value for key, value in os.environ.items() if key != "DDQ_TOKEN"}
    environ |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "DDQ_ROOT": str(folder)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ,
        cwd=folder,
    )  # fmt: skip


def clients(found, **options):
    """Return what makes a client of a server that tries nothing again for long."""
    settings = {"run": "r1", "worker": "w0", "retry_s": 0, **options}
    address = settings.pop("address", found.address)
    return Client(address, settings.pop("token", found.token), **settings)


def test_training_over_tls_and_each_way_to_get_it_wrong(tmp_path):
    authority = Authority(tmp_path)
    files = authority.sign("127.0.0.1")
    tiny.write_model(tmp_path)
    process = start(
        tmp_path, "solver.prototxt", "--port", "0", "--game", "catch",
        "--tls-cert", files.cert, "--tls-key", files.key,
    )  # fmt: skip
    try:
        found = until(lambda: find_standalone(tmp_path / "logs"), START_S)
        assert found.tls_ca == str(files.cert)
        for trusted in (found.tls_ca, authority.file):
            trains(clients(found, tls_ca=trusted))
        fails(clients(found), BadRequest, "this server speaks TLS: give --tls-ca")
        other = Authority(tmp_path, "other").file
        fails(clients(found, tls_ca=other), Untrusted, "is not vouched for by .*other.pem")
        named = found.address.replace("127.0.0.1", "localhost")
        fails(
            clients(found, address=named, tls_ca=authority.file),
            Untrusted, "is for 127.0.0.1, not for localhost",
        )  # fmt: skip
        fails(clients(found, token="wrong", tls_ca=authority.file), Unauthorized, "token")
        assert "Secure" in cookie_of(found)
    finally:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=START_S)
    assert process.returncode == 0, said
    assert f"status page: https://{found.address}/current_status" in said
    assert "stopped at version 2" in said


def trains(client):
    """Push once; the weights and their version are the server's."""
    layout = client.prototxt().layout
    client.open_run()
    model = client.pull()
    push = Push(
        "r1", "w0", client.address + str(model.version), 1, model.epoch, model.version,
        layout.digest, want_model=True,
    )  # fmt: skip
    answer, newer = client.push(push, np.ones(layout.size, np.float32))
    assert (answer.status, newer.version) == ("applied", model.version + 1)
    assert not np.array_equal(newer.weights, model.weights)
    client.close()


def fails(client, error, said):
    with pytest.raises(error, match=said) as caught:
        client.pull()
    assert "\n" not in str(caught.value)
    client.close()


def cookie_of(found):
    """Log in as a browser does; return the cookie."""
    host, port = found.address.split(":")
    connection = http.client.HTTPSConnection(
        host, int(port), timeout=10, context=client_context(found.tls_ca)
    )
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/login", f"token={found.token}", headers)
    cookie = connection.getresponse().getheader("Set-Cookie")
    connection.close()
    return cookie


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tls-cert", "none.pem"], "--tls-cert none.pem: No such file or directory"),
        (["--tls-key", "none.pem"], "--tls-cert is needed too"),
    ],
)
def test_certificate_that_does_not_do_is_one_line_and_exit_code_2(tmp_path, arguments, said):
    process = start(tmp_path, "--port", "0", *arguments)
    output, _ = process.communicate(timeout=START_S)
    assert process.returncode == 2
    assert said in output
    assert output.count("\n") == 1
