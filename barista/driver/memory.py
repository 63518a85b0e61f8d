"""How much memory and disk one worker needs, told before it starts.

Pure arithmetic on a run's configuration; who has how much of it is the callers' to find out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from barista.priorities import SumTree
from replay import ReplayBuffer

if TYPE_CHECKING:
    from barista.config import AgentConfig
    from barista.games import GameSpec

_ENGINE_BYTES = 400_000_000  # of a process with its engine, beside replay and network
# Float32 copies of the parameters: weights, differences and target, a push and a pull on their way.
_COPIES = 5


def worker_bytes(config: AgentConfig, game: GameSpec, parameters: int = 0) -> int:
    """Return the memory in bytes of one Barista.

    Of frames that are on disk, or compressed to who knows how little, none are counted.

    Args:
        config: With the number of workers that share the replay.
        game: What a frame of it is.
        parameters: How many the network learns.
    """
    in_memory = not (config.replay_dir or config.compress_replay)
    replay = _replay_bytes(config, game, with_frames=in_memory)
    return _ENGINE_BYTES + replay + 4 * _COPIES * parameters


def serial_bytes(config: AgentConfig, game: GameSpec) -> int:
    """Return the memory in bytes of all workers of `--serial`, which share a process."""
    return _ENGINE_BYTES + config.workers * (worker_bytes(config, game) - _ENGINE_BYTES)


def disk_bytes(config: AgentConfig, game: GameSpec) -> int:
    """Return how much one Barista writes to `--replay-dir`, in bytes; 0 without it."""
    return _replay_bytes(config, game, with_frames=True) if config.replay_dir else 0


def _replay_bytes(config: AgentConfig, game: GameSpec, *, with_frames: bool) -> int:
    return ReplayBuffer.nbytes_for(
        config.replay_share,
        frame_shape=game.frame_shape if with_frames else (0,),
        num_envs=config.num_envs,
        n_step=config.n_step,
        stack=game.stack,
        frame_dtype=game.dtype,
        priorities=SumTree if config.prioritised else None,
    )
