"""Exploration and β over a run."""

import numpy as np
import pytest

from barista.schedules import Schedules, ladder
from tests import tiny


def test_the_ladder_is_that_of_ape_x():
    rates = ladder(5)
    assert rates == pytest.approx([0.4, 0.4**2.75, 0.4**4.5, 0.4**6.25, 0.4**8])
    assert ladder(1) == pytest.approx([0.4])


def test_workers_share_one_ladder():
    config = tiny.config(epsilon_ladder=True, workers=3, num_envs=2, warmup=30)
    parts = [Schedules(config, ordinal).epsilon(30) for ordinal in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), ladder(6))
    np.testing.assert_array_equal(Schedules(config, 4).epsilon(30), parts[1])  # one that took over


def test_the_warm_up_is_by_chance_with_a_ladder_too():
    config = tiny.config(epsilon_ladder=True, warmup=40, num_envs=2)
    assert Schedules(config).epsilon(39) == 1.0
    assert np.max(Schedules(config).epsilon(10**9)) == 0.4


def test_without_a_ladder_epsilon_falls_in_a_line():
    config = tiny.config(warmup=40, epsilon_steps=100, epsilon_end=0.1)
    schedules = Schedules(config)
    assert [schedules.epsilon(steps) for steps in (0, 40, 90, 140, 900)] == pytest.approx(
        [1.0, 1.0, 0.55, 0.1, 0.1]
    )


def test_beta_rises_to_one():
    config = tiny.config(warmup=40, priority_beta=0.4, priority_beta_steps=100)
    schedules = Schedules(config)
    assert [schedules.beta(steps) for steps in (0, 40, 90, 140, 900)] == pytest.approx(
        [0.4, 0.4, 0.7, 1.0, 1.0]
    )
