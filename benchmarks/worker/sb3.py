"""Stable-Baselines3's DQN on Pong: ``python -m benchmarks.worker.sb3 OPTIONS``, by a peer's Python.

The library's own loop, net (Nature's), environment wrappers and replay buffer, as its users call
them; only a callback of ours stands in the loop.
"""

from __future__ import annotations

import os

import ale_py
import gymnasium
import torch
from stable_baselines3 import DQN  # type: ignore[import-not-found]
from stable_baselines3.common.callbacks import BaseCallback  # type: ignore[import-not-found]
from stable_baselines3.common.env_util import make_atari_env  # type: ignore[import-not-found]
from stable_baselines3.common.vec_env import VecFrameStack  # type: ignore[import-not-found]

from benchmarks.worker.gate import Channel, Gate
from benchmarks.worker.setting import LEAD, PEERS_GAME, TARGET_STEPS, peer_parser

_FOREVER = 100_000_000  # agent steps


class _AtGate(BaseCallback):  # type: ignore[misc]  # of a package that is not here when checked
    """Stops at the gate between two cycles of collecting and training."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def _on_rollout_start(self) -> None:
        self._gate.at(self.num_timesteps, self.model._n_updates)  # noqa: SLF001 - not public

    def _on_step(self) -> bool:
        return True


def main() -> None:
    """Train until the benchmark hangs up."""
    given = peer_parser().parse_args()
    channel = Channel()
    os.chdir(given.folder)
    torch.set_num_threads(given.threads)
    gymnasium.register_envs(ale_py)
    envs = make_atari_env(PEERS_GAME, n_envs=given.envs, seed=0)
    # One gradient for each 4 agent steps, with as many environments as there are.
    vector_steps = max(1, 4 // given.envs)
    model = DQN(
        "CnnPolicy",
        VecFrameStack(envs, n_stack=4),
        learning_rate=1e-4,
        buffer_size=given.capacity,
        learning_starts=given.warmup,
        batch_size=32,
        gamma=0.99,
        train_freq=vector_steps,
        gradient_steps=vector_steps * given.envs // 4,
        target_update_interval=TARGET_STEPS,
        exploration_fraction=given.warmup / _FOREVER,
        exploration_final_eps=given.epsilon,
        seed=0,
        device="cpu",
    )
    model.learn(_FOREVER, callback=_AtGate(Gate(channel, LEAD)))


if __name__ == "__main__":
    main()
