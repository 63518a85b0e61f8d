"""What every game looks like to an actor: N copies stepped together, on stacked frames.

A frame is a grey image [H, W] of bytes, or a vector [D] of float32 for games without images.

This file decides how episodes follow one another and how frames become states; it knows no
emulator.  All games reset *on the next step*: the step that ends an episode returns the episode's
last frame, the step after it ignores that copy's action, returns the new episode's first frame,
reward 0, and is flagged `is_reset`.  Such a pseudo-step is no transition and must stay out of a
replay buffer.  (The other convention, resetting within the last step, needs a second array for the
last states; ALE's own is filled with garbage where no episode ended.)

Where a lost life ends an episode for the learner (`protocol.Protocol.life_loss_ends`), it is the
same: the step says `terminated`, the next one is a pseudo-step, in which the same game goes on by
a no-op, whatever action was given.  What the game as a whole has brought is told when it is over.

A state is the last `stack` frames, oldest first; before an episode's first frame lie zero frames.
N is the number of copies, C the stack, F a frame's shape: (H, W) or (D,).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Frames = NDArray[Any]  # of the spec's dtype: uint8 images, or float32 vectors


class GameSpec(NamedTuple):
    """What a Q-network must know of a game."""

    game: str  # gymnasium's id, in its exact spelling
    num_actions: int
    frame_shape: tuple[int, ...]  # of one frame: (H, W), or (D,)
    stack: int  # frames in a state
    dtype: str = "uint8"  # of frames: uint8 for images, float32 for vectors


class VectorStep(NamedTuple):
    """What one step of all N copies gave.  The arrays belong to the caller."""

    frames: Frames  # [N, *F], the newest frame of each copy
    rewards: Float32  # [N], raw: not clipped, not scaled
    terminated: Bool  # [N], the episode ended by the rules: nothing comes after
    truncated: Bool  # [N], the episode was cut off: a learner bootstraps here
    is_reset: Bool  # [N], a pseudo-step: `frames` holds an episode's first frame
    episode_returns: list[float]  # undiscounted raw returns of the whole games that ended here
    episode_lengths: list[int]  # their lengths in steps; both lists in the order of the copies


class VectorGame(Protocol):
    """N copies of one game, stepped together.  Not thread-safe.

    A step is sent and then received; in between the caller may do other work, and of the game ask
    for nothing but `states` (still those before the step) and `close`.
    """

    @property
    def spec(self) -> GameSpec:
        """The game's id, actions, frame shape and stack."""

    @property
    def num_envs(self) -> int:
        """N, the number of copies."""

    def reset(self) -> Frames:
        """Start a new episode in every copy and return its first frames, [N, *F]."""

    def send(self, actions: Int64) -> None:
        """Begin to advance every copy by one action, int64 [N] in [0, num_actions)."""

    def receive(self) -> VectorStep:
        """Return what the step that was sent has given, once every copy has made it."""

    def step(self, actions: Int64) -> VectorStep:
        """Send and receive."""

    def states(self) -> Frames:
        """Return the current states, [N, C, *F]: what the network sees.

        The array belongs to the game and may change when a step is received, or at a reset; copy
        it to keep it.
        """

    def close(self) -> None:
        """Free what the game holds; it must not be used afterwards."""


class FrameStack:
    """The last `stack` frames of each of N copies: [N, C, *F], oldest first.

    Not thread-safe.
    """

    def __init__(
        self,
        num_envs: int,
        stack: int,
        frame_shape: tuple[int, ...],
        dtype: DTypeLike = np.uint8,
    ) -> None:
        self.states: Frames = np.zeros((num_envs, stack, *frame_shape), dtype)

    def start(self, env: int, frame: Frames) -> None:
        """Forget copy `env`'s frames: its state is zero frames, then `frame`, [*F]."""
        self.states[env] = 0
        self.states[env, -1] = frame

    def push(self, env: int, frame: Frames) -> None:
        """Add the newest frame of copy `env`, [*F], and drop its oldest."""
        state = self.states[env]  # [C, *F], a view
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
