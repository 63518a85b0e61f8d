"""Atari 2600 games through ale-py's vector environment.

The settings are those of Mnih et al., 2015: 84×84 grey frames, a stack of 4, every action repeated
for 4 frames with the maximum of the last two, up to 30 no-ops at the start, the minimal set of
actions, no sticky actions.  Two differ: losing a life does not end an episode (Machado et al.,
2018), and rewards arrive raw, so that returns are game scores; the actor clips what it learns from.

Every argument of `AtariVectorEnv` is given here, because its defaults are traps: it clips rewards,
and `gymnasium.make_vec` of the same id makes actions sticky.  A test compares the names with the
installed version's signature.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import ale_py
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from barista.games.vector import GameSpec, Int64, Tally, UInt8, VectorStep

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAME_SHAPE = (84, 84)
STACK = 4
FRAME_SKIP = 4
MAX_FRAMES = 108_000  # per episode: half an hour at 60 frames per second, then truncation


def settings(rom: str, num_envs: int, threads: int) -> dict[str, Any]:
    """Return all arguments of `AtariVectorEnv` for a ROM such as "ms_pacman"."""
    return {
        "game": rom,
        "num_envs": num_envs,
        "batch_size": 0,  # all of them: step and reset are synchronous, in the copies' order
        "num_threads": threads,
        "thread_affinity_offset": -1,  # the operating system places the threads
        "max_num_frames_per_episode": MAX_FRAMES,
        "repeat_action_probability": 0.0,
        "full_action_space": False,
        "continuous": False,
        "continuous_action_threshold": 0.5,  # without effect: actions are discrete
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "img_height": FRAME_SHAPE[0],
        "img_width": FRAME_SHAPE[1],
        "grayscale": True,
        "stack_num": STACK,
        "frameskip": FRAME_SKIP,
        "maxpool": True,
        "noop_max": 30,
        "episodic_life": False,
        "life_loss_info": False,
        "reward_clipping": False,
        "use_fire_reset": False,  # the agent learns to press fire
    }


class AleVector:
    """N copies of an Atari game as one `VectorGame`.  Not thread-safe.

    Args:
        spec: of the game, from `spec_of`.
        rom: the ROM's name.
        seeds: one for each copy; they choose the numbers of no-ops.
        threads: of the emulator.
    """

    def __init__(self, spec: GameSpec, rom: str, *, seeds: Sequence[int], threads: int) -> None:
        self.spec = spec
        self.num_envs = len(seeds)
        self._seeds: Int64 | None = np.array(seeds, np.int64)
        self._envs = AtariVectorEnv(**settings(rom, self.num_envs, threads))
        self._states: UInt8 = np.zeros((self.num_envs, STACK, *FRAME_SHAPE), np.uint8)
        self._over = np.ones(self.num_envs, np.bool_)  # the next step starts an episode
        self._tally = Tally(self.num_envs)

    def reset(self) -> UInt8:
        """Start a new episode everywhere; return its first frames, uint8 [N, 84, 84]."""
        self._states, _ = self._envs.reset(seed=self._seeds)
        self._seeds = None  # a second reset with seeds would replay the same episodes
        self._over[:] = False
        self._tally.clear()
        return self._states[:, -1]

    def step(self, actions: Int64) -> VectorStep:
        """Step or restart every copy; see `VectorGame`."""
        is_reset = self._over
        self._states, scores, terminated, truncated, _ = self._envs.step(actions)
        rewards = scores.astype(np.float32)
        self._over = terminated | truncated
        returns, lengths = self._tally.add(rewards, self._over, is_reset)
        return VectorStep(
            self._states[:, -1], rewards, terminated, truncated, is_reset, returns, lengths
        )

    def states(self) -> UInt8:
        """Return the emulator's own stacks, uint8 [N, 4, 84, 84], fresh at every step."""
        return self._states

    def close(self) -> None:
        """Stop the emulator's threads."""
        self._envs.close()
        del self._envs


@functools.cache
def spec_of(game: str, rom: str) -> GameSpec:
    """Return the spec of an Atari game; loads the ROM once a process (about 0.1 s)."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner on stderr
    emulator = ale_py.ALEInterface()
    path = roms.get_rom_path(rom)
    assert path is not None, rom  # ale-py registers only games that it carries
    emulator.loadROM(path)
    return GameSpec(game, len(emulator.getMinimalActionSet()), FRAME_SHAPE, STACK)
