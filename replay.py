"""A replay buffer of n-step transitions that keeps every frame once.

This module decides how experience is stored, forgotten and drawn.  It knows nothing of games,
networks or rewards beyond a number: whoever appends has clipped them already.  Nor does it know
where its arrays live, unless in memory: `barista.storage` does, and `barista.priorities` has the
sum tree that it can draw from.

Design
------
Every environment owns a *stripe*: a ring of single frames, written in the order they are seen.  A
transition is known by the row of its first frame, so all that belongs to it (action, n-step
reward, discount, span, depth, priority) lies in arrays parallel to the frames, and nothing is
stored twice.  The array `live` holds the rows of the valid transitions, dense and in no particular
order: to draw B of them uniformly is one call of the generator, and their stacks are one gather of
frames.  To draw them by priority, a sum tree over the rows takes the place of `live`.

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

A transition's *id* is (f, environment) in one number.  It is never used again, and the invariant
says from it and w alone whether the transition is still there.

A span of 0 marks a row at which no transition begins.  It is written before the frames of a
forgotten transition are, and a span after all else of a complete one.  So where the arrays outlive
the process, it may be killed at any instant: the transitions that are marked are whole.

An episode of T steps takes T + 1 frames: a buffer of such holds T / (T + 1) of its capacity.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray

    from barista.priorities import SumTree
    from barista.storage import Spec, Storage

_NOWHERE = -1
_SMALLEST_ERROR = 1e-6  # ε: no transition is left out for ever


class Batch(NamedTuple):
    """B transitions of several steps.  States may share memory with next states, and no more."""

    states: NDArray[Any]  # [B, stack, *frame], of the frames' dtype
    actions: NDArray[np.int64]  # [B]
    rewards: NDArray[np.float32]  # [B], Σ γᵏ rₖ over the span
    discounts: NDArray[np.float32]  # [B], γ to the power of the span, or 0 after termination
    next_states: NDArray[Any]  # [B, stack, *frame], of the frames' dtype
    weights: NDArray[np.float32]  # [B], importance weights, the largest 1; all 1 if uniform
    ids: NDArray[np.int64]  # [B], for `update_priorities` and nothing else


class ReplayBuffer:
    """The most recent transitions of several environments, drawn uniformly or by priority.

    A *frame* is one observation without its history; a *state* is a stack of the last `stack`
    frames of an episode, with zero frames before its first.  A *window* is n_step steps; the
    windows at the end of an episode are shorter and span m < n_step steps.  After termination the
    discount is 0; a truncated episode keeps γᵐ and bootstraps from its final state.

    Given a class of sum trees, transitions are drawn in proportion to their priorities
    p = (|δ| + ε)^α of the TD error δ that they had when last drawn (Schaul et al., 2016, eq. 1);
    new ones have the largest priority so far, so that each is drawn before long.

    A storage that holds what an earlier buffer left hands it over, but for windows that were
    unfinished: every environment starts a new episode.

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
        frame_dtype: DTypeLike = np.uint8,
        priorities: type[SumTree] | None = None,
        priority_exponent: float = 0.6,
        storage: Storage | None = None,
    ) -> None:
        length = _stripe_length(capacity, num_envs, n_step, stack)
        rows = num_envs * length
        #: Transitions held at most: the capacity asked for, rounded down to whole stripes.
        self.capacity = num_envs * (length - stack)
        self._frame_shape, self._frame_dtype = frame_shape, np.dtype(frame_dtype)
        self._stack, self._length, self._num_envs = stack, length, num_envs
        self._n_step, self._gamma, self._rng = n_step, gamma, rng
        self._powers = [gamma**m for m in range(n_step + 1)]
        specs = _specs(rows, frame_shape, frame_dtype, num_envs)
        if priorities:
            specs["priorities"] = (priorities.shape_for(rows), np.float64)
        sizes = {
            "capacity": capacity, "environments": num_envs, "stack": stack, "n_step": n_step,
            "gamma": gamma, "priority_exponent": priority_exponent if priorities else None,
        }  # fmt: skip
        self._storage = storage
        arrays: Mapping[str, Any] = {name: np.zeros(*spec) for name, spec in specs.items()}
        if storage:
            arrays = storage.allocate(specs, sizes)
        self._frames, self._zero_row = arrays["frames"], rows
        self._actions, self._rewards = arrays["actions"], arrays["rewards"]
        self._discounts, self._spans = arrays["discounts"], arrays["spans"]
        self._depths, self._heads = arrays["depths"], arrays["heads"]
        # The rest is made anew from those.
        self._written: list[int] = self._heads.tolist()  # faster to read than an array
        self._live = np.zeros(rows, np.int32)  # rows of transitions; the first `size` count
        self._places = np.full(rows, _NOWHERE, np.int32)  # inverse of `live`
        self._steps = [_NOWHERE] * num_envs  # since the episode's start; _NOWHERE between episodes
        self._pending: list[list[float]] = [[] for _ in range(num_envs)]  # rewards of open windows
        self._tree: SumTree | None = None
        self._exponent, self._largest = priority_exponent, 1.0  # priority so far
        if priorities:
            leaves = arrays["priorities"].reshape(-1)
            leaves[:rows][self._spans == 0] = 0.0
            self._tree = priorities(arrays["priorities"])
            self._largest = max(self._largest, float(leaves.max()))
        live = np.flatnonzero(self._spans)
        self.size = len(live)  #: Transitions held now.
        self._live[: self.size], self._places[live] = live, np.arange(self.size)
        if storage and (fault := self._fault()):
            raise storage.damaged(fault)

    @staticmethod
    def nbytes_for(
        capacity: int,
        frame_shape: tuple[int, ...],
        num_envs: int,
        n_step: int,
        stack: int,
        *,
        frame_dtype: DTypeLike = np.uint8,
        priorities: type[SumTree] | None = None,
    ) -> int:
        """Return the bytes that a buffer allocates; with a frame shape of (0,), but for frames."""
        rows = num_envs * _stripe_length(capacity, num_envs, n_step, stack)
        specs = _specs(rows, frame_shape, frame_dtype, num_envs)
        stored = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in specs.values())
        return stored + rows * 8 + (priorities.nbytes_for(rows) if priorities else 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, wherever they live; the system commits them as they are written."""
        return sum(getattr(value, "nbytes", 0) for value in vars(self).values())

    def start(self, env: int, frame: NDArray[Any]) -> None:
        """Begin an episode of `env` with its first frame, which is copied.

        An episode that has not ended is abandoned: its unfinished windows are dropped.

        Raises:
            ValueError: If the frame has another shape or dtype; the buffer is unchanged.
        """
        self._write(env, frame)
        self._pending[env].clear()
        self._steps[env] = 0

    def append(
        self,
        env: int,
        action: int,
        reward: float,
        next_frame: NDArray[Any],
        *,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Add one step of `env`: the action taken, its reward, and the frame that followed.

        A transition becomes available when its window is complete or its episode ends.  O(1) but
        for the copy of the frame and, at the end of an episode, the flush of n_step windows.

        Raises:
            ValueError: If no episode of `env` has been started, or the frame has another shape or
                dtype; the buffer is unchanged.
        """
        if self._steps[env] == _NOWHERE:
            raise ValueError(f"environment {env} is between episodes: start one before appending")
        first_row = env * self._length + (self._written[env] - 1) % self._length
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

    def sample(self, batch_size: int, beta: float = 1.0) -> Batch:
        """Return transitions drawn with replacement by the buffer's own generator.

        By priority, one is drawn from each of B strata of equal mass, and the importance weights
        are w = (1 / (size · P))^β, divided by the batch's largest, where P is a transition's chance
        (Schaul et al., 2016, eq. 2 and section 3.4).  β = 1 makes up for the priorities in full.

        Raises:
            ValueError: If the buffer is empty.
        """
        if not self.size:
            raise ValueError("an empty replay buffer cannot be sampled")
        if self._tree is None:
            # Twice as fast as `integers`, and exact: a double in [0, 1) times n stays below n.
            return self.take((self._rng.random(batch_size) * self.size).astype(np.int64))
        strata = np.arange(batch_size) + self._rng.random(batch_size)
        rows = self._tree.find(strata * (self._tree.total / batch_size))
        priorities = self._tree.get(rows)
        # With P = p / total, size and total leave the quotient.
        weights = (priorities.min() / priorities) ** beta
        return self._batch(rows, weights.astype(np.float32))

    def take(self, places: NDArray[np.int64]) -> Batch:
        """Return the transitions at `places`, int64 [B], each in [0, size), with weights of 1.

        A transition's place may change with every append, and says nothing of its age.
        """
        return self._batch(self._live[places].astype(np.int64), np.ones(len(places), np.float32))

    def update_priorities(self, ids: NDArray[np.int64], td_errors: NDArray[np.floating]) -> None:
        """Give the transitions of `ids` the TD errors δ, float [B], that they turned out to have.

        Left out are transitions that have been overwritten since, and errors that are not finite,
        which say nothing.  Without priorities nothing changes.
        """
        if self._tree is None:
            return
        numbers, envs = np.divmod(ids, self._num_envs)
        is_held = self._heads[envs] - 1 - numbers + self._stack <= self._length
        errors = np.abs(td_errors.astype(np.float64))
        counts = is_held & np.isfinite(errors)
        priorities = (errors[counts] + _SMALLEST_ERROR) ** self._exponent
        self._tree.set((envs * self._length + numbers % self._length)[counts], priorities)
        self._largest = max(self._largest, priorities.max(initial=0.0))

    def check(self) -> None:
        """Assert every invariant of the design comment.  O(capacity)."""
        assert not self._fault(), self._fault()
        if self._tree is not None:
            self._tree.check()

    def close(self) -> None:
        """Let go of the storage, if there is one.  The buffer must not be used afterwards."""
        if self._storage:
            self._storage.close()

    def _fault(self) -> str:
        """Return which invariant of the design comment does not hold; empty if all do."""
        live = self._live[: self.size].astype(np.int64)
        envs, positions = np.divmod(live, self._length)
        spans, depths = self._spans[live].astype(np.int64), self._depths[live].astype(np.int64)
        age = (self._heads[envs] - 1 - positions) % self._length  # frames written since the first
        is_written = (age < self._heads[envs]) & (spans <= np.minimum(age, self._n_step))
        has_past = (depths < self._stack) & (age + self._stack <= self._length)
        discounts, powers = self._discounts[live], np.array(self._powers, np.float32)
        is_known = (discounts == 0) | (discounts == powers.take(spans, mode="clip"))
        leaves = np.ones(1) if self._tree is None else self._tree.get(live)
        counts = {self.size, np.count_nonzero(self._spans), np.sum(self._places != _NOWHERE)}
        facts = {
            "more transitions than its capacity": self.size <= self.capacity,
            "marks without a transition": len(counts) == 1,
            "transitions out of place": (self._places[live] == np.arange(self.size)).all(),
            "a write position of another": self._heads.tolist() == self._written,
            "transitions that were never written": is_written.all(),
            "states without their first frame": has_past.all(),
            "discounts of no span": is_known.all(),
            "priorities that cannot be": (np.isfinite(leaves) & (leaves > 0)).all(),
            "a frame where none may be": not self._frames.take([self._zero_row], axis=0).any(),
        }
        return next((fault for fault, is_sound in facts.items() if not is_sound), "")

    def _batch(self, rows: NDArray[np.int64], weights: NDArray[np.float32]) -> Batch:
        """Return the transitions of `rows`, int64 [B], with these weights, float32 [B]."""
        spans, depths = self._spans.take(rows), self._depths.take(rows)
        # Which frames are needed, counted from the first: [B or 1, K].  The first `stack` of them
        # are the state, the last `stack` the next state.
        if self._n_step < self._stack and _are_all(spans, self._n_step):
            # The two overlap, in all transitions alike: what they share is fetched once.
            reach = np.arange(1 - self._stack, self._n_step + 1)[None, :]
        else:
            history = np.tile(np.arange(1 - self._stack, 1), (len(rows), 1))
            reach = np.hstack([history, history + spans[:, None]])
        positions = rows % self._length
        found = positions[:, None] + reach
        found %= self._length
        found += (rows - positions)[:, None]
        if not _are_all(depths, self._stack - 1):  # what was before the episode is the zero frame
            found[reach < -depths.astype(np.int64)[:, None]] = self._zero_row
        frames = self._frames.take(found, axis=0, mode="clip")  # one gather for both states
        return Batch(
            states=frames[:, : self._stack],
            actions=self._actions.take(rows).astype(np.int64),
            rewards=self._rewards.take(rows),
            discounts=self._discounts.take(rows),
            next_states=frames[:, -self._stack :],
            weights=weights,
            ids=rows if self._tree is None else self._ids(rows),  # uniform: nobody will ask
        )

    def _ids(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids of transitions, int64 [B]."""
        envs, positions = np.divmod(rows, self._length)
        newest: NDArray[np.int64] = self._heads[envs] - 1
        return (newest - (newest - positions) % self._length) * self._num_envs + envs

    def _write(self, env: int, frame: NDArray[Any]) -> None:
        """Put a frame into the stripe, having forgotten the transition that the invariant loses."""
        if frame.shape != self._frame_shape or frame.dtype != self._frame_dtype:
            raise ValueError(
                f"a frame is {frame.dtype} of shape {frame.shape}, "
                f"expected {self._frame_dtype} of shape {self._frame_shape}"
            )
        number = self._written[env]
        stripe, position = env * self._length, number % self._length
        self._forget(stripe + (position + self._stack - 1) % self._length)
        self._frames[stripe + position] = frame
        self._written[env] = self._heads[env] = number + 1

    def _complete(self, env: int, pending: list[float], discount: float) -> None:
        """Make the oldest open window, which ends at the newest frame, a transition."""
        span = len(pending)
        row = env * self._length + (self._written[env] - 1 - span) % self._length
        reward = 0.0
        for later in reversed(pending):
            reward = later + self._gamma * reward
        pending.pop(0)
        self._rewards[row], self._discounts[row] = reward, discount
        self._depths[row] = min(self._steps[env] - span, self._stack - 1)
        if self._tree is not None:
            self._tree.set(row, self._largest)
        self._spans[row] = span
        self._live[self.size], self._places[row] = row, self.size
        self.size += 1

    def _forget(self, row: int) -> None:
        """Remove the transition of a row, if it has one: the last live one takes its place."""
        place = self._places[row]
        if place == _NOWHERE:
            return
        self._spans[row] = 0
        if self._tree is not None:
            self._tree.set(row, 0.0)
        self.size -= 1
        last = self._live[self.size]
        self._live[place], self._places[last] = last, place
        self._places[row] = _NOWHERE


def _are_all(small: NDArray[np.uint8], value: int) -> bool:
    """Return whether all of a batch's numbers are one: as bytes that takes a tenth of the time."""
    return small.tobytes().count(value) == len(small)


def _specs(
    rows: int, frame_shape: tuple[int, ...], frame_dtype: DTypeLike, num_envs: int
) -> dict[str, Spec]:
    """Return the arrays of a buffer of so many rows, but for priorities."""
    return {
        # One row more than the stripes have: the zero frame before every episode's first.
        "frames": ((rows + 1, *frame_shape), frame_dtype),
        "actions": ((rows,), np.int32),
        "rewards": ((rows,), np.float32),
        "discounts": ((rows,), np.float32),
        "spans": ((rows,), np.uint8),  # steps; 0: no transition begins here
        "depths": ((rows,), np.uint8),  # earlier frames of the episode within a stack
        "heads": ((num_envs,), np.int64),  # frames written, ever
    }


def _stripe_length(capacity: int, num_envs: int, n_step: int, stack: int) -> int:
    """Return the frames of one stripe, of which `stack` are never the first of a transition.

    Raises:
        ValueError: If the sizes cannot work together.
    """
    for name, frames in (("n_step", n_step), ("stack", stack)):
        if not 1 <= frames <= 255:
            raise ValueError(f"{name} is {frames}, expected 1 … 255")
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}, expected at least 1")
    if capacity < num_envs * n_step:
        raise ValueError(
            f"capacity is {capacity}, expected at least num_envs × n_step = {num_envs * n_step}"
        )
    return capacity // num_envs + stack
