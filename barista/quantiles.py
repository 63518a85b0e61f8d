"""The return's distribution, told by N quantiles for each action, instead of its mean.

Pure functions on NumPy arrays; B is the batch size, N the number of quantiles, A of actions.  θᵢ is
the quantile at τ̂ᵢ = (2i − 1) / 2N, and the value of an action is the mean of its quantiles.

Reference:
    Dabney, Rowland, Bellemare and Munos, 2018, *Distributional reinforcement learning with quantile
    regression* (QR-DQN).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from barista import dqn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from barista.dqn import Float32, Int64, TdResult


def midpoints(count: int) -> Float32:
    """Return τ̂ᵢ = (2i − 1) / 2N for i from 1 to N: float32 [N] (lemma 2)."""
    return ((2 * np.arange(1, count + 1) - 1) / (2 * count)).astype(np.float32)


def targets(
    rewards: Float32,
    discounts: Float32,
    next_target: Float32,
    next_online: Float32 | None = None,
    *,
    rescales: bool = False,
) -> Float32:
    """Return N samples of each transition's target, float32 [B, N] (Algorithm 1).

    T θⱼ = r + discount · θⱼ(s′, a*), where a* is the action of the largest mean: of the target
    network's, or where the online network's quantiles are given, of those (double DQN).

    Args:
        rewards: float32 [B].
        discounts: float32 [B].
        next_target: float32 [B, N, A], the target network at the last state.
        next_online: float32 [B, N, A], the online network there.
        rescales: See `dqn.td_targets`.
    """
    selector = next_target if next_online is None else next_online
    best = selector.mean(axis=1).argmax(axis=1)  # [B]
    values = next_target[np.arange(len(best)), :, best]  # [B, N]
    return dqn.bootstrap(rewards[:, None], discounts[:, None], values, rescales=rescales)


def td_result(
    theta: Float32,
    actions: Int64,
    rewards: Float32,
    discounts: Float32,
    next_target: Float32,
    *,
    next_online: Float32 | None = None,
    weights: Float32 | None = None,
    rescales: bool = False,
) -> TdResult:
    """Return errors, loss and gradient of a batch.

    The loss of a transition is Σᵢ meanⱼ |τ̂ᵢ − 1{u < 0}| L₁(u) with u = T θⱼ − θᵢ, and L₁ Huber's
    (equations 9 and 10 with κ = 1); the loss of the batch is its weighted mean.  An error δ, by
    which transitions are prioritised, is that of the means.

    Args:
        theta: float32 [B, N, A], the online network's quantiles at the first state.
        actions: int64 [B], the actions taken there.
        rewards: float32 [B].
        discounts: float32 [B].
        next_target: See `targets`.
        next_online: See `targets`.
        weights: float32 [B], importance weights; None: ones.
        rescales: See `dqn.td_targets`.
    """
    batch_size, count, _ = theta.shape
    rows = np.arange(batch_size)
    taken = theta[rows, :, actions]  # [B, N]
    target = targets(rewards, discounts, next_target, next_online, rescales=rescales)  # [B, N]
    u = target[:, None, :] - taken[:, :, None]  # [B, i, j]
    sides = np.abs(midpoints(count)[:, None] - (u < 0))  # [B, i, j]
    shares = np.full(batch_size, 1.0, np.float32) if weights is None else weights
    shares = shares / np.float32(batch_size)  # [B]
    losses = (sides * dqn.huber_loss(u)).mean(axis=2).sum(axis=1)  # [B]
    slopes: NDArray[np.float32] = (sides * np.clip(u, -1.0, 1.0)).mean(axis=2)  # [B, i]
    gradient = np.zeros_like(theta)
    gradient[rows, :, actions] = -slopes * shares[:, None]
    return dqn.TdResult(
        td_errors=target.mean(axis=1) - taken.mean(axis=1),
        loss=float((losses * shares).sum()),
        q_diff=gradient,
    )
