"""What a human would see of a game, beside the copy that a network plays: for recordings.

A network sees small grey frames; a film wants the whole screen in colour.  So the game is played
twice: from the same seed and with the same actions, a second copy goes through the same states,
sticky actions included, because all its chances come from its seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import gymnasium
import numpy as np
from ale_py.vector_env import AtariVectorEnv

from barista.games import ale
from barista.games.errors import UnsupportedGameError

if TYPE_CHECKING:
    from barista.games.gym import Env
    from barista.games.protocol import Protocol as Rules
    from barista.games.vector import Int64, UInt8

SMALLEST = 160  # pixels along the longer side of an enlarged picture
_FRAMES_PER_SECOND = 60  # of the Atari console
_FPS = 10.0  # where an environment names no speed of its own


class Screen(Protocol):
    """The screen of one copy of a game.  Not thread-safe.

    It is reset when the played copy is, and steps when that one does: pseudo-steps too, in which
    the action is ignored here as it is there.
    """

    @property
    def fps(self) -> float:
        """Pictures a second at which the game runs at its own speed."""

    def reset(self) -> UInt8:
        """Begin the first episode; return its first picture, uint8 [H, W, 3], RGB.

        Raises:
            UnsupportedGameError: If the game's library for drawing is not installed.
        """

    def step(self, action: int) -> UInt8:
        """Make the step that the played copy makes; return the picture, uint8 [H, W, 3], RGB."""

    def close(self) -> None:
        """Free what the screen holds."""


class AleScreen:
    """The console's screen at its own size, as the network sees it: two frames' maximum.

    Args:
        game: its Gymnasium id.
        rom: the ROM's name.
        rules: how it is played; as in an evaluation.
        seed: of the played copy.

    Raises:
        UnsupportedGameError: If the ROM cannot be had.
    """

    def __init__(self, game: str, rom: str, rules: Rules, seed: int) -> None:
        height, width = ale.cartridge(game, rom).screen
        played = ale.settings(rom, rules, num_envs=1, threads=1, evaluation=True)
        picture = {"grayscale": False, "img_height": height, "img_width": width, "stack_num": 1}
        self._envs = AtariVectorEnv(**{**played, **picture})
        self._seed: Int64 | None = np.array([seed])
        self.fps = _FRAMES_PER_SECOND / rules.frame_skip

    def reset(self) -> UInt8:
        """See `Screen`."""
        pictures, _ = self._envs.reset(seed=self._seed)  # [1, 1, H, W, 3]
        self._seed = None
        return _only(pictures)

    def step(self, action: int) -> UInt8:
        """See `Screen`."""
        return _only(self._envs.step(np.array([action]))[0])

    def close(self) -> None:
        """See `Screen`."""
        self._envs.close()
        del self._envs


class EnvScreen:
    """A Gymnasium environment as it renders itself, or its images enlarged.

    Args:
        game: its Gymnasium id.
        env: one environment, owned from here on; in render mode "rgb_array" if it has that.
        seed: of the played copy.

    Raises:
        UnsupportedGameError: If it neither renders itself nor shows images; it is closed then.
    """

    def __init__(self, game: str, env: Env, seed: int) -> None:
        self._game, self._env = game, env
        self._seed: int | None = seed
        self._is_over = False
        self._renders = env.render_mode == "rgb_array"
        self.fps = float(env.metadata.get("render_fps", _FPS))
        if not self._renders and len(env.observation_space.shape or ()) < 2:
            env.close()
            raise UnsupportedGameError(
                f"{game} cannot be recorded: it shows no images and has no render mode rgb_array"
            )

    def reset(self) -> UInt8:
        """See `Screen`."""
        observation, _ = self._env.reset(seed=self._seed)
        self._seed, self._is_over = None, False
        return self._picture(observation)

    def step(self, action: int) -> UInt8:
        """See `Screen`."""
        if self._is_over:
            return self.reset()
        observation, _, terminated, truncated, _ = self._env.step(action)
        self._is_over = bool(terminated or truncated)
        return self._picture(observation)

    def close(self) -> None:
        """See `Screen`."""
        self._env.close()

    def _picture(self, observation: UInt8) -> UInt8:
        if not self._renders:
            return enlarged(observation)
        try:
            picture: UInt8 = np.asarray(self._env.render(), np.uint8)
        except (gymnasium.error.Error, ImportError) as error:
            reason = str(error).splitlines()[0]
            raise UnsupportedGameError(f"{self._game} cannot be recorded: {reason}") from error
        return picture


def enlarged(image: UInt8) -> UInt8:
    """Return an image of bytes, [H, W], [H, W, 1] or [H, W, 3], in RGB and large enough to see."""
    if image.ndim == 2:
        image = image[:, :, None]
    factor = -(-SMALLEST // max(image.shape[:2]))
    image = np.broadcast_to(image, (*image.shape[:2], 3))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _only(pictures: UInt8) -> UInt8:
    picture: UInt8 = pictures[0, 0]
    return picture
