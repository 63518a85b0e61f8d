"""Deep Q-learning's formulas, against slow twins, finite differences and examples by hand."""

import numpy as np
import pytest

from barista import dqn

B, A = 16, 5


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "q": rng.normal(size=(B, A)).astype(np.float32),
        "actions": rng.integers(A, size=B),
        "rewards": rng.normal(size=B).astype(np.float32),
        "discounts": rng.choice([0.0, 0.9, 0.99], size=B).astype(np.float32),
        "next_q_target": rng.normal(size=(B, A)).astype(np.float32),
    }


def slow_target(reward, discount, next_q_target, next_q_online=None):
    """y_j of Algorithm 1, one transition at a time."""
    if next_q_online is None:
        return reward + discount * max(next_q_target)
    best = max(range(len(next_q_online)), key=lambda a: next_q_online[a])
    return reward + discount * next_q_target[best]


def slow_huber(delta):
    return delta**2 / 2 if abs(delta) <= 1 else abs(delta) - 0.5


def slow_loss(batch, q, next_q_online=None):
    total = 0.0
    for i in range(B):
        y = slow_target(
            batch["rewards"][i],
            batch["discounts"][i],
            batch["next_q_target"][i],
            None if next_q_online is None else next_q_online[i],
        )
        total += slow_huber(y - q[i][batch["actions"][i]])
    return total / B


@pytest.mark.parametrize("double", [False, True])
def test_td_errors_agree_with_algorithm_1(batch, double):
    online = np.random.default_rng(1).normal(size=(B, A)).astype(np.float32) if double else None
    expected = [
        slow_target(
            batch["rewards"][i],
            batch["discounts"][i],
            batch["next_q_target"][i],
            None if online is None else online[i],
        )
        - batch["q"][i, batch["actions"][i]]
        for i in range(B)
    ]
    # rtol: both sides add the same three float32 terms, in another order at most
    np.testing.assert_allclose(
        dqn.td_errors(**batch, next_q_online=online), expected, rtol=1e-5, atol=1e-6
    )


def test_double_q_evaluates_the_online_choice_by_the_target_network():
    targets = dqn.td_targets(
        np.array([1.0], np.float32),
        np.array([0.5], np.float32),
        np.array([[10.0, 4.0]], np.float32),
        np.array([[0.0, 1.0]], np.float32),
    )
    assert targets.tolist() == [3.0]


def test_double_q_with_one_network_is_plain_q_learning(batch):
    plain = dqn.td_errors(**batch)
    doubled = dqn.td_errors(**batch, next_q_online=batch["next_q_target"])
    assert np.array_equal(plain, doubled)


def test_after_termination_the_target_is_the_reward():
    targets = dqn.td_targets(
        np.array([0.25], np.float32), np.zeros(1, np.float32), np.full((1, 2), 9, np.float32)
    )
    assert targets.tolist() == [0.25]


def test_batches_of_different_sizes_are_refused(batch):
    batch["rewards"] = batch["rewards"][:-1]
    with pytest.raises(ValueError, match=r"batch sizes differ: \[16, 16, 15, 16, 16\]"):
        dqn.td_errors(**batch)


@pytest.mark.parametrize("delta", [-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
def test_huber_loss_of_one_error(delta):
    assert dqn.huber_loss(np.array([delta], np.float32)).tolist() == [slow_huber(delta)]


@pytest.mark.parametrize("double", [False, True])
def test_the_gradient_agrees_with_finite_differences(batch, double):
    """Central differences of the slow loss in float64, in every entry of Q."""
    online = np.random.default_rng(2).normal(size=(B, A)) if double else None
    step = 1e-6
    expected = np.zeros((B, A))
    for index in np.ndindex(B, A):
        losses = []
        for sign in (1, -1):
            q = batch["q"].astype(np.float64)
            q[index] += sign * step
            losses.append(slow_loss(batch, q, online))
        expected[index] = (losses[0] - losses[1]) / (2 * step)
    result = dqn.td_result(**batch, next_q_online=online)
    np.testing.assert_allclose(result.q_diff, expected, atol=1e-6)
    assert result.loss == pytest.approx(slow_loss(batch, batch["q"], online), rel=1e-5)


def test_no_gradient_flows_to_actions_that_were_not_taken(batch):
    q_diff = dqn.td_result(**batch).q_diff
    taken = np.zeros((B, A), bool)
    taken[np.arange(B), batch["actions"]] = True
    assert not q_diff[~taken].any()
    assert np.all(q_diff[taken] != 0)


def test_the_gradient_is_float32_and_at_most_one_by_the_batch_size(batch):
    batch["rewards"] += 100
    q_diff = dqn.td_result(**batch).q_diff
    assert q_diff.dtype == np.float32
    assert q_diff.min() == np.float32(-1 / B)


@pytest.mark.parametrize(
    ("step", "expected"), [(-5, 1.0), (0, 1.0), (50, 0.55), (100, 0.1), (10_000, 0.1)]
)
def test_a_linear_schedule(step, expected):
    value = dqn.linear_schedule(step, start=1.0, end=0.1, duration=100)
    assert value == pytest.approx(expected, rel=1e-12)


def test_a_schedule_without_duration_is_at_its_end():
    assert dqn.linear_schedule(0, start=1.0, end=0.1, duration=0) == 0.1
    assert dqn.linear_schedule(-1, start=1.0, end=0.1, duration=0) == 1.0  # in the warm-up


def test_without_exploration_the_first_best_action_is_taken():
    q_values = np.array([[0, 2, 2], [3, 1, 1]], np.float32)
    actions = dqn.epsilon_greedy(q_values, 0.0, np.random.default_rng(0))
    assert actions.tolist() == [1, 0]
    assert actions.dtype == np.int64


def test_each_row_explores_at_its_own_rate():
    q_values = np.tile(np.array([0, 1, 0], np.float32), (9000, 1))
    rates = np.repeat([0.0, 0.3, 1.0], 3000)
    actions = dqn.epsilon_greedy(q_values, rates, np.random.default_rng(3))
    others = (actions != 1).reshape(3, 3000).mean(axis=1)
    np.testing.assert_allclose(others, [0.0, 0.2, 2 / 3], atol=0.03)


def test_exploration_is_uniform_at_its_rate():
    """χ² over 4 actions and 40 000 draws: below the 99.9 % quantile of 3 degrees (16.3)."""
    q_values = np.tile(np.array([0, 0, 1, 0], np.float32), (40_000, 1))
    actions = dqn.epsilon_greedy(q_values, 0.4, np.random.default_rng(3))
    counts = np.bincount(actions, minlength=4)
    expected = np.array([0.1, 0.1, 0.7, 0.1]) * 40_000
    assert ((counts - expected) ** 2 / expected).sum() < 16.3


def test_the_generator_moves_on_by_the_same_numbers_whatever_epsilon_is():
    states = []
    for epsilon in (0.0, 0.5, 1.0):
        rng = np.random.default_rng(4)
        dqn.epsilon_greedy(np.zeros((3, 2), np.float32), epsilon, rng)
        states.append(rng.bit_generator.state)
    assert states[0] == states[1] == states[2]
