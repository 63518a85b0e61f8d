"""Atari games: settings spelled out, raw scores, full episodes."""

import inspect

import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv

from barista import games
from barista.games import ale


def test_every_argument_of_the_installed_vector_environment_is_given():
    parameters = set(inspect.signature(AtariVectorEnv.__init__).parameters) - {"self"}
    assert set(ale.settings("pong", 2, 1)) == parameters


def test_settings_that_decide_what_is_learned():
    settings = ale.settings("pong", 8, 2)
    wanted = {
        "reward_clipping": False,
        "repeat_action_probability": 0.0,
        "episodic_life": False,
        "frameskip": 4,
        "maxpool": True,
        "noop_max": 30,
        "full_action_space": False,
        "max_num_frames_per_episode": 108_000,
        "num_threads": 2,
        "stack_num": 4,
    }
    assert {name: settings[name] for name in wanted} == wanted


@pytest.fixture(scope="module")
def random_play():
    """Rewards, returns and lengths of random play, by game."""
    played = {}
    for game, steps in (("ALE/Pong-v5", 1300), ("ALE/SpaceInvaders-v5", 900)):
        vector = games.make(game, num_envs=2, seed=0, threads=1)
        vector.reset()
        rng = np.random.default_rng(0)
        rewards, returns, lengths = [], [], []
        for _ in range(steps):
            step = vector.step(rng.integers(vector.spec.num_actions, size=2))
            rewards.append(step.rewards)
            returns += step.episode_returns
            lengths += step.episode_lengths
        vector.close()
        played[game] = (np.array(rewards), returns, lengths)
    return played


def test_random_pong_loses_by_many_points(random_play):
    _, returns, lengths = random_play["ALE/Pong-v5"]
    assert len(returns) >= 2
    assert all(-21 <= value <= -15 and value == int(value) for value in returns)
    assert all(500 < length < 1300 for length in lengths)


def test_rewards_are_raw_scores(random_play):
    rewards, returns, _ = random_play["ALE/SpaceInvaders-v5"]
    assert set(np.unique(rewards)) > {0.0, 5.0, 10.0}
    assert max(returns) >= 50


def test_frames_are_the_newest_of_the_emulators_own_stack():
    vector = games.make("ALE/Breakout-v5", num_envs=2, seed=0)
    assert np.array_equal(vector.reset(), vector.states()[:, -1])
    for _ in range(20):
        step = vector.step(np.array([1, 3]))
        assert np.array_equal(step.frames, vector.states()[:, -1])
    vector.close()


def test_a_step_leaves_the_arrays_of_the_step_before_alone():
    vector = games.make("ALE/Breakout-v5", num_envs=1, seed=0)
    vector.reset()
    step, states = vector.step(np.array([1])), vector.states()
    kept = step.frames.copy(), step.rewards.copy(), step.is_reset.copy(), states.copy()
    for _ in range(200):
        vector.step(np.array([1]))
    for array, copy in zip((step.frames, step.rewards, step.is_reset, states), kept, strict=True):
        assert np.array_equal(array, copy)
    vector.close()


def test_number_of_threads_does_not_change_the_game():
    shown = []
    for threads in (1, 2):
        vector = games.make("ALE/Pong-v5", num_envs=3, seed=5, threads=threads)
        frames = [vector.reset().copy()]
        frames += [vector.step(np.full(3, 2)).frames.copy() for _ in range(60)]
        vector.close()
        shown.append(np.array(frames))
    assert np.array_equal(*shown)


def test_too_long_an_episode_is_truncated_not_terminated(monkeypatch):
    monkeypatch.setattr(ale, "MAX_FRAMES", 200)
    vector = games.make("ALE/Pong-v5", num_envs=1, seed=0)
    vector.reset()
    for _ in range(60):
        step = vector.step(np.array([0]))
        if step.truncated.any():
            break
    vector.close()
    assert step.truncated.tolist() == [True]
    assert step.terminated.tolist() == [False]
    assert 0 < step.episode_lengths[0] <= 200 / ale.FRAME_SKIP


def test_making_a_game_prints_nothing(capfd):
    ale.spec_of.cache_clear()
    games.make("ALE/Pong-v5", num_envs=1, seed=0).close()
    assert capfd.readouterr() == ("", "")
