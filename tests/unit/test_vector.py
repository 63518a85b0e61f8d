"""Stacks and tallies that every vector of games is made of."""

import numpy as np

from barista.games.vector import FrameStack, Tally


def frame(value):
    return np.full((2, 2), value, np.uint8)


def test_a_stack_begins_with_zero_frames():
    stack = FrameStack(num_envs=2, stack=3, frame_shape=(2, 2))
    stack.start(0, frame(7))
    assert stack.states[0, :, 0, 0].tolist() == [0, 0, 7]
    assert not stack.states[1].any()


def test_a_stack_holds_the_newest_frames_oldest_first():
    stack = FrameStack(num_envs=1, stack=3, frame_shape=(2, 2))
    stack.start(0, frame(1))
    for value in (2, 3, 4):
        stack.push(0, frame(value))
    assert stack.states[0, :, 1, 1].tolist() == [2, 3, 4]
    stack.start(0, frame(9))
    assert stack.states[0, :, 1, 1].tolist() == [0, 0, 9]


def bools(*values):
    return np.array(values, bool)


def test_a_tally_counts_raw_rewards_and_no_pseudo_steps():
    tally = Tally(2)
    none = bools(False, False)
    assert tally.add(np.array([5.0, 1.0], np.float32), none, none) == ([], [])
    ended = tally.add(np.array([-2.0, 1.0], np.float32), bools(True, False), none)
    assert ended == ([3.0], [2])
    # Copy 0 now begins anew: that step neither lengthens nor rewards its next episode.
    tally.add(np.zeros(2, np.float32), none, bools(True, False))
    ended = tally.add(np.array([4.0, 1.0], np.float32), bools(True, True), none)
    assert ended == ([4.0, 3.0], [1, 4])


def test_a_cleared_tally_forgets():
    tally = Tally(1)
    tally.add(np.array([5.0], np.float32), bools(False), bools(False))
    tally.clear()
    assert tally.add(np.array([1.0], np.float32), bools(True), bools(False)) == ([1.0], [1])
