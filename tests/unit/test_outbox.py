"""What a worker is about to push."""

import numpy as np
import pytest
from param_server.wire import Layout

from barista.learner import LearnStats
from barista.outbox import Identity, Outbox

LAYOUT = Layout.from_entries([("fc/0", (3,))])
SECONDS = {"act": 1.0, "compute": 4.0}


def outbox(period=1, *, beside=False):
    return Outbox(Identity("run", "w", "first"), LAYOUT, period=period, beside=beside)


def stats(loss):
    return LearnStats(loss, td_error_mean=1.0, q_mean=2.0, q_max=loss, dead_units=0.0)


def add(box, value, loss=0.5, of=(1, 0)):
    return box.add_gradient(np.full(3, value, np.float32), stats(loss), of)


def sealed(box, seconds=SECONDS):
    return box.next_push(
        round_number=2, partition=1, quota=9, want_model=True, stats={"epsilon": 0.1},
        seconds=seconds,
    )  # fmt: skip


def test_the_mean_of_a_period_is_pushed():
    box = outbox(period=3)
    for number, value in enumerate((1.0, 2.0, 6.0)):
        assert not box.is_full
        add(box, value, loss=number, of=(7, 5))
    assert box.is_full
    push = sealed(box)
    assert box.gradient.tolist() == [3.0, 3.0, 3.0]
    assert (push.epoch, push.version, push.sequence, push.loss) == (7, 5, 1, 1.0)
    assert (push.layout, push.round, push.quota) == (LAYOUT.digest, 2, 9)
    assert (push.stats["q_max"], push.stats["epsilon"]) == (1.0, 0.1)
    assert "loss" not in push.stats
    assert not box.is_full


def test_what_is_pushed_stays_while_the_next_mean_is_gathered():
    box = outbox(beside=True)
    gradient = np.ones(3, np.float32)
    box.add_gradient(gradient, stats(0.5), (1, 0))
    sealed(box)
    gradient[:] = 2.0  # the next one is computed
    box.add_gradient(gradient, stats(0.5), (1, 1))
    assert box.gradient.tolist() == [1.0, 1.0, 1.0]
    assert sealed(box).sequence == 2
    assert box.gradient.tolist() == [2.0, 2.0, 2.0]


def test_a_gradient_that_is_pushed_at_once_is_not_copied():
    box = outbox()
    gradient = np.ones(3, np.float32)
    box.add_gradient(gradient, stats(0.5), (1, 0))
    sealed(box)
    assert box.gradient is gradient


@pytest.mark.parametrize("newer", [(1, 1), (2, 0)])
def test_a_gradient_of_another_version_begins_the_mean_afresh(newer):
    box = outbox(period=2)
    assert add(box, 100.0) == 0
    assert add(box, 1.0, of=newer) == 1  # given up
    assert not box.is_full
    assert add(box, 3.0, of=newer) == 0
    push = sealed(box)
    assert (push.epoch, push.version) == newer
    assert box.gradient.tolist() == [2.0, 2.0, 2.0]


def test_steps_are_told_again_until_they_are_confirmed():
    box = outbox()
    box.add_steps(8, [1.0], [4])
    add(box, 1.0)
    lost = sealed(box)
    box.add_steps(4, [2.0, 3.0], [5, 6])
    add(box, 1.0)
    push = sealed(box)
    assert (lost.steps, push.steps) == (8, 12)
    assert (push.episodes, push.episode_lengths) == ((1.0, 2.0, 3.0), (4, 5, 6))
    box.add_steps(2, [7.0], [8])  # while the answer is on its way
    box.confirm(push)
    assert box.steps == 2
    add(box, 1.0)
    assert (sealed(box).steps, sealed_again(box).episodes) == (2, (7.0,))


def sealed_again(box):
    add(box, 1.0)
    return sealed(box)


def test_seconds_are_those_since_the_last_confirmed_push():
    box = outbox()
    add(box, 1.0)
    first = sealed(box)
    assert (first.stats["act_s"], first.stats["compute_s"], first.stats["wait_s"]) == (1, 4, 0)
    box.confirm(first)
    add(box, 1.0)
    lost = sealed(box, {"act": 2.0, "compute": 6.0, "wait": 0.5})
    assert (lost.stats["act_s"], lost.stats["wait_s"]) == (1.0, 0.5)
    add(box, 1.0)
    assert sealed(box, {"act": 3.0, "compute": 9.0, "wait": 0.5}).stats["act_s"] == 2.0


def test_dropping_counts_what_was_pushed_and_what_was_gathered():
    box = outbox(period=2)
    for value in (1.0, 2.0):
        add(box, value)
    sealed(box)
    add(box, 3.0)
    assert box.drop_gradients() == 3
    assert box.drop_gradients() == 0
    assert not box.is_full


def test_what_was_gathered_when_the_period_fell_is_pushed_with_the_next():
    box = outbox(period=3)
    add(box, 1.0)
    box.period = 1
    add(box, 3.0)
    assert box.is_full
    sealed(box)
    assert box.gradient.tolist() == [2.0, 2.0, 2.0]


def test_the_period_may_change_between_two_pushes():
    """A learner's own array, which was pushed while the period was 1, is not gathered into."""
    box = outbox()
    theirs = np.ones(3, np.float32)
    for _ in range(3):
        box.add_gradient(theirs, stats(0.5), (1, 0))
        sealed(box)
    box.period = 2
    for expected in (3.0, 5.0):
        for value in (expected - 1, expected + 1):
            theirs[:] = value
            box.add_gradient(theirs, stats(0.5), (1, 0))
        sealed(box)
        assert box.gradient.tolist() == [expected] * 3
        assert theirs.tolist() == [expected + 1] * 3
