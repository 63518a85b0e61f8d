"""Other Gymnasium games: which are played, how colour becomes grey, how episodes follow."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from barista import games
from barista.games import UnsupportedGameError, gym


class Counter(gymnasium.Env):
    """Shows the number of the step in every pixel; ends after `length` steps."""

    def __init__(self, shape=(6, 7), dtype=np.uint8, actions=None, length=3, shows=None):
        self.observation_space = shows or spaces.Box(0, 255, shape, dtype)
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
        ({"actions": spaces.Box(-1, 1, (2,))}, "takes float32 numbers of shape (2,); Q-learning"),
        ({"actions": spaces.MultiDiscrete([2, 2])}, "takes values of a MultiDiscrete space; Q-le"),
        ({"actions": spaces.Discrete(3, start=1)}, "Discrete actions that start at 0: register it"),
        ({"dtype": np.float32}, "float32 numbers of shape (6, 7), neither an image of bytes nor"),
        ({"shape": (1025,)}, "shows vectors of 1025 numbers; 1 to 1024 can be played"),
        ({"shape": (0,)}, "shows vectors of 0 numbers"),
        ({"shape": ()}, "bytes of shape (), which is no grey or RGB image"),
        ({"shape": (6, 7, 4)}, "bytes of shape (6, 7, 4), which is no grey or RGB image"),
        ({"shape": (210, 160, 3)}, "images of 210x160, larger than 128x128; register it with a"),
        ({"shows": spaces.Dict({"a": spaces.Discrete(2)})}, "values of a Dict space; register"),
        ({"shows": spaces.MultiBinary(3)}, "values of a MultiBinary space; register it with a"),
    ],
)
def test_what_is_not_played_is_refused_in_one_line(options, reason):
    with pytest.raises(UnsupportedGameError) as error:
        gym.spec_of("Counter-v0", Counter(**options))
    assert reason in str(error.value)
    assert str(error.value).startswith("Counter-v0 ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("game", "reason"),
    [
        ("Pendulum-v1", r"takes float32 numbers of shape \(1,\)"),
        ("Blackjack-v1", "shows values of a Tuple space; .* gymnasium's FlattenObservation"),
    ],
)
def test_gymnasiums_own_games_of_other_kinds_are_refused(game, reason):
    with pytest.raises(UnsupportedGameError, match=f"^{game} {reason}"):
        games.spec(game)


@pytest.mark.parametrize(
    ("game", "num_actions", "numbers"),
    [
        ("CartPole-v1", 2, 4),
        ("Acrobot-v1", 3, 6),
        ("MountainCar-v0", 3, 2),
        ("FrozenLake-v1", 4, 16),
    ],
)
def test_games_that_show_a_short_vector_are_played(game, num_actions, numbers):
    spec = games.spec(game)
    assert spec == games.GameSpec(game, num_actions, (numbers,), 1, "float32")
    vector = games.make(game, num_envs=3, seed=0)
    assert vector.reset().shape == (3, numbers)
    step = vector.step(np.zeros(3, int))
    assert (vector.states().shape, vector.states().dtype) == ((3, 1, numbers), np.float32)
    assert np.array_equal(vector.states()[:, 0], step.frames)
    vector.close()


def test_a_vector_is_what_the_environment_shows():
    seeds = [3, 4]
    vector = gym.make_vector(
        "CartPole-v1", lambda: gymnasium.make("CartPole-v1"), num_envs=2, seeds=seeds
    )
    envs = [gymnasium.make("CartPole-v1") for _ in seeds]
    shown = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    assert np.array_equal(vector.reset(), shown)
    over = False
    while not over:
        steps = [env.step(1) for env in envs]
        step = vector.step(np.array([1, 1]))
        assert np.array_equal(step.frames, [each[0] for each in steps])
        over = any(each[2] for each in steps)
    assert step.terminated.tolist() == [each[2] for each in steps]
    vector.close()


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint8])
def test_vectors_of_any_type_become_float32(dtype):
    env = Counter((5,), dtype)
    assert gym.spec_of("Counter", env) == games.GameSpec("Counter", 2, (5,), 1, "float32")
    vector = gym.EnvVector(gym.spec_of("Counter", env), [env], [7])
    assert vector.reset().tolist() == [[1.0] * 5]
    assert vector.step(np.array([0])).frames.dtype == np.float32


def test_numbers_that_are_not_finite_are_passed_on():
    shown = gym.vector(np.array([1e300, -np.inf, np.nan, 0.5]))
    assert shown.dtype == np.float32
    assert shown[:2].tolist() == [np.inf, -np.inf]
    assert np.isnan(shown[2])


def test_a_discrete_observation_becomes_a_one_hot_vector():
    space = spaces.Discrete(3, start=2)
    assert gym.viewer(space)(np.int64(4)).tolist() == [0, 0, 1]
    assert gym.spec_of("Counter", Counter(shows=space)).frame_shape == (3,)
    with pytest.raises(UnsupportedGameError, match="vectors of 2000 numbers"):
        gym.spec_of("Counter", Counter(shows=spaces.Discrete(2000)))


def test_a_step_is_sent_and_then_received():
    env = Counter()
    vector = gym.EnvVector(gym.spec_of("Counter", env), [env], [7])
    vector.reset()
    vector.send(np.array([1]))
    assert vector.states()[0, -1, 0, 0] == 1
    assert vector.receive().rewards.tolist() == [2.5]
    assert vector.states()[0, -1, 0, 0] == 2


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
