"""The evaluation as a Spark job, with a stand-in for Spark that plays the tasks by itself."""

import threading

import numpy as np
import pytest

import caffe
from barista.playing.episodes import Terms
from barista.playing.players import play_here
from barista.rounds import RoundError
from barista.spark.evaluation import play_on_spark
from tests import tiny
from tests.snapshots import ECHO


class Context:
    """Runs the tasks of a job one after the other, in an order of its own."""

    def __init__(self, order=reversed):
        self.order, self.cancelled, self.partitions = order, [], 0
        self.hold = threading.Event()
        self.hold.set()

    def broadcast(self, value):
        return type("Shared", (), {"value": value})

    def accumulator(self, value):
        class Total:
            def add(self, more):
                self.value += more

        total = Total()
        total.value = value
        return total

    def setJobGroup(self, *_):  # noqa: N802 (Spark's name)
        pass

    def cancelJobGroup(self, group):  # noqa: N802
        self.cancelled.append(group)

    def parallelize(self, turns, partitions):
        self.partitions = partitions
        assert partitions == len(turns)
        return Mapped(self, turns)


class Mapped:
    def __init__(self, context, turns, function=None):
        self.context, self.turns, self.function = context, turns, function

    def map(self, function):
        return Mapped(self.context, self.turns, function)

    def collect(self):
        self.context.hold.wait(20)
        played = {turn: self.function(turn) for turn in self.context.order(self.turns)}
        return [played[turn] for turn in self.turns]


@pytest.fixture
def weights(tmp_path):
    net = caffe.Net(tiny.write_model(tmp_path)[0], caffe.TEST)
    net.param_arena[...] = 0
    net.params["Q_out"][1].data[1] = 1
    return np.array(net.param_arena)


def quietly(context, terms, weights):
    return play_on_spark(context, terms, tiny.MODEL, weights, check=lambda: None, say=print)


@pytest.mark.parametrize("order", [reversed, sorted])
def test_tasks_in_any_order_give_what_this_process_does(weights, order):
    terms = Terms(ECHO, 20, seed=2, epsilon=0.3)
    context = Context(order)
    assert quietly(context, terms, weights) == play_here(terms, tiny.MODEL, weights)
    assert context.partitions == 6  # three blocks of the network, three of chance


def test_a_task_that_fails_is_one_line(weights):
    with pytest.raises(RoundError, match="takes states of"):
        quietly(Context(), Terms("ddq/Snake-v0", 1), weights)


def test_an_interrupt_cancels_the_job(weights):
    def check():
        raise KeyboardInterrupt

    context = Context()
    context.hold.clear()
    with pytest.raises(KeyboardInterrupt):
        play_on_spark(context, Terms(ECHO, 1), tiny.MODEL, weights, check=check, say=print)
    context.hold.set()
    assert context.cancelled == ["ddq evaluation"]
