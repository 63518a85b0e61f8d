"""DistBelief's periods, seen on a quadratic: a real worker whose learner knows its loss.

The loss is (θ - noise)² / 2 with noise +1, -1, +1, …; the store takes steps of a half.
"""

import itertools

import numpy as np
import pytest
from param_server.errors import EpochChanged

from barista.learner import LearnStats
from tests import tiny
from tests.rig import Rig

RATE = 0.5


class QuadraticLearner:
    """In the place of the network: gradients that can be computed by hand."""

    def __init__(self, size):
        self.theta = np.full(size, np.nan, np.float32)
        self.flat_gradient = np.zeros(size, np.float32)
        self._noise = itertools.cycle([1.0, -1.0])
        self.gradients = 0

    def gradient(self, batch):
        self.flat_gradient[...] = self.theta - next(self._noise)
        self.gradients += 1
        return LearnStats(0.0, 0.0, 0.0, 0.0, 0.0)

    def set_weights(self, weights):
        self.theta[...] = weights

    def set_target_weights(self, weights):
        pass


@pytest.fixture
def descend(tmp_path):
    """Return what becomes of θ over some pushes with given periods, and the learner."""

    def run(pushes, **periods):
        net, _ = tiny.write_model(tmp_path)
        rig = Rig(str(net), **periods)
        learner = rig.worker._learner = QuadraticLearner(rig.store.layout.size)
        weights = rig.store._state.weights
        weights.values[...] = 1.0
        weights._apply = lambda gradient, scale: np.subtract(
            weights.values, RATE * scale * gradient, out=weights.values
        )
        thetas = []
        for push in range(1, pushes + 2):
            rig.exchange.before_push[push] = lambda: thetas.append(float(weights.values[0]))
        rig.run(pushes)
        thetas.append(float(weights.values[0]))
        return thetas, learner, rig

    return run


def test_the_mean_of_a_push_period_is_one_step(descend):
    """Of two gradients the noise cancels: halving at each push, exactly."""
    thetas, learner, _ = descend(6, push_period=2)
    assert thetas == [2.0**-push for push in range(7)]
    assert learner.gradients == 12


def test_without_a_push_period_every_gradient_is_a_step(descend):
    thetas, learner, _ = descend(4)
    assert thetas == [1.0, 1.0, 0.0, 0.5, -0.25]  # θ - (θ ∓ 1) / 2
    assert learner.gradients == 4


def test_between_two_pulls_all_gradients_are_of_the_same_weights(descend):
    """Period 2: θ₁ = θ₀ - (θ₀ - 1) / 2, θ₂ = θ₁ - (θ₀ + 1) / 2, then θ₀ is θ₂."""
    thetas, _, rig = descend(4, pull_period=2)
    assert thetas == [1.0, 1.0, 0.0, 0.5, 0.0]
    assert [push.version for push in rig.exchange.pushes] == [0, 0, 2, 2]
    assert rig.store.status()["staleness"]["1"] == 2


def test_a_push_period_does_not_mix_gradients_of_two_lives(descend, tmp_path):
    """Gradients that were gathered for an epoch that has ended are dropped, not averaged in."""
    net, _ = tiny.write_model(tmp_path)
    rig = Rig(str(net), push_period=2)
    rig.exchange.failures[1] = [EpochChanged("gone", epoch=9, version=0)]
    rig.run(2)
    assert rig.store.version == 2
