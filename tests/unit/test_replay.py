"""The replay buffer, by hand-computed examples."""

import numpy as np
import pytest

from barista.priorities import SumTree
from replay import Batch, ReplayBuffer

GAMMA = 0.5


def make(capacity=12, *, frame_shape=(2,), stack=2, num_envs=1, n_step=1, seed=0, **options):
    return ReplayBuffer(
        capacity,
        frame_shape=frame_shape,
        stack=stack,
        num_envs=num_envs,
        n_step=n_step,
        gamma=GAMMA,
        rng=np.random.default_rng(seed),
        **options,
    )


def frame(number):
    return np.full(2, number, np.uint8)


def play(buffer, rewards, *, env=0, first=1, end=None):
    """One episode with frames first, first + 1, …; the last step ends it as `end` says."""
    buffer.start(env, frame(first))
    for i, reward in enumerate(rewards):
        last = i == len(rewards) - 1
        buffer.append(
            env,
            i,
            reward,
            frame(first + 1 + i),
            terminated=last and end == "terminated",
            truncated=last and end == "truncated",
        )
    buffer.check()


def everything(buffer):
    return buffer.take(np.arange(buffer.size))


def test_one_step_transitions_hold_two_stacks_of_their_episode():
    buffer = make()
    play(buffer, [0.25, 0.75])
    batch = everything(buffer)
    assert batch.states[:, :, 0].tolist() == [[0, 1], [1, 2]]
    assert batch.next_states[:, :, 0].tolist() == [[1, 2], [2, 3]]
    assert batch.actions.tolist() == [0, 1]
    assert batch.rewards.tolist() == [0.25, 0.75]
    assert batch.discounts.tolist() == [0.5, 0.5]


def test_a_batch_has_the_promised_shapes_and_dtypes():
    buffer = make(frame_shape=(6, 5), stack=3)
    buffer.start(0, np.ones((6, 5), np.uint8))
    buffer.append(0, 1, 1.0, np.ones((6, 5), np.uint8), terminated=True, truncated=False)
    batch = buffer.sample(4)
    assert isinstance(batch, Batch)
    assert [(array.shape, array.dtype.name) for array in batch] == [
        ((4, 3, 6, 5), "uint8"),
        ((4,), "int64"),
        ((4,), "float32"),
        ((4,), "float32"),
        ((4, 3, 6, 5), "uint8"),
        ((4,), "float32"),
        ((4,), "int64"),
    ]


def test_a_window_is_the_discounted_sum_of_its_rewards():
    buffer = make(n_step=3)
    play(buffer, [1.0, 2.0, 4.0, 8.0])
    batch = everything(buffer)
    assert batch.rewards.tolist() == [1 + 2 / 2 + 4 / 4, 2 + 4 / 2 + 8 / 4]
    assert batch.discounts.tolist() == [1 / 8, 1 / 8]
    assert batch.next_states[:, -1, 0].tolist() == [4, 5]


def test_an_unfinished_window_is_not_available():
    buffer = make(n_step=3)
    play(buffer, [1.0, 1.0])
    assert buffer.size == 0


def test_termination_flushes_shorter_windows_with_discount_zero():
    buffer = make(n_step=3)
    play(buffer, [1.0, 2.0, 4.0, 8.0], end="terminated")
    batch = everything(buffer)
    assert batch.rewards.tolist() == [3.0, 6.0, 8.0, 8.0]
    assert batch.discounts.tolist() == [1 / 8, 0.0, 0.0, 0.0]


def test_truncation_bootstraps_every_window_from_the_final_stack():
    buffer = make(n_step=3)
    play(buffer, [1.0, 2.0, 4.0, 8.0], end="truncated")
    batch = everything(buffer)
    assert batch.rewards.tolist() == [3.0, 6.0, 8.0, 8.0]
    assert batch.discounts.tolist() == [1 / 8, 1 / 8, 1 / 4, 1 / 2]
    assert batch.next_states[:, :, 0].tolist() == [[3, 4], [4, 5], [4, 5], [4, 5]]


def test_stacks_never_reach_into_the_episode_before():
    buffer = make(stack=4)
    play(buffer, [0.0], first=1, end="terminated")
    play(buffer, [0.0], first=7, end="terminated")
    assert everything(buffer).states[:, :, 0].tolist() == [[0, 0, 0, 1], [0, 0, 0, 7]]


def test_environments_have_stacks_of_their_own():
    buffer = make(num_envs=2, capacity=24)
    buffer.start(0, frame(1))
    buffer.start(1, frame(101))
    for step in range(1, 3):
        for env in (0, 1):
            buffer.append(
                env, 0, 0.0, frame(1 + 100 * env + step), terminated=False, truncated=False
            )
    assert sorted(everything(buffer).states[:, :, 0].tolist()) == [
        [0, 1],
        [0, 101],
        [1, 2],
        [101, 102],
    ]


def test_a_fast_environment_does_not_evict_those_of_a_slow_one():
    buffer = make(num_envs=2, capacity=8)
    play(buffer, [0.0] * 2, env=1, first=200, end="terminated")
    play(buffer, [0.0] * 100, env=0)
    newest = everything(buffer).states[:, -1, 0].tolist()
    assert sorted(newest) == [97, 98, 99, 100, 200, 201]


def test_a_long_episode_fills_the_capacity_to_the_last_transition():
    buffer = make(capacity=12, n_step=3, stack=4)
    play(buffer, [0.0] * 50, end="terminated")
    assert buffer.size == buffer.capacity == 12


def test_the_capacity_is_rounded_down_to_whole_stripes():
    assert make(capacity=11, num_envs=4).capacity == 8


def test_an_abandoned_episode_leaves_only_its_finished_windows():
    buffer = make(n_step=2)
    play(buffer, [1.0, 1.0, 1.0])
    play(buffer, [2.0], first=50, end="terminated")
    assert everything(buffer).rewards.tolist() == [1.5, 1.5, 2.0]


def test_a_frame_is_copied():
    buffer = make()
    first = frame(9)
    buffer.start(0, first)
    buffer.append(0, 0, 0.0, frame(10), terminated=False, truncated=False)
    first[:] = 0
    assert everything(buffer).states[0, -1, 0] == 9


def test_an_earlier_batch_survives_later_ones():
    buffer = make(capacity=4)
    play(buffer, [0.0] * 4)
    batch = buffer.sample(8)
    states = batch.states.copy()
    play(buffer, [0.0] * 9, first=100)
    buffer.sample(8)
    assert np.array_equal(batch.states, states)


def test_appending_between_episodes_is_refused():
    buffer = make()
    with pytest.raises(ValueError, match="environment 0 is between episodes"):
        buffer.append(0, 0, 0.0, frame(1), terminated=False, truncated=False)
    play(buffer, [0.0], end="terminated")
    with pytest.raises(ValueError, match="environment 0 is between episodes"):
        buffer.append(0, 0, 0.0, frame(1), terminated=False, truncated=False)
    buffer.check()


def test_a_frame_of_another_shape_is_refused_and_changes_nothing():
    buffer = make()
    buffer.start(0, frame(1))
    for wrong in (np.zeros(1, np.uint8), np.zeros(2, np.float32)):
        message = rf"is {wrong.dtype} of shape \({len(wrong)},\), expected uint8 of shape \(2,\)"
        with pytest.raises(ValueError, match=message):
            buffer.append(0, 0, 0.0, wrong, terminated=False, truncated=False)
    buffer.append(0, 3, 0.0, frame(2), terminated=True, truncated=False)
    buffer.check()
    assert everything(buffer).actions.tolist() == [3]


def test_an_empty_buffer_cannot_be_sampled():
    with pytest.raises(ValueError, match="an empty replay buffer cannot be sampled"):
        make().sample(1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_step": 0}, "n_step is 0, expected 1 … 255"),
        ({"n_step": 256, "capacity": 999}, "n_step is 256, expected 1 … 255"),
        ({"stack": 0}, "stack is 0, expected 1 … 255"),
        ({"num_envs": 0}, "num_envs is 0, expected at least 1"),
        (
            {"capacity": 11, "num_envs": 4, "n_step": 3},
            "capacity is 11, expected at least num_envs × n_step = 12",
        ),
    ],
)
def test_sizes_that_cannot_work_are_refused(sizes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(**sizes)


def test_an_atari_transition_costs_at_most_7200_bytes():
    nbytes = ReplayBuffer.nbytes_for(100_000, (84, 84), num_envs=8, n_step=3, stack=4)
    assert nbytes / 100_000 <= 7200


def test_drawing_is_uniform():
    """χ² of 40 000 draws of 35 transitions: below the 99.9 % quantile of 34 degrees (65.2)."""
    buffer = make(capacity=40, n_step=3, num_envs=2, seed=1)
    play(buffer, [0.0] * 30, env=0, first=1)
    play(buffer, [0.0] * 60, env=1, first=100)
    play(buffer, [0.0] * 7, env=0, first=60, end="truncated")
    drawn = buffer.sample(40_000).states[:, -1, 0]
    counts = np.bincount(drawn)
    counts = counts[counts > 0]
    assert len(counts) == buffer.size == 35
    expected = 40_000 / buffer.size
    assert ((counts - expected) ** 2 / expected).sum() < 65.2


def prioritised(capacity=40, *, seed=0, **sizes):
    return make(capacity, seed=seed, priorities=SumTree, **sizes)


def test_a_prioritised_atari_transition_costs_at_most_7200_bytes():
    nbytes = ReplayBuffer.nbytes_for(
        100_000, (84, 84), num_envs=8, n_step=3, stack=4, priorities=SumTree
    )
    assert nbytes / 100_000 <= 7200


def test_drawing_by_priority_follows_the_priorities():
    """χ² of 40 000 draws of 36: below the 99.9 % quantile of 35 degrees (66.6).

    Strata make the counts vary less than those of independent draws, and not differ more.
    """
    buffer = prioritised(n_step=3, num_envs=2, seed=1)
    play(buffer, [0.0] * 20, env=0, first=1)
    play(buffer, [0.0] * 20, env=1, first=100)
    batch = everything(buffer)
    errors = np.linspace(0.0, 2.0, buffer.size)
    buffer.update_priorities(batch.ids, -errors)
    buffer.check()
    drawn = np.concatenate([buffer.sample(32).states[:, -1, 0] for _ in range(1250)])
    counts = np.bincount(drawn, minlength=256)[batch.states[:, -1, 0]]
    priorities = (errors + 1e-6) ** 0.6
    expected = 40_000 * priorities / priorities.sum()
    assert counts.sum() == 40_000
    assert buffer.size == 36
    assert ((counts - expected) ** 2 / expected).sum() < 66.6


def test_importance_weights_are_those_of_the_paper():
    buffer = prioritised(seed=3)
    play(buffer, [0.0] * 20)
    batch = everything(buffer)
    errors = np.linspace(0.1, 2.0, buffer.size)
    buffer.update_priorities(batch.ids, errors)
    chances = dict(zip(batch.ids.tolist(), errors**0.6 / (errors**0.6).sum(), strict=True))
    drawn = buffer.sample(32, beta=0.4)
    weights = np.array([(buffer.size * chances[number]) ** -0.4 for number in drawn.ids.tolist()])
    np.testing.assert_allclose(drawn.weights, weights / weights.max(), rtol=1e-5)
    assert drawn.weights.max() == 1
    assert drawn.weights.min() < 0.7
    assert set(buffer.sample(32, beta=0.0).weights) == {1.0}


def test_an_exponent_of_zero_is_uniform():
    buffer = prioritised(priority_exponent=0.0)
    play(buffer, [0.0] * 20)
    batch = everything(buffer)
    buffer.update_priorities(batch.ids, np.arange(20.0))
    drawn = buffer.sample(20)  # one of each stratum, which is one transition
    assert sorted(drawn.ids) == sorted(batch.ids)
    assert set(drawn.weights) == {1.0}


def test_uniform_draws_weigh_the_same_and_have_no_priorities():
    buffer = make()
    play(buffer, [0.0] * 5)
    batch = buffer.sample(8, beta=0.4)
    assert set(batch.weights) == {1.0}
    buffer.update_priorities(batch.ids, np.arange(8.0))
    buffer.check()


def test_a_new_transition_has_the_largest_priority_so_far():
    buffer = prioritised()
    play(buffer, [0.0] * 5)
    first = everything(buffer).ids
    buffer.update_priorities(first, np.array([50.0, 0.1, 0.1, 0.1, 0.1]))
    buffer.update_priorities(first[:1], np.array([0.1]))
    play(buffer, [0.0], first=100, end="terminated")
    drawn = buffer.sample(3000).states[:, -1, 0]
    share = 50**0.6 / (50**0.6 + 5 * 0.1**0.6)
    assert abs((drawn == 100).mean() - share) < 0.001  # strata leave one draw to chance


def test_a_priority_that_comes_too_late_is_dropped():
    buffer = prioritised(capacity=6)
    play(buffer, [0.0] * 6)
    late = everything(buffer)
    for number in range(10, 14):  # four of the six are overwritten, their rows used again
        buffer.append(0, 0, 0.0, frame(number), terminated=False, truncated=False)
    before = dict(zip(late.ids.tolist(), late.states[:, -1, 0].tolist(), strict=True))
    buffer.update_priorities(late.ids, np.full(6, 1e6))
    buffer.check()
    now = everything(buffer)
    large = set(buffer.sample(2000).ids.tolist())
    assert large == set(late.ids.tolist()) & set(now.ids.tolist())
    assert {before[number] for number in large} == {5, 6}


def test_an_error_that_is_not_finite_leaves_a_priority_as_it_was():
    buffer = prioritised()
    play(buffer, [0.0] * 3)
    buffer.update_priorities(everything(buffer).ids, np.array([np.nan, np.inf, -np.inf]))
    buffer.check()
    assert set(buffer.sample(9).weights) == {1.0}


def test_states_share_memory_where_they_overlap_and_only_there():
    for n_step, is_shared in ((1, True), (2, False)):
        buffer = make(n_step=n_step)
        play(buffer, [0.0] * 6)
        batch, other = buffer.sample(4), buffer.sample(4)
        assert np.shares_memory(batch.states[:, -1], batch.next_states[:, 0]) is is_shared
        assert not np.shares_memory(batch.states, other.states)
        assert not np.shares_memory(batch.states, buffer._frames)


def test_frames_of_floats_are_kept_as_they_are():
    buffer = make(frame_shape=(4,), frame_dtype="float32", stack=1)
    frames = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    buffer.start(0, frames[0])
    for number in (1, 2):
        buffer.append(0, 0, 0.0, frames[number], terminated=number == 2, truncated=False)
    batch = everything(buffer)
    assert batch.states.dtype == np.float32
    assert np.array_equal(batch.states[:, 0], frames[:2])
    assert np.array_equal(batch.next_states[:, 0], frames[1:])


@pytest.mark.parametrize("name", ["_places", "_spans", "_depths", "_discounts", "_frames"])
def test_check_notices_a_broken_invariant(name):
    buffer = make()
    play(buffer, [0.0] * 5)
    getattr(buffer, name)[...] = 7
    with pytest.raises(AssertionError):
        buffer.check()
