"""The worker when its server refuses, forgets, or is silent."""

from functools import partial

import numpy as np
import pytest
from param_server.errors import Draining, LayoutMismatch, ServerUnreachable, TooEarly
from param_server.judgement import Rules
from param_server.outliers import Outliers
from param_server.staleness import parse_policy
from param_server.wire import Layout

from barista.exchange import LocalExchange
from barista.patience import LEASE_S
from barista.rounds import RoundRequest
from tests import tiny
from tests.rig import Rig


@pytest.fixture
def model(tmp_path):
    return tiny.write_model(tmp_path)[0]


both = pytest.mark.parametrize("overlaps", [False, True], ids=["in turn", "at once"])


def assert_no_step_is_lost(rig):
    """Each is in the server's count, or in the next push."""
    assert rig.store.counters().steps + rig.worker._outbox.steps == rig.actor.steps


def unreachable():
    return ServerUnreachable("127.0.0.1:1", "refused")


@both
def test_a_late_answer_ends_the_round(model, overlaps):
    rig = Rig(model, overlaps=overlaps)
    rig.run(quota=2)
    row = rig.run(quota=2)
    assert (row["applied"], row["late"]) == (0, 1)


@both
def test_a_rejected_gradient_is_counted_and_nothing_is_pulled_that_is_known(model, overlaps):
    rig = Rig(model, overlaps=overlaps)

    def spoil():
        rig.worker._outbox.gradient[0] = np.nan

    rig.exchange.before_push[2] = spoil
    row = rig.run(quota=4)
    assert (row["applied"], row["rejected"], rig.store.version) == (3, 1, 3)
    assert rig.exchange.pulls == [None]
    assert_no_step_is_lost(rig)


def test_of_each_kind_of_rejection_a_round_is_told_once(model, caplog):
    rig = Rig(model, rules=Rules(parse_policy("reject:0"), Outliers(0)))
    for number in (2, 4):
        rig.exchange.before_push[number] = partial(rig.report, sequence=number, worker="other")
    row = rig.run(quota=6)
    assert (row["rejected"], caplog.text.count("rejects a gradient: stale")) == (2, 1)
    rig.exchange.before_push[8] = partial(rig.report, sequence=8, worker="other")
    assert rig.run(quota=4, number=2)["rejected"] == 1
    assert caplog.text.count("rejects a gradient: stale") == 2


def test_after_a_rejected_gradient_newer_weights_are_pulled(model):
    rig = Rig(model, rules=Rules(parse_policy("reject:0"), Outliers(0)))
    rig.exchange.before_push[2] = lambda: rig.report(quota=4, round=1)
    row = rig.run(quota=4)
    assert (row["applied"], row["rejected"], rig.store.version) == (2, 1, 3)
    assert rig.exchange.pulls == [None, (1, 1)]
    assert [push.version for push in rig.exchange.pushes] == [0, 1, 2]


def test_after_a_new_epoch_the_gradient_is_dropped_and_its_steps_stay_owed(model):
    rig = Rig(model)
    rig.exchange.before_push[3] = lambda: rig.store.clear(epoch=2)
    row = rig.run(quota=4)
    assert (row["dropped"], row["applied"]) == (1, 6)  # 2 before, 4 for the new ledger's quota
    pushes = rig.exchange.pushes
    assert [(push.epoch, push.version) for push in pushes[1:4]] == [(1, 1), (1, 2), (2, 0)]
    assert pushes[3].steps >= pushes[2].steps > 0
    assert rig.exchange.target_pulls[-1] == (1, 0)
    assert np.array_equal(rig.nets.online.param_arena, tiny.weights_of(rig.store))


def test_a_new_epoch_that_cannot_be_pulled_at_once_leaves_nothing_behind(model):
    """Stopped while it waits for the new weights, a worker pushes whole means afterwards."""
    rig = Rig(model, push_period=2)
    rig.exchange.before_push[2] = lambda: rig.store.clear(epoch=2)
    pull = rig.exchange.pull

    def silent(known, out, /):
        rig.stop.set()
        raise unreachable()

    rig.worker.warm_up()
    rig.worker.run_round(RoundRequest(1, quota=1), rig.stop)
    rig.exchange.pull = lambda known, out, /: pull(known, out) if known else silent(known, out)
    assert rig.run(quota=3, number=2)["dropped"] == 2
    rig.exchange.pull = pull
    rig.stop.clear()
    assert rig.run(quota=3, number=2)["applied"] == 3


@both
@pytest.mark.parametrize("error", [unreachable, lambda: Draining("going down")])
def test_an_unanswered_push_is_sent_again_under_its_sequence(model, overlaps, error):
    rig = Rig(model, overlaps=overlaps)
    rig.exchange.failures[2] = [error(), error(), error()]
    row = rig.run(quota=3)
    assert [push.sequence for push in rig.exchange.pushes] == [1, 2, 2, 2, 2, 3]
    assert row["applied"] == 3
    assert rig.stop.waits == [0.25, 0.5, 1.0]


@both
def test_a_push_that_comes_too_early_is_sent_again_under_its_sequence(model, overlaps):
    rig = Rig(model, overlaps=overlaps)
    rig.exchange.failures[2] = [TooEarly("2 pushes ahead of the slowest worker") for _ in range(4)]
    phases = watched(rig)
    row = rig.run(quota=3)
    assert [push.sequence for push in rig.exchange.pushes] == [1, 2, 2, 2, 2, 2, 3]
    assert row["applied"] == 3
    assert_no_step_is_lost(rig)
    assert len(phases) == 4
    assert overlaps or set(phases) == {"waiting"}


@both
def test_a_push_that_stays_too_early_ends_with_the_round_and_its_steps_stay_owed(model, overlaps):
    rig = Rig(model, overlaps=overlaps)
    rig.exchange.failures[2] = [TooEarly("2 pushes ahead of the slowest worker")] * 1000
    assert rig.run(quota=5, deadline_s=20.0)["applied"] == 1
    assert rig.clock.now < 22
    assert rig.run(quota=5)["applied"] == 4
    assert_no_step_is_lost(rig)


def watched(rig):
    """The phases that the worker shows while it waits."""
    phases, wait = [], rig.stop.wait

    def note(timeout):
        phases.append(rig.worker.progress()["phase"])
        return wait(timeout)

    rig.stop.wait = note
    return phases


@both
def test_a_push_whose_answer_was_lost_is_a_duplicate(model, overlaps):
    rig = Rig(model, overlaps=overlaps)
    push = LocalExchange.push
    lost = []

    def lose_one(self, sent, gradient, out, /):
        answered = push(self, sent, gradient, out)
        if sent.sequence == 2 and not lost:
            lost.append(answered)
            raise unreachable()
        return answered

    rig.exchange.push = lose_one.__get__(rig.exchange)
    row = rig.run(quota=3)
    assert (row["applied"], row["duplicates"], rig.store.version) == (2, 1, 3)
    assert_no_step_is_lost(rig)


@both
def test_a_silent_server_is_given_up_after_a_lease(model, overlaps):
    rig = Rig(model, overlaps=overlaps)
    rig.exchange.failures[2] = [unreachable() for _ in range(1000)]
    with pytest.raises(ServerUnreachable):
        rig.run(quota=3)
    assert LEASE_S <= sum(rig.stop.waits) < LEASE_S + 6
    assert rig.worker.progress()["phase"] == "waiting"


@both
def test_stop_ends_the_wait_for_a_silent_server(model, overlaps):
    rig = Rig(model, overlaps=overlaps)
    rig.exchange.failures[2] = [unreachable() for _ in range(1000)]
    wait = rig.stop.wait

    def wait_thrice(timeout):
        if len(rig.stop.waits) == 2:
            rig.stop.set()
        return wait(timeout)

    rig.stop.wait = wait_thrice
    assert rig.run(quota=3)["applied"] == 1
    assert len(rig.stop.waits) == 3


@both
def test_waiting_is_a_sign_of_life(model, overlaps):
    rig = Rig(model, overlaps=overlaps)
    beats = []
    rig.exchange.failures[2] = [unreachable() for _ in range(4)]
    wait = rig.stop.wait

    def note(timeout):
        beats.append(rig.worker.progress()["heartbeat"])
        return wait(timeout)

    rig.stop.wait = note
    rig.run(quota=3)
    assert beats == sorted(set(beats))


OTHER = Layout.from_entries([("fc1/0", (64, 25)), ("fc1/1", (64,))])


@both
def test_another_network_than_the_servers_is_refused(model, overlaps):
    rig = Rig(model, overlaps=overlaps)
    rig.worker._layout = OTHER
    with pytest.raises(LayoutMismatch, match=f"this worker's '{OTHER.digest}'"):
        rig.run(quota=1)


@both
def test_a_push_to_another_network_names_the_layer_that_differs(model, overlaps):
    rig = Rig(model, overlaps=overlaps, pull_period=100)

    def change():
        rig.worker._layout = rig.worker._outbox._layout = OTHER

    rig.exchange.before_push[1] = change
    line = r"^the server holds another network than this worker: fc1/0 is \(64, 25\) here, \(32, 25"
    with pytest.raises(LayoutMismatch, match=line):
        rig.run(quota=3)


@both
def test_a_worker_leaves_before_its_warm_up_and_at_the_end_of_each_round(model, overlaps):
    rig = Rig(model, overlaps=overlaps)
    rig.run(quota=3)
    rig.run(quota=2, number=2)
    assert rig.exchange.left == [0, 3, 5]


@both
def test_a_worker_that_fails_leaves_too(model, overlaps):
    rig = Rig(model, overlaps=overlaps)
    rig.exchange.failures[3] = [ValueError("broken")]
    with pytest.raises(ValueError, match="broken"):
        rig.run(quota=5)
    assert rig.exchange.left == [0, 2]


@both
def test_a_server_that_is_gone_need_not_be_told(model, overlaps, caplog):
    rig = Rig(model, overlaps=overlaps)

    def leave(worker, incarnation, /):
        raise unreachable()

    rig.exchange.leave = leave
    caplog.set_level("INFO")
    assert rig.run(quota=2)["applied"] == 2
    assert "could not leave: no parameter server answers" in caplog.text


def test_in_synchronous_rounds_a_push_counts_before_its_update_is_complete(model):
    rig = Rig(model, rules=Rules(parse_policy("sync"), Outliers(0)))
    rig.report()  # another worker has joined, and the next update needs it
    rig.exchange.before_push[2] = rig.stop.set
    row = rig.run(quota=4)
    assert (row["applied"], row["gathered"]) == (0, 1)
    assert rig.worker.progress()["updates"] == 1
    assert rig.exchange.pulls == [None]  # nothing is newer, so nothing was pulled
    rig.stop.clear()
    assert rig.store.version == 1
    rig.report(sequence=2)
    assert rig.store.version == 2
