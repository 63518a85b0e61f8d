"""Any Gymnasium game with discrete actions and byte images, played as a vector of copies.

This file decides which environments a Q-network of ours can play (grey or colour images of bytes,
of a size that needs no shrinking) and steps N of them one after the other: for games whose step
takes microseconds, threads or processes would only add to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from barista.games.errors import UnsupportedGameError
from barista.games.vector import FrameStack, GameSpec, Int64, Tally, UInt8, VectorStep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STACK = 4  # frames in a state, where an environment's metadata have no "frame_stack"
MAX_PIXELS = 128  # along a side; larger frames need a wrapper that shrinks them

# ITU-R BT.601 weights of red, green and blue, in 1/256.
LUMA = np.array([77, 150, 29], np.uint16)

Env = gymnasium.Env[Any, Any]


class EnvVector:
    """N Gymnasium environments as one `VectorGame`.  Not thread-safe.

    Args:
        spec: of the game; frames as `grey` makes them.
        envs: N environments, owned from here on.
        seeds: one for each environment's first reset; later episodes go on from there.
    """

    def __init__(self, spec: GameSpec, envs: Sequence[Env], seeds: Sequence[int]) -> None:
        self.spec = spec
        self.num_envs = len(envs)
        self._envs = list(envs)
        self._seeds: list[int | None] = list(seeds)
        self._stack = FrameStack(self.num_envs, spec.stack, spec.frame_shape)
        self._tally = Tally(self.num_envs)
        self._over = np.ones(self.num_envs, np.bool_)  # the next step starts an episode

    def reset(self) -> UInt8:
        """Start a new episode everywhere; return its first frames, uint8 [N, H, W]."""
        for env in range(self.num_envs):
            self._start(env)
        self._over[:] = False
        self._tally.clear()
        return self._newest()

    def step(self, actions: Int64) -> VectorStep:
        """Step or restart every copy; see `VectorGame`."""
        is_reset = self._over.copy()
        rewards = np.zeros(self.num_envs, np.float32)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        for env, action in enumerate(actions.tolist()):
            if is_reset[env]:
                self._start(env)
                continue
            observation, reward, terminated[env], truncated[env], _ = self._envs[env].step(action)
            rewards[env] = reward
            self._stack.push(env, grey(observation))
        self._over = terminated | truncated
        returns, lengths = self._tally.add(rewards, self._over, is_reset)
        return VectorStep(
            self._newest(), rewards, terminated, truncated, is_reset, returns, lengths
        )

    def states(self) -> UInt8:
        """Return the current stacks, uint8 [N, C, H, W]: a view that the next step changes."""
        return self._stack.states

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()

    def _start(self, env: int) -> None:
        observation, _ = self._envs[env].reset(seed=self._seeds[env])
        self._seeds[env] = None  # a second reset with a seed would replay the same episodes
        self._stack.start(env, grey(observation))

    def _newest(self) -> UInt8:
        frames: UInt8 = self._stack.states[:, -1].copy()  # [N, H, W]
        return frames


def grey(observation: UInt8) -> UInt8:
    """Return an image of bytes [H, W], [H, W, 1] or [H, W, 3] (RGB) as one grey frame [H, W]."""
    if observation.ndim == 2:
        return observation
    if observation.shape[2] == 1:
        return observation[:, :, 0]
    frame: UInt8 = ((observation @ LUMA) >> 8).astype(np.uint8)
    return frame


def spec_of(game: str, env: Env) -> GameSpec:
    """Return the spec of a Gymnasium environment.

    Raises:
        UnsupportedGameError: If its actions are not discrete, or its observations no small images
            of bytes.
    """
    actions, observations = env.action_space, env.observation_space
    if not isinstance(actions, spaces.Discrete) or actions.start != 0:
        raise UnsupportedGameError(
            f"{game} has actions {actions}; Q-learning needs Discrete ones that start at 0"
        )
    if not isinstance(observations, spaces.Box) or observations.dtype != np.uint8:
        raise UnsupportedGameError(
            f"{game} shows {_short(observations)}, not an image of bytes; "
            "only image games are played so far"
        )
    shape = observations.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise UnsupportedGameError(
            f"{game} shows bytes of shape {shape}, which is no grey or RGB image"
        )
    if max(shape[:2]) > MAX_PIXELS:
        raise UnsupportedGameError(
            f"{game} shows images of {shape[0]}x{shape[1]}, larger than {MAX_PIXELS}x{MAX_PIXELS}; "
            "register it with a wrapper that shrinks them, such as gymnasium's ResizeObservation"
        )
    stack = int(env.metadata.get("frame_stack", STACK))
    return GameSpec(game, int(actions.n), (int(shape[0]), int(shape[1])), stack)


def make_vector(
    game: str, make_env: Callable[[], Env], *, num_envs: int, seeds: Sequence[int]
) -> EnvVector:
    """Return N fresh copies of a game.

    Args:
        game: its id, for messages and the spec.
        make_env: makes one environment.
        num_envs: N.
        seeds: N of them.

    Raises:
        UnsupportedGameError: As `spec_of`; every environment made is closed again.
    """
    envs = [make_env()]
    try:
        spec = spec_of(game, envs[0])
    except UnsupportedGameError:
        envs[0].close()
        raise
    envs += [make_env() for _ in range(num_envs - 1)]
    return EnvVector(spec, envs, seeds)


def _short(space: spaces.Space[Any]) -> str:
    """Describe an observation space in a few words (a Box prints its bounds in full)."""
    if isinstance(space, spaces.Box):
        return f"{space.dtype} numbers of shape {space.shape}"
    return type(space).__name__
