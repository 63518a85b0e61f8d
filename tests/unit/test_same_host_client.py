"""The worker's side of the same-host path."""

import io
import os
import socket
import threading

import numpy as np
import pytest
from param_server import segment, wire
from param_server.errors import (
    BadRequest,
    ParamServerError,
    ServerFailed,
    ServerUnreachable,
)
from param_server.same_host import Limits
from param_server.same_host_client import SameHostClient

from tests.same_host_rig import frame, sharing
from tests.server_rig import TOKEN, make_service
from tests.store_rig import EPOCH, make_push, make_store, ones


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


def test_hello_holds_what_the_protocol_says():
    client = SameHostClient("path", "secret", run="r", worker="w", layout="l")
    header, rest = wire.read_header(io.BytesIO(client._hello), len(client._hello))
    assert rest == 0
    assert header == {
        "kind": "hello", "dtype": "float32", "token": "secret", "run": "r", "worker": "w",
        "layout": "l",
    }  # fmt: skip


# -- lending


class Learner:
    """Works with weights and gradient where it is told to, keeping what they are."""

    def __init__(self, *, moves=True):
        self.moves = moves
        self.weights, self.gradient = np.full((2, 8), 7, np.float32)
        self.times_told = 0

    def take(self, weights, gradient):
        self.times_told += 1
        if self.moves:
            weights[...], gradient[...] = self.weights, self.gradient
            self.weights, self.gradient = weights, gradient
        return self.moves


@pytest.fixture
def connect(store):
    clients = []
    with sharing(make_service(store)) as server:

        def connect():
            clients.append(SameHostClient(str(server.path), TOKEN, run="r1", worker="w0"))
            return clients[-1]

        yield connect
        for client in clients:
            client.close()


@pytest.fixture
def out():
    return np.full(8, 99, np.float32)


def test_lent_memory_is_written_to_and_read_by_the_server_itself(connect, store, out):
    client, learner = connect(), Learner()
    client.lend_to(learner.take)
    pulled = client.pull(None, out)
    assert pulled.weights is learner.weights
    assert np.all(out == 99)
    assert np.array_equal(learner.weights, ones())
    learner.gradient[...] = 1
    answer, model = client.push(make_push(want_model=True), learner.gradient, out)
    assert (answer.status, store.version) == ("applied", 1)
    assert model.weights is learner.weights
    assert np.array_equal(learner.weights, ones(value=0))
    assert np.array_equal(client.pull().weights, ones(value=0))  # the caller's own for good
    assert learner.times_told == 1


def test_gradient_from_elsewhere_goes_into_lent_memory(connect, store, out):
    client, learner = connect(), Learner()
    client.lend_to(learner.take)
    client.push(make_push(), ones(), out)
    assert store.version == 1
    assert np.array_equal(learner.gradient, ones())


def test_pulling_a_target_leaves_lent_weights_alone(connect, out):
    client, learner = connect(), Learner()
    client.connect()
    client.lend_to(learner.take)
    client.push(make_push(), ones(), out)
    learner.weights[...] = 5
    lent = learner.weights
    assert client.pull_target(None, out).weights is out
    assert np.array_equal(out, ones())
    assert np.array_equal(learner.weights, ones(value=5))
    assert np.may_share_memory(learner.weights, lent)


def test_who_loses_its_connection_keeps_what_it_has_where_no_server_writes(connect, out):
    client, learner = connect(), Learner()
    client.lend_to(learner.take)
    client.pull(None, out)
    lent = learner.weights
    client.close()
    assert np.array_equal(learner.weights, ones())
    assert not np.may_share_memory(learner.weights, lent)
    assert client.pull((EPOCH, 0), out) is None  # on a new connection
    assert np.array_equal(learner.weights, ones())
    learner.gradient[...] = 1
    client.push(make_push(want_model=True), learner.gradient, out)
    assert np.array_equal(learner.weights, ones(value=0))


def test_who_cannot_work_there_gets_copies(connect, out):
    client, learner = connect(), Learner(moves=False)
    client.lend_to(learner.take)
    assert client.pull(None, out).weights is out
    assert client.push(make_push(want_model=True), ones(), out)[1].weights is out
    client.close()
    assert learner.times_told == 1


def test_room_of_another_size_is_refused_although_nothing_would_be_copied(connect):
    client, learner = connect(), Learner()
    client.lend_to(learner.take)
    with pytest.raises(BadRequest, match="room for 3 values"):
        client.pull(None, np.empty(3, np.float32))
