"""The form of 2015: a network with target and loss inside learns as two networks without them."""

import numpy as np
import pytest

import caffe
from barista.assembly import load, make_learner
from barista.config import ConfigError
from barista.games.models import one_net, q_network
from barista.learner import Learner, q_values
from barista.model import ModelError
from barista.one_net import OneNetLearner
from tests import tiny

B, A = 16, 3
PLAIN = {"double": False, "n_step": 1, "batch_size": B, "num_envs": 5}


@pytest.fixture
def batch():
    return tiny.batch(B)


def learner(folder, text, **changes):
    """Return the networks and the learner of a prototxt."""
    file = folder / "train_val.prototxt"
    file.write_text(text)
    config = tiny.config(**{**PLAIN, **changes})
    nets = load(file, config)
    return nets, make_learner(nets, config, A)


def test_it_computes_what_two_networks_do(tmp_path, batch):
    caffe.set_random_seed(1)
    _, one = learner(tmp_path, one_net("mlp", A, (1, 5, 5), batch=B, gamma=0.9))
    two_nets, two = learner(tmp_path, q_network("mlp", A, 1, 5, 5), loss="squared")
    assert isinstance(one, OneNetLearner)
    assert isinstance(two, Learner)
    rng = np.random.default_rng(2)
    weights, target = 0.1 * rng.normal(size=(2, two.layout.size)).astype(np.float32)
    for each in (one, two):
        each.set_weights(weights)
        each.set_target_weights(target)
    inside, outside = one.gradient(batch), two.gradient(batch)
    np.testing.assert_allclose(one.flat_gradient, two.flat_gradient, rtol=1e-3, atol=1e-6)
    assert inside.loss == pytest.approx(outside.loss, rel=1e-5)
    assert inside.q_mean == pytest.approx(outside.q_mean, rel=1e-4)
    np.testing.assert_allclose(one.td_errors, two.td_errors, rtol=1e-4, atol=1e-5)
    assert inside.td_error_mean == pytest.approx(outside.td_error_mean, rel=1e-4)
    assert np.array_equal(two_nets.online.blobs["state"].data, batch.states)


def test_the_net_that_acts_follows(tmp_path):
    nets, one = learner(tmp_path, one_net("mlp", A, (1, 5, 5), batch=B))
    states = np.random.default_rng(3).integers(256, size=(5, 1, 5, 5), dtype=np.uint8)
    before = q_values(nets.act, states, A)
    one.set_target_weights(np.zeros(one.layout.size, np.float32))
    assert np.array_equal(q_values(nets.act, states, A), before)
    one.set_weights(np.zeros(one.layout.size, np.float32))
    assert not q_values(nets.act, states, A).any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"double": True}, ": --no-double$"),
        ({"n_step": 3, "prioritised": True}, "--n-step 1 --no-prioritised$"),
        ({"quantiles": 5}, "--quantiles 1"),
        ({"value_rescaling": True, "reward_clip": False}, "--no-value-rescaling"),
    ],
)
def test_what_the_file_cannot_do_is_refused(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        learner(tmp_path, one_net("mlp", A, (1, 5, 5), batch=B), **changes)


def test_a_target_network_that_lacks_a_layer_is_refused(tmp_path):
    text = one_net("mlp", A, (1, 5, 5), batch=B).replace('name: "Pfc1"', 'name: "Rfc1"')
    with pytest.raises(ModelError, match="layer Qfc1 has no twin Pfc1"):
        learner(tmp_path, text)
