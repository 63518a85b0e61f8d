"""The parts of a worker's cycle beside each other."""

import threading

import numpy as np
import pytest
from param_server.errors import ServerUnreachable

import caffe
from barista import pipeline
from barista.assembly import make_worker
from barista.exchange import LocalExchange
from barista.learner import load_nets, q_values
from barista.rounds import RoundRequest
from tests import tiny
from tests.rig import IDENTITY, Rig


@pytest.fixture
def model(tmp_path):
    return tiny.write_model(tmp_path)[0]


@pytest.fixture
def at_once(model):
    """Makes rigs whose parts overlap, and closes them."""
    rigs = []

    def make(**changes):
        rigs.append(Rig(model, overlaps=True, **changes))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.worker.close()


@pytest.mark.parametrize(
    ("overlap", "threads", "expected"),
    [("auto", 1, False), ("auto", 2, False), ("auto", 3, True), ("on", 1, True), ("off", 2, False)],
)
def test_one_thread_alone_does_one_thing_after_the_other(overlap, threads, expected):
    assert pipeline.overlaps(tiny.config(overlap=overlap), threads) is expected


def test_each_gradient_is_of_weights_one_push_older(at_once):
    rig = at_once()
    row = rig.run(quota=5)
    assert [push.version for push in rig.exchange.pushes] == [0, 0, 1, 2, 3]
    assert (row["applied"], row["late"], row["staleness_mean"]) == (5, 0, 0.8)
    assert rig.run(quota=2, number=2)["applied"] == 2
    assert [push.version for push in rig.exchange.pushes[5:]] == [5, 5]
    assert np.array_equal(rig.nets.online.param_arena, tiny.weights_of(rig.store))


@pytest.mark.parametrize("periods", [{}, {"push_period": 3}, {"pull_period": 2}])
def test_a_push_is_the_mean_of_gradients_at_the_weights_that_it_names(at_once, periods):
    rig = at_once(**periods)
    versions = {0: tiny.weights_of(rig.store)}
    computed = []
    push, gradient = rig.exchange.push, rig.worker._learner.gradient

    def note_version(*arguments):
        answered = push(*arguments)
        versions[rig.store.version] = tiny.weights_of(rig.store)
        return answered

    def compute(batch):
        before = rig.nets.online.param_arena.copy()
        stats = gradient(batch)
        assert np.array_equal(before, rig.nets.online.param_arena)
        computed.append((before, rig.nets.online.diff_arena.copy()))
        return stats

    rig.exchange.push, rig.worker._learner.gradient = note_version, compute
    rig.run(quota=6)
    period = rig.config.push_period
    for number, (said, pushed) in enumerate(
        zip(rig.exchange.pushes, rig.exchange.gradients, strict=True)
    ):
        weights, gradients = zip(*computed[number * period : (number + 1) * period], strict=True)
        for each in weights:
            assert np.array_equal(each, versions[said.version])
        np.testing.assert_allclose(pushed, np.mean(gradients, axis=0), rtol=1e-4, atol=1e-8)


def test_the_replay_is_never_touched_by_two_at_a_time(at_once):
    rig = at_once(prioritised=True)
    taken, users = threading.Lock(), set()

    def guarded(method):
        def call(*arguments, **keywords):
            assert taken.acquire(blocking=False)
            try:
                users.add(threading.current_thread().name.partition("_")[0])
                return method(*arguments, **keywords)
            finally:
                taken.release()

        return call

    for name in ("start", "append", "sample", "update_priorities"):
        setattr(rig.replay, name, guarded(getattr(rig.replay, name)))
    rig.worker._learner.td_errors = np.ones(16, np.float32)
    rig.run(quota=60)
    assert users == {"MainThread", "draw"}


def test_every_step_is_told_once_and_keeps_pace_with_the_updates(at_once):
    rig = at_once(steps_per_update=5)
    row = rig.run(quota=40)
    assert sum(push.steps for push in rig.exchange.pushes) == rig.store.counters().steps
    assert rig.store.counters().steps + rig.worker._outbox.steps == rig.actor.steps == row["steps"]
    # What was computed and not pushed, because the round was over, has had its steps.
    assert 40 + 5 * 41 <= rig.actor.steps < 40 + 5 * 41 + 2 * 4


def test_a_new_epoch_takes_what_is_pushed_and_what_is_gathered(at_once):
    rig = at_once()
    rig.exchange.before_push[3] = lambda: rig.store.clear(epoch=2)
    row = rig.run(quota=4)
    assert (row["dropped"], row["applied"]) == (2, 6)
    said = [(push.epoch, push.version) for push in rig.exchange.pushes]
    assert said == [(1, 0), (1, 0), (1, 1), (2, 0), (2, 0), (2, 1), (2, 2)]
    # 8 steps before the clearing are in no count, those of dropped gradients are.
    assert rig.exchange.pushes[3].steps >= rig.exchange.pushes[2].steps > 0
    assert rig.exchange.target_pulls[-1] == (1, 0)


def test_an_error_in_a_draw_ends_the_round(at_once):
    rig = at_once()
    sample = rig.replay.sample

    def draw(*arguments):
        if threading.current_thread() is threading.main_thread():
            return sample(*arguments)
        raise OSError("the disk is gone")

    rig.replay.sample = draw
    with pytest.raises(OSError, match="the disk is gone"):
        rig.run(quota=5)
    assert rig.exchange.left[-1] == 1


def test_a_failure_ends_the_wait_of_a_push_that_is_under_way(at_once):
    """The server is silent, and nobody is left to wait for it."""
    rig = at_once()
    rig.exchange.failures[2] = [ServerUnreachable("127.0.0.1:1", "refused") for _ in range(1000)]
    waiting, gradient = threading.Event(), rig.worker._learner.gradient
    computed = []

    def wait(timeout):
        waiting.set()
        return threading.Event.wait(rig.stop, 5)

    def compute(batch):
        computed.append(gradient(batch))
        if len(computed) == 3:
            assert waiting.wait(20)
            raise KeyboardInterrupt
        return computed[-1]

    rig.stop.wait, rig.worker._learner.gradient = wait, compute
    with pytest.raises(KeyboardInterrupt):
        rig.run(quota=5)
    assert rig.stop.is_set()
    assert [push.sequence for push in rig.exchange.pushes] == [1, 2]
    assert rig.exchange.left[-1] == 1


def test_closing_ends_the_threads(model):
    before = set(threading.enumerate())
    rig = Rig(model, overlaps=True)
    rig.run(quota=3)
    assert len(set(threading.enumerate()) - before) == 2
    assert rig.actor.is_stepping
    rig.worker.close()
    assert set(threading.enumerate()) == before
    assert rig.game.is_closed


def test_a_worker_that_does_things_at_once_learns_catch(model):
    """Chance gets −0.6; a fixed seed, and the order in which threads come to their turn, decide."""
    caffe.set_random_seed(0)
    nets = load_nets(model, batch_size=16, num_envs=8)
    store = tiny.sgd_store(nets.online, rate=0.3)
    worker = make_worker(
        tiny.config(),
        game=tiny.Catch(8, seed=0),
        nets=nets,
        exchange=LocalExchange(store),
        identity=IDENTITY,
        overlaps=True,
    )
    worker.run_round(RoundRequest(1, quota=1500))
    worker.close()
    score = tiny.play_greedily(tiny.Catch(8, seed=9), lambda s: q_values(nets.act, s, 3), 300)
    assert score > 0.6
