"""Targets, errors and exploration of deep Q-learning.

Pure functions on NumPy arrays; whatever draws takes its generator as an argument.  B is the batch
size, A the number of actions, N the number of environments.  A transition may span n steps: its
reward is Σ γᵏ rₖ and its discount γⁿ, or 0 when the episode terminated within them, so that no
function here has to know of n, of γ or of the end of an episode.  What is learned of a distribution
of returns is in `quantiles`.

References:
    Mnih et al., 2015, *Human-level control through deep reinforcement learning*.
    van Hasselt, Guez and Silver, 2016, *Deep reinforcement learning with double Q-learning*.
    Sutton, 1988, *Learning to predict by the methods of temporal differences* (n-step returns).
    Schaul, Quan, Antonoglou and Silver, 2016, *Prioritized experience replay* (weights).
    Pohlen et al., 2018, *Observe and look further: achieving consistent performance on Atari*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]
    Int64 = NDArray[np.int64]


class TdResult(NamedTuple):
    """What one minibatch says of the network."""

    td_errors: Float32  # [B], δ = y − Q(s, a)
    loss: float  # weighted mean of the loss of each error
    q_diff: Float32  # d loss / d Q, of Q's shape; what backward starts from


def td_targets(
    rewards: Float32,
    discounts: Float32,
    next_q_target: Float32,
    next_q_online: Float32 | None = None,
    *,
    rescales: bool = False,
) -> Float32:
    """Return the targets y of a batch; no gradient flows through them.

    y = r + discount · maxₐ Q(s′, a; θ⁻)              (Mnih et al., 2015, Algorithm 1)
    y = r + discount · Q(s′, argmaxₐ Q(s′, a; θ); θ⁻)  (van Hasselt et al., 2016, equation 4)
    y = h(r + discount · h⁻¹(Q(s′, a; θ⁻)))            (Pohlen et al., 2018, equation 2)

    Args:
        rewards: float32 [B], n-step returns, of clipped rewards unless values are rescaled.
        discounts: float32 [B], γⁿ, or 0 after termination.
        next_q_target: float32 [B, A], the target network θ⁻ at the last state.
        next_q_online: float32 [B, A], the online network θ at the last state; where given, it
            selects the action which the target network evaluates (double DQN).
        rescales: whether the networks tell h(Q) instead of Q.

    Returns:
        float32 [B].
    """
    selector = next_q_target if next_q_online is None else next_q_online
    best: Int64 = selector.argmax(axis=1)  # [B]
    values: Float32 = next_q_target[np.arange(len(best)), best]  # [B]
    return bootstrap(rewards, discounts, values, rescales=rescales)


def bootstrap(
    rewards: Float32, discounts: Float32, values: Float32, *, rescales: bool = False
) -> Float32:
    """Return r + discount · v, float32 of any shape, or h(r + discount · h⁻¹(v)); see `rescale`."""
    if rescales:
        return rescale(rewards + discounts * unscale(values))
    return rewards + discounts * values


def td_errors(
    q: Float32,
    actions: Int64,
    rewards: Float32,
    discounts: Float32,
    next_q_target: Float32,
    *,
    next_q_online: Float32 | None = None,
    rescales: bool = False,
) -> Float32:
    """Return the temporal-difference errors δ = y − Q(s, a; θ) of a batch: float32 [B].

    Args:
        q: float32 [B, A], the online network at the first state.
        actions: int64 [B], the actions taken there.
        rewards: See `td_targets`.
        discounts: See `td_targets`.
        next_q_target: See `td_targets`.
        next_q_online: See `td_targets`.
        rescales: See `td_targets`.

    Raises:
        ValueError: If the batch sizes differ.
    """
    sizes = [len(array) for array in (q, actions, rewards, discounts, next_q_target)]
    if len(set(sizes)) != 1:
        raise ValueError(f"batch sizes differ: {sizes}")
    targets = td_targets(rewards, discounts, next_q_target, next_q_online, rescales=rescales)
    return targets - q[np.arange(len(q)), actions]  # [B]


def huber_loss(errors: Float32) -> Float32:
    """Return the loss of each error: δ²/2 where |δ| ≤ 1, and |δ| − 1/2 beyond.

    Its derivative is δ clipped to [−1, 1], which is how Mnih et al. (2015, Methods) describe what
    they do: "clip the error term from the update".
    """
    clipped = np.clip(errors, -1.0, 1.0)
    return clipped * (errors - 0.5 * clipped)


def squared_loss(errors: Float32) -> Float32:
    """Return δ²/2 of each error, whose derivative is δ (Mnih et al., 2015, equation 2)."""
    return 0.5 * errors * errors


def q_gradient(
    errors: Float32,
    actions: Int64,
    num_actions: int,
    *,
    weights: Float32 | None = None,
    clips: bool = True,
) -> Float32:
    """Return the gradient of the weighted mean loss with respect to Q: float32 [B, A].

    d loss / d Q(s, a) = −w · clip(δ, −1, 1) / B for the action taken, and 0 for all others: as δ is
    y − Q(s, a), its own derivative is −1.  Without clipping it is −w · δ / B.

    Args:
        errors: float32 [B], δ.
        actions: int64 [B], the actions taken.
        num_actions: A.
        weights: float32 [B], importance weights (Schaul et al., 2016, section 3.4); None: ones.
        clips: whether errors are clipped: the Huber loss, else the squared one.
    """
    batch_size = len(errors)
    slopes = np.clip(errors, -1.0, 1.0) if clips else errors
    gradient = np.zeros((batch_size, num_actions), np.float32)
    gradient[np.arange(batch_size), actions] = slopes * _shares(weights, batch_size) * -1.0
    return gradient


def td_result(
    q: Float32,
    actions: Int64,
    rewards: Float32,
    discounts: Float32,
    next_q_target: Float32,
    *,
    next_q_online: Float32 | None = None,
    weights: Float32 | None = None,
    clips: bool = True,
    rescales: bool = False,
) -> TdResult:
    """Return errors, loss and gradient of a batch.  Takes and raises what its parts do."""
    errors = td_errors(
        q,
        actions,
        rewards,
        discounts,
        next_q_target,
        next_q_online=next_q_online,
        rescales=rescales,
    )
    losses = huber_loss(errors) if clips else squared_loss(errors)
    return TdResult(
        td_errors=errors,
        loss=float((losses * _shares(weights, len(errors))).sum()),
        q_diff=q_gradient(errors, actions, q.shape[1], weights=weights, clips=clips),
    )


def _shares(weights: Float32 | None, batch_size: int) -> Float32 | float:
    """Return each transition's part in the mean: float32 [B], or one number for all."""
    return 1.0 / batch_size if weights is None else weights / np.float32(batch_size)


_EPSILON = 0.01  # of h: without it h⁻¹ would not be Lipschitz


def rescale(values: Float32) -> Float32:
    """Return h(x) = sign(x) (√(|x| + 1) − 1) + ε x, which brings large returns near.

    Pohlen et al., 2018, section 3.2, with their ε of 0.01.  Float32 of any shape.
    """
    x = values.astype(np.float64)
    scaled = np.sign(x) * (np.sqrt(np.abs(x) + 1.0) - 1.0) + _EPSILON * x
    return scaled.astype(np.float32)


def unscale(values: Float32) -> Float32:
    """Return h⁻¹(x) = sign(x) (((√(1 + 4ε (|x| + 1 + ε)) − 1) / 2ε)² − 1).

    Pohlen et al., 2018, proposition A.2.  Float32 of any shape.
    """
    x = values.astype(np.float64)
    root = (np.sqrt(1.0 + 4.0 * _EPSILON * (np.abs(x) + 1.0 + _EPSILON)) - 1.0) / (2.0 * _EPSILON)
    return (np.sign(x) * (root * root - 1.0)).astype(np.float32)


def linear_schedule(step: float, *, start: float, end: float, duration: float) -> float:
    """Return the value at `step` of a line from `start` at 0 to `end` at `duration`, flat outside.

    Mnih et al., 2015, Methods: ε falls linearly from 1 to 0.1 over the first million frames.
    """
    if step >= duration:
        return end
    if step <= 0:
        return start
    return start + (end - start) * step / duration


def epsilon_greedy(
    q_values: Float32, epsilon: float | NDArray[np.float64], rng: np.random.Generator
) -> Int64:
    """Return one action for each row of Q: int64 [N].

    With probability ε a uniformly drawn action, else the first of the best (Mnih et al., 2015,
    Algorithm 1).

    Args:
        q_values: float32 [N, A].
        epsilon: Exploration rate, in [0, 1]: one for all rows, or float64 [N].
        rng: Draws 2 N numbers, whatever ε is.
    """
    num_envs, num_actions = q_values.shape
    explores = rng.random(num_envs) < epsilon  # [N]
    drawn = rng.integers(num_actions, size=num_envs)  # [N]
    return np.where(explores, drawn, q_values.argmax(axis=1))  # [N]
