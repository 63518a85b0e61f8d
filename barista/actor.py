"""Plays N copies of a game ε-greedily and writes down what happens.

Rewards are clipped here, on their way into the replay buffer; the returns that the actor reports
are of raw rewards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from barista import dqn
from barista.learner import q_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    import caffe
    from barista.config import AgentConfig
    from barista.games.vector import VectorGame
    from replay import ReplayBuffer


class Episodes(NamedTuple):
    """Finished episodes, in the order in which they ended."""

    returns: list[float]  # undiscounted sums of raw rewards
    lengths: list[int]  # agent steps


class Actor:
    """N copies of a game, stepped together.  Not thread-safe.

    The first state of each copy is asked for in the constructor.
    """

    def __init__(
        self,
        game: VectorGame,
        net: caffe.Net,
        replay: ReplayBuffer,
        config: AgentConfig,
        rng: np.random.Generator,
    ) -> None:
        self._game, self._net, self._replay, self._rng = game, net, replay, rng
        self._reward_limit = 1.0 if config.reward_clip else np.inf
        #: Agent steps taken so far; the pseudo-step that begins an episode is none.
        self.steps = 0
        self._finished = Episodes([], [])
        for env, frame in enumerate(game.reset()):
            replay.start(env, frame)

    def act(self, epsilon: float) -> int:
        """Step every copy once and return the agent steps taken: at most N.

        Fewer than N where copies have begun an episode instead: that pseudo-step has no action of
        ours and no reward, and only its frame enters the replay buffer.
        """
        actions = self._actions(epsilon)
        step = self._game.step(actions)
        rewards = np.clip(step.rewards, -self._reward_limit, self._reward_limit)
        for env, frame in enumerate(step.frames):
            if step.is_reset[env]:
                self._replay.start(env, frame)
            else:
                self._replay.append(
                    env,
                    int(actions[env]),
                    float(rewards[env]),
                    frame,
                    terminated=bool(step.terminated[env]),
                    truncated=bool(step.truncated[env]),
                )
        self._finished.returns.extend(step.episode_returns)
        self._finished.lengths.extend(step.episode_lengths)
        steps = len(actions) - int(step.is_reset.sum())
        self.steps += steps
        return steps

    def take_episodes(self) -> Episodes:
        """Return the episodes that have ended since the last call."""
        finished, self._finished = self._finished, Episodes([], [])
        return finished

    def close(self) -> None:
        """Close the game; the actor must not be used afterwards."""
        self._game.close()

    def _actions(self, epsilon: float) -> NDArray[np.int64]:
        if epsilon >= 1:  # the network has nothing to say
            return self._rng.integers(self._game.spec.num_actions, size=self._game.num_envs)
        return dqn.epsilon_greedy(q_values(self._net, self._game.states()), epsilon, self._rng)
