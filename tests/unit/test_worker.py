"""The worker's loop, against a store in this process."""

import json

import numpy as np
import pytest
from param_server.wire import Layout

import caffe
from barista.assembly import make_worker
from barista.exchange import LocalExchange
from barista.learner import Learner, LearnStats, load_nets, q_values
from barista.rounds import RoundRequest
from tests import tiny
from tests.rig import IDENTITY, NUM_ENVS, Rig


@pytest.fixture
def model(tmp_path):
    return tiny.write_model(tmp_path)[0]


def test_a_round_is_over_when_its_quota_is_reached(model):
    rig = Rig(model)
    row = rig.run(quota=7)
    assert (row["applied"], row["late"], rig.store.version) == (7, 0, 7)
    assert rig.worker.progress()["phase"] == "idle"


def test_the_next_round_continues_with_the_newest_weights(model):
    rig = Rig(model)
    rig.run(quota=3)
    rig.run(quota=2, number=2)
    assert [push.version for push in rig.exchange.pushes] == [0, 1, 2, 3, 4]
    assert [push.sequence for push in rig.exchange.pushes] == [1, 2, 3, 4, 5]
    assert np.array_equal(rig.nets.online.param_arena, tiny.weights_of(rig.store))


def test_nothing_is_pushed_before_the_warm_up_is_done(model):
    rig = Rig(model, warmup=100)
    rig.worker.warm_up()
    assert rig.exchange.pushes == []
    assert rig.worker.is_warm
    assert 100 <= rig.actor.steps < 100 + NUM_ENVS


def test_a_worker_warms_up_its_share_only(model):
    rig = Rig(model, warmup=100, workers=2)
    rig.worker.warm_up()
    assert 50 <= rig.actor.steps < 50 + NUM_ENVS


def test_every_step_and_episode_is_reported_once(model):
    rig = Rig(model)
    row = rig.run(quota=50)
    pushes = rig.exchange.pushes
    assert sum(push.steps for push in pushes) == rig.actor.steps == row["steps"]
    assert sum(len(push.episodes) for push in pushes) == row["episodes"] > 0
    assert {length for push in pushes for length in push.episode_lengths} == {4}
    assert rig.store.counters().steps == rig.actor.steps


@pytest.mark.parametrize("steps_per_update", [1, 2, 4, 8, 20])
def test_steps_keep_pace_with_updates(model, steps_per_update):
    """The copies step together: at most one such step is taken in advance."""
    rig = Rig(model, steps_per_update=steps_per_update)
    rig.worker.warm_up()
    before = rig.actor.steps
    for update in range(1, 31):
        rig.worker.update(RoundRequest(1))
        steps = rig.actor.steps - before
        assert steps_per_update * update <= steps < steps_per_update * update + NUM_ENVS


def test_a_push_says_who_made_it_and_of_what(model):
    rig = Rig(model)
    rig.run(quota=2, number=5, partition=3)
    push = rig.exchange.pushes[1]
    assert (push.run, push.worker, push.incarnation) == IDENTITY
    assert (push.round, push.partition, push.quota, push.epoch) == (5, 3, 2, 1)
    assert push.layout == Layout.from_arena(rig.nets.online.arena_layout).digest
    seconds = {"act_s", "sample_s", "compute_s", "exchange_s", "wait_s"}
    learned = set(LearnStats._fields) - {"loss"}
    assert set(push.stats) == learned | seconds | {"epsilon", "q_bound"}
    assert push.loss > 0


def test_a_deadline_ends_a_round(model):
    rig = Rig(model)
    row = rig.run(quota=0, deadline_s=2.0)
    assert row["applied"] > 5
    assert 2.0 <= row["seconds"] < 2.1


def test_a_deadline_ends_a_warm_up_and_the_next_round_goes_on_with_it(model):
    rig = Rig(model, warmup=1000)
    assert rig.run(quota=5, deadline_s=0.02)["applied"] == 0
    assert not rig.worker.is_warm
    assert rig.run(quota=5)["applied"] == 5


def test_stop_ends_a_round_at_the_next_update(model):
    rig = Rig(model)
    rig.exchange.before_push[3] = rig.stop.set
    assert rig.run(quota=100)["applied"] == 3


def test_the_target_is_pulled_only_when_it_has_changed(model):
    rig = Rig(model, target_period=5)
    rig.run(quota=12)
    assert rig.exchange.target_pulls == [None, (1, 0), (1, 5)]
    assert np.array_equal(rig.nets.target.param_arena, tiny.target_of(rig.store))


def test_the_target_is_followed_even_between_pulls_of_the_weights(model):
    rig = Rig(model, target_period=5, pull_period=100)
    rig.run(quota=6)
    assert rig.exchange.target_pulls == [None, (1, 0)]


def test_the_targets_weights_are_not_taken_for_the_newest(model):
    """Another worker's update refreshed the target; ours, which came after, is not in it."""
    rig = Rig(model, target_period=5)
    rig.exchange.before_push[5] = rig.report
    rig.run(quota=5)
    assert rig.exchange.target_pulls == [None, (1, 0)]
    assert rig.exchange.pushes[-1].version == 4
    assert np.array_equal(rig.nets.online.param_arena, tiny.weights_of(rig.store))
    assert not np.array_equal(rig.nets.online.param_arena, rig.nets.target.param_arena)


def test_weights_come_with_the_answers(model):
    rig = Rig(model)
    rig.run(quota=9)
    assert rig.exchange.pulls == [None]


def test_pulling_can_be_rarer_than_pushing(model):
    rig = Rig(model, pull_period=3)
    row = rig.run(quota=7)
    assert [push.want_model for push in rig.exchange.pushes] == [0, 0, 1, 0, 0, 1, 0]
    assert [push.version for push in rig.exchange.pushes] == [0, 0, 0, 3, 3, 3, 6]
    assert row["staleness_mean"] == pytest.approx(6 / 7)


def test_a_push_can_be_the_mean_of_several_gradients(model):
    rig = Rig(model, push_period=3)
    computed = []
    gradient = rig.worker._learner.gradient

    def keep(batch):
        stats = gradient(batch)
        computed.append((stats.loss, rig.nets.online.diff_arena.copy()))
        return stats

    rig.worker._learner.gradient = keep
    rig.run(quota=2)
    assert len(computed) == 6
    for push, pushed, start in zip(
        rig.exchange.pushes, rig.exchange.gradients, (0, 3), strict=True
    ):
        losses, gradients = zip(*computed[start : start + 3], strict=True)
        np.testing.assert_allclose(pushed, np.mean(gradients, axis=0), rtol=1e-4, atol=1e-8)
        assert push.loss == pytest.approx(np.mean(losses))


def test_epsilon_falls_with_the_steps_of_all_workers_once_they_are_warm(model):
    rig = Rig(model, epsilon_steps=100, epsilon_end=0.1)
    assert rig.worker.epsilon == 1.0
    rig.worker.warm_up()
    assert rig.worker.epsilon > 0.95
    rig.report(steps=90)  # another worker's
    rig.run(quota=1)
    beyond = rig.store.counters().steps - rig.config.warmup
    assert rig.worker.epsilon == pytest.approx(1 - 0.9 * beyond / 100)


def test_epsilon_falls_with_own_steps_before_they_are_reported(model):
    rig = Rig(model, epsilon_steps=100, epsilon_end=0.1, push_period=1000)
    rig.run(quota=1, deadline_s=1.0)
    assert rig.exchange.pushes == []
    beyond = rig.actor.steps - rig.config.warmup
    assert rig.worker.epsilon == pytest.approx(max(0.1, 1 - 0.9 * beyond / 100))
    assert rig.worker.epsilon < 1


def test_a_worker_that_joins_late_warms_up_with_the_epsilon_of_the_others(model):
    rig = Rig(model)
    rig.report(steps=10**6)
    rig.worker.warm_up()
    assert rig.worker.epsilon == rig.config.epsilon_end


def test_gradients_of_older_weights_are_not_mixed_with_those_of_newer_ones(model):
    rig = Rig(model, push_period=3)
    rig.worker.warm_up()
    for _ in range(2):
        assert rig.worker.update(RoundRequest(1)) is None
    rig.report(steps=0)
    learned = rig.worker.timings.stages()["compute"].times
    rig.run(quota=1, number=1)
    assert rig.worker.timings.stages()["compute"].times == learned + 3
    assert rig.exchange.pushes[0].version == 1


def test_progress_is_json_and_never_changes_under_its_reader(model):
    rig = Rig(model)
    before = rig.worker.progress()
    rig.run(quota=20)
    after = rig.worker.progress()
    assert json.loads(json.dumps(after, allow_nan=False)) == after
    assert (before["updates"], after["updates"]) == (0, 20)
    assert after["steps"] == rig.actor.steps
    assert after["heartbeat"] > before["heartbeat"]
    assert set(after["stages_s"]) == {"act", "sample", "compute", "exchange"}


def test_rows_count_from_one_to_the_next(model):
    rig = Rig(model)
    first = rig.run(quota=10)
    second = rig.run(quota=5, number=2)
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert first["steps"] + second["steps"] == rig.actor.steps
    assert second["applied"] == 5
    total_s = rig.worker.timings.totals_s()["compute"]
    assert first["compute_s"] + second["compute_s"] == pytest.approx(total_s)


def test_closing_closes_the_game(model):
    rig = Rig(model)
    rig.worker.close()
    assert rig.game.is_closed


def made(model, seed, updates=60):
    """Train a worker of `make_worker` on a store of its own; return its weights."""
    caffe.set_random_seed(3)
    nets = load_nets(model, batch_size=16, num_envs=NUM_ENVS)
    store = tiny.sgd_store(nets.online)
    worker = make_worker(
        tiny.config(seed=seed, warmup=40),
        game=tiny.Catch(NUM_ENVS, seed=1),
        nets=nets,
        exchange=LocalExchange(store),
        identity=IDENTITY,
    )
    worker.run_round(RoundRequest(1, quota=updates))
    return tiny.weights_of(store)


def test_the_same_seed_gives_the_same_weights_bit_for_bit(model):
    assert made(model, seed=1).tobytes() == made(model, seed=1).tobytes()


def test_another_seed_gives_other_weights(model):
    assert made(model, seed=1).tobytes() != made(model, seed=2).tobytes()


def test_one_worker_is_algorithm_1_bit_for_bit(model):
    """The loop of the paper, written down without server, rounds or exchange."""
    rig, twin = Rig(model), Rig(model)
    config, nets = twin.config, twin.nets
    learner = Learner(nets, config, 3)
    learner.set_target_weights(nets.online.param_arena)
    while twin.actor.steps < config.warmup:
        twin.actor.act(1.0)
    step = 0
    for update in range(1, 121):
        while step < config.steps_per_update * update:
            beyond = twin.actor.steps - config.warmup
            fraction = min(max(beyond, 0) / config.epsilon_steps, 1.0)
            step += twin.actor.act(1.0 + (config.epsilon_end - 1.0) * fraction)
        learner.gradient(twin.replay.sample(config.batch_size))
        nets.online.param_arena[...] -= 0.05 * nets.online.diff_arena
        if update % config.target_period == 0:
            learner.set_target_weights(nets.online.param_arena)
    rig.run(quota=120)
    assert tiny.weights_of(rig.store).tobytes() == nets.online.param_arena.tobytes()
    assert rig.actor.steps == twin.actor.steps


def test_a_worker_learns_catch(model):
    """Chance gets −0.6, and three seconds of training most balls; a fixed seed decides."""
    caffe.set_random_seed(0)
    nets = load_nets(model, batch_size=16, num_envs=8)
    store = tiny.sgd_store(nets.online, rate=0.3)
    worker = make_worker(
        tiny.config(),
        game=tiny.Catch(8, seed=0),
        nets=nets,
        exchange=LocalExchange(store),
        identity=IDENTITY,
    )
    worker.run_round(RoundRequest(1, quota=1500))
    score = tiny.play_greedily(tiny.Catch(8, seed=9), lambda s: q_values(nets.act, s, 3), 300)
    assert score > 0.6
