"""The same exchanges over HTTP and by shared memory: one set of tests, both transports."""

import threading

import numpy as np
import pytest
from param_server.client import Client
from param_server.errors import (
    BadRequest,
    Draining,
    EpochChanged,
    LayoutMismatch,
    ParamServerError,
    TooEarly,
    Unauthorized,
    WrongRun,
)
from param_server.judgement import Rules
from param_server.layout import Layout
from param_server.outliers import Outliers
from param_server.same_host_client import SameHostClient
from param_server.staleness import parse_policy

from tests.same_host_rig import sharing
from tests.server_rig import TOKEN, running
from tests.store_rig import EPOCH, LAYOUT, make_push, make_store, ones, weights_of

WIDE = Layout.from_entries([("fc/0", (100_000,)), ("fc/1", (10,))])


@pytest.fixture(params=["http", "same host"])
def transport(request):
    return request.param


@pytest.fixture
def serve(transport):
    """Serve a store both ways; the value connects to it by one of them."""
    opened, closing = [], []

    def start(store):
        service = closing.append(running(store)) or closing[-1].__enter__()
        server = closing.append(sharing(service)) or closing[-1].__enter__()

        def connect(worker="w0", *, run="r1", token=TOKEN):
            if transport == "http":
                made = Client(service.server.address, token, run=run, worker=worker, retry_s=0)
            else:
                made = SameHostClient(str(server.path), token, run=run, worker=worker)
            opened.append(made)
            return made

        return connect

    yield start
    for client in opened:
        client.close()
    for context in reversed(closing):
        context.__exit__(None, None, None)


@pytest.fixture
def store():
    store = make_store()
    yield store
    store.check()


@pytest.fixture
def connect(serve, store):
    return serve(store)


@pytest.fixture
def exchange(connect):
    return connect()


@pytest.fixture
def out():
    return np.full(LAYOUT.size, 99, np.float32)


def test_pull_fills_the_array_brought(exchange, out):
    model = exchange.pull(None, out)
    assert model.weights is out
    assert np.array_equal(out, ones())
    assert (model.epoch, model.version, model.target_version) == (EPOCH, 0, 0)
    assert (model.layout, model.counters) == (LAYOUT.digest, (0, 0, 0))


def test_pull_without_an_array_makes_one_that_nobody_else_writes(exchange):
    first = exchange.pull()
    exchange.push(make_push(), ones())
    second = exchange.pull()
    assert (first.weights[0], second.weights[0]) == (1, 0)


def test_nothing_newer_leaves_the_array_alone(exchange, out):
    assert exchange.pull((EPOCH, 0), out) is None
    assert exchange.pull_target((EPOCH, 0), out) is None
    assert np.all(out == 99)
    assert exchange.pull((EPOCH, 1), out).version == 0
    assert exchange.pull((EPOCH - 1, 0), out).version == 0


def test_target_follows_at_its_period(exchange, out):
    for sequence in range(1, 5):
        exchange.push(make_push(sequence, version=sequence - 1), ones())
    model = exchange.pull_target((EPOCH, 0), out)
    assert (model.version, model.target_version) == (4, 3)
    assert np.array_equal(out, ones(value=-2))
    assert exchange.pull_target((EPOCH, 3), out) is None


def test_push_is_applied_and_its_gradient_only_read(exchange, store):
    gradient = np.arange(8, dtype=np.float32)
    answer, model = exchange.push(make_push(), gradient)
    assert (answer.status, answer.version, answer.staleness, model) == ("applied", 1, 0, None)
    assert answer.counters == (4, 0, 1)
    assert np.array_equal(gradient, np.arange(8))
    assert np.array_equal(weights_of(store), 1 - gradient)


def test_push_answers_with_the_new_weights_where_it_wants_them(exchange, out):
    answer, model = exchange.push(make_push(want_model=True), ones(value=0.25), out)
    assert (answer.status, model.version) == ("applied", 1)
    assert model.weights is out
    assert np.all(out == 0.75)


def test_repeat_is_answered_and_not_applied(exchange, store, out):
    exchange.push(make_push(), ones())
    answer, model = exchange.push(make_push(want_model=True), ones(), out)
    assert (answer.status, answer.reason, answer.version) == ("duplicate", "applied", 1)
    assert (model.version, store.version, store.counters().steps) == (1, 1, 4)


def test_late_push_counts_its_steps_only(exchange, store):
    exchange.push(make_push(1, round=1, quota=1), ones())
    answer, _ = exchange.push(make_push(2, round=1, quota=1), ones())
    assert (answer.status, answer.round_over) == ("late", True)
    assert (store.version, store.counters().steps) == (1, 8)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_gradient_that_is_not_finite_is_rejected_with_a_verdict(exchange, store, out, value):
    gradient = ones()
    gradient[6] = value
    answer, model = exchange.push(make_push(want_model=True), gradient, out)
    assert (answer.status, answer.reason, model) == ("rejected", "non-finite: conv1/1", None)
    assert np.array_equal(weights_of(store), ones())
    assert exchange.push(make_push(2), ones())[0].status == "applied"


def test_version_of_the_future_is_rejected(exchange, store):
    answer, _ = exchange.push(make_push(version=10), ones())
    assert (answer.status, store.version) == ("rejected", 0)
    assert answer.reason.startswith("future-version: 10")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"epoch": EPOCH - 1}, EpochChanged),
        ({"layout": "0" * 16}, LayoutMismatch),
        ({"run": ""}, BadRequest),
        ({"sequence": 0}, BadRequest),
        ({"steps": -1}, BadRequest),
    ],
)
def test_refused_push_changes_nothing_and_its_sequence_may_be_used_again(
    exchange, store, changes, error
):
    with pytest.raises(error):
        exchange.push(make_push(**changes), ones())
    assert (store.version, store.counters().steps) == (0, 0)
    assert exchange.push(make_push(), ones())[0].status == "applied"


def test_refusals_carry_what_a_worker_needs(exchange, connect, store):
    store.clear(EPOCH + 1)
    with pytest.raises(EpochChanged) as caught:
        exchange.push(make_push(), ones())
    assert caught.value.epoch == EPOCH + 1
    exchange.push(make_push(epoch=EPOCH + 1), ones())
    with pytest.raises(WrongRun, match="r1") as caught:
        connect("w9", run="r2").push(make_push(run="r2", epoch=EPOCH + 1), ones())
    assert caught.value.run == "r1"


def test_wrong_token_gets_nothing(connect, store):
    stranger = connect(token="wrong")
    for ask in (stranger.pull, lambda: stranger.push(make_push(), ones())):
        with pytest.raises(Unauthorized):
            ask()
    assert store.version == 0


@pytest.mark.parametrize("size", [1, 7, 9])
def test_gradient_of_another_size_is_refused(exchange, store, size):
    with pytest.raises(BadRequest, match="expected"):
        exchange.push(make_push(), np.ones(size, np.float32))
    assert store.version == 0
    assert exchange.push(make_push(), ones())[0].status == "applied"


def test_room_of_another_size_is_refused(exchange):
    with pytest.raises(BadRequest):
        exchange.pull(None, np.zeros(7, np.float32))
    assert exchange.pull().version == 0


def test_draining_server_takes_no_push_and_still_answers_pulls(exchange, store):
    store.close()
    with pytest.raises(Draining):
        exchange.push(make_push(), ones())
    assert exchange.pull().version == 0


def test_worker_too_far_ahead_is_told_and_nothing_changes(serve):
    store = make_store(rules=Rules(parse_policy("ssp:0"), Outliers(0)))
    connect = serve(store)
    fast, slow = connect("fast"), connect("slow")
    assert slow.push(make_push(worker="slow"), ones())[0].status == "applied"
    assert fast.push(make_push(worker="fast"), ones())[0].status == "applied"
    second = make_push(2, worker="fast", version=2)
    with pytest.raises(TooEarly):
        fast.push(second, ones())
    assert (store.version, store.counters().steps) == (2, 8)
    assert slow.push(make_push(2, worker="slow", version=2), ones())[0].status == "applied"
    assert fast.push(second, ones())[0].status == "applied"


def test_requests_renew_the_lease(exchange, connect, store):
    exchange.push(make_push(), ones())
    for ask in (exchange.pull, exchange.pull_target, lambda: exchange.pull((EPOCH, 1))):
        store._clock.now += 30
        ask()
        assert store.status()["workers"]["w0"]["last_contact_s"] == 0
    store._clock.now += 30
    connect("w1", run="another").pull()
    assert store.status()["workers"]["w0"]["last_contact_s"] == 30


class Crowd:
    """Workers that push each gradient twice, and a reader; what they saw that cannot be."""

    def __init__(self, connect):
        self.connect = connect
        self.failures = []

    def push(self, value):
        client, out = self.connect(f"w{value}"), ones(WIDE)
        fields = {"worker": f"w{value}", "layout": WIDE.digest, "want_model": True}
        for sequence in range(1, 51):
            for status in ("applied", "duplicate"):
                push = make_push(sequence, **fields)
                answer, _ = client.push(push, ones(WIDE, value), out)
                self.see(answer.status == status, out)
        client.close()

    def read(self, times):
        client, out = self.connect("reader"), ones(WIDE)
        for _ in range(times):
            for pull in (client.pull, client.pull_target):
                pull(None, out)
                self.see(True, out)
        client.close()

    def see(self, is_right, weights):
        """The elements of every version are equal: two values are two versions."""
        if not is_right or np.any(weights != weights[0]):
            self.failures.append(np.unique(weights))

    def work(self, function, argument):
        try:
            function(argument)
        except (ParamServerError, OSError, AttributeError) as error:
            self.failures.append(error)


def test_integer_gradients_of_many_workers_add_up_each_once(serve):
    """4 workers, 50 pushes each, every one sent twice; one more reads weights and target."""
    store = make_store(WIDE, target_period=7)
    crowd = Crowd(serve(store))
    tasks = [(crowd.push, value) for value in range(1, 5)] + [(crowd.read, 200)]
    threads = [threading.Thread(target=crowd.work, args=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert crowd.failures == []
    assert np.all(weights_of(store) == 1 - 50 * (1 + 2 + 3 + 4))
    assert (store.version, store.counters().steps, store.status()["duplicates"]) == (200, 800, 200)
    store.check()
