"""The learner, on a real network of one hidden layer."""

import numpy as np
import pytest

import caffe
from barista import dqn
from barista.config import AgentConfig
from barista.learner import Learner, load_nets, q_values
from barista.model import ModelError
from replay import Batch
from tests import tiny

B = 16


@pytest.fixture
def nets(tmp_path):
    caffe.set_random_seed(0)
    model, _ = tiny.write_model(tmp_path)
    return load_nets(model, batch_size=B, num_envs=3)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return Batch(
        states=rng.integers(256, size=(B, 1, 5, 5), dtype=np.uint8),
        actions=rng.integers(3, size=B),
        rewards=rng.normal(size=B).astype(np.float32),
        discounts=rng.choice([0.0, 0.9], size=B).astype(np.float32),
        next_states=rng.integers(256, size=(B, 1, 5, 5), dtype=np.uint8),
        weights=np.ones(B, np.float32),
        ids=np.arange(B),
    )


def learner(nets, *, double=True):
    return Learner(nets, AgentConfig(double=double), 3)


def loss(nets, batch, *, double):
    errors = dqn.td_errors(
        q_values(nets.online, batch.states, 3),
        batch.actions,
        batch.rewards,
        batch.discounts,
        q_values(nets.target, batch.next_states, 3),
        next_q_online=q_values(nets.online, batch.next_states, 3) if double else None,
    )
    return float(dqn.huber_loss(errors).mean(dtype=np.float64))


@pytest.mark.parametrize("double", [False, True])
def test_the_gradient_agrees_with_finite_differences(nets, batch, double):
    """Central differences in the 20 parameters of the largest gradients.

    In float32 the loss of about 0.4 is known to 1e-7, so a difference of 2e-2 gives six digits of
    a slope of one; the curvature adds as much.  Hence 2 %.
    """
    learner(nets, double=double).gradient(batch)
    gradient = nets.online.diff_arena.copy()
    parameters = nets.online.param_arena
    step = 1e-2
    for index in np.argsort(-np.abs(gradient))[:20]:
        before = parameters[index]
        losses = []
        for value in (before + step, before - step):
            parameters[index] = value
            losses.append(loss(nets, batch, double=double))
        parameters[index] = before
        slope = (losses[0] - losses[1]) / (2 * step)
        assert gradient[index] == pytest.approx(slope, rel=0.02, abs=1e-4)


def test_double_and_plain_targets_differ(nets, batch):
    plain = learner(nets, double=False).gradient(batch)
    doubled = learner(nets, double=True).gradient(batch)
    assert plain.loss != doubled.loss


def test_a_gradient_replaces_the_one_before(nets, batch):
    own = learner(nets)
    own.gradient(batch)
    first = own.flat_gradient.copy()
    own.gradient(batch)
    assert np.array_equal(own.flat_gradient, first)
    assert first.any()


def test_a_step_down_the_gradient_lowers_the_loss(nets, batch):
    own = learner(nets, double=False)
    before = own.gradient(batch).loss
    own.set_weights(nets.online.param_arena - 0.05 * own.flat_gradient)
    assert own.gradient(batch).loss < before


def test_stats_describe_the_batch(nets, batch):
    q = q_values(nets.online, batch.states, 3)
    errors = dqn.td_errors(
        q, batch.actions, batch.rewards, batch.discounts,
        q_values(nets.target, batch.next_states, 3),
    )  # fmt: skip
    stats = learner(nets, double=False).gradient(batch)
    assert stats.loss == pytest.approx(dqn.huber_loss(errors).mean(), rel=1e-6)
    assert stats.td_error_mean == pytest.approx(np.abs(errors).mean(), rel=1e-6)
    assert stats.q_mean == pytest.approx(q[np.arange(B), batch.actions].mean(), rel=1e-5)
    assert stats.q_max == pytest.approx(q.max(), rel=1e-6)


def test_weights_reach_the_acting_network_and_not_the_target(nets):
    target = nets.target.param_arena.copy()
    weights = np.linspace(-1, 1, len(target), dtype=np.float32)
    learner(nets).set_weights(weights)
    states = np.full((3, 1, 5, 5), 9, np.uint8)
    # one row by itself and three together may be summed in another order
    np.testing.assert_allclose(
        q_values(nets.act, states, 3)[0], q_values(nets.online, states[:1], 3)[0], rtol=1e-5
    )
    assert np.array_equal(nets.target.param_arena, target)


def test_target_weights_reach_the_target_only(nets):
    online = nets.online.param_arena.copy()
    weights = np.zeros_like(online)
    learner(nets).set_target_weights(weights)
    assert np.array_equal(nets.target.param_arena, weights)
    assert np.array_equal(nets.online.param_arena, online)


def test_q_values_follow_the_batch_size_and_are_a_copy(nets):
    states = np.random.default_rng(1).integers(256, size=(5, 1, 5, 5), dtype=np.uint8)
    all_at_once = q_values(nets.act, states, 3)
    assert all_at_once.shape == (5, 3)
    kept = all_at_once.copy()
    one_by_one = np.concatenate([q_values(nets.act, state[None], 3) for state in states])
    np.testing.assert_allclose(one_by_one, kept, rtol=1e-5, atol=1e-6)
    assert np.array_equal(all_at_once, kept)


@pytest.mark.parametrize("blob", ["state", "Q_out"])
def test_a_network_of_other_blobs_is_refused(tmp_path, blob):
    file = tmp_path / "net.prototxt"
    file.write_text(tiny.MODEL.replace(f'"{blob}"', '"other"'))
    with pytest.raises(ModelError, match=f"a Q-network has a blob '{blob}'"):
        load_nets(str(file), batch_size=1, num_envs=1)


def test_a_network_that_cannot_be_built_is_refused(tmp_path):
    file = tmp_path / "net.prototxt"
    file.write_text(tiny.MODEL.replace("InnerProduct", "OuterProduct"))
    with pytest.raises(ModelError, match="OuterProduct"):
        load_nets(str(file), batch_size=1, num_envs=1)
    with pytest.raises(ModelError, match="nowhere"):
        load_nets("nowhere.prototxt", batch_size=1, num_envs=1)


def test_a_network_with_other_parameters_to_act_than_to_learn_is_refused(tmp_path):
    file = tmp_path / "net.prototxt"
    extra = (
        'layer { name: "more" type: "InnerProduct" bottom: "fc1" top: "fc1_more" '
        "include { phase: TRAIN } inner_product_param { num_output: 2 } } "
        'layer { name: "none" type: "Silence" bottom: "fc1_more" include { phase: TRAIN } } '
    )
    file.write_text(tiny.MODEL + extra)
    nets = load_nets(str(file), batch_size=1, num_envs=1)
    with pytest.raises(ModelError, match="TEST phase"):
        learner(nets)
