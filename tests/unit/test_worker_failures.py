"""The worker when its server refuses, forgets, or is silent."""

import numpy as np
import pytest
from param_server.errors import Draining, LayoutMismatch, ServerUnreachable

from barista.exchange import LocalExchange
from barista.rounds import RoundRequest
from barista.worker import LEASE_S
from tests import tiny
from tests.rig import Rig


@pytest.fixture
def model(tmp_path):
    return tiny.write_model(tmp_path)[0]


def unreachable():
    return ServerUnreachable("127.0.0.1:1", "refused")


def test_a_late_answer_ends_the_round(model):
    rig = Rig(model)
    rig.run(quota=2)
    row = rig.run(quota=2)
    assert (row["applied"], row["late"]) == (0, 1)


def test_a_rejected_gradient_is_counted_and_the_weights_are_pulled(model):
    rig = Rig(model)

    def spoil():
        rig.worker._sum[0] = np.nan

    rig.exchange.before_push[2] = spoil
    row = rig.run(quota=4)
    assert (row["applied"], row["rejected"], rig.store.version) == (3, 1, 3)
    assert len(rig.exchange.pulls) == 2
    assert rig.store.counters().steps == rig.actor.steps


def test_after_a_new_epoch_the_gradient_is_dropped_and_its_steps_stay_owed(model):
    rig = Rig(model)
    rig.exchange.before_push[3] = lambda: rig.store.clear(epoch=2)
    row = rig.run(quota=4)
    assert (row["dropped"], row["applied"]) == (1, 6)  # 2 before, 4 for the new ledger's quota
    pushes = rig.exchange.pushes
    assert [(push.epoch, push.version) for push in pushes[1:4]] == [(1, 1), (1, 2), (2, 0)]
    assert pushes[3].steps >= pushes[2].steps > 0
    assert rig.exchange.target_pulls[-1] == (1, 0)
    assert np.array_equal(rig.nets.online.param_arena, rig.store._weights)


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


@pytest.mark.parametrize("error", [unreachable, lambda: Draining("going down")])
def test_an_unanswered_push_is_sent_again_under_its_sequence(model, error):
    rig = Rig(model)
    rig.exchange.failures[2] = [error(), error(), error()]
    row = rig.run(quota=3)
    assert [push.sequence for push in rig.exchange.pushes] == [1, 2, 2, 2, 2, 3]
    assert row["applied"] == 3
    assert rig.stop.waits == [0.25, 0.5, 1.0]


def test_a_push_whose_answer_was_lost_is_a_duplicate(model):
    rig = Rig(model)
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
    assert rig.store.counters().steps == rig.actor.steps


def test_a_silent_server_is_given_up_after_a_lease(model):
    rig = Rig(model)
    rig.exchange.failures[2] = [unreachable() for _ in range(1000)]
    with pytest.raises(ServerUnreachable):
        rig.run(quota=3)
    assert LEASE_S <= sum(rig.stop.waits) < LEASE_S + 6
    assert rig.worker.progress()["phase"] == "waiting"


def test_stop_ends_the_wait_for_a_silent_server(model):
    rig = Rig(model)
    rig.exchange.failures[2] = [unreachable() for _ in range(1000)]
    wait = rig.stop.wait

    def wait_thrice(timeout):
        if len(rig.stop.waits) == 2:
            rig.stop.set()
        return wait(timeout)

    rig.stop.wait = wait_thrice
    assert rig.run(quota=3)["applied"] == 1
    assert len(rig.stop.waits) == 3


def test_waiting_is_a_sign_of_life(model):
    rig = Rig(model)
    beats = []
    rig.exchange.failures[2] = [unreachable() for _ in range(4)]
    wait = rig.stop.wait

    def note(timeout):
        beats.append(rig.worker.progress()["heartbeat"])
        return wait(timeout)

    rig.stop.wait = note
    rig.run(quota=3)
    assert beats == sorted(set(beats))


def test_another_network_than_the_servers_is_refused(model):
    rig = Rig(model)
    rig.worker._layout = "0123456789abcdef"
    with pytest.raises(LayoutMismatch, match="this worker's '0123456789abcdef'"):
        rig.run(quota=1)
