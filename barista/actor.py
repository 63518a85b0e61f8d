"""Plays N copies of a game ε-greedily and writes down what happens.

Rewards are clipped here, on their way into the replay buffer; the returns that the actor reports
are of raw rewards.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from barista import dqn
from barista.learner import q_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    import caffe
    from barista.config import AgentConfig
    from barista.games.vector import VectorGame, VectorStep
    from replay import ReplayBuffer

    Epsilon: TypeAlias = float | NDArray[np.float64]  # of all copies, or of each: [N]

_CHOICES_KEPT = 1000  # of the network: what its favourite action is
_CHOICES_NEEDED = 200  # to speak of a favourite


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
        self._actions: NDArray[np.int64] | None = None  # of the step that is under way
        # By the network: how often it chose each action, in each of the last steps and in all.
        self._choices: deque[NDArray[np.int64]] = deque()
        self._steps_kept = -(-_CHOICES_KEPT // game.num_envs)
        self._times_chosen = np.zeros(game.spec.num_actions, np.int64)
        for env, frame in enumerate(game.reset()):
            replay.start(env, frame)

    def act(self, epsilon: Epsilon) -> int:
        """Step every copy once and return the agent steps taken: at most N.

        Fewer than N where copies have begun an episode instead: that pseudo-step has no action of
        ours and no reward, and only its frame enters the replay buffer.
        """
        self.send(epsilon)
        return self.store(self.receive())

    @property
    def is_stepping(self) -> bool:
        """Whether a step has been sent and not been received."""
        return self._actions is not None

    def send(self, epsilon: Epsilon) -> None:
        """Choose an action for every copy and have them begin a step."""
        self._actions = self._choose(epsilon)
        self._game.send(self._actions)

    def receive(self) -> VectorStep:
        """Wait until every copy has stepped; return what came of it."""
        return self._game.receive()

    def store(self, step: VectorStep) -> int:
        """Write down the step that was sent last and received; see `act`."""
        assert self._actions is not None
        actions: list[int] = self._actions.tolist()
        self._actions = None
        rewards = np.clip(step.rewards, -self._reward_limit, self._reward_limit).tolist()
        terminated, truncated = step.terminated.tolist(), step.truncated.tolist()
        resets: list[bool] = step.is_reset.tolist()
        for env, frame in enumerate(step.frames):
            if resets[env]:
                self._replay.start(env, frame)
            else:
                self._replay.append(
                    env,
                    actions[env],
                    rewards[env],
                    frame,
                    terminated=terminated[env],
                    truncated=truncated[env],
                )
        self._finished.returns.extend(step.episode_returns)
        self._finished.lengths.extend(step.episode_lengths)
        steps = len(actions) - sum(resets)
        self.steps += steps
        return steps

    def take_episodes(self) -> Episodes:
        """Return the episodes that have ended since the last call."""
        finished, self._finished = self._finished, Episodes([], [])
        return finished

    def action_share(self) -> float | None:
        """Return how often the network's favourite action was among its last 1000 choices.

        None while there are fewer than 200: at first, or where all is left to chance.
        """
        chosen = int(self._times_chosen.sum())
        return float(self._times_chosen.max() / chosen) if chosen >= _CHOICES_NEEDED else None

    def close(self) -> None:
        """Close the game; the actor must not be used afterwards."""
        if self.is_stepping:
            self.receive()
        self._game.close()

    def _choose(self, epsilon: Epsilon) -> NDArray[np.int64]:
        if np.min(epsilon) >= 1:  # the network has nothing to say
            return self._rng.integers(self._game.spec.num_actions, size=self._game.num_envs)
        q = q_values(self._net, self._game.states(), self._game.spec.num_actions)
        actions = dqn.epsilon_greedy(q, epsilon, self._rng)
        # What was drawn and happens to be the best is its choice too, and as often in any state.
        self._remember(actions[actions == q.argmax(axis=1)])
        return actions

    def _remember(self, chosen: NDArray[np.int64]) -> None:
        """Count what the network has chosen, and no more what it chose long ago."""
        times = np.bincount(chosen, minlength=len(self._times_chosen))
        self._choices.append(times)
        self._times_chosen += times
        if len(self._choices) > self._steps_kept:
            self._times_chosen -= self._choices.popleft()
