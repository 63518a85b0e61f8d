"""The actor, on games that follow a script."""

import numpy as np
import pytest

from barista.actor import Actor
from barista.config import AgentConfig
from barista.games.vector import GameSpec, VectorStep
from replay import ReplayBuffer
from tests.tiny import Catch, SentAndReceived


class ScriptedGame(SentAndReceived):
    """Two copies; each step is given by the test: (rewards, terminated, truncated, is_reset)."""

    spec = GameSpec("script", num_actions=3, frame_shape=(1,), stack=2)
    num_envs = 2

    def __init__(self, steps, returns=()):
        self._steps, self._returns = list(steps), list(returns)
        self.actions, self.number, self.is_closed = [], 1, False

    def reset(self):
        return np.full((2, 1), 1, np.uint8)

    def step(self, actions):
        self.actions.append(actions.tolist())
        self.number += 1
        rewards, terminated, truncated, is_reset = self._steps.pop(0)
        returns = self._returns.pop(0) if self._returns else []
        return VectorStep(
            np.full((2, 1), self.number % 256, np.uint8), np.array(rewards, np.float32),
            np.array(terminated, bool), np.array(truncated, bool), np.array(is_reset, bool),
            returns, [7 for _ in returns],
        )  # fmt: skip

    def states(self):
        return np.full((2, 2, 1), self.number % 256, np.uint8)

    def close(self):
        self.is_closed = True


class Blob:
    def __init__(self, array):
        self.data, self.shape = array, array.shape


class TableNet:
    """A network whose Q values are given; remembers the states that it saw."""

    inputs = ("state",)

    def __init__(self, q):
        self.blobs = {"state": Blob(np.zeros((2, 2, 1), np.float32)), "Q_out": Blob(q)}
        self.seen = []

    def forward(self, state):
        self.seen.append(state.copy())


def plain(rewards=(0, 0)):
    return (rewards, [0, 0], [0, 0], [0, 0])


def make(game, *, net=None, reward_clip=True):
    replay = ReplayBuffer(
        20, frame_shape=(1,), stack=2, num_envs=2, n_step=1, gamma=0.5,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    config = AgentConfig(game="script", reward_clip=reward_clip)
    return Actor(game, net, replay, config, np.random.default_rng(1)), replay


def held(replay):
    return replay.take(np.arange(replay.size))


def test_a_step_of_all_copies_enters_the_replay():
    game = ScriptedGame([plain()])
    actor, replay = make(game)
    assert actor.act(1.0) == 2
    assert actor.steps == 2
    batch = held(replay)
    assert batch.states[:, :, 0].tolist() == [[0, 1], [0, 1]]
    assert batch.next_states[:, :, 0].tolist() == [[1, 2], [1, 2]]
    assert batch.actions.tolist() == game.actions[0]


def test_without_exploration_the_network_chooses():
    game = ScriptedGame([plain()])
    net = TableNet(np.array([[0, 1, 0], [5, 1, 0]], np.float32))
    actor, _ = make(game, net=net)
    actor.act(0.0)
    assert game.actions == [[1, 0]]
    assert np.array_equal(net.seen[0], np.full((2, 2, 1), 1))


def test_with_pure_exploration_the_network_is_not_asked():
    game = ScriptedGame([plain()] * 50)
    actor, _ = make(game, net=None)  # asking it would fail
    for _ in range(50):
        actor.act(1.0)
    assert {action for actions in game.actions for action in actions} == {0, 1, 2}


def test_copies_may_explore_at_different_rates():
    game = ScriptedGame([plain()] * 100)
    net = TableNet(np.array([[0, 1, 0], [0, 1, 0]], np.float32))
    actor, _ = make(game, net=net)
    for _ in range(100):
        actor.act(np.array([0.0, 1.0]))
    first, second = map(set, zip(*game.actions, strict=True))
    assert (first, second) == ({1}, {0, 1, 2})


def test_the_favourite_action_is_of_what_the_network_chose():
    game = ScriptedGame([plain()] * 900)
    net = TableNet(np.array([[0, 1, 0], [5, 1, 0]], np.float32))
    actor, _ = make(game, net=net)
    for _ in range(99):
        actor.act(0.0)
    assert actor.action_share() is None
    actor.act(0.0)
    assert actor.action_share() == 0.5
    net.blobs["Q_out"].data[:] = [0, 0, 1]
    for _ in range(250):
        actor.act(0.0)
    assert actor.action_share() == 500 / 700
    for _ in range(500):
        actor.act(0.3)
    assert actor.action_share() == 1.0  # what was drawn otherwise is not the network's


def test_what_was_chosen_by_chance_is_nobodys_favourite():
    actor, _ = make(ScriptedGame([plain()] * 300))
    for _ in range(300):
        actor.act(1.0)
    assert actor.action_share() is None


def test_a_step_may_be_under_way():
    game = ScriptedGame([plain(), plain()])
    actor, replay = make(game)
    assert not actor.is_stepping
    actor.send(1.0)
    assert (actor.is_stepping, actor.steps, replay.size) == (True, 0, 0)
    assert actor.store(actor.receive()) == 2
    assert (actor.is_stepping, actor.steps, replay.size) == (False, 2, 2)
    actor.send(1.0)
    actor.close()
    assert game.is_closed


def test_a_pseudo_step_begins_an_episode_and_is_no_transition():
    ended = ([1, 0], [1, 0], [0, 0], [0, 0])
    reset = ([0, 0], [0, 0], [0, 0], [1, 0])
    actor, replay = make(ScriptedGame([ended, reset, plain()]))
    assert [actor.act(1.0) for _ in range(3)] == [2, 1, 2]
    assert actor.steps == 5
    assert replay.size == 5
    states = sorted(held(replay).states[:, :, 0].tolist())
    # copy 0 begins again with frame 3; copy 1 goes on through frames 1, 2, 3
    assert states == [[0, 1], [0, 1], [0, 3], [1, 2], [2, 3]]


@pytest.mark.parametrize(
    ("terminated", "truncated", "discount"), [([1, 1], [0, 0], 0.0), ([0, 0], [1, 1], 0.5)]
)
def test_the_two_ends_of_an_episode_are_told_apart(terminated, truncated, discount):
    actor, replay = make(ScriptedGame([([0, 0], terminated, truncated, [0, 0])]))
    actor.act(1.0)
    assert held(replay).discounts.tolist() == [discount, discount]


def test_rewards_are_clipped_for_learning_only():
    actor, replay = make(ScriptedGame([plain([5, -3])], returns=[[5.0]]))
    actor.act(1.0)
    assert held(replay).rewards.tolist() == [1, -1]
    assert actor.take_episodes() == ([5.0], [7])


def test_clipping_can_be_left_out():
    actor, replay = make(ScriptedGame([plain([5, -3])]), reward_clip=False)
    actor.act(1.0)
    assert held(replay).rewards.tolist() == [5, -3]


def test_an_episode_is_reported_once():
    actor, _ = make(ScriptedGame([plain(), plain()], returns=[[1.0, 2.0], [3.0]]))
    actor.act(1.0)
    assert actor.take_episodes().returns == [1.0, 2.0]
    actor.act(1.0)
    assert actor.take_episodes() == ([3.0], [7])
    assert actor.take_episodes() == ([], [])


def test_closing_closes_the_game():
    game = ScriptedGame([])
    actor, _ = make(game)
    actor.close()
    assert game.is_closed


def test_a_whole_game_leaves_a_sound_replay():
    game = Catch(3, seed=0)
    replay = ReplayBuffer(
        60, frame_shape=(5, 5), stack=1, num_envs=3, n_step=3, gamma=0.9,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    actor = Actor(game, None, replay, AgentConfig(), np.random.default_rng(0))
    for _ in range(200):
        actor.act(1.0)
        replay.check()
    returns, lengths = actor.take_episodes()
    assert set(lengths) == {4}
    assert sum(lengths) <= actor.steps < sum(lengths) + 3 * 4
    assert set(returns) == {-1.0, 1.0}
