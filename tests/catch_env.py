"""`tests.catch_env:Catch-v0`: catch as a Gymnasium environment, for Baristas in processes."""

import gymnasium
import numpy as np

from tests.tiny import SIZE


class CatchEnv(gymnasium.Env):
    """The game of `tests.tiny.Catch`, one copy."""

    metadata = {"frame_stack": 1, "render_modes": []}  # noqa: RUF012 (gymnasium's own way)
    action_space = gymnasium.spaces.Discrete(3)
    observation_space = gymnasium.spaces.Box(0, 255, (SIZE, SIZE), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._row = 0
        self._ball, self._paddle = self.np_random.integers(SIZE, size=2)
        return self._draw(), {}

    def step(self, action):
        self._paddle = min(max(self._paddle + int(action) - 1, 0), SIZE - 1)
        self._row += 1
        over = self._row == SIZE - 1
        reward = 0.0 if not over else 1.0 if self._paddle == self._ball else -1.0
        return self._draw(), reward, over, False, {}

    def _draw(self):
        frame = np.zeros((SIZE, SIZE), np.uint8)
        frame[-1, self._paddle] = 128
        frame[self._row, self._ball] = 255
        return frame


gymnasium.register("Catch-v0", entry_point=CatchEnv)
