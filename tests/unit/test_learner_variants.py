"""Each variant's gradient, through the engine, beside differences of its loss."""

import numpy as np
import pytest

import caffe
from barista.games.models import q_network
from barista.learner import Learner, load_nets
from tests import tiny

B, A = 16, 3
VARIANTS = {
    "dqn": {},
    "double": {"double": True},
    "squared": {"loss": "squared"},
    "rescaled": {"value_rescaling": True, "reward_clip": False},
    "dueling": {"dueling": True},
    "quantiles": {"quantiles": 5},
    "rainbow": {"dueling": True, "quantiles": 5, "double": True},
}


@pytest.fixture
def batch():
    weights = np.random.default_rng(1).uniform(0.1, 1.0, size=B).astype(np.float32)
    return tiny.batch(B)._replace(weights=weights)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_is_the_slope_of_the_loss(tmp_path, batch, variant):
    """Central differences in the 12 parameters of the largest gradients, to 3 %; see test_learner.

    The target network stands still, and double Q-learning's selection is not differentiated, so
    the selecting network is a copy of its own here.
    """
    changes = VARIANTS[variant]
    caffe.set_random_seed(0)
    file = tmp_path / "net.prototxt"
    shape = {name: changes[name] for name in ("dueling", "quantiles") if name in changes}
    file.write_text(q_network("mlp", A, 1, 5, 5, **shape))
    nets = load_nets(str(file), batch_size=B, num_envs=1)
    nets = nets._replace(select=load_nets(str(file), batch_size=B, num_envs=1).online)
    config = tiny.config(**{"double": False, **changes})
    learner = Learner(nets, config, A)
    learner.gradient(batch)
    gradient = learner.flat_gradient.copy()
    weights = nets.online.param_arena.copy()
    step = 2e-2
    for place in np.argsort(-np.abs(gradient))[:12]:
        losses = []
        for direction in (1, -1):
            changed = weights.copy()
            changed[place] += direction * step
            learner.set_weights(changed)
            losses.append(learner.gradient(batch).loss)
        slope = (losses[0] - losses[1]) / (2 * step)
        assert slope == pytest.approx(gradient[place], rel=0.03)
    assert learner.td_errors.shape == (B,)


def test_dead_units_are_counted(tmp_path, batch):
    file = tmp_path / "net.prototxt"
    file.write_text(tiny.MODEL)
    nets = load_nets(str(file), batch_size=B, num_envs=1)
    nets.online.params["fc1"][1].data[:8] = -1e6  # of 32 rectified units
    learner = Learner(nets, tiny.config(), A)
    stats = learner.gradient(batch)
    data = nets.look.blobs["fc1"].data
    assert stats.dead_units == pytest.approx((data.max(axis=0) <= 0).mean())
    assert stats.dead_units >= 0.25
    nets.online.params["fc1"][1].data[:] = -1e6
    assert learner.gradient(batch).dead_units == stats.dead_units  # a look now and then is enough
    for _ in range(100):
        stats = learner.gradient(batch)
    assert stats.dead_units == 1.0
