"""Atari games: settings spelled out, raw scores, full episodes, ROMs that are not there."""

import inspect
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv

from barista import games
from barista.games import UnsupportedGameError, ale


def test_every_argument_of_the_installed_vector_environment_is_given():
    parameters = set(inspect.signature(AtariVectorEnv.__init__).parameters) - {"self"}
    rules = games.protocol("ddq")
    assert set(ale.settings("pong", rules, num_envs=2, threads=1, evaluation=False)) == parameters


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


@pytest.mark.parametrize("evaluation", [False, True])
def test_too_long_an_episode_is_truncated_not_terminated(evaluation):
    limits = {"max_frames": 200, "training_max_frames": 120}
    rules = replace(games.protocol("nature"), **limits)
    vector = ale.AleVector("pong", "pong", rules, seeds=[1], evaluation=evaluation)
    vector.reset()
    for _ in range(60):
        step = vector.step(np.array([0]))
        if step.truncated.any():
            break
    assert (step.truncated.tolist(), step.terminated.tolist()) == ([True], [False])
    assert step.episode_lengths == [200 // 4 if evaluation else 120 // 4]  # no-ops do not count
    assert vector.step(np.array([0])).is_reset.tolist() == [True]
    vector.close()


def test_an_episode_begins_with_up_to_as_many_no_ops_as_the_protocol_says():
    rules = replace(games.protocol("nature"), noop_max=2)
    vector = ale.AleVector("pong", "pong", rules, seeds=[1])
    vector.reset()
    starts = [int(vector._envs.reset()[1]["episode_frame_number"][0]) for _ in range(40)]
    vector.close()
    assert set(starts) == {0, 1, 2}


def test_a_step_can_be_sent_and_received_later():
    at_once, later = (games.make("ALE/Breakout-v5", num_envs=2, seed=4) for _ in range(2))
    at_once.reset()
    later.reset()
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.integers(4, size=2)
        expected = at_once.step(actions)
        before = later.states()
        kept = before.copy()
        later.send(actions)
        assert np.array_equal(later.states(), kept)
        step = later.receive()
        assert np.array_equal(before, kept)  # what the network saw last is still there
        assert np.array_equal(later.states(), at_once.states())
        for got, wanted in zip(step, expected, strict=True):
            assert np.array_equal(got, wanted)
    at_once.close()
    later.send(actions)
    later.close()  # with a step under way


@pytest.mark.parametrize("actions", [[4], [-1]])
def test_an_action_that_does_not_exist_is_refused(actions):
    vector = games.make("ALE/Breakout-v5", num_envs=1, seed=0)
    vector.reset()
    with pytest.raises(ValueError, match="actions must lie below 4"):
        vector.step(np.array(actions))
    vector.close()


@pytest.fixture
def unplayable():
    """A registered game of ale-py whose ROM it does not have."""
    game = "ALE/NoSuchRom-v5"
    gymnasium.register(game, entry_point="ale_py.env:AtariEnv", kwargs={"game": "no_such_rom"})
    yield game
    del gymnasium.registry[game]


@pytest.mark.parametrize(
    "call",
    [
        games.spec,
        lambda game: games.make(game, num_envs=1, seed=0),
        lambda game: games.make_screen(game, seed=0),
    ],
)
def test_a_rom_that_ale_py_does_not_know(unplayable, call):
    with pytest.raises(UnsupportedGameError) as error:
        call(unplayable)
    assert str(error.value) == (
        "ALE/NoSuchRom-v5 needs the ROM no_such_rom.bin: ale-py knows no such ROM; reinstall "
        "ale-py, which carries the ROMs, or set ALE_ROMS_DIR to a folder that has it"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file or directory"), (b"torn", "does not match what was expected")],
)
def test_a_rom_that_is_missing_or_damaged(monkeypatch, tmp_path, content, reason):
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    if content is not None:
        (tmp_path / "pong.bin").write_bytes(content)
    with pytest.raises(UnsupportedGameError) as error:
        games.make("ALE/Pong-v5", num_envs=1, seed=0)
    assert reason in str(error.value)
    assert "reinstall ale-py" in str(error.value)
    assert "\n" not in str(error.value)


def test_making_a_game_prints_nothing(capfd):
    ale.cartridge.cache_clear()
    games.spec("ALE/Pong-v5")
    games.make("ALE/Pong-v5", num_envs=1, seed=0).close()
    assert capfd.readouterr() == ("", "")
