"""The replay buffer against a list of transitions, on random histories of several environments."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import ReplayBuffer

FRAME_SHAPE = (3,)
GAMMA = 0.5  # with rewards in sixteenths every sum is exact, in 32 bits as in 64

steps = st.lists(
    st.tuples(
        st.integers(0, 3),  # environment, modulo their number
        st.sampled_from(["step"] * 8 + ["terminate", "truncate", "both", "abandon"]),
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

    def stack_at(self, index, stack):
        frames = [self.frames[i] if i >= 0 else np.zeros(FRAME_SHAPE, np.uint8)
                  for i in range(index - stack + 1, index + 1)]  # fmt: skip
        return np.stack(frames)

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
    """A list of (number of the first frame, transition) for each environment, filtered by age."""

    def __init__(self, capacity, num_envs, n_step, stack):
        self.reach, self.n_step, self.stack = capacity // num_envs, n_step, stack
        self.episodes, self.num_frames = [None] * num_envs, [0] * num_envs
        self.transitions = [[] for _ in range(num_envs)]

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

    def held(self):
        """Transitions whose first frame is at most `reach` frames older than the newest."""
        return sorted(
            transition
            for env, transitions in enumerate(self.transitions)
            for number, transition in transitions
            if self.num_frames[env] - 1 - number <= self.reach
        )


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
            *buffer.take(np.arange(buffer.size)), strict=True
        )
    )


def frame_of(env, number):
    """A frame that no other has, and that is not zero."""
    return np.array([env + 1, number // 256, number % 256], np.uint8)


@settings(deadline=None, max_examples=200)
@given(
    steps=steps,
    num_envs=st.integers(1, 4),
    n_step=st.integers(1, 5),
    stack=st.integers(1, 4),
    spare=st.integers(0, 20),
)
def test_a_buffer_holds_what_a_filtered_list_holds(steps, num_envs, n_step, stack, spare):
    capacity = num_envs * n_step + spare
    buffer = ReplayBuffer(
        capacity,
        frame_shape=FRAME_SHAPE,
        stack=stack,
        num_envs=num_envs,
        n_step=n_step,
        gamma=GAMMA,
        rng=np.random.default_rng(0),
    )
    naive = NaiveBuffer(capacity, num_envs, n_step, stack)
    playing = [False] * num_envs
    for env, kind, action, reward in ((step[0] % num_envs, *step[1:]) for step in steps):
        frame = frame_of(env, naive.num_frames[env])
        if not playing[env] or kind == "abandon":
            buffer.start(env, frame)
            naive.start(env, frame)
            playing[env] = True
        else:
            ends = {
                "terminated": kind in {"terminate", "both"},
                "truncated": kind in {"truncate", "both"},
            }
            buffer.append(env, action, reward, frame, **ends)
            naive.append(env, action, reward, frame, **ends)
            playing[env] = not any(ends.values())
        buffer.check()
        assert held(buffer) == naive.held()


@settings(deadline=None, max_examples=50)
@given(
    capacity=st.integers(20, 400),
    num_envs=st.integers(1, 4),
    n_step=st.integers(1, 5),
    stack=st.integers(1, 4),
    frame_shape=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
)
def test_the_bytes_foretold_are_the_bytes_taken(capacity, num_envs, n_step, stack, frame_shape):
    buffer = ReplayBuffer(
        capacity,
        frame_shape=frame_shape,
        stack=stack,
        num_envs=num_envs,
        n_step=n_step,
        gamma=GAMMA,
        rng=np.random.default_rng(0),
    )
    foretold = ReplayBuffer.nbytes_for(capacity, frame_shape, num_envs, n_step, stack)
    assert buffer.nbytes == foretold


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), batch_size=st.integers(1, 40))
def test_drawing_is_determined_by_the_seed(seed, batch_size):
    def drawn():
        buffer = ReplayBuffer(
            50, frame_shape=FRAME_SHAPE, stack=2, num_envs=1, n_step=3, gamma=GAMMA,
            rng=np.random.default_rng(seed),
        )  # fmt: skip
        buffer.start(0, frame_of(0, 0))
        for number in range(1, 80):
            buffer.append(
                0, number % 4, 0.0, frame_of(0, number), terminated=False, truncated=False
            )
        return [array.tobytes() for array in buffer.sample(batch_size)]

    assert drawn() == drawn()
