"""The client: what it sends, what it repeats, and what it makes of answers."""

import http.client
import io
import json

import numpy as np
import pytest
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
    """An HTTP answer whose body is at hand."""

    def __init__(self, status=200, body=b"", *, cut_off=0):
        self.status = status
        self.length = len(body)
        self._body = io.BytesIO(body[: len(body) - cut_off])
        self.read = self._body.read
        self.readinto = self._body.readinto


class Connection:
    """Takes requests and gives the answers it was given, or raises them."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.requests = []
        self.sock = None
        self.closed = 0

    def putrequest(self, method, path, **_):
        self.sock = object()
        self.requests.append({"method": method, "path": path, "body": b"", "headers": {}})

    def putheader(self, name, value):
        self.requests[-1]["headers"][name] = value

    def endheaders(self, body=None):
        self.requests[-1]["body"] += body or b""

    def send(self, part):
        self.requests[-1]["body"] += bytes(part)

    def getresponse(self):
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self):
        self.sock = None
        self.closed += 1


def connected(*answers, **options):
    """Return a client, its connection, and the pauses it made."""
    pauses = []
    client = Client("box:5500", "tok", sleep=pauses.append, **{"retry_s": 60.0, **options})
    connection = Connection(answers)
    client._connection = lambda: connection
    client._local.connection = connection
    return client, connection, pauses


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


def test_token_run_and_worker_travel_as_headers():
    client, connection, _ = connected(latest(), run="r1", worker="w0")
    client.pull()
    assert connection.requests[0]["headers"] == {
        "Authorization": "Bearer tok", "Host": "box:5500", "DDQ-Run": "r1", "DDQ-Worker": "w0",
    }  # fmt: skip


def test_push_sends_header_and_gradient_and_fills_the_array():
    client, connection, _ = connected(answered())
    out = np.zeros(LAYOUT.size, np.float32)
    gradient = ones(value=3.0)
    answer, model = client.push(make_push(want_model=True), gradient, out)
    sent = connection.requests[0]
    assert sent["body"].endswith(gradient.tobytes())
    assert sent["headers"]["Content-Length"] == str(len(sent["body"]))
    assert (answer.status, model.version) == ("applied", 1)
    assert model.weights is out
    assert np.all(out == 0.0)


def test_pull_names_what_is_known():
    client, connection, _ = connected(Answer(304), Answer(304))
    assert client.pull((7, 3)) is None
    assert client.pull_target((7, 0)) is None
    assert [request["headers"]["If-None-Match"] for request in connection.requests] == [
        '"7-3"',
        '"7-target-0"',
    ]


def test_pull_into_an_array_of_another_size_is_refused():
    client, _, _ = connected(latest())
    with pytest.raises(BadRequest, match="expected 12"):
        client.pull(out=np.empty(3, np.float32))


def test_rejected_push_is_an_answer():
    answer, _ = make_store().exchange(make_push(), ones(value=np.nan), out=ones())
    document = problem("rejected", 422, answer.reason, answer=wire.answer_fields(answer))
    client, _, _ = connected(Answer(422, json.dumps(document).encode()))
    assert client.push(make_push(want_model=True), ones()) == (answer, None)


@pytest.mark.parametrize(
    "failure",
    [ConnectionRefusedError(), TimeoutError(), http.client.RemoteDisconnected(), BrokenPipeError()],
)
def test_failed_connection_is_tried_again_with_the_same_push(failure):
    client, connection, pauses = connected(failure, failure, answered())
    client._is_connected = lambda: False
    client.push(make_push(sequence=4), ones())
    bodies = {request["body"] for request in connection.requests}
    assert (len(connection.requests), len(bodies), len(pauses)) == (3, 1, 2)
    assert connection.closed == 2


def test_pauses_grow_and_are_spread():
    client, _, pauses = connected(*[ConnectionRefusedError()] * 8, latest())
    client._is_connected = lambda: False
    client.pull()
    assert 0.025 <= pauses[0] <= 0.05
    assert 1.0 <= pauses[-1] <= 2.0


def test_connection_that_idled_too_long_is_opened_again_at_once():
    client, _, pauses = connected(latest(), ConnectionResetError(), latest(), retry_s=0.0)
    client.pull()
    client.pull()
    assert pauses == []


def test_answer_that_is_cut_off_is_asked_for_again():
    whole = latest()
    body = whole.read()
    client, connection, _ = connected(Answer(200, body, cut_off=4), Answer(200, body))
    assert client.pull().version == 0
    assert len(connection.requests) == 2


def test_draining_server_is_asked_again():
    client, connection, pauses = connected(refusal("draining", 503), latest())
    client.pull()
    assert (len(connection.requests), len(pauses)) == (2, 1)


def test_patience_ends():
    client, connection, _ = connected(ConnectionRefusedError("refused"), retry_s=0.0)
    with pytest.raises(ServerUnreachable, match="box:5500: refused") as caught:
        client.pull()
    assert caught.value.address == "box:5500"
    assert len(connection.requests) == 1


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
def test_refusal_is_raised_and_not_repeated(answer, error):
    client, connection, _ = connected(answer)
    with pytest.raises(error):
        client.pull()
    assert len(connection.requests) == 1


def test_connection_is_closed_after_an_answer_that_was_not_understood():
    client, connection, _ = connected(Answer(200, b"DDQ2xxxxxxxx"))
    with pytest.raises(BadRequest):
        client.pull()
    assert connection.closed == 1


def test_answer_that_came_before_the_push_was_sent_is_read():
    client, connection, _ = connected(refusal("unauthorized", 401))

    def send(part):
        raise BrokenPipeError

    connection.send = send
    with pytest.raises(Unauthorized):
        client.push(make_push(), ones())


def test_prototxt_whose_digest_is_wrong_is_refused():
    document = {"layout": {"digest": "0" * 16, "entries": [["a/0", [2]]]}}
    client, _, _ = connected(Answer(200, json.dumps(document).encode()))
    with pytest.raises(BadRequest, match="digest"):
        client.prototxt()
