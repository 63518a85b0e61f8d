"""Other Gymnasium games: which are played, how colour becomes grey, how episodes follow."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from barista import games
from barista.games import UnsupportedGameError, gym


class Counter(gymnasium.Env):
    """Shows the number of the step in every pixel; ends after `length` steps."""

    def __init__(self, shape=(6, 7), dtype=np.uint8, actions=None, length=3):
        self.observation_space = spaces.Box(0, 255, shape, dtype)
        self.action_space = actions or spaces.Discrete(2)
        self.length = length
        self.seeds = []
        self.closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.seeds.append(seed)
        self.steps = 0
        return self._show(), {}

    def step(self, action):
        self.steps += 1
        return self._show(), 2.5 * action, self.steps == self.length, False, {}

    def close(self):
        self.closed = True

    def _show(self):
        return np.full(self.observation_space.shape, self.steps + 1, self.observation_space.dtype)


@pytest.fixture
def register():
    """Register environments for one test; return the function that does it."""
    ids = []

    def one(game, entry_point, **options):
        gymnasium.register(game, entry_point=entry_point, **options)
        ids.append(game)

    yield one
    for game in ids:
        del gymnasium.registry[game]


def test_registered_image_game_is_played(register):
    register("test/Counter-v0", Counter)
    assert games.spec("test/Counter-v0") == games.GameSpec("test/Counter-v0", 2, (6, 7), 4)
    vector = games.make("test/Counter-v0", num_envs=2, seed=0)
    assert vector.reset().tolist() == np.full((2, 6, 7), 1).tolist()
    shown = []
    for action in (1, 0, 1, 1, 0):
        step = vector.step(np.array([action, 0]))
        shown.append(
            (
                step.frames[0, 0, 0].item(),
                step.rewards.tolist(),
                step.terminated[0].item(),
                step.is_reset[0].item(),
                step.episode_returns,
                step.episode_lengths,
            )
        )
    vector.close()
    assert shown == [
        (2, [2.5, 0], False, False, [], []),
        (3, [0, 0], False, False, [], []),
        (4, [2.5, 0], True, False, [5.0, 0.0], [3, 3]),
        (1, [0, 0], False, True, [], []),
        (2, [0, 0], False, False, [], []),
    ]


def test_time_limit_truncates(register):
    register("test/Endless-v0", Counter, kwargs={"length": 99}, max_episode_steps=2)
    vector = games.make("test/Endless-v0", num_envs=1, seed=0)
    vector.reset()
    vector.step(np.array([0]))
    step = vector.step(np.array([0]))
    vector.close()
    assert (step.truncated.tolist(), step.terminated.tolist()) == ([True], [False])
    assert step.episode_lengths == [2]


def test_only_the_first_reset_is_seeded():
    env = Counter(length=1)
    vector = gym.EnvVector(gym.spec_of("Counter", env), [env], [7])
    vector.reset()
    for _ in range(4):
        vector.step(np.array([0]))
    vector.reset()
    assert env.seeds == [7, None, None, None]


def test_step_before_reset_starts_an_episode():
    env = Counter()
    vector = gym.EnvVector(gym.spec_of("Counter", env), [env], [7])
    assert vector.step(np.array([0])).is_reset.tolist() == [True]


def test_close_closes_every_environment():
    envs = [Counter(), Counter()]
    gym.EnvVector(gym.spec_of("Counter", envs[0]), envs, [0, 1]).close()
    assert [env.closed for env in envs] == [True, True]


def test_grey_leaves_grey_alone_and_weighs_colours():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(gym.grey(image), image)
    assert np.array_equal(gym.grey(image[:, :, None]), image)
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    expected = [round(255 * weight) for weight in (0.299, 0.587, 0.114)]
    assert np.abs(gym.grey(colours)[0, :3].astype(int) - expected).max() <= 1
    assert gym.grey(colours)[0, 3] == 255
    assert gym.grey(colours).dtype == np.uint8


@pytest.mark.parametrize("shape", [(6, 7, 1), (6, 7, 3)])
def test_colour_and_single_channel_images_are_played(shape):
    assert gym.spec_of("Counter", Counter(shape)).frame_shape == (6, 7)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"actions": spaces.Box(-1, 1, (2,))}, "needs Discrete ones"),
        ({"actions": spaces.Discrete(3, start=1)}, "needs Discrete ones that start at 0"),
        ({"dtype": np.float32}, "shows float32 numbers of shape (6, 7), not an image of bytes"),
        ({"shape": (9,)}, "bytes of shape (9,), which is no grey or RGB image"),
        ({"shape": (6, 7, 4)}, "bytes of shape (6, 7, 4), which is no grey or RGB image"),
        ({"shape": (210, 160, 3)}, "images of 210x160, larger than 128x128"),
    ],
)
def test_what_is_not_played_is_refused_in_one_line(options, reason):
    with pytest.raises(UnsupportedGameError) as error:
        gym.spec_of("Counter-v0", Counter(**options))
    assert reason in str(error.value)
    assert str(error.value).startswith("Counter-v0 ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("game", ["CartPole-v1", "Pendulum-v1", "Blackjack-v1", "FrozenLake-v1"])
def test_gymnasiums_own_games_without_images_are_refused(game):
    with pytest.raises(UnsupportedGameError, match=game):
        games.spec(game)


def test_refused_environment_is_closed():
    env = Counter(dtype=np.float32)
    with pytest.raises(UnsupportedGameError):
        gym.make_vector("Counter", lambda: env, num_envs=2, seeds=[0, 1])
    assert env.closed


def test_an_environment_may_choose_its_stack(monkeypatch):
    monkeypatch.setattr(Counter, "metadata", {"frame_stack": 3})
    assert gym.spec_of("Counter", Counter()).stack == 3
    vector = gym.make_vector("Counter", Counter, num_envs=2, seeds=[0, 1])
    vector.reset()
    assert vector.states().shape == (2, 3, 6, 7)


def test_a_default_stack_is_four_frames():
    assert gym.spec_of("Counter", Counter()).stack == 4
