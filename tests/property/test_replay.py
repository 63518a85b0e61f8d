"""The replay buffer against a list of transitions, on random histories of several environments."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barista.priorities import SumTree
from barista.storage import open_storage
from replay import ReplayBuffer

FRAME_SHAPE = (3,)
ALPHA = 0.6
GAMMA = 0.5  # with rewards in sixteenths every sum is exact, in 32 bits as in 64

steps = st.lists(
    st.tuples(
        st.integers(0, 3),  # environment, modulo their number
        st.sampled_from(
            ["step"] * 8 + ["terminate", "truncate", "both", "abandon", "draw", "tell", "reopen"]
        ),
        st.integers(0, 5),  # action
        st.integers(-16, 16).map(lambda sixteenths: sixteenths / 16),  # reward
    ),
    max_size=120,
)


class Episode:
    """What a step-by-step reader of the paper would keep: everything, as lists."""

    def __init__(self, frame, number):
        self.frames, self.actions, self.rewards = [frame], [], []
        self.number = number  # of the first frame, among those of its environment

    def frame_at(self, index):
        return self.frames[index] if index >= 0 else np.zeros_like(self.frames[0])

    def stack_at(self, index, stack):
        return np.stack([self.frame_at(i) for i in range(index - stack + 1, index + 1)])

    def transition(self, first, last, *, terminated, stack):
        reward = sum(GAMMA**k * r for k, r in enumerate(self.rewards[first:last]))
        discount = 0.0 if terminated else GAMMA ** (last - first)
        return (
            self.stack_at(first, stack).tobytes(),
            self.actions[first],
            reward,
            discount,
            self.stack_at(last, stack).tobytes(),
        )


class NaiveBuffer:
    """A list of (number of the first frame, transition) for each environment, filtered by age.

    Beside it every transition's priority, by environment and number.
    """

    def __init__(self, capacity, num_envs, n_step, stack):
        self.reach, self.n_step, self.stack = capacity // num_envs, n_step, stack
        self.episodes, self.num_frames = [None] * num_envs, [0] * num_envs
        self.transitions = [[] for _ in range(num_envs)]
        self.priorities, self.largest = {}, 1.0

    def start(self, env, frame):
        self.episodes[env] = Episode(frame, self.num_frames[env])
        self.num_frames[env] += 1

    def append(self, env, action, reward, frame, *, terminated, truncated):
        episode = self.episodes[env]
        episode.actions.append(action)
        episode.rewards.append(reward)
        episode.frames.append(frame)
        self.num_frames[env] += 1
        last = len(episode.actions)
        ended = terminated or truncated
        for first in range(max(0, last - self.n_step), last):
            if ended or last - first == self.n_step:
                transition = episode.transition(
                    first, last, terminated=terminated, stack=self.stack
                )
                self.transitions[env].append((episode.number + first, transition))
                self.priorities[env, episode.number + first] = self.largest

    def is_held(self, env, number):
        """Whether a first frame is at most `reach` frames older than the newest."""
        return self.num_frames[env] - 1 - number <= self.reach

    def held(self):
        return sorted(
            transition
            for env, transitions in enumerate(self.transitions)
            for number, transition in transitions
            if self.is_held(env, number)
        )

    def priorities_held(self):
        return {key: p for key, p in self.priorities.items() if self.is_held(*key)}

    def tell(self, env, number, error):
        if self.is_held(env, number):
            self.priorities[env, number] = (abs(error) + 1e-6) ** ALPHA
            self.largest = max(self.largest, self.priorities[env, number])


def held(buffer):
    """Every transition of a buffer, as the naive one writes them."""
    if not buffer.size:
        return []
    return sorted(
        (
            state.tobytes(),
            action,
            float(reward),
            float(discount),
            after.tobytes(),
        )
        for state, action, reward, discount, after in zip(
            *buffer.take(np.arange(buffer.size))[:5], strict=True
        )
    )


def frame_of(env, number, dtype=np.uint8):
    """A frame that no other has, and that is not zero."""
    return np.array([env + 1, number // 256, number % 256], dtype)


def first_frames(batch):
    """Environment and number of the first frame of every transition, as `frame_of` wrote them."""
    return [(e - 1, 256 * high + low) for e, high, low in batch.states[:, -1].astype(int).tolist()]


class Pair:
    """A buffer and its naive twin, told the same."""

    def __init__(self, folder, *, kind, num_envs, n_step, stack, spare, dtype, prioritised):
        self.folder, self.kind, self.dtype = folder, kind, dtype
        self.sizes = {"stack": stack, "num_envs": num_envs, "n_step": n_step}
        self.prioritised = prioritised
        self.capacity = num_envs * n_step + spare
        self.naive = NaiveBuffer(self.capacity, num_envs, n_step, stack)
        self.buffer, self.drawn = self.open(), []
        self.playing = [False] * num_envs

    def open(self):
        folder = self.folder if self.kind == "mapped" else None
        return ReplayBuffer(
            self.capacity,
            frame_shape=FRAME_SHAPE,
            frame_dtype=self.dtype,
            gamma=GAMMA,
            rng=np.random.default_rng(0),
            priorities=SumTree if self.prioritised else None,
            priority_exponent=ALPHA,
            storage=open_storage(folder, compress=self.kind == "compressed", settings={}),
            **self.sizes,
        )

    def do(self, env, kind, action, reward):
        if kind == "draw":
            self.draw(reward)
        elif kind == "tell":
            self.tell(reward)
        elif kind == "reopen":
            self.reopen()
        else:
            self.step(env, kind, action, reward)

    def step(self, env, kind, action, reward):
        frame = frame_of(env, self.naive.num_frames[env], self.dtype)
        if not self.playing[env] or kind == "abandon":
            ends = {}
            for one in (self.buffer, self.naive):
                one.start(env, frame)
        else:
            ends = {
                "terminated": kind in {"terminate", "both"},
                "truncated": kind in {"truncate", "both"},
            }
            for one in (self.buffer, self.naive):
                one.append(env, action, reward, frame, **ends)
        self.playing[env] = not any(ends.values())

    def draw(self, reward):
        """Draw, and remember what was drawn: it is told of later, when some of it is gone."""
        if not self.buffer.size:
            return
        beta = abs(reward)
        batch = self.buffer.sample(4, beta)
        keys = first_frames(batch)
        priorities = np.array([self.naive.priorities_held()[key] for key in keys])
        weights = (priorities.min() / priorities) ** beta if self.prioritised else np.ones(4)
        np.testing.assert_allclose(batch.weights, weights, rtol=1e-6)
        self.drawn.append((batch.ids, keys))

    def tell(self, reward):
        if self.drawn:
            ids, keys = self.drawn.pop(0)
            errors = np.array([reward, -reward, 2.0, np.nan]) * (1 + np.arange(4))
            self.buffer.update_priorities(ids, errors.astype(np.float32))
            for key, error in zip(keys, errors, strict=True):
                if self.prioritised and np.isfinite(error):
                    self.naive.tell(*key, error)

    def reopen(self):
        """Go on with what an earlier process has left; episodes begin anew."""
        if self.kind == "mapped":
            self.buffer.close()
            self.buffer = self.open()
            self.playing = [False] * len(self.playing)
            # What it knows of the largest priority is what the transitions have.
            self.naive.largest = max([1.0, *self.naive.priorities_held().values()])

    def compare(self):
        self.buffer.check()
        assert held(self.buffer) == self.naive.held()
        if self.prioritised:
            everything = self.buffer.take(np.arange(self.buffer.size))
            rows = self.buffer._live[: self.buffer.size].astype(np.int64)
            leaves = self.buffer._tree.get(rows).tolist()
            found = dict(zip(first_frames(everything), leaves, strict=True))
            assert found == pytest.approx(self.naive.priorities_held())


@settings(deadline=None, max_examples=200)
@given(
    steps=steps,
    kind=st.sampled_from(["memory", "memory", "mapped", "compressed"]),
    dtype=st.sampled_from([np.uint8, np.float32]),
    prioritised=st.booleans(),
    num_envs=st.integers(1, 4),
    n_step=st.integers(1, 5),
    stack=st.integers(1, 4),
    spare=st.integers(0, 20),
)
def test_a_buffer_holds_what_a_filtered_list_holds(steps, **sizes):
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder), **sizes)
        for env, *step in steps:
            pair.do(env % sizes["num_envs"], *step)
            pair.compare()
        pair.buffer.close()


@settings(deadline=None, max_examples=50)
@given(
    capacity=st.integers(20, 400),
    num_envs=st.integers(1, 4),
    n_step=st.integers(1, 5),
    stack=st.integers(1, 4),
    frame_shape=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    frame_dtype=st.sampled_from([np.uint8, np.float32]),
    priorities=st.sampled_from([None, SumTree]),
)
def test_the_bytes_foretold_are_the_bytes_taken(capacity, **sizes):
    buffer = ReplayBuffer(capacity, gamma=GAMMA, rng=np.random.default_rng(0), **sizes)
    assert buffer.nbytes == ReplayBuffer.nbytes_for(capacity, **sizes)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch_size=st.integers(1, 40),
    priorities=st.sampled_from([None, SumTree]),
)
def test_drawing_is_determined_by_the_seed(seed, batch_size, priorities):
    def drawn():
        buffer = ReplayBuffer(
            50, frame_shape=FRAME_SHAPE, stack=2, num_envs=1, n_step=3, gamma=GAMMA,
            rng=np.random.default_rng(seed), priorities=priorities,
        )  # fmt: skip
        buffer.start(0, frame_of(0, 0))
        for number in range(1, 80):
            buffer.append(
                0, number % 4, 0.0, frame_of(0, number), terminated=False, truncated=False
            )
        batch = buffer.sample(batch_size)
        buffer.update_priorities(batch.ids, np.arange(batch_size))
        return [array.tobytes() for array in (*batch, *buffer.sample(batch_size))]

    assert drawn() == drawn()
