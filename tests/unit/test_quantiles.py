"""Quantile regression, on numbers that can be followed by hand; its twins are in property tests."""

import numpy as np
import pytest

from barista import quantiles


def array(*values):
    return np.array(values, np.float32)


def test_midpoints():
    np.testing.assert_allclose(quantiles.midpoints(4), [0.125, 0.375, 0.625, 0.875])


def test_the_action_of_the_largest_mean_is_followed():
    target = array([[1, 5], [9, 6]])  # means 5 and 5.5
    online = array([[3, 0], [3, 1]])
    found = quantiles.targets(array(1.0), array(0.5), target)
    np.testing.assert_allclose(found, [[1 + 2.5, 1 + 3]])
    found = quantiles.targets(array(1.0), array(0.5), target, online)
    np.testing.assert_allclose(found, [[1 + 0.5, 1 + 4.5]])
    found = quantiles.targets(array(1.0), array(0.0), target, online)
    np.testing.assert_allclose(found, [[1, 1]])


def test_quantiles_of_a_known_distribution_are_found():
    """Gradient descent on samples of 0 and 4, equally likely, settles at them."""
    rng = np.random.default_rng(0)
    theta = np.full((1, 4, 1), 2.0, np.float32)
    for _ in range(4000):
        reward = array(4.0 * rng.integers(2))
        result = quantiles.td_result(theta, np.zeros(1, int), reward, array(0.0), theta)
        theta -= 0.05 * result.q_diff
    # Huber's loss rounds the corner: at τ, (1 − τ) θ = τ where θ is within 1 of 0, and so above.
    np.testing.assert_allclose(theta[0, :, 0], [1 / 7, 3 / 5, 4 - 3 / 5, 4 - 1 / 7], atol=0.4)


def test_weights_scale_loss_and_gradient():
    rng = np.random.default_rng(1)
    theta, following = rng.normal(size=(2, 3, 5, 2)).astype(np.float32)
    rest = rng.integers(2, size=3), array(1, 0, -1), array(0.9, 0.9, 0), following
    plain = quantiles.td_result(theta, *rest)
    halved = quantiles.td_result(theta, *rest, weights=array(0.5, 0.5, 0.5))
    np.testing.assert_allclose(halved.q_diff, plain.q_diff / 2, rtol=1e-6)
    assert halved.loss == pytest.approx(plain.loss / 2)
    np.testing.assert_allclose(halved.td_errors, plain.td_errors)
