"""Atari games against a slow twin: the emulator itself, stepped frame by frame in Python.

Frames are compared at the console's own size, where nothing is shrunk.
"""

from dataclasses import replace

import ale_py
import numpy as np
import pytest
from ale_py import roms

from barista import games
from barista.games import ale

SEED = 11


class Twin:
    """One copy of a game, written from the papers; the maximum of the last two frames is shown."""

    def __init__(self, rom, rules):
        self.emulator = ale_py.ALEInterface()
        self.emulator.setInt("random_seed", SEED)
        self.emulator.setFloat("repeat_action_probability", rules.sticky)
        self.emulator.loadROM(roms.get_rom_path(rom))
        self.rules = rules
        self.actions = (
            self.emulator.getLegalActionSet()
            if rules.full_actions
            else self.emulator.getMinimalActionSet()
        )
        self.total = 0.0

    def start(self):
        self.emulator.reset_game()
        self.total = 0.0
        return self.emulator.getScreenGrayscale()

    def step(self, action):
        """Return frame, reward, whether the game is over, whether a life was lost."""
        lives, reward, shown = self.emulator.lives(), 0, []
        for left in reversed(range(self.rules.frame_skip)):
            reward += self.emulator.act(self.actions[action])
            if left < 2:
                shown.append(self.emulator.getScreenGrayscale())
            if self.emulator.game_over():
                break
        self.total += reward
        is_over = self.emulator.game_over()
        frame = np.maximum(*shown) if len(shown) > 1 else None
        return frame, reward, is_over, self.emulator.lives() < lives


@pytest.fixture(autouse=True)
def native_frames(monkeypatch):
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    monkeypatch.setattr(ale, "FRAME_SHAPE", (210, 160))


def _start(rom, rules, *, evaluation=False):
    """A vector of one copy and its twin, both reset."""
    vector = ale.AleVector("twin", rom, rules, seeds=[SEED], evaluation=evaluation)
    twin = Twin(rom, rules)
    first = vector.reset()[0]
    assert np.array_equal(first, twin.start())
    return vector, twin


def _stacked(stack, frame, is_first):
    stack = np.zeros_like(stack) if is_first else stack
    return np.concatenate([stack[1:], frame[None]])


# What the no-op after a lost life may bring too: in long steps, points, another loss, the end.
@pytest.mark.parametrize(
    ("rom", "frame_skip", "steps", "idle"),
    [
        ("breakout", 4, 600, set()),
        ("road_runner", 60, 60, {"end"}),
        ("asteroids", 200, 40, {"loss", "score"}),
    ],
)
def test_a_lost_life_ends_the_learners_episode_and_not_the_game(rom, frame_skip, steps, idle):
    rules = replace(games.protocol("nature"), noop_max=0, frame_skip=frame_skip)
    vector, twin = _start(rom, rules)
    stack = vector.states()[0].copy()
    rng = np.random.default_rng(0)
    is_over = is_lost = False
    over = lost = length = 0
    happened = set()
    for _ in range(steps):
        action = int(rng.integers(vector.spec.num_actions))
        step = vector.step(np.array([action]))
        if is_over:  # a new game, its action ignored
            frame, reward, is_over, is_lost, length = twin.start(), 0, False, False, 0
            expected = (True, False, 0)
        elif is_lost:  # the same game goes on by a no-op
            frame, reward, is_over, is_lost = twin.step(0)
            length += 1
            happened |= {"loss"} if is_lost and not is_over else set()
            happened |= {"end"} if is_over else set()
            happened |= {"score"} if reward else set()
            expected = (True, False, 0)
        else:
            frame, reward, is_over, is_lost = twin.step(action)
            length += 1
            expected = (False, is_over or is_lost, reward)
        assert (step.is_reset[0], step.terminated[0], step.rewards[0]) == expected
        assert not step.truncated[0]
        if not is_over:
            assert np.array_equal(step.frames[0], frame)
        stack = _stacked(stack, step.frames[0], step.is_reset[0])
        assert np.array_equal(vector.states()[0], stack)
        assert step.episode_returns == ([twin.total] if is_over else [])
        assert step.episode_lengths == ([length] if is_over else [])
        over += is_over
        lost += is_lost
    vector.close()
    assert over >= 2
    assert lost > over
    assert happened == idle


def test_an_evaluation_plays_whole_games():
    rules = replace(games.protocol("nature"), noop_max=0)
    vector, twin = _start("breakout", rules, evaluation=True)
    rng = np.random.default_rng(0)
    lost = 0
    while True:
        action = int(rng.integers(4))
        step = vector.step(np.array([action]))
        _, reward, is_over, is_lost = twin.step(action)
        lost += is_lost
        assert (step.terminated[0], step.rewards[0], step.is_reset[0]) == (is_over, reward, False)
        if is_over:
            break
    vector.close()
    assert lost == 5
    assert step.episode_returns == [twin.total]


def _agreement(rules, other):
    """How many of 120 frames of random play under `rules` a twin under `other` shows too."""
    vector = ale.AleVector("twin", "space_invaders", rules, seeds=[SEED])
    twin = Twin("space_invaders", other)
    vector.reset()
    twin.start()
    rng = np.random.default_rng(0)
    same = 0
    for action in rng.integers(vector.spec.num_actions, size=120).tolist():
        frame, _, is_over, _ = twin.step(action)
        same += np.array_equal(vector.step(np.array([action])).frames[0], frame)
        assert not is_over
    vector.close()
    return same


def test_sticky_actions_are_the_emulators_at_a_quarter():
    rules = games.protocol("ale")
    assert _agreement(rules, rules) == 120
    assert _agreement(rules, replace(rules, sticky=0.1)) < 60
