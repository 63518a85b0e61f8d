"""The catalogue of games: ids, errors, seeds, and the conduct that all games share."""

import gymnasium
import numpy as np
import pytest

from barista import games
from barista.games import GameSpec, UnknownGameError, UnsupportedGameError

SHORT_GAMES = ["ALE/Breakout-v5", "ddq/Snake-v0"]  # random play ends soon
ALL_GAMES = ["ALE/Pong-v5", *SHORT_GAMES]


def test_spec_of_pong():
    assert games.spec("ALE/Pong-v5") == GameSpec("ALE/Pong-v5", 6, (84, 84), 4)


def test_spec_of_snake():
    assert games.spec("ddq/Snake-v0") == GameSpec("ddq/Snake-v0", 4, (16, 16), 2)


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("Pong-v5", "ALE/Pong-v5"),
        ("Pong", "ALE/Pong-v5"),
        ("ALE/pong-v5", "ALE/Pong-v5"),
        ("ALE/Pong-v4", "ALE/Pong-v5"),
        ("ALE/Breakot-v5", "ALE/Breakout-v5"),
        ("mspacman", "ALE/MsPacman-v5"),
        ("Snake", "ddq/Snake-v0"),
        ("ddq/Snake-v1", "ddq/Snake-v0"),
        ("xyzzy", "ALE/Pong-v5 or ddq/Snake-v0"),
        ("", "ALE/Pong-v5 or ddq/Snake-v0"),
    ],
)
def test_unknown_game_suggests_close_names_in_one_line(typed, suggested):
    with pytest.raises(UnknownGameError) as error:
        games.spec(typed)
    assert suggested in str(error.value)
    assert typed in str(error.value)
    assert "\n" not in str(error.value)


def test_make_refuses_an_unknown_game_as_spec_does():
    with pytest.raises(UnknownGameError, match="did you mean ALE/Pong-v5"):
        games.make("Pong", num_envs=1, seed=0)


def test_old_atari_id_is_refused_with_the_one_to_use():
    with pytest.raises(UnsupportedGameError, match="use ALE/MsPacman-v5"):
        games.spec("MsPacmanNoFrameskip-v4")


def test_id_of_a_module_that_is_not_there():
    with pytest.raises(UnknownGameError, match="cannot import no_such_module_here"):
        games.spec("no_such_module_here:Some-v0")


def test_id_of_a_module_imports_it():
    assert games.spec("barista.games:ddq/Snake-v0").num_actions == 4


def test_game_whose_library_is_missing_is_one_line(monkeypatch):
    def fail(*_arguments, **_options):
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed\nsecond line")

    monkeypatch.setattr(gymnasium, "make", fail)
    with pytest.raises(
        UnsupportedGameError, match=r"^CartPole-v1 cannot be made: Box2D is not installed$"
    ):
        games.spec("CartPole-v1")


@pytest.mark.parametrize(("num_envs", "threads"), [(0, 1), (1, 0)])
def test_make_refuses_no_copies_and_no_threads(num_envs, threads):
    with pytest.raises(ValueError, match="must be positive"):
        games.make("ddq/Snake-v0", num_envs=num_envs, seed=0, threads=threads)


def _play(game, steps, *, num_envs=2, seed=0, evaluation=False):
    """Play at random; return the game's checks and everything that it showed."""
    vector = games.make(game, num_envs=num_envs, seed=seed, evaluation=evaluation)
    rng = np.random.default_rng(0)
    shown = [vector.reset().copy()]
    for _ in range(steps):
        step = vector.step(rng.integers(vector.spec.num_actions, size=num_envs))
        shown.append(step.frames.copy())
    vector.close()
    return np.array(shown)


@pytest.mark.parametrize("game", SHORT_GAMES)
def test_same_seed_same_game(game):
    assert np.array_equal(_play(game, 200), _play(game, 200))


@pytest.mark.parametrize("game", SHORT_GAMES)
def test_seeds_and_evaluation_change_the_game(game):
    frames = _play(game, 30)
    assert not np.array_equal(frames, _play(game, 30, seed=1))
    assert not np.array_equal(frames, _play(game, 30, evaluation=True))


def test_copies_differ():
    frames = _play("ddq/Snake-v0", 10, num_envs=4)
    assert not np.array_equal(frames[:, 0], frames[:, 1])


def test_neighbouring_seeds_share_no_seed_of_a_copy():
    drawn = [
        seed
        for base in range(4)
        for evaluation in (False, True)
        for seed in games._seeds(base, 16, evaluation=evaluation)
    ]
    assert len(set(drawn)) == len(drawn)
    assert min(drawn) >= 0
    assert max(drawn) < 2**31


@pytest.mark.parametrize("game", [*ALL_GAMES, "CartPole-v1"])
def test_conduct_of_a_vector_game(game):
    """Shapes, types, stacks, resets and returns, against a plain reading of the rules."""
    num_envs = 3
    vector = games.make(game, num_envs=num_envs, seed=3)
    spec = vector.spec
    assert spec == games.spec(game)
    assert vector.num_envs == num_envs
    frames = vector.reset()
    assert (frames.dtype, frames.shape) == (spec.dtype, (num_envs, *spec.frame_shape))
    stacks = np.zeros((num_envs, spec.stack, *spec.frame_shape), spec.dtype)
    stacks[:, -1] = frames
    assert np.array_equal(vector.states(), stacks)

    rng = np.random.default_rng(1)
    was_over = np.zeros(num_envs, bool)
    returns, lengths = np.zeros(num_envs), np.zeros(num_envs, int)
    resets = 0
    for _ in range(500):
        step = vector.step(rng.integers(spec.num_actions, size=num_envs))
        assert np.array_equal(step.is_reset, was_over)
        assert (step.rewards.dtype, step.frames.dtype) == (np.float32, spec.dtype)
        assert not step.rewards[step.is_reset].any()
        assert not (step.terminated | step.truncated)[step.is_reset].any()
        # The twin of the states: single frames, zeros before an episode's first.
        stacks = np.roll(stacks, -1, axis=1)
        stacks[step.is_reset] = 0
        stacks[:, -1] = step.frames
        assert np.array_equal(vector.states(), stacks)
        was_over = step.terminated | step.truncated
        returns += step.rewards
        lengths += ~step.is_reset
        assert step.episode_returns == returns[was_over].tolist()
        assert step.episode_lengths == lengths[was_over].tolist()
        returns[was_over], lengths[was_over] = 0, 0
        resets += step.is_reset.sum()
    vector.close()
    assert resets or game == "ALE/Pong-v5"  # a random game of Pong lasts longer


@pytest.mark.parametrize("game", ALL_GAMES)
def test_reset_in_the_middle_starts_afresh(game):
    vector = games.make(game, num_envs=2, seed=0)
    vector.reset()
    for _ in range(5):
        vector.step(np.zeros(2, np.int64))
    frames = vector.reset()
    states = vector.states()
    assert not states[:, :-1].any()
    assert np.array_equal(states[:, -1], frames)
    assert not vector.step(np.zeros(2, np.int64)).is_reset.any()
    vector.close()
