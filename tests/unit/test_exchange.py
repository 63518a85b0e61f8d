"""The exchange within one process."""

import numpy as np
import pytest
from param_server.judgement import Rules
from param_server.outliers import Outliers
from param_server.staleness import parse_policy
from param_server.store import Store
from param_server.wire import Layout, Push

from barista.exchange import LocalExchange

LAYOUT = Layout.from_entries([("fc1/0", (3,))])


def make_store(**options):
    weights = np.ones(3, np.float32)

    def apply(gradient, scale):
        weights[...] -= scale * gradient

    return Store(
        LAYOUT, weights, apply=apply, reset=lambda: None, epoch=1, clock=lambda: 0.0,
        target_period=2, **options,
    )  # fmt: skip


@pytest.fixture
def store():
    return make_store()


def push(sequence, *, want_model=False, worker="w", version=0):
    return Push(
        run="r", worker=worker, incarnation="i", sequence=sequence, epoch=1, version=version,
        layout=LAYOUT.digest, want_model=want_model,
    )  # fmt: skip


def test_a_pull_is_written_into_the_callers_array(store):
    out = np.zeros(3, np.float32)
    model = LocalExchange(store).pull(None, out)
    assert (model.epoch, model.version) == (1, 0)
    assert model.weights is out
    assert out.tolist() == [1, 1, 1]


def test_what_is_known_is_not_pulled(store):
    exchange = LocalExchange(store)
    out = np.zeros(3, np.float32)
    assert exchange.pull((1, 0), out) is None
    assert exchange.pull_target((1, 0), out) is None


def test_a_push_returns_the_weights_that_it_wants(store):
    out = np.zeros(3, np.float32)
    answer, model = LocalExchange(store).push(
        push(1, want_model=True), np.full(3, 0.5, np.float32), out
    )
    assert (answer.status, answer.version, model.version) == ("applied", 1, 1)
    assert out.tolist() == [0.5, 0.5, 0.5]


def test_a_push_that_wants_no_weights_gets_none(store):
    out = np.zeros(3, np.float32)
    _, model = LocalExchange(store).push(push(1, want_model=False), np.ones(3, np.float32), out)
    assert model is None
    assert not out.any()


def test_the_target_is_pulled_by_its_own_version(store):
    exchange = LocalExchange(store)
    out = np.zeros(3, np.float32)
    for sequence in (1, 2):
        exchange.push(push(sequence, want_model=False), np.ones(3, np.float32), out)
    model = exchange.pull_target((1, 0), out)
    assert model.target_version == 2
    assert out.tolist() == [-1, -1, -1]


def test_nobody_waits_for_a_worker_that_has_left():
    store = make_store(rules=Rules(parse_policy("sync"), Outliers(0)))
    exchange = LocalExchange(store)
    out, gradient = np.zeros(3, np.float32), np.ones(3, np.float32)
    exchange.push(push(1, want_model=False), gradient, out)  # alone, it is an update
    answer, _ = exchange.push(push(1, worker="other", version=1), gradient, out)
    assert (answer.status, store.version) == ("gathered", 1)
    exchange.leave("w", "i")
    assert store.version == 2


def test_a_worker_whose_first_push_was_too_stale_is_waited_for_from_then_on():
    """Else it would always find that the others have gone on without it."""
    store = make_store(rules=Rules(parse_policy("sync"), Outliers(0)))
    exchange = LocalExchange(store)
    out, gradient = np.zeros(3, np.float32), np.ones(3, np.float32)
    exchange.push(push(1), gradient, out)
    answer, _ = exchange.push(push(1, worker="other"), gradient, out)
    assert answer.reason.startswith("stale")
    answer, _ = exchange.push(push(2, version=1), gradient, out)
    assert (answer.status, store.version) == ("gathered", 1)
    answer, _ = exchange.push(push(2, worker="other", version=1), gradient, out)
    assert (answer.status, store.version) == ("applied", 2)
