"""The client: what it sends, what it repeats, and what it makes of answers."""

import errno
import http.client
import io
import json

import numpy as np
import pytest
from param_server import wire
from param_server.errors import (
    BadRequest,
    EpochChanged,
    ServerFailed,
    ServerUnreachable,
    TooEarly,
    Unauthorized,
    problem,
)

from tests.client_rig import Answer, answered, connecting, latest, refusal
from tests.store_rig import LAYOUT, make_push, make_store, ones


@pytest.fixture
def connected(monkeypatch):
    yield from connecting(monkeypatch)


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


def test_bfloat16_halves_what_travels_both_ways(connected):
    client, network, _ = connected(latest("bfloat16"), answered(dtype="bfloat16"), dtype="bfloat16")
    assert np.all(client.pull().weights == 1.5)
    answer, model = client.push(make_push(want_model=True), ones(value=3.0))
    assert (answer.status, model.weights.dtype) == ("applied", np.float32)
    pulled, pushed = network.requests
    assert pulled["headers"]["DDQ-Dtype"] == "bfloat16"
    header, length = wire.read_header(io.BytesIO(pushed["body"]), len(pushed["body"]))
    assert length == 2 * LAYOUT.size
    assert (wire.payload_dtype(header), header["model_dtype"]) == ("bfloat16", "bfloat16")


def test_worker_that_leaves_a_score_and_an_incident_are_told(connected):
    client, network, _ = connected(
        Answer(200, b"{}"), Answer(200, b'{"best": true}'), Answer(200, b"{}")
    )
    client.leave("w0", "i0")
    assert client.evaluation(7, {"return_mean": 1.0}) == {"best": True}
    client.incident("x" * 1000)
    told = [(sent["path"], json.loads(sent["body"])) for sent in network.requests]
    assert told == [
        ("/api/v1/leave", {"worker": "w0", "incarnation": "i0"}),
        ("/api/v1/evaluation", {"version": 7, "return_mean": 1.0}),
        ("/api/v1/incident", {"text": "x" * 512}),
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


@pytest.mark.parametrize(("kind", "status"), [("crowded", 503), ("too-early", 425)])
def test_server_that_wants_to_be_asked_again_is(connected, kind, status):
    client, network, pauses = connected(refusal(kind, status), answered())
    client.push(make_push(sequence=4), ones())
    assert network.requests[0]["body"] == network.requests[1]["body"]
    assert len(pauses) == 1


def test_push_that_came_too_early_waits_as_long_as_the_server_says(connected):
    early = [
        refusal("too-early", 425, header=f"Retry-After: {said}\r\n") for said in ("0", "1", "9")
    ]
    client, _, pauses = connected(*early, answered())
    client.push(make_push(), ones())
    assert pauses == [0.0, 1.0, 2.0]


def test_push_that_stays_too_early_is_given_back(connected):
    client, network, _ = connected(refusal("too-early", 425), retry_s=0.0)
    with pytest.raises(TooEarly):
        client.push(make_push(), ones())
    assert len(network.requests) == 1


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


def test_prototxt_whose_digest_is_wrong_is_refused(connected):
    document = {"layout": {"digest": "0" * 16, "entries": [["a/0", [2]]]}}
    client, _, _ = connected(Answer(200, json.dumps(document).encode()))
    with pytest.raises(BadRequest, match="digest"):
        client.prototxt()
