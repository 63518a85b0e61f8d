"""The client's connection: what goes over it, when it is kept, and who has no say in it."""

import errno
import logging
import socket
import threading

import numpy as np
import pytest
from param_server import http_session, wire
from param_server.errors import BadRequest, EpochChanged, ServerUnreachable, Unauthorized
from param_server.http_session import split_address

from tests.client_rig import Answer, answered, connecting, latest, refusal
from tests.store_rig import make_push, make_store, ones


@pytest.fixture
def connected(monkeypatch):
    yield from connecting(monkeypatch)


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


def test_connection_that_was_seen_to_be_closed_is_not_used(connected):
    client, network, pauses = connected(latest(), latest(), retry_s=0.0)
    client.pull()
    network.hang_up()
    client.pull()
    assert pauses == []
    assert (len(network.requests), len(network.opened), network.closed) == (2, 2, 1)


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
        (socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18),
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


@pytest.mark.parametrize(("method", "expected"), [("GET", None), ("POST", "0")])
def test_request_without_a_body_says_so_where_http_wants_it(connected, method, expected):
    client, network, _ = connected(Answer(200, b"{}"))
    client._json(method, "/x")
    assert network.requests[0]["headers"].get("Content-Length") == expected


def test_large_answer_is_read_in_pieces_into_the_readers_memory(connected, monkeypatch):
    monkeypatch.setattr(http_session, "_PIECE_BYTES", 5)
    client, _, _ = connected(latest())
    out = ones(value=0.0)
    assert client.pull(out=out).weights is out
    assert np.all(out == 1.5)
