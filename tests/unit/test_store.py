"""Given a store, when these pushes arrive in this order, then these versions and weights."""

import json
import threading

import numpy as np
import pytest
from param_server.errors import BadRequest, Draining, EpochChanged, LayoutMismatch, WrongRun
from param_server.wire import Layout

from tests.store_rig import EPOCH, LAYOUT, Clock, make_push, make_store, ones, weights_of


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    store = make_store(clock=clock)
    yield store
    store.check()


def test_update_changes_weights_and_version(store):
    answer = store.apply(make_push(), ones())
    assert (answer.status, answer.version, answer.staleness) == ("applied", 1, 0)
    assert np.all(weights_of(store) == 0.0)


def test_staleness_is_the_updates_in_between(store):
    store.apply(make_push(1), ones())
    store.apply(make_push(2, version=1), ones())
    assert store.apply(make_push(3, version=0), ones()).staleness == 2


def test_repeat_gets_its_verdict_and_changes_nothing(store):
    store.apply(make_push(), ones())
    before = weights_of(store)
    answer = store.apply(make_push(), ones())
    assert (answer.status, answer.reason, answer.version) == ("duplicate", "applied", 1)
    assert answer.counters.steps == 4
    assert np.array_equal(weights_of(store), before)


def test_repeat_of_a_rejected_push_repeats_the_reason(store):
    store.apply(make_push(), ones(value=np.nan))
    answer = store.apply(make_push(), ones(value=np.nan))
    assert (answer.status, answer.reason) == ("duplicate", "rejected: non-finite: conv1/0")


def test_push_of_another_run_is_refused(store):
    store.apply(make_push(), ones())
    with pytest.raises(WrongRun, match="r1"):
        store.apply(make_push(run="r2"), ones())


def test_push_of_another_epoch_is_refused_with_the_current_one(store):
    with pytest.raises(EpochChanged) as caught:
        store.apply(make_push(epoch=EPOCH - 1), ones())
    assert caught.value.epoch == EPOCH
    assert store.counters() == (0, 0, 0)


def test_refused_push_may_come_again_under_its_sequence(store):
    with pytest.raises(EpochChanged):
        store.apply(make_push(epoch=EPOCH - 1), ones())
    assert store.apply(make_push(), ones()).status == "applied"


def test_push_of_another_layout_is_refused(store):
    with pytest.raises(LayoutMismatch, match=LAYOUT.digest):
        store.apply(make_push(layout="0" * 16), ones())
    assert store.version == 0


def test_push_from_the_future_is_rejected_and_counted(store):
    answer = store.apply(make_push(version=1, quota=2, round=1), ones())
    assert answer.status == "rejected"
    assert answer.reason == "future-version: 1, the server is at 0"
    assert answer.counters.steps == 4
    assert store.status()["round"]["credited"] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize(("index", "name"), [(0, "conv1/0"), (5, "conv1/0"), (6, "conv1/1")])
def test_gradient_that_is_not_finite_is_rejected_by_parameter(store, value, index, name):
    gradient = ones()
    gradient[index] = value
    answer = store.apply(make_push(), gradient)
    assert (answer.status, answer.reason) == ("rejected", f"non-finite: {name}")
    assert np.all(weights_of(store) == 1.0)
    assert store.status()["consecutive_non_finite"] == {"count": 1, "parameter": name}


def test_gradient_too_large_only_as_a_whole_is_rejected_by_its_largest_parameter(store):
    gradient = ones(value=0.0)
    gradient[0], gradient[6] = 1.5e19, 1.2e19
    assert store.apply(make_push(), gradient).reason == "non-finite: conv1/0"


def test_large_gradient_whose_square_is_finite_is_applied(store):
    assert store.apply(make_push(), ones(value=1e18)).status == "applied"


def test_round_is_over_for_all_when_its_quota_is_answered(store):
    first = store.apply(make_push(1, round=1, quota=2), ones())
    second = store.apply(make_push(2, round=1, quota=2, version=9), ones())
    assert (first.round_over, second.round_over) == (False, True)
    late = store.apply(make_push(1, worker="w1", round=1, quota=2), ones())
    assert (late.status, late.round_over, late.version) == ("late", True, 1)
    assert late.counters.steps == 12
    assert store.status()["late"] == 1


def test_next_round_begins_after_a_late_push(store):
    store.apply(make_push(1, round=1, quota=1), ones())
    store.apply(make_push(2, round=1, quota=1), ones())
    assert store.apply(make_push(3, round=2, quota=2), ones()).status == "applied"


def test_exchange_answers_the_weights_of_its_own_version(store):
    gradient = ones()
    answer, model = store.exchange(make_push(), gradient, out=gradient)
    assert model.version == answer.version == 1
    assert np.all(model.weights == 0.0)


def test_exchange_of_a_rejected_push_has_no_model(store):
    answer, model = store.exchange(make_push(), ones(value=np.nan), out=ones())
    assert answer.status == "rejected"
    assert model is None


def test_exchange_of_a_repeat_has_the_model(store):
    store.apply(make_push(), ones())
    _, model = store.exchange(make_push(), ones(), out=ones())
    assert model.version == 1


def test_read_answers_nothing_only_for_just_what_is_known(store):
    store.apply(make_push(), ones())
    out = ones()
    assert store.read((EPOCH, 1), out=out) is None
    assert store.read((EPOCH, 0), out=out).version == 1
    assert store.read((EPOCH, 2), out=out).version == 1
    assert store.read((EPOCH - 1, 1), out=out).version == 1


def test_read_is_a_copy(store):
    model = store.read(out=ones())
    store.apply(make_push(), ones())
    assert np.all(model.weights == 1.0)


def test_target_follows_every_period(store):
    seen = []
    for sequence in range(1, 8):
        store.apply(make_push(sequence), ones())
        model = store.read_target(out=ones())
        seen.append((model.target_version, float(model.weights[0])))
    assert seen == [(0, 1), (0, 1), (3, -2), (3, -2), (3, -2), (6, -5), (6, -5)]


def test_target_that_is_known_is_not_sent(store):
    store.apply(make_push(), ones())
    assert store.read_target((EPOCH, 0), out=ones()) is None


def test_failing_rule_counts_nothing(clock):
    def apply(gradient, scale):
        raise MemoryError

    store = make_store(clock=clock, apply=apply)
    with pytest.raises(MemoryError):
        store.apply(make_push(), ones())
    store.check()
    assert store.counters() == (0, 0, 0)
    assert store.changes == 0


def test_closed_store_refuses_pushes_and_still_answers_pulls(store):
    store.close()
    for refused in (lambda: store.apply(make_push(), ones()), lambda: store.clear(EPOCH + 1)):
        with pytest.raises(Draining):
            refused()
    assert store.read(out=ones()).version == 0


def test_clear_begins_a_new_epoch_at_version_0(store):
    for sequence in range(1, 5):
        store.apply(make_push(sequence, episodes=(1.0,)), ones())
    store.mark_durable(EPOCH, 4)
    store.clear(EPOCH + 1)
    model = store.read(out=ones())
    assert (model.epoch, model.version, model.target_version) == (EPOCH + 1, 0, 0)
    assert model.counters == (0, 0, 0)
    assert np.all(model.weights == 1.0)
    assert store.durable_version == 0


def test_durable_version_belongs_to_its_epoch_and_only_rises(store):
    for sequence in range(1, 4):
        store.apply(make_push(sequence), ones())
    store.mark_durable(EPOCH, 2)
    store.mark_durable(EPOCH, 1)
    store.mark_durable(EPOCH - 1, 3)
    assert store.apply(make_push(4), ones()).durable_version == 2


def captured(store):
    """A capture as it comes back from disk."""
    capture, weights = store.capture(lambda: weights_of(store))
    return json.loads(json.dumps(capture.state)), capture.target, weights


def resumed(store, *, run="", epoch=EPOCH + 1):
    state, target, weights = captured(store)
    again = make_store(run=run, values=weights)
    again.restore(state, target, epoch=epoch)
    again.check()
    return again


def test_resumed_store_continues_everything_in_a_new_epoch(store):
    for sequence in range(1, 5):
        store.apply(make_push(sequence, episodes=(2.0,), round=1, quota=9), ones())
    again = resumed(store)
    model, target = again.read(out=ones()), again.read_target(out=ones())
    assert (model.epoch, model.version, model.target_version) == (EPOCH + 1, 4, 3)
    assert model.counters == store.counters()
    assert np.array_equal(model.weights, weights_of(store))
    assert target.weights[0] == -2.0
    assert again.durable_version == 4
    assert again.status()["return_mean"] == 2.0


def test_resumed_store_knows_repeats_whatever_their_epoch(store):
    store.apply(make_push(1), ones())
    again = resumed(store)
    assert again.apply(make_push(1), ones()).status == "duplicate"
    with pytest.raises(EpochChanged):
        again.apply(make_push(2), ones())


@pytest.mark.parametrize(("run", "credited"), [("r1", 2), ("r2", 1)])
def test_resumed_rounds_go_on_for_the_same_run_only(store, run, credited):
    store.apply(make_push(1, round=3, quota=9), ones())
    again = resumed(store, run=run)
    again.apply(make_push(2, run=run, round=3, quota=9, epoch=EPOCH + 1), ones())
    assert again.status()["round"]["credited"] == credited


def test_damaged_state_is_refused(store):
    state, target, _ = captured(store)
    with pytest.raises(BadRequest):
        make_store().restore({**state, "target_version": "x"}, target, epoch=EPOCH + 1)


def test_changes_move_with_every_push_that_is_answered_anew(store):
    store.apply(make_push(1), ones())
    store.apply(make_push(1), ones())
    store.apply(make_push(2, version=9), ones())
    assert store.changes == 2


def test_shared_server_changes_hands_when_its_run_is_closed():
    store = make_store(may_change_run=True)
    store.open_run("r1")
    store.apply(make_push(1, round=3, quota=9), ones())
    store.close_run("r1")
    store.open_run("r2")
    answer = store.apply(make_push(1, worker="w1", run="r2", round=1, quota=9), ones())
    assert (answer.status, answer.version) == ("applied", 2)


def test_pull_of_a_member_renews_the_lease(store, clock):
    store.apply(make_push(), ones())
    clock.now += 50
    store.hear("r1", "w0")
    store.hear("r2", "w9")
    assert store.status()["workers"] == {
        "w0": {"incarnation": "i0", "last_contact_s": 0.0, "pushes": 1, "lost": False}
    }


def test_status_has_what_the_page_and_the_driver_need(store):
    keys = {
        "version", "epoch", "durable_version", "target_version", "run", "game", "layout", "steps",
        "episodes", "updates_per_s", "loss", "return_mean", "returns_count", "staleness",
        "rejected", "consecutive_non_finite", "workers", "round", "uptime_s",
    }  # fmt: skip
    assert keys <= store.status().keys()
    json.dumps(store.status(), allow_nan=False)


@pytest.mark.parametrize("is_target", [False, True])
def test_no_reader_sees_half_an_update(is_target):
    """All weights of one version are equal, so any torn copy shows two values."""
    layout = Layout.from_entries([("fc/0", (50_000,))])
    store = make_store(layout, target_period=2)
    done = threading.Event()
    failures = []

    def write():
        sequence = 0
        while not done.is_set():
            sequence += 1
            store.apply(make_push(sequence, layout=layout.digest), ones(layout))

    def read():
        out = np.empty(layout.size, np.float32)
        reader = store.read_target if is_target else store.read
        for _ in range(1000):
            model = reader(out=out)
            version = model.target_version if is_target else model.version
            if not np.all(out == np.float32(1 - version)):
                failures.append((version, np.unique(out)))

    writer, *readers = (threading.Thread(target=work) for work in (write, read, read))
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    done.set()
    writer.join()
    assert failures == []
    assert store.version > 10


@pytest.mark.parametrize("fields", [{"epoch": EPOCH - 1}, {"layout": "other"}])
def test_refused_push_binds_no_run(store, fields):
    with pytest.raises((EpochChanged, LayoutMismatch)):
        store.apply(make_push(**fields), ones())
    assert store.run == ""
