"""Screens: in lock-step with the copy that is played, in colour, large enough to see."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from barista import games
from barista.games import UnsupportedGameError, ale
from barista.games.screen import EnvScreen, enlarged

LUMA = np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("protocol", ["nature", "ale"])
def test_an_atari_screen_stays_in_lock_step(monkeypatch, protocol):
    # Played at the console's own size, a frame is the screen without its colours.
    game = "ALE/Breakout-v5"
    with monkeypatch.context() as native:
        native.setattr(ale, "FRAME_SHAPE", (210, 160))
        vector = games.make(game, num_envs=2, seed=5, evaluation=True, protocol=protocol)
        played = vector.reset()
    screen = games.make_screen(game, seed=5, copy=1, protocol=protocol)
    picture = screen.reset()
    assert screen.fps == {"nature": 15.0, "ale": 12.0}[protocol]
    rng = np.random.default_rng(0)
    resets = 0
    for _ in range(250):
        assert (picture.shape, picture.dtype) == ((210, 160, 3), np.uint8)
        # The maximum of two frames may mix colours of both: few pixels, where something moves.
        assert (np.abs(picture @ LUMA - played[1]) > 2).mean() < 0.01
        actions = rng.integers(vector.spec.num_actions, size=2)
        step = vector.step(actions)
        played, picture = step.frames, screen.step(int(actions[1]))
        resets += step.is_reset[1]
    vector.close()
    screen.close()
    assert resets


def test_a_taller_screen_is_shown_whole():
    screen = games.make_screen("ALE/Carnival-v5", seed=0)
    assert screen.reset().shape == (214, 160, 3)
    screen.close()


def test_snakes_screen_stays_in_lock_step():
    vector = games.make("ddq/Snake-v0", num_envs=3, seed=2, evaluation=True)
    screen = games.make_screen("ddq/Snake-v0", seed=2, copy=2)
    played, picture = vector.reset(), screen.reset()
    rng = np.random.default_rng(0)
    resets = 0
    for _ in range(200):
        assert picture.shape == (192, 192, 3)
        assert np.array_equal(picture[::12, ::12, 0], played[2])
        actions = rng.integers(4, size=3)
        step = vector.step(actions)
        played, picture = step.frames, screen.step(int(actions[2]))
        resets += step.is_reset[2]
    screen.close()
    assert resets
    assert screen.fps == 10.0


class Plain(gymnasium.Env):
    """Shows one image of bytes and cannot render itself."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(0, 255, (5, 7), np.uint8)
    render_mode = None
    is_closed = False

    def reset(self, *, seed=None, options=None):
        return np.arange(35, dtype=np.uint8).reshape(5, 7), {}

    def step(self, action):
        return np.zeros((5, 7), np.uint8), 0.0, False, False, {}

    def close(self):
        self.is_closed = True


class Broken(Plain):
    """Would draw itself, if its library were installed."""

    render_mode = "rgb_array"

    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is missing\nsecond line")


def test_an_environment_that_draws_nothing_shows_its_images():
    env = Plain()
    screen = EnvScreen("Plain-v0", env, seed=0)
    picture = screen.reset()
    assert picture.shape == (5 * 23, 7 * 23, 3)
    assert np.array_equal(picture[::23, ::23, 1], env.reset()[0])
    assert not screen.step(0).any()
    screen.close()
    assert env.is_closed


def test_an_environment_without_any_picture_is_refused_and_closed():
    env = Plain()
    env.observation_space = spaces.Box(0, 1, (4,))
    with pytest.raises(UnsupportedGameError, match="Plain-v0 cannot be recorded: it shows no im"):
        EnvScreen("Plain-v0", env, seed=0)
    assert env.is_closed


def test_a_missing_library_for_drawing_is_one_line():
    with pytest.raises(
        UnsupportedGameError, match=r"^Broken-v0 cannot be recorded: pygame is missing$"
    ):
        EnvScreen("Broken-v0", Broken(), seed=0).reset()


def test_an_image_is_enlarged_by_whole_factors():
    colours = np.arange(2 * 160 * 3).reshape(2, 160, 3).astype(np.uint8)
    assert np.array_equal(enlarged(colours), colours)
    assert enlarged(colours[:, :80]).shape == (4, 160, 3)
    assert enlarged(np.zeros((200, 10, 1), np.uint8)).shape == (200, 10, 3)
