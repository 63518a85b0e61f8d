"""Weights, target and versions."""

import numpy as np
import pytest
from param_server.staleness import Policy
from param_server.weights import Weights


class Watcher(Policy):
    """Notes what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def remember(self, version, weights):
        self.told.append((version, float(weights[0])))

    def forget(self):
        self.told.append("forget")


class Probe:
    """Looks at every other update."""

    def __init__(self):
        self.seen = []
        self.turn = 0

    def begin(self, weights):
        self.turn += 1
        self.before = float(weights[0])
        return self.turn % 2 == 0

    def end(self, gradient, weights):
        self.seen.append((self.before, float(gradient[0]), float(weights[0])))


@pytest.fixture
def policy():
    return Watcher()


@pytest.fixture
def weights(policy):
    values = np.ones(4, np.float32)

    def apply(gradient, scale):
        values[...] -= scale * gradient

    def reset():
        values[...] = 1

    probe = Probe()
    made = Weights(values, apply=apply, reset=reset, target_period=2, policy=policy, probe=probe)
    made.probe = probe
    return made


def step(weights, value=1.0, scale=1.0):
    weights.step(np.full(4, value, np.float32), scale)
    weights.check()


def test_target_follows_every_period(weights):
    seen = []
    for _ in range(5):
        step(weights)
        seen.append((weights.version, weights.target_version, float(weights.target[0])))
    assert seen == [(1, 0, 1), (2, 2, -1), (3, 2, -1), (4, 4, -3), (5, 4, -3)]


def test_policy_hears_of_every_version_and_of_new_lives(weights, policy):
    step(weights, 1.0, 0.5)
    weights.clear()
    weights.restore(7, 6, np.zeros(4, np.float32))
    assert policy.told == [(0, 1.0), (1, 0.5), "forget", (0, 1.0), "forget", (7, 1.0)]


def test_probe_sees_what_it_asked_for(weights):
    for _ in range(4):
        step(weights)
    assert weights.probe.seen == [(0.0, 1.0, -1.0), (-2.0, 1.0, -3.0)]


def test_restored_target_is_a_copy(weights):
    target = np.zeros(4, np.float32)
    weights.restore(3, 2, target)
    target[...] = 9
    assert weights.target.tolist() == [0, 0, 0, 0]
    assert (weights.version, weights.target_version) == (3, 2)
