"""Targets, errors, losses and gradients beside twins written from the papers, a loop at a time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barista import dqn, quantiles

EPSILON = 0.01  # Pohlen et al., 2018


def h(x):
    return math.copysign(1, x) * (math.sqrt(abs(x) + 1) - 1) + EPSILON * x


def h_inverse(x):
    root = math.sqrt(1 + 4 * EPSILON * (abs(x) + 1 + EPSILON)) - 1
    return math.copysign(1, x) * ((root / (2 * EPSILON)) ** 2 - 1)


def huber(u):
    return 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5


def best_action(theta):
    """The action of the largest mean; theta is [N][A]."""
    means = [sum(row[a] for row in theta) / len(theta) for a in range(len(theta[0]))]
    return means.index(max(means))


def slow(batch, *, double, clips, rescales):
    """Return δ [B] and the loss of the batch; its gradient is left to finite differences."""
    errors, losses = [], []
    count = len(batch["theta"][0])
    for b, action in enumerate(batch["actions"]):
        selector = batch["next_online"][b] if double else batch["next_target"][b]
        chosen = best_action(selector)
        reward, discount = batch["rewards"][b], batch["discounts"][b]
        targets = []
        for j in range(count):
            value = batch["next_target"][b][j][chosen]
            if rescales:
                targets.append(h(reward + discount * h_inverse(value)))
            else:
                targets.append(reward + discount * value)
        taken = [batch["theta"][b][i][action] for i in range(count)]
        errors.append(sum(targets) / count - sum(taken) / count)
        if count == 1:
            loss = huber(errors[-1]) if clips else 0.5 * errors[-1] ** 2
        else:  # Dabney et al., 2018, Algorithm 1
            loss = 0.0
            for i in range(count):
                tau = (2 * (i + 1) - 1) / (2 * count)
                for j in range(count):
                    u = targets[j] - taken[i]
                    loss += abs(tau - (1 if u < 0 else 0)) * huber(u) / count
        losses.append(batch["weights"][b] * loss)
    return errors, sum(losses) / len(losses)


def fast(batch, *, double, clips, rescales):
    arrays = {name: np.array(value, np.float32) for name, value in batch.items()}
    actions = np.array(batch["actions"])
    theta, online = arrays["theta"], arrays["next_online"] if double else None
    common = {"weights": arrays["weights"], "rescales": rescales}
    if theta.shape[1] > 1:
        return quantiles.td_result(
            theta, actions, arrays["rewards"], arrays["discounts"], arrays["next_target"],
            next_online=online, **common,
        )  # fmt: skip
    return dqn.td_result(
        theta[:, 0], actions, arrays["rewards"], arrays["discounts"], arrays["next_target"][:, 0],
        next_q_online=None if online is None else online[:, 0], clips=clips, **common,
    )  # fmt: skip


def numbers(low, high):
    return st.floats(low, high, width=32).map(lambda x: round(x, 3))


@st.composite
def batches(draw):
    size, count, actions = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2, 5])), 3
    rows = st.lists(
        st.lists(
            st.lists(numbers(-4, 4), min_size=actions, max_size=actions),
            min_size=count,
            max_size=count,
        ),
        min_size=size,
        max_size=size,
    )

    def column(values):
        return draw(st.lists(values, min_size=size, max_size=size))

    return {
        "theta": draw(rows),
        "next_target": draw(rows),
        "next_online": draw(rows),
        "actions": column(st.integers(0, actions - 1)),
        "rewards": column(numbers(-3, 3)),
        "discounts": column(st.sampled_from([0.0, 0.99, 0.97])),
        "weights": column(numbers(0, 1)),
    }


def with_theta(batch, place, change):
    b, i, a = place
    theta = [[list(row) for row in quantile] for quantile in batch["theta"]]
    theta[b][i][a] += change
    return {**batch, "theta": theta}


@settings(max_examples=80, deadline=None)
@given(batches(), st.booleans(), st.booleans(), st.booleans())
def test_errors_loss_and_gradient_are_those_of_the_papers(batch, double, clips, rescales):
    options = {"double": double, "clips": clips, "rescales": rescales}
    errors, loss = slow(batch, **options)
    result = fast(batch, **options)
    np.testing.assert_allclose(result.td_errors, errors, rtol=1e-4, atol=1e-4)
    assert result.loss == pytest.approx(loss, rel=1e-4, abs=1e-4)
    shape = np.array(batch["theta"]).shape
    gradient = result.q_diff.reshape(shape)
    step = 1e-5
    for place in np.ndindex(shape):
        # One-sided slopes: a loss has a kink where u is 0 or ±1, and there either one will do.
        ahead = (slow(with_theta(batch, place, step), **options)[1] - loss) / step
        behind = (loss - slow(with_theta(batch, place, -step), **options)[1]) / step
        low, high = sorted((ahead, behind))
        assert low - 1e-3 <= gradient[place] <= high + 1e-3


@given(numbers(-300, 300))
def test_rescaled_values_come_back(value):
    x = np.array([value], np.float32)
    np.testing.assert_allclose(dqn.unscale(dqn.rescale(x)), x, rtol=1e-4, atol=1e-4)
    assert dqn.rescale(x)[0] == pytest.approx(h(value), rel=1e-5, abs=1e-6)
