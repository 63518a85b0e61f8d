"""A replay buffer of n-step transitions that keeps every frame once.

This module decides how experience is stored, forgotten and drawn.  It knows nothing of games,
networks or rewards beyond a number: whoever appends has clipped them already.

Design
------
Every environment owns a *stripe*: a ring of single frames, written in the order they are seen.  A
transition is known by the row of its first frame, so all that belongs to it (action, n-step
reward, discount, span, depth) lies in arrays parallel to the frames, and nothing is stored twice.
The array `live` holds the rows of the valid transitions, dense and in no particular order: to draw
B of them is one `integers()` call, and both their stacks are one gather of frames.

Rejected: storing stacks (8 × the memory, a quarter of the speed); drawing from the frames and
rejecting what straddles the write position or the end of an episode (the distribution is no longer
obviously uniform, and the fix-ups are where such buffers are wrong); one ring of transitions for
all environments (when one environment is faster than the others, its frames are overwritten while
its transitions still wait in the common ring).

Invariant: number the frames of a stripe as they are written, from 0.  With L rows, newest frame w
and o = w − L + 1 (the oldest frame, once the stripe is full), every live transition begins at a
frame f with o + stack − 1 ≤ f and ends at f + span ≤ w.  So its stacks reach back to o at most,
and all frames it needs are there.  One removal for one write keeps it: the write that moves the
oldest frame to o removes the transition that begins at o + stack − 2, the only one for which the
invariant has just ceased to hold.  Each stripe does so alone, however fast or slow the others are.
An unfinished window begins at w − n_step at the earliest, which the invariant allows because a
stripe holds L = capacity / num_envs + stack ≥ n_step + stack frames.

An episode of T steps has T transitions but T + 1 frames, so a buffer full of short episodes holds
T / (T + 1) of its capacity.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What a row of the stripes costs beside its frame: five arrays of four bytes and two of one.
_ROW_BYTES = 22
_NOWHERE = -1


class Batch(NamedTuple):
    """B transitions, each of which may span several steps.  The caller owns the arrays."""

    states: NDArray[np.uint8]  # [B, stack, *frame]
    actions: NDArray[np.int64]  # [B]
    rewards: NDArray[np.float32]  # [B], Σ γᵏ rₖ over the span
    discounts: NDArray[np.float32]  # [B], γ to the power of the span, or 0 after termination
    next_states: NDArray[np.uint8]  # [B, stack, *frame]


class ReplayBuffer:
    """The most recent transitions of several environments, drawn uniformly.

    A *frame* is one observation without its history; a *state* is a stack of the last `stack`
    frames of an episode, with zero frames before its first.  A *window* is n_step steps; the
    windows at the end of an episode are shorter and span m < n_step steps.  After termination the
    discount is 0; a truncated episode keeps γᵐ and bootstraps from its final state.

    Not thread-safe.
    """

    def __init__(
        self,
        capacity: int,
        *,
        frame_shape: tuple[int, ...],
        stack: int,
        num_envs: int,
        n_step: int,
        gamma: float,
        rng: np.random.Generator,
    ) -> None:
        length = _stripe_length(capacity, num_envs, n_step, stack)
        rows = num_envs * length
        #: Transitions held at most: the capacity asked for, rounded down to whole stripes.
        self.capacity = num_envs * (length - stack)
        #: Transitions held now.
        self.size = 0
        self._frame_shape, self._stack, self._length = frame_shape, stack, length
        self._n_step, self._gamma, self._rng = n_step, gamma, rng
        self._powers = [gamma**m for m in range(n_step + 1)]
        # One row more than the stripes have: the zero frame before every episode's first.
        self._frames = np.zeros((rows + 1, *frame_shape), np.uint8)
        self._zero_row = rows
        self._actions = np.zeros(rows, np.int32)
        self._rewards = np.zeros(rows, np.float32)
        self._discounts = np.zeros(rows, np.float32)
        self._spans = np.zeros(rows, np.uint8)  # steps
        self._depths = np.zeros(rows, np.uint8)  # earlier frames of the episode within a stack
        self._live = np.zeros(rows, np.int32)  # rows of transitions; the first `size` count
        self._places = np.full(rows, _NOWHERE, np.int32)  # inverse of `live`
        self._written = [0] * num_envs  # frames, ever
        self._steps = [_NOWHERE] * num_envs  # since the episode's start; _NOWHERE between episodes
        self._pending: list[list[float]] = [[] for _ in range(num_envs)]  # rewards of open windows

    @staticmethod
    def nbytes_for(
        capacity: int, frame_shape: tuple[int, ...], num_envs: int, n_step: int, stack: int
    ) -> int:
        """Return the bytes that a buffer of these sizes allocates, without allocating them."""
        rows = num_envs * _stripe_length(capacity, num_envs, n_step, stack)
        return (rows + 1) * math.prod(frame_shape) + rows * _ROW_BYTES

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays.  The system commits those of the frames as they are written."""
        return sum(array.nbytes for array in vars(self).values() if isinstance(array, np.ndarray))

    def start(self, env: int, frame: NDArray[np.uint8]) -> None:
        """Begin an episode of `env` with its first frame, which is copied.

        An episode that has not ended is abandoned: its unfinished windows are dropped.

        Raises:
            ValueError: If the frame has another shape; the buffer is unchanged.
        """
        self._write(env, frame)
        self._pending[env].clear()
        self._steps[env] = 0

    def append(
        self,
        env: int,
        action: int,
        reward: float,
        next_frame: NDArray[np.uint8],
        *,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Add one step of `env`: the action taken, its reward, and the frame that followed.

        A transition becomes available when its window is complete or its episode ends.  O(1) but
        for the copy of the frame and, at the end of an episode, the flush of n_step windows.

        Raises:
            ValueError: If no episode of `env` has been started, or the frame has another shape;
                the buffer is unchanged.
        """
        if self._steps[env] == _NOWHERE:
            raise ValueError(f"environment {env} is between episodes: start one before appending")
        first_row = self._newest_row(env)
        self._write(env, next_frame)
        self._steps[env] += 1
        self._actions[first_row] = action
        pending = self._pending[env]
        pending.append(reward)
        if terminated or truncated:
            while pending:
                self._complete(env, pending, 0.0 if terminated else self._powers[len(pending)])
            self._steps[env] = _NOWHERE
        elif len(pending) == self._n_step:
            self._complete(env, pending, self._powers[self._n_step])

    def sample(self, batch_size: int) -> Batch:
        """Return transitions drawn uniformly, with replacement, by the buffer's own generator.

        Raises:
            ValueError: If the buffer is empty.
        """
        if not self.size:
            raise ValueError("an empty replay buffer cannot be sampled")
        return self.take(self._rng.integers(self.size, size=batch_size))

    def take(self, places: NDArray[np.int64]) -> Batch:
        """Return the transitions at `places`, int64 [B], each in [0, size).

        A transition's place may change with every append; the places are a dense numbering and
        say nothing of age.
        """
        rows = self._live[places].astype(np.int64)  # [B]
        spans, depths = self._spans[rows], self._depths[rows]
        stacks = self._frames.take(self._stack_rows(rows, spans, depths), axis=0, mode="clip")
        return Batch(
            states=stacks[0],
            actions=self._actions[rows].astype(np.int64),
            rewards=self._rewards[rows],
            discounts=self._discounts[rows],
            next_states=stacks[1],
        )

    def check(self) -> None:
        """Assert every invariant of the design comment.  O(capacity)."""
        live = self._live[: self.size].astype(np.int64)
        assert self.size <= self.capacity
        assert np.array_equal(self._places[live], np.arange(self.size))
        assert np.count_nonzero(self._places != _NOWHERE) == self.size
        envs, positions = np.divmod(live, self._length)
        spans, depths = self._spans[live].astype(np.int64), self._depths[live].astype(np.int64)
        written = np.array(self._written)[envs]
        age = (written - 1 - positions) % self._length  # frames written since the first one
        assert np.all(age < written)
        assert np.all((spans >= 1) & (spans <= np.minimum(age, self._n_step)))
        assert np.all(depths < self._stack)
        assert np.all(age + self._stack <= self._length)
        bootstraps = np.array(self._powers, np.float32)[spans]
        assert np.all((self._discounts[live] == 0) | (self._discounts[live] == bootstraps))
        assert not self._frames[self._zero_row].any()

    def _stack_rows(
        self, rows: NDArray[np.int64], spans: NDArray[np.uint8], depths: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Return the rows of the frames of states and next states: int64 [2, B, stack]."""
        offsets = np.arange(1 - self._stack, 1)[None, None, :]  # [1, 1, stack], newest last
        steps = np.stack([np.zeros_like(spans), spans]).astype(np.int64)  # [2, B]
        reach = offsets + steps[:, :, None]  # [2, B, stack], frames after the first one
        positions = rows % self._length
        stripes = rows - positions
        found = stripes[:, None] + (positions[:, None] + reach) % self._length
        return np.where(reach >= -depths.astype(np.int64)[:, None], found, self._zero_row)

    def _newest_row(self, env: int) -> int:
        return env * self._length + (self._written[env] - 1) % self._length

    def _write(self, env: int, frame: NDArray[np.uint8]) -> None:
        """Put a frame into the stripe and forget the transition that the invariant loses."""
        if np.shape(frame) != self._frame_shape:
            raise ValueError(f"a frame has shape {np.shape(frame)}, expected {self._frame_shape}")
        position = self._written[env] % self._length
        self._written[env] += 1
        stripe = env * self._length
        self._frames[stripe + position] = frame
        self._forget(stripe + (position + self._stack - 1) % self._length)

    def _complete(self, env: int, pending: list[float], discount: float) -> None:
        """Make the oldest open window, which ends at the newest frame, a transition."""
        span = len(pending)
        newest = (self._written[env] - 1) % self._length
        row = env * self._length + (newest - span) % self._length
        reward = 0.0
        for later in reversed(pending):
            reward = later + self._gamma * reward
        pending.pop(0)
        self._rewards[row], self._discounts[row] = reward, discount
        self._spans[row] = span
        self._depths[row] = min(self._steps[env] - span, self._stack - 1)
        self._live[self.size], self._places[row] = row, self.size
        self.size += 1

    def _forget(self, row: int) -> None:
        """Remove the transition of a row, if it has one: the last live one takes its place."""
        place = self._places[row]
        if place == _NOWHERE:
            return
        self.size -= 1
        last = self._live[self.size]
        self._live[place], self._places[last] = last, place
        self._places[row] = _NOWHERE


def _stripe_length(capacity: int, num_envs: int, n_step: int, stack: int) -> int:
    """Return the frames of one stripe, of which `stack` are never the first of a transition.

    Raises:
        ValueError: If the sizes cannot work together.
    """
    if not 1 <= n_step <= 255:
        raise ValueError(f"n_step is {n_step}, expected 1 … 255")
    if not 1 <= stack <= 255:
        raise ValueError(f"stack is {stack}, expected 1 … 255")
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}, expected at least 1")
    if capacity < num_envs * n_step:
        raise ValueError(
            f"capacity is {capacity}, expected at least num_envs × n_step = {num_envs * n_step}"
        )
    return capacity // num_envs + stack
