"""Games of a few steps whose scores say what was played: `tests.coin_env:Coin-v0` and `Echo-v0`.

They fit the network of `tests.tiny`: pictures of 5×5 bytes, one in a state, three actions.
"""

import gymnasium
import numpy as np


class Coin(gymnasium.Env):
    """Half of the episodes last one step and return -10, half last 30 steps and return 10."""

    metadata = {"frame_stack": 1, "render_modes": []}  # noqa: RUF012 (gymnasium's own way)
    observation_space = gymnasium.spaces.Box(0, 255, (5, 5), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.length = int(self.np_random.choice([1, 30]))
        self.steps = 0
        return np.zeros((5, 5), np.uint8), {}

    def step(self, action):
        self.steps += 1
        over = self.steps == self.length
        reward = (10.0 if self.length == 30 else -10.0) if over else 0.0
        return np.full((5, 5), self.steps, np.uint8), reward, over, False, {}


class Echo(Coin):
    """Rewards action 1; an episode lasts ten steps."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        self.length = 10
        return observation, info

    def step(self, action):
        observation, _, over, truncated, info = super().step(action)
        return observation, float(action == 1), over, truncated, info


class Numbers(Echo):
    """Echo that shows three numbers, and no pictures."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        _, *rest = super().step(action)
        return np.full(3, self.steps / 10, np.float32), *rest


gymnasium.register("Coin-v0", entry_point=Coin)
gymnasium.register("Echo-v0", entry_point=Echo)
gymnasium.register("Numbers-v0", entry_point=Numbers)
