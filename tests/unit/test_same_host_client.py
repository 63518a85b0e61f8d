"""The worker's side of the same-host path, and when it is chosen over HTTP."""

import io
import os
import socket
import threading

import numpy as np
import pytest
from param_server import segment, wire
from param_server.client import Client
from param_server.errors import (
    BadRequest,
    Draining,
    ParamServerError,
    ServerFailed,
    ServerUnreachable,
)
from param_server.same_host import Limits
from param_server.same_host_client import BestExchange, SameHostClient, best_exchange

from tests.same_host_rig import frame, sharing
from tests.server_rig import TOKEN, make_service, running
from tests.store_rig import EPOCH, Clock, make_push, make_store, ones


@pytest.fixture
def store():
    return make_store()


@pytest.fixture
def listener(tmp_path_factory):
    """A socket to play a server with."""
    with sharing(make_service(make_store())) as server:
        path = server.path.with_name("played.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            yield listener


def play(listener, *answers, welcome=None):
    """Answer the hello and then one request after the other, each on a connection of its own."""
    header = {"kind": "welcome", "size": 8, "weights_offset": 4096, **(welcome or {})}

    def serve():
        for answer in answers:
            connection, _ = listener.accept()
            _, descriptor = segment.create(8)
            with connection:
                connection.recv(4096)
                socket.send_fds(connection, [frame(**header)], [descriptor])
                os.close(descriptor)
                if connection.recv(4096):
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def client_of(listener, **options):
    return SameHostClient(listener.getsockname(), TOKEN, **options)


PULLED = frame(
    kind="model", epoch=EPOCH, version=3, target_version=0, layout="x",
    counters={"steps": 0, "episodes": 0, "updates": 3},
)  # fmt: skip


def test_a_connection_that_broke_is_opened_again_and_the_request_repeated(listener):
    server = play(listener, PULLED, b"", PULLED)
    client = client_of(listener)
    assert client.pull().version == 3
    # The server hung up after its answer; the next connection breaks before the answer.
    with pytest.raises(ServerUnreachable, match="hung up"):
        client.pull()
    assert client.pull().version == 3
    server.join()
    client.close()


def test_half_an_answer_is_a_broken_connection(listener):
    server = play(listener, PULLED[:-1])
    with pytest.raises(ServerUnreachable, match="early"):
        client_of(listener).pull()
    server.join()


def test_a_server_that_does_not_answer_is_given_up(listener):
    client = client_of(listener, timeout_s=0.05)
    with pytest.raises(ServerUnreachable, match="timed out"):
        client.pull()


def test_an_answer_of_another_kind_is_an_error_of_ours(listener):
    server = play(listener, frame(kind="unheard-of"))
    client = client_of(listener)
    with pytest.raises(ParamServerError, match="kind"):
        client.pull()
    client.close()
    server.join()


@pytest.mark.parametrize("welcome", [{"size": 9000}, {"weights_offset": 32}])
def test_memory_that_is_not_as_the_welcome_says_is_not_used(listener, welcome):
    server = play(listener, PULLED, welcome=welcome)
    with pytest.raises(ServerUnreachable, match="shared memory"):
        client_of(listener).connect()
    server.join()


def test_a_server_without_room_is_as_good_as_none(store):
    with sharing(make_service(store), limits=Limits(known=1)) as server:
        first, second = (SameHostClient(str(server.path), TOKEN) for _ in range(2))
        first.connect()
        with pytest.raises(ServerUnreachable, match="1 connections"):
            second.connect()
        first.close()


def test_nobody_there_is_unreachable(tmp_path):
    with pytest.raises(ServerUnreachable, match="No such file"):
        SameHostClient(str(tmp_path / "a.sock"), TOKEN).pull()


def test_failures_of_the_server_are_raised_and_the_connection_is_kept(store):
    service = make_service(store)
    with sharing(service) as server:
        client = SameHostClient(str(server.path), TOKEN)
        working, service.push = service.push, lambda *_, **__: 1 / 0
        with pytest.raises(ServerFailed):
            client.push(make_push(), ones())
        service.push = working
        assert client.push(make_push(), ones())[0].status == "applied"
        assert sum(server._connections.count()) == 1
        client.close()


def test_threads_take_turns_on_one_connection(store):
    with sharing(make_service(store)) as server:
        client = SameHostClient(str(server.path), TOKEN)

        def push(worker):
            for sequence in range(1, 21):
                client.push(make_push(sequence, worker=worker), ones())

        threads = [threading.Thread(target=push, args=(f"w{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.version == 80
        assert np.all(client.pull().weights == 1 - 80)
        client.close()


# -- the choice between shared memory and HTTP


@pytest.fixture
def service(store, monkeypatch):
    monkeypatch.delenv("DDQ_SAME_HOST", raising=False)
    with running(store) as service:
        yield service


@pytest.fixture
def http(service):
    client = Client(service.server.address, TOKEN, run="r1", worker="w0", retry_s=0)
    yield client
    client.close()


def test_shared_memory_is_used_where_it_can_be(service, http):
    with sharing(service) as server:
        exchange = best_exchange(http)
        assert exchange.is_same_host
        out = np.empty(8, np.float32)
        assert exchange.push(make_push(want_model=True), ones(), out)[1].weights is out
        assert exchange.pull((EPOCH, 1), out) is None
        assert exchange.pull_target((EPOCH, 1), out).version == 1
        assert server._connections.count()[1] == 1
        exchange.close()


def test_weights_may_stay_in_shared_memory_until_the_next_request(service, http):
    with sharing(service) as server:
        exchange = best_exchange(http, lends=True)
        out = np.full(8, 99, np.float32)
        first = exchange.push(make_push(want_model=True), ones(), out)[1].weights
        assert np.array_equal(first, ones(value=0))
        own = exchange.pull().weights  # without an array it is the caller's for good
        second = exchange.push(make_push(2, version=1, want_model=True), ones(), out)[1].weights
        assert np.array_equal(second, ones(value=-1))
        assert np.array_equal(first, second)  # the same memory
        assert np.array_equal(own, ones(value=0))
        assert np.all(out == 99)
        with pytest.raises(BadRequest, match="room for 3 values"):
            exchange.pull(None, np.empty(3, np.float32))
        server.close()
        assert exchange.pull(None, out).weights is out  # by HTTP
        assert np.array_equal(second, ones(value=-1))  # lent memory outlives its connection
        exchange.close()


def test_http_is_used_where_the_environment_says_so(service, http, monkeypatch):
    monkeypatch.setenv("DDQ_SAME_HOST", "0")
    with sharing(service):
        assert best_exchange(http) is http


@pytest.mark.parametrize("path", ["", "/nowhere/5500-0.sock", "x" * 200])
def test_http_is_used_where_there_is_no_socket(service, http, path):
    service.prototxt["same_host"] = path
    exchange = BestExchange(http)
    assert not exchange.is_same_host
    assert exchange.pull().version == 0


def test_http_is_used_where_the_socket_is_another_server_s(service, http):
    """Its token differs; with the same token, its path would: no two servers share one."""
    other = make_service(make_store())
    with sharing(service), sharing(other) as server:
        other.access = type(other.access)("another", host="127.0.0.1", port=1)
        service.prototxt["same_host"] = str(server.path)
        exchange = BestExchange(http)
        assert not exchange.is_same_host
        assert exchange.pull().version == 0


def test_a_path_that_goes_is_left_for_http_and_one_that_comes_is_found(service, http, store):
    clock = Clock()
    with sharing(service):
        exchange = BestExchange(http, clock=clock)
        assert exchange.push(make_push(1), ones())[0].status == "applied"
    assert exchange.push(make_push(2), ones())[0].status == "applied"
    assert not exchange.is_same_host
    with sharing(service):
        exchange.pull()
        assert not exchange.is_same_host  # it was looked for a moment ago
        clock.now += 60
        exchange.pull()
        assert exchange.is_same_host
        answer, _ = exchange.push(make_push(2), ones())  # a repeat, by the other way
        assert answer.status == "duplicate"
        assert store.version == 2
        exchange.close()


def test_the_path_of_a_new_life_is_found_with_the_first_answer(service, http):
    clock = Clock()
    with sharing(service) as first:
        exchange = BestExchange(http, clock=clock)
        first.close()
        with sharing(service):
            assert exchange.push(make_push(1), ones())[0].status == "applied"
            assert exchange.is_same_host
            exchange.close()


def test_draining_is_left_to_http_which_knows_how_to_wait(service, store):
    slept = []
    http = Client(service.server.address, TOKEN, retry_s=0.01, sleep=slept.append)
    with sharing(service):
        exchange = BestExchange(http)
        store.close()
        with pytest.raises(Draining):
            exchange.push(make_push(), ones())
        assert slept
        exchange.close()


def test_refusals_of_the_store_do_not_change_the_way(service, http):
    with sharing(service):
        exchange = BestExchange(http)
        with pytest.raises(ParamServerError):
            exchange.push(make_push(epoch=EPOCH + 1), ones())
        assert exchange.is_same_host
        exchange.close()


def test_hello_holds_what_the_protocol_says():
    client = SameHostClient("path", "secret", run="r", worker="w", layout="l")
    header, rest = wire.read_header(io.BytesIO(client._hello), len(client._hello))
    assert rest == 0
    assert header == {
        "kind": "hello", "dtype": "float32", "token": "secret", "run": "r", "worker": "w",
        "layout": "l",
    }  # fmt: skip
