"""CleanRL's ``dqn_atari`` on Pong: ``python -m benchmarks.worker.cleanrl OPTIONS``.

The script runs as its package ships it.  It was written for Gymnasium 0.28, so what that called by
other names is given its names back; it counts its own steps, so we count at its replay buffer.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from typing import Any

import ale_py
import gymnasium
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.buffers import ReplayBuffer  # type: ignore[import-not-found]

from benchmarks.worker.gate import Channel, Gate
from benchmarks.worker.setting import LEAD, PEERS_GAME, TARGET_STEPS, peer_parser

_FOREVER = 100_000_000  # agent steps


class _Envs(SyncVectorEnv):
    """Environments that begin anew in the step that ends an episode, and tell it as 0.28 did."""

    def __init__(self, env_fns: Any) -> None:
        super().__init__(env_fns, autoreset_mode=AutoresetMode.SAME_STEP)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the only environment, for the script has one."""
        *step, infos = super().step(actions)
        if "final_info" in infos:
            episode = infos["final_info"].get("episode")
            final = {"episode": {k: v[0] for k, v in episode.items()}} if episode else {}
            infos = {"final_info": [final], "final_observation": infos["final_obs"]}
        return (*step, infos)


def main() -> None:
    """Run the script until the benchmark hangs up."""
    given = peer_parser().parse_args()
    gate = Gate(Channel(), LEAD)
    os.chdir(given.folder)  # it writes its runs where it stands
    torch.set_num_threads(given.threads)
    gymnasium.register_envs(ale_py)
    gymnasium.wrappers.GrayScaleObservation = gymnasium.wrappers.GrayscaleObservation
    gymnasium.wrappers.FrameStack = gymnasium.wrappers.FrameStackObservation
    gymnasium.vector.SyncVectorEnv = _Envs  # type: ignore[misc,assignment]
    _count(gate)
    script = importlib.util.find_spec("cleanrl.dqn_atari")
    assert script is not None
    assert script.origin is not None
    options = {
        "--env-id": PEERS_GAME,
        "--total-timesteps": _FOREVER,
        "--learning-rate": 1e-4,
        "--buffer-size": given.capacity,
        "--learning-starts": given.warmup,
        "--train-frequency": 4,
        "--batch-size": 32,
        "--gamma": 0.99,
        "--target-network-frequency": TARGET_STEPS,
        "--exploration-fraction": given.warmup / _FOREVER,
        "--end-e": given.epsilon,
        "--cuda": False,
    }
    sys.argv = [script.origin, *(str(word) for option in options.items() for word in option)]
    runpy.run_path(script.origin, run_name="__main__")


def _count(gate: Gate) -> None:
    """Have the script's replay buffer count: a step for each that enters, a gradient a batch."""
    add, sample = ReplayBuffer.add, ReplayBuffer.sample
    counts = {"steps": 0, "gradients": 0}

    def counted_add(*arguments: Any) -> None:
        gate.at(**counts)
        add(*arguments)
        counts["steps"] += 1

    def counted_sample(*arguments: Any) -> Any:
        counts["gradients"] += 1
        return sample(*arguments)

    ReplayBuffer.add, ReplayBuffer.sample = counted_add, counted_sample


if __name__ == "__main__":
    main()
