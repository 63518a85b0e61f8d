"""The client: what it sends, what it repeats, and what it makes of answers."""

import errno
import http.client
import io
import json
import logging
import socket
import threading

import numpy as np
import pytest
import urllib3
from param_server import wire
from param_server.client import Client, split_address
from param_server.errors import (
    BadRequest,
    EpochChanged,
    ServerFailed,
    ServerUnreachable,
    Unauthorized,
    problem,
)

from tests.server_rig import LAYOUT, make_push, make_store, ones


class Answer:
    """An HTTP answer as it comes over the connection."""

    def __init__(self, status=200, body=b"", *, cut_off=0, header=""):
        head = f"HTTP/1.1 {status} \r\nContent-Length: {len(body)}\r\n{header}\r\n"
        self.body = body
        self.text = head.encode() + body[: len(body) - cut_off]


class Line:
    """A socket to the network below; its file number is that of a real, silent one."""

    def __init__(self, network):
        self._network = network
        self._sent = []
        self._ends = socket.socketpair()
        self.fileno = self._ends[0].fileno

    def settimeout(self, timeout_s):
        self._network.timeouts.add(timeout_s)

    def sendall(self, part):
        if self._network.breaks is not None and isinstance(part, memoryview):
            raise self._network.breaks
        self._sent.append(part)

    def makefile(self, _):
        head, _, body = b"".join(self._sent).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        headers = dict(line.split(": ", 1) for line in lines)
        request = {"method": method, "path": path, "headers": headers, "body": body}
        self._network.requests.append({**request, "parts": self._sent})
        self._sent = []
        answer = self._network.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return io.BytesIO(answer.text)

    def close(self):
        for end in self._ends:
            end.close()
        self._network.closed += 1


class Network:
    """Takes requests below urllib3 and gives the answers it was given, or raises them."""

    def __init__(self):
        self.answers = []
        self.requests = []
        self.opened = []
        self.options = []
        self.timeouts = set()
        self.lines = []
        self.closed = 0
        self.breaks = None  # what sending a gradient raises
        self.refuses = None  # what opening a connection raises

    def connect(self, address, timeout, *, source_address, socket_options):
        self.opened.append(address)
        if self.refuses is not None:
            raise self.refuses
        self.options.append(socket_options)
        self.timeouts.add(timeout)
        self.lines.append(Line(self))
        return self.lines[-1]

    def hang_up(self):
        """Close the last connection from the server's side."""
        self.lines[-1]._ends[1].close()


@pytest.fixture
def connected(monkeypatch):
    """Return what makes a client, its network, and the list of the pauses it makes."""
    network, clients = Network(), []
    monkeypatch.setattr(urllib3.util.connection, "create_connection", network.connect)

    def make(*answers, address="box:5500", **options):
        pauses = []
        settings = {"retry_s": 60.0, "sleep": pauses.append, **options}
        clients.append(Client(address, "tok", **settings))
        network.answers += answers
        return clients[-1], network, pauses

    yield make
    for client in clients:
        client.close()


def refusal(kind, status, **members):
    return Answer(status, json.dumps(problem(kind, status, "why", **members)).encode())


def answered(push=None, gradient=None):
    """Return what a server answers to a push."""
    answer, model = make_store().exchange(push or make_push(), ones(), out=ones())
    return Answer(200, wire.encode_answer(answer, model) + bytes(wire.payload_bytes(model.weights)))


def latest():
    model = make_store().read(out=ones())
    return Answer(200, wire.encode_model(model) + bytes(wire.payload_bytes(model.weights)))


@pytest.mark.parametrize(
    ("address", "expected"),
    [("box:5500", ("box", 5500)), ("localhost:1", ("127.0.0.1", 1)), ("[::1]:80", ("::1", 80))],
)
def test_address_is_host_and_port(address, expected):
    assert split_address(address) == expected


@pytest.mark.parametrize("address", ["", "box", "box:", ":80", "box:http", "box:-1"])
def test_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match="HOST:PORT"):
        split_address(address)


def test_token_run_and_worker_travel_as_headers(connected):
    client, network, _ = connected(latest(), run="r1", worker="w0")
    client.pull()
    headers = network.requests[0]["headers"]
    assert headers.pop("User-Agent").startswith("python-urllib3")
    assert headers == {
        "Authorization": "Bearer tok", "Host": "box:5500", "DDQ-Run": "r1", "DDQ-Worker": "w0",
        "Accept-Encoding": "identity",
    }  # fmt: skip


def test_push_sends_header_and_gradient_and_fills_the_array(connected):
    client, network, _ = connected(answered())
    out = np.zeros(LAYOUT.size, np.float32)
    gradient = ones(value=3.0)
    answer, model = client.push(make_push(want_model=True), gradient, out)
    sent = network.requests[0]
    assert sent["body"].endswith(gradient.tobytes())
    assert np.shares_memory(np.frombuffer(sent["parts"][-1], np.float32), gradient)
    assert sent["headers"]["Content-Length"] == str(len(sent["body"]))
    assert (answer.status, model.version) == ("applied", 1)
    assert model.weights is out
    assert np.all(out == 0.0)


def test_pull_names_what_is_known(connected):
    client, network, _ = connected(Answer(304), Answer(304))
    assert client.pull((7, 3)) is None
    assert client.pull_target((7, 0)) is None
    assert [request["headers"]["If-None-Match"] for request in network.requests] == [
        '"7-3"',
        '"7-target-0"',
    ]


def test_pull_into_an_array_of_another_size_is_refused(connected):
    client, _, _ = connected(latest())
    with pytest.raises(BadRequest, match="expected 12"):
        client.pull(out=np.empty(3, np.float32))


def test_rejected_push_is_an_answer(connected):
    answer, _ = make_store().exchange(make_push(), ones(value=np.nan), out=ones())
    document = problem("rejected", 422, answer.reason, answer=wire.answer_fields(answer))
    client, _, _ = connected(Answer(422, json.dumps(document).encode()))
    assert client.push(make_push(want_model=True), ones()) == (answer, None)


@pytest.mark.parametrize(
    "failure",
    [ConnectionRefusedError(), TimeoutError(), http.client.RemoteDisconnected(), BrokenPipeError()],
)
def test_failed_connection_is_tried_again_with_the_same_push(connected, failure):
    client, network, pauses = connected(failure, failure, answered())
    client.push(make_push(sequence=4), ones())
    bodies = {request["body"] for request in network.requests}
    assert (len(network.requests), len(bodies), len(pauses)) == (3, 1, 2)
    assert network.closed == 2


def test_pauses_grow_and_are_spread(connected):
    client, _, pauses = connected(*[ConnectionRefusedError()] * 8, latest())
    client.pull()
    assert 0.025 <= pauses[0] <= 0.05
    assert 1.0 <= pauses[-1] <= 2.0


def test_connection_that_idled_too_long_is_opened_again_at_once(connected):
    client, network, pauses = connected(latest(), ConnectionResetError(), latest(), retry_s=0.0)
    client.pull()
    client.pull()
    assert pauses == []
    assert (len(network.requests), len(network.opened), network.closed) == (3, 2, 1)


def test_connection_that_was_seen_to_be_closed_is_not_used(connected):
    client, network, pauses = connected(latest(), latest(), retry_s=0.0)
    client.pull()
    network.hang_up()
    client.pull()
    assert pauses == []
    assert (len(network.requests), len(network.opened), network.closed) == (2, 2, 1)


def test_server_that_left_is_asked_once_more_and_then_given_up(connected):
    client, network, _ = connected(latest(), ConnectionResetError(), retry_s=0.0)
    client.pull()
    network.refuses = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    with pytest.raises(ServerUnreachable, match=r"box:5500: \[Errno 111\] Connection refused$"):
        client.pull()
    assert len(network.opened) == 1 + 1


def test_answer_that_is_cut_off_is_asked_for_again(connected):
    body = latest().body
    client, network, _ = connected(Answer(200, body, cut_off=4), Answer(200, body))
    assert client.pull().version == 0
    assert len(network.requests) == 2


def test_draining_server_is_asked_again(connected):
    client, network, pauses = connected(refusal("draining", 503), latest())
    client.pull()
    assert (len(network.requests), len(pauses)) == (2, 1)


def test_patience_ends(connected):
    client, network, _ = connected(ConnectionRefusedError("refused"), retry_s=0.0)
    with pytest.raises(ServerUnreachable, match="box:5500: refused") as caught:
        client.pull()
    assert caught.value.address == "box:5500"
    assert len(network.requests) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal("wrong-epoch", 409, epoch=9), EpochChanged),
        (refusal("unauthorized", 401), Unauthorized),
        (refusal("failed", 500), ServerFailed),
        (Answer(502, b"<html>"), ServerFailed),
        (Answer(200, b"DDQ2xxxxxxxx"), BadRequest),
    ],
)
def test_refusal_is_raised_and_not_repeated(connected, answer, error):
    client, network, _ = connected(answer)
    with pytest.raises(error):
        client.pull()
    assert len(network.requests) == 1


def test_connection_is_closed_after_an_answer_that_was_not_understood(connected):
    client, network, _ = connected(Answer(200, b"DDQ2xxxxxxxx"))
    with pytest.raises(BadRequest):
        client.pull()
    assert network.closed == 1


@pytest.mark.parametrize("broken", [errno.EPIPE, errno.ECONNRESET])
def test_answer_that_came_before_the_push_was_sent_is_read(connected, broken):
    client, network, _ = connected(refusal("unauthorized", 401))
    network.breaks = OSError(broken, "the server closed")
    with pytest.raises(Unauthorized):
        client.push(make_push(), ones())
    assert len(network.requests) == 1


def test_connection_is_kept_alive(connected):
    client, network, _ = connected(
        latest(), Answer(304), refusal("wrong-epoch", 409, epoch=9), answered()
    )
    client.pull()
    client.pull((7, 0))
    with pytest.raises(EpochChanged):
        client.push(make_push(), ones())
    client.push(make_push(want_model=True), ones())
    assert (network.opened, network.closed) == ([("box", 5500)], 0)


def test_connection_with_the_rest_of_an_answer_is_not_used_again(connected):
    answer, _ = make_store().exchange(make_push(), ones(), out=ones())
    client, network, _ = connected(
        Answer(200, wire.encode_answer(answer, None) + b"rest"), latest()
    )
    assert client.push(make_push(), ones()) == (answer, None)
    assert network.closed == 1
    assert client.pull().version == 0
    assert len(network.opened) == 2


def test_each_thread_has_a_connection(connected):
    client, network, _ = connected(*[latest() for _ in range(4)])
    for _ in range(2):
        client.pull()
    thread = threading.Thread(target=lambda: (client.pull(), client.pull(), client.close()))
    thread.start()
    thread.join()
    assert (len(network.opened), network.closed) == (2, 1)


def test_sockets_have_large_buffers_no_delay_and_the_timeout(connected):
    client, network, _ = connected(latest(), timeout_s=7.0)
    client.pull()
    assert set(network.options[0]) == {
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20),
        (socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20),
    }
    assert network.timeouts == {7.0}


def test_environment_has_no_say(connected, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine box login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    client, network, _ = connected(latest())
    client.pull()
    assert network.opened == [("box", 5500)]
    assert network.requests[0]["headers"]["Authorization"] == "Bearer tok"


@pytest.mark.parametrize(
    ("address", "peer"),
    [("localhost:5500", ("127.0.0.1", 5500)), ("[::1]:80", ("::1", 80))],
)
def test_peer_is_numeric_and_the_host_is_as_it_was_given(connected, address, peer):
    client, network, _ = connected(latest(), address=address)
    client.pull()
    (opened,) = network.opened
    assert (opened[0].strip("[]"), opened[1]) == peer
    assert network.requests[0]["headers"]["Host"] == address


def test_redirect_is_not_followed(connected):
    client, network, _ = connected(
        Answer(302, b"<html>", header="Location: http://other/\r\n"), latest()
    )
    with pytest.raises(BadRequest):
        client.pull()
    assert (len(network.requests), network.opened) == (1, [("box", 5500)])


def test_encoded_answer_is_not_decoded(connected):
    body = latest().body
    client, _, _ = connected(Answer(200, body, header="Content-Encoding: gzip\r\n"))
    assert client.pull().version == 0


def test_token_is_not_logged(connected, caplog):
    caplog.set_level(logging.DEBUG)
    client, network, _ = connected(latest(), refusal("unauthorized", 401), retry_s=0.0)
    client.pull()
    with pytest.raises(Unauthorized) as refused:
        client.pull()
    client.close()
    network.refuses = TimeoutError()
    with pytest.raises(ServerUnreachable) as failed:
        client.pull()
    assert "latest_model" in caplog.text
    assert "Bearer" not in caplog.text + str(refused.value) + str(failed.value)


def test_prototxt_whose_digest_is_wrong_is_refused(connected):
    document = {"layout": {"digest": "0" * 16, "entries": [["a/0", [2]]]}}
    client, _, _ = connected(Answer(200, json.dumps(document).encode()))
    with pytest.raises(BadRequest, match="digest"):
        client.prototxt()
