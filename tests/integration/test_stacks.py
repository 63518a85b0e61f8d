"""What the network learns from is what it acted on: stacks rebuilt bit for bit, in every game."""

import numpy as np
import pytest

from barista import games
from barista.actor import Actor
from barista.config import AgentConfig
from replay import ReplayBuffer

NUM_ENVS = 2


class Recorded:
    """A game that remembers every state it was in."""

    def __init__(self, game):
        self._game, self.spec, self.num_envs = game, game.spec, game.num_envs
        self.before, self.after = set(), set()

    def reset(self):
        return self._game.reset()

    def send(self, actions):
        self._before = self._game.states().copy()
        self._game.send(actions)

    def receive(self):
        before, step, after = self._before, self._game.receive(), self._game.states()
        for env in np.flatnonzero(~step.is_reset):
            self.before.add(before[env].tobytes())
            self.after.add(after[env].tobytes())
        return step


@pytest.mark.parametrize(
    ("game", "protocol", "steps"),
    [
        ("ddq/Snake-v0", "ddq", 400),
        ("ALE/Pong-v5", "ddq", 1000),
        ("ALE/Breakout-v5", "nature", 400),  # lives are episodes
        ("CartPole-v1", "ddq", 200),
    ],
)
@pytest.mark.parametrize("n_step", [1, 3])
def test_the_replay_rebuilds_the_states_that_were_seen(game, protocol, steps, n_step):
    recorded = Recorded(games.make(game, num_envs=NUM_ENVS, seed=3, protocol=protocol))
    spec = recorded.spec
    replay = ReplayBuffer(
        NUM_ENVS * steps, frame_shape=spec.frame_shape, stack=spec.stack, num_envs=NUM_ENVS,
        n_step=n_step, gamma=0.99, rng=np.random.default_rng(0),
        frame_dtype=spec.dtype,
    )  # fmt: skip
    actor = Actor(recorded, None, replay, AgentConfig(), np.random.default_rng(0))
    while actor.steps < NUM_ENVS * steps:
        actor.act(1.0)
    replay.check()
    assert len(actor.take_episodes().returns) > 0
    batch = replay.take(np.arange(replay.size))
    assert replay.size > 0.8 * NUM_ENVS * steps
    assert {state.tobytes() for state in batch.states} <= recorded.before
    assert {state.tobytes() for state in batch.next_states} <= recorded.after
    recorded._game.close()
