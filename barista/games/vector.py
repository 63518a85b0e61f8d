"""What every game looks like to an actor: N copies stepped together, on stacked grey frames.

This file decides how episodes follow one another and how frames become states; it knows no
emulator.  All games reset *on the next step*: the step that ends an episode returns the episode's
last frame, the step after it ignores that copy's action, returns the new episode's first frame,
reward 0, and is flagged `is_reset`.  Such a pseudo-step is no transition and must stay out of a
replay buffer.  (The other convention, resetting within the last step, needs a second array for the
last states; ALE's own is filled with garbage where no episode ended.)

A state is the last `stack` frames, oldest first; before an episode's first frame lie zero frames.
N is the number of copies, C the stack, H and W a frame's height and width.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


class GameSpec(NamedTuple):
    """What a Q-network must know of a game."""

    game: str  # gymnasium's id, in its exact spelling
    num_actions: int
    frame_shape: tuple[int, ...]  # of one frame: (H, W)
    stack: int  # frames in a state


class VectorStep(NamedTuple):
    """What one step of all N copies gave.  The arrays belong to the caller."""

    frames: UInt8  # [N, H, W], the newest frame of each copy
    rewards: Float32  # [N], raw: not clipped, not scaled
    terminated: Bool  # [N], the episode ended by the rules: nothing comes after
    truncated: Bool  # [N], the episode was cut off: a learner bootstraps here
    is_reset: Bool  # [N], a pseudo-step: `frames` holds an episode's first frame
    episode_returns: list[float]  # undiscounted raw returns of the episodes that ended in this step
    episode_lengths: list[int]  # their lengths in steps; both lists in the order of the copies


class VectorGame(Protocol):
    """N copies of one game, stepped together.  Not thread-safe."""

    @property
    def spec(self) -> GameSpec:
        """The game's id, actions, frame shape and stack."""

    @property
    def num_envs(self) -> int:
        """N, the number of copies."""

    def reset(self) -> UInt8:
        """Start a new episode in every copy and return its first frames, uint8 [N, H, W]."""

    def step(self, actions: Int64) -> VectorStep:
        """Advance every copy by one action, int64 [N] in [0, num_actions)."""

    def states(self) -> UInt8:
        """Return the current states, uint8 [N, C, H, W]: what the network sees.

        The array belongs to the game and may change at the next step or reset; copy it to keep it.
        """

    def close(self) -> None:
        """Free what the game holds; it must not be used afterwards."""


class FrameStack:
    """The last `stack` frames of each of N copies: uint8 [N, C, H, W], oldest first.

    Not thread-safe.
    """

    def __init__(self, num_envs: int, stack: int, frame_shape: tuple[int, ...]) -> None:
        self.states: UInt8 = np.zeros((num_envs, stack, *frame_shape), np.uint8)

    def start(self, env: int, frame: UInt8) -> None:
        """Forget copy `env`'s frames: its state is zero frames, then `frame`, uint8 [H, W]."""
        self.states[env] = 0
        self.states[env, -1] = frame

    def push(self, env: int, frame: UInt8) -> None:
        """Add the newest frame of copy `env`, uint8 [H, W], and drop its oldest."""
        state = self.states[env]  # [C, H, W], a view
        state[:-1] = state[1:]
        state[-1] = frame


class Tally:
    """Running returns and lengths of N copies' episodes, from raw rewards.

    A pseudo-step neither lengthens nor rewards an episode.  Not thread-safe.
    """

    def __init__(self, num_envs: int) -> None:
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int64)

    def clear(self) -> None:
        """Forget the episodes under way."""
        self._returns[:] = 0
        self._lengths[:] = 0

    def add(self, rewards: Float32, ended: Bool, is_reset: Bool) -> tuple[list[float], list[int]]:
        """Count one step; return the returns and lengths of the episodes it ended.

        Args:
            rewards: float32 [N], raw.
            ended: bool [N], terminated or truncated in this step.
            is_reset: bool [N], pseudo-steps.
        """
        self._returns += rewards
        self._lengths += ~is_reset
        if not ended.any():
            return [], []
        finished: tuple[list[float], list[int]] = (
            self._returns[ended].tolist(),
            self._lengths[ended].tolist(),
        )
        self._returns[ended] = 0
        self._lengths[ended] = 0
        return finished
