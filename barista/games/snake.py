"""Snake on a walled board: the game of Ong, Chavez and Hong, 2015 (arXiv 1508.04186).

Eating the apple gives +1 and lengthens the snake by one cell; hitting a wall or the body gives −1
and ends the episode.  Four absolute actions: up, right, down, left; a reversal into the own neck
is ignored, the snake goes on as it was.  An episode is cut off (truncated, not terminated) when
`hunger_limit` steps went by without an apple, so that circling ends; the hidden counter is not a
loss of life, and a learner bootstraps through it.  A board without a free cell is won: terminated.

The picture is 16×16 bytes, one per cell: the `size`×`size` board and its wall, centred, on zero.
Only changed cells are redrawn, so a step costs a few microseconds whatever the size.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

SNAKE_ID = "ddq/Snake-v0"
PIXELS = 16  # the picture's height and width
MAX_SIZE = PIXELS - 2  # a wall on each side
START_LENGTH = 3  # cells
MIN_SIZE = 5  # room for the first snake on either side of the middle

# Grey values, far apart: the network sees them divided by 255.
FREE, WALL, BODY, HEAD, APPLE = 0, 64, 128, 192, 255

# Up, right, down, left, as (row, column) steps; action a reverses action (a + 2) mod 4.
DIRECTIONS = ((-1, 0), (0, 1), (1, 0), (0, -1))

Cell = tuple[int, int]  # (row, column) of the picture


class SnakeEnv(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """One game of Snake; observations are uint8 [16, 16].

    Args:
        size: cells along a side of the board inside the wall, 5 to 14.
        hunger_limit: steps without an apple after which an episode is truncated; by default
            size², the time that a tour of the whole board takes.
        render_mode: None, or "rgb_array" for a picture of 12 pixels a cell.
    """

    metadata = {  # noqa: RUF012 - gymnasium's form
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "frame_stack": 2,  # the heading shows in two pictures; more learned no faster
    }

    def __init__(
        self, size: int = 10, hunger_limit: int | None = None, render_mode: str | None = None
    ) -> None:
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise ValueError(f"size must be {MIN_SIZE} to {MAX_SIZE} cells, got {size}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or rgb_array, got {render_mode}")
        self.size = size
        self.hunger_limit = size**2 if hunger_limit is None else hunger_limit
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (PIXELS, PIXELS), np.uint8)
        self.action_space = spaces.Discrete(len(DIRECTIONS))
        self._margin = (PIXELS - size) // 2
        self._empty = self._draw_empty()
        self._picture = self._empty.copy()
        self._body: deque[Cell] = deque()  # tail first, head last
        self._apple: Cell | None = None
        self._heading = 0
        self._hunger = 0  # steps since the last apple

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start with a straight snake of three cells in the middle, looking anywhere."""
        super().reset(seed=seed, options=options)
        self._picture[...] = self._empty
        self._heading = int(self.np_random.integers(len(DIRECTIONS)))
        down, right = DIRECTIONS[self._heading]
        middle = self._margin + self.size // 2
        self._body = deque(
            (middle - back * down, middle - back * right) for back in reversed(range(START_LENGTH))
        )
        for cell in self._body:
            self._picture[cell] = BODY
        self._picture[self._body[-1]] = HEAD
        self._hunger = 0
        self._place_apple()
        return self._picture.copy(), {}

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Move by one cell; the info is empty."""
        if (action + 2) % 4 != self._heading:
            self._heading = int(action)
        down, right = DIRECTIONS[self._heading]
        row, column = self._body[-1]
        head = (row + down, column + right)
        self._hunger += 1
        if head == self._apple:
            reward, terminated = 1.0, self._eat(head)
        else:
            terminated = self._crawl(head)
            reward = -1.0 if terminated else 0.0
        truncated = not terminated and self._hunger >= self.hunger_limit
        return self._picture.copy(), reward, terminated, truncated, {}

    def render(self) -> NDArray[np.uint8] | None:
        """Return the picture in grey, uint8 [192, 192, 3], or None without a render mode."""
        if self.render_mode is None:
            return None
        grey = self._picture.repeat(12, axis=0).repeat(12, axis=1)  # [192, 192]
        return np.stack([grey] * 3, axis=-1)  # [192, 192, 3]

    def _eat(self, head: Cell) -> bool:
        """Grow into the apple's cell; return whether the board is full."""
        self._picture[self._body[-1]] = BODY
        self._body.append(head)
        self._picture[head] = HEAD
        self._hunger = 0
        self._place_apple()
        return self._apple is None

    def _crawl(self, head: Cell) -> bool:
        """Move head and tail by one cell; return whether the snake died (and then stands still)."""
        # The tail moves away in the same step: following it closely is allowed.
        if self._picture[head] in (WALL, BODY) and head != self._body[0]:
            return True
        self._picture[self._body.popleft()] = FREE
        self._picture[self._body[-1]] = BODY
        self._body.append(head)
        self._picture[head] = HEAD
        return False

    def _place_apple(self) -> None:
        """Put the apple on a free cell, uniformly, or nowhere if there is none."""
        self._apple = self._free_cell()
        if self._apple is not None:
            self._picture[self._apple] = APPLE

    def _free_cell(self) -> Cell | None:
        low, high = self._margin, self._margin + self.size
        free = self.size**2 - len(self._body)
        if free == 0:
            return None
        # While many cells are free, drawing until one is free is far cheaper than listing them.
        if free * 4 > self.size**2:
            while True:
                row, column = self.np_random.integers(low, high, 2).tolist()
                if self._picture[row, column] == FREE:
                    return row, column
        rows, columns = np.nonzero(self._picture[low:high, low:high] == FREE)
        chosen = int(self.np_random.integers(free))
        return int(rows[chosen]) + low, int(columns[chosen]) + low

    def _draw_empty(self) -> NDArray[np.uint8]:
        picture = np.zeros((PIXELS, PIXELS), np.uint8)
        low, high = self._margin, self._margin + self.size
        picture[low - 1 : high + 1, low - 1 : high + 1] = WALL
        picture[low:high, low:high] = FREE
        return picture
