"""Where a worker and the tasks of synchronous updates meet."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from param_server.errors import BadRequest, TooEarly
from param_server.wire import Counters, Model, Push, PushAnswer

from barista import mailbox
from barista.mailbox import Mailbox, Order

ONES = np.ones(3, np.float32)


def model(version=0):
    return Model(1, version, 0, "digest", Counters(updates=version), version + ONES)


def push(version=0, *, incarnation="first"):
    return Push("r", "w", incarnation, 1, epoch=1, version=version, layout="digest")


def order(number, *, answered=(), over=False):
    answer = PushAnswer("applied", "", 1, number - 1, 0, 0, Counters(), over, 0)
    ids = frozenset(mailbox.push_id(each) for each in answered)
    return Order(number, model(number - 1), answer if answered else None, ids)


@pytest.fixture
def box():
    box = Mailbox(threading.Condition())
    yield box
    box.close()


@pytest.fixture
def worker():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def wait_for_push(box):
    with box._changed:
        assert box._changed.wait_for(lambda: box.push_frame, 10)
    return mailbox.decode_push(box.push_frame)


def test_frames_hold_what_was_put_into_them():
    sent = order(4, answered=[push()], over=True)
    came = mailbox.decode_order(mailbox.encode_order(sent))
    assert (came.number, came.answer, came.answered) == (4, sent.answer, sent.answered)
    assert came.is_last
    assert came.model.weights.tolist() == [4, 4, 4]
    assert mailbox.decode_target(mailbox.encode_target(model(2))).weights.tolist() == [3, 3, 3]
    told, gradient = mailbox.decode_push(mailbox.encode_push(push(), 2 * ONES))
    assert (mailbox.push_id(told), gradient.tolist()) == (("w", "first", 1), [2, 2, 2])


@pytest.mark.parametrize("frame", [b"", b"DDQ1", mailbox.encode_order(order(1))[:-1]])
def test_a_damaged_frame_is_refused(frame):
    with pytest.raises(BadRequest):
        mailbox.decode_order(frame)


def test_an_order_without_its_fields_is_refused():
    with pytest.raises(BadRequest, match="damaged"):
        mailbox.decode_order(mailbox.encode_target(model()))


def test_a_pull_waits_for_the_first_order(box, worker):
    pulled = worker.submit(box.pull, None, np.zeros(3, np.float32))
    box.deliver(order(1))
    assert pulled.result(10).weights.tolist() == [1, 1, 1]
    assert box.pull((1, 0), np.zeros(3, np.float32)) is None


def test_the_target_comes_by_a_way_of_its_own(box, worker):
    box.deliver(order(1))
    pulled = worker.submit(box.pull_target, None, np.zeros(3, np.float32))
    assert box.target is None
    box.deliver_target(model())
    assert pulled.result(10).weights.tolist() == [1, 1, 1]
    assert box.target == (1, 0)


def test_a_push_waits_for_its_answer_and_can_be_fetched_twice(box, worker):
    box.deliver(order(1))
    out = np.zeros(3, np.float32)
    answered = worker.submit(box.push, push(), 2 * ONES, out)
    for _ in range(2):
        told, gradient = wait_for_push(box)
        assert (told.sequence, gradient.tolist()) == (1, [2, 2, 2])
        box.deliver(order(1))  # by a task that is repeated
    box.deliver(order(2, answered=[push()]))
    answer, newest = answered.result(10)
    assert (answer.status, newest.version, out.tolist()) == ("applied", 1, [2, 2, 2])
    assert box.push_frame == b""


@pytest.mark.parametrize("over", [False, True])
def test_a_push_that_another_was_taken_for_is_late(box, worker, over):
    """Its partition was elsewhere meanwhile, or the Barista before it had pushed already."""
    box.deliver(order(1))
    answered = worker.submit(box.push, push(incarnation="second"), ONES, np.zeros(3, np.float32))
    wait_for_push(box)
    box.deliver(order(2, answered=[push()], over=over))
    assert box.push_frame == b""
    answer, newest = answered.result(10)
    assert (answer.status, answer.version, answer.round_over) == ("late", 1, over)
    assert newest.weights.tolist() == [2, 2, 2]


def test_a_push_that_was_passed_over_before_it_came_is_late(box):
    box.deliver(order(1))
    box.deliver(order(2, answered=[push(incarnation="second")]))
    assert box.push(push(), ONES, np.zeros(3, np.float32))[0].status == "late"


def test_a_push_of_the_weights_of_now_is_kept_by_the_first_order_of_a_round(box, worker):
    box.deliver(order(1))
    answered = worker.submit(box.push, push(), ONES, np.zeros(3, np.float32))
    wait_for_push(box)
    box.deliver(order(2)._replace(model=model(0)))
    assert box.push_frame
    box.deliver(order(3, answered=[push()]))
    assert answered.result(10)[0].status == "applied"


def test_who_leaves_waits_no_more(box, worker):
    waiting = worker.submit(box.pull, None, np.zeros(3, np.float32))
    box.close()
    with pytest.raises(TooEarly):
        waiting.result(10)
