"""Snake's rules, picture and speed."""

import time
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from barista import games
from barista.games.snake import APPLE, BODY, FREE, HEAD, MAX_SIZE, WALL, SnakeEnv

UP, RIGHT, DOWN, LEFT = range(4)


def _env(size=10, *, heading=UP, apple=(3, 3), **options):
    """Return a game whose snake looks in the given direction and whose apple lies at a cell."""
    env = SnakeEnv(size, **options)
    for seed in range(100):
        env.reset(seed=seed)
        if env._heading == heading and tuple(apple) not in env._body:
            break
    env._picture[env._apple] = FREE
    env._apple = tuple(apple)
    env._picture[env._apple] = APPLE
    return env


def _head(env):
    return env._body[-1]


def test_gymnasium_accepts_the_environment():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("ddq/Snake-v0", render_mode="rgb_array")
        check_env(env.unwrapped, skip_render_check=False)
        env.close()


def test_first_picture_shows_wall_body_head_and_apple():
    picture, info = SnakeEnv().reset(seed=0)
    values, counts = np.unique(picture, return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {
        FREE: 256 - 44 - 4,
        WALL: 44,
        BODY: 2,
        HEAD: 1,
        APPLE: 1,
    }
    assert info == {}


@pytest.mark.parametrize("size", [5, 9, 10, MAX_SIZE])
def test_wall_surrounds_the_board(size):
    picture, _ = SnakeEnv(size).reset(seed=0)
    wall = picture == WALL
    rows, columns = np.nonzero(wall)
    assert wall.sum() == 4 * size + 4
    assert rows.max() - rows.min() == columns.max() - columns.min() == size + 1


@pytest.mark.parametrize("size", [4, 15])
def test_sizes_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match="size must be 5 to 14 cells"):
        SnakeEnv(size)


def test_unknown_render_mode_is_refused():
    with pytest.raises(ValueError, match="render_mode must be None or rgb_array, got human"):
        SnakeEnv(render_mode="human")


@pytest.mark.parametrize(
    ("action", "moved"), [(UP, (-1, 0)), (RIGHT, (0, 1)), (LEFT, (0, -1)), (DOWN, (-1, 0))]
)
def test_actions_move_the_head_and_a_reversal_goes_straight_on(action, moved):
    env = _env(heading=UP)
    row, column = _head(env)
    _, reward, terminated, truncated, _ = env.step(action)
    assert _head(env) == (row + moved[0], column + moved[1])
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert len(env._body) == 3


def test_wall_kills():
    env = _env(heading=UP)
    steps = [env.step(UP)[1:4] for _ in range(6)]
    assert steps[-1] == (-1.0, True, False)
    assert all(step == (0.0, False, False) for step in steps[:-1])


def test_apple_rewards_and_lengthens():
    env = _env(heading=UP)
    row, column = _head(env)
    env._picture[env._apple] = FREE
    env._apple = (row - 1, column)
    env._picture[env._apple] = APPLE
    picture, reward, terminated, _, _ = env.step(UP)
    assert (reward, terminated) == (1.0, False)
    assert len(env._body) == 4
    assert (picture == BODY).sum() == 3
    assert (picture == APPLE).sum() == 1
    assert picture[row - 1, column] == HEAD


def _grow(env, cells):
    """Lay the snake along cells, tail first."""
    for cell in env._body:
        env._picture[cell] = FREE
    env._body.clear()
    for cell in cells:
        env._body.append(cell)
        env._picture[cell] = BODY
    env._picture[cells[-1]] = HEAD
    (row, column), (neck_row, neck_column) = cells[-1], cells[-2]
    moves = {(-1, 0): UP, (0, 1): RIGHT, (1, 0): DOWN, (0, -1): LEFT}
    env._heading = moves[row - neck_row, column - neck_column]


def test_own_body_kills():
    env = _env()
    _grow(env, [(8, 9), (8, 8), (8, 7), (7, 7), (7, 8)])
    assert env.step(DOWN)[1:4] == (-1.0, True, False)


def test_following_the_own_tail_is_allowed():
    env = _env()
    _grow(env, [(8, 8), (8, 7), (7, 7), (7, 8)])
    picture, reward, terminated, _, _ = env.step(DOWN)
    assert (reward, terminated) == (0.0, False)
    assert picture[8, 8] == HEAD
    assert (picture == BODY).sum() == 3


def test_last_apple_wins():
    env = _env(5)
    rows = [[(5 + row, 5 + column) for column in range(5)] for row in range(5)]
    tour = [cell for row in rows for cell in (row if row[0][0] % 2 else row[::-1])]
    env._picture[env._apple] = FREE
    _grow(env, tour[:-1])
    env._apple = tour[-1]
    env._picture[env._apple] = APPLE
    picture, reward, terminated, truncated, _ = env.step(RIGHT)
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert not (picture == APPLE).any()


def test_circling_is_truncated_not_terminated():
    env = _env(hunger_limit=20)
    for number in range(1, 21):
        _, reward, terminated, truncated, _ = env.step(number % 4)
        assert (reward, terminated, truncated) == (0.0, False, number == 20)


def test_picture_equals_one_drawn_from_scratch():
    """The incremental drawing against a twin that draws everything at every step."""
    env = SnakeEnv(6, hunger_limit=50)
    rng = np.random.default_rng(0)
    picture, _ = env.reset(seed=0)
    eaten = 0
    for _ in range(3000):
        twin = env._empty.copy()
        for cell in env._body:
            twin[cell] = BODY
        twin[env._body[-1]] = HEAD
        twin[env._apple] = APPLE
        assert np.array_equal(picture, twin)
        # Walk towards the apple nine times of ten, so that snakes grow long.
        action = rng.integers(4)
        if rng.random() < 0.9:
            (row, column), (apple_row, apple_column) = env._body[-1], env._apple
            action = (
                (UP if apple_row < row else DOWN)
                if apple_row != row
                else (LEFT if apple_column < column else RIGHT)
            )
        picture, reward, terminated, truncated, _ = env.step(action)
        eaten += reward > 0
        if terminated or truncated:
            picture, _ = env.reset()
    assert eaten > 100


@pytest.mark.parametrize("length", [3, 20])
def test_apples_fall_evenly_on_free_cells(length):
    """A chi-square test of both ways to draw a free cell: by trying, and from a list."""
    env = _env(5)
    board = [(5 + row, 5 + column) for row in range(5) for column in range(5)]
    for cell in board:
        env._picture[cell] = FREE
    env._body.clear()
    for cell in board[:length]:
        env._body.append(cell)
        env._picture[cell] = BODY
    draws = 4000
    drawn = [env._free_cell() for _ in range(draws)]
    free = board[length:]
    counts = np.array([drawn.count(cell) for cell in free])
    assert counts.sum() == draws
    expected = draws / len(free)
    assert ((counts - expected) ** 2 / expected).sum() < 47  # at most 21 degrees of freedom


def test_render_enlarges_the_picture():
    env = SnakeEnv(render_mode="rgb_array")
    picture, _ = env.reset(seed=0)
    image = env.render()
    assert (image.dtype, image.shape) == (np.uint8, (192, 192, 3))
    assert np.array_equal(image[::12, ::12, 1], picture)
    assert SnakeEnv().render() is None


def test_twenty_thousand_steps_a_second():
    vector = games.make("ddq/Snake-v0", num_envs=8, seed=0)
    vector.reset()
    actions = np.random.default_rng(0).integers(4, size=(1000, 8))
    started = time.process_time()
    for action in actions:
        vector.step(action)
    assert actions.size / (time.process_time() - started) > 20_000
