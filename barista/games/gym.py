"""Any Gymnasium game with discrete actions and images or short vectors, as a vector of copies.

This file decides which environments a Q-network of ours can play, what it sees of them, and steps N
of them one after the other: for games whose step takes microseconds, threads or processes would
only add to it.

Images of bytes become grey frames in a stack, of a size that needs no shrinking.  A vector of
numbers is one float32 frame, without a stack: such environments show their velocities.  Its bounds
do not matter, infinite ones neither, and nothing is scaled; but its numbers must be finite, or
every gradient that comes of them will be refused.  A Discrete observation is a one-hot vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import gymnasium
import numpy as np
from gymnasium import spaces

from barista.games.errors import UnsupportedGameError
from barista.games.vector import (
    Float32,
    Frames,
    FrameStack,
    GameSpec,
    Int64,
    Tally,
    UInt8,
    VectorStep,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STACK = 4  # images in a state, where an environment's metadata have no "frame_stack"
MAX_PIXELS = 128  # along a side; larger frames need a wrapper that shrinks them
MAX_NUMBERS = 1024  # in a vector

# ITU-R BT.601 weights of red, green and blue, in 1/256.
LUMA = np.array([77, 150, 29], np.uint16)

Env = gymnasium.Env[Any, Any]


class EnvVector:
    """N Gymnasium environments as one `VectorGame`.  Not thread-safe.

    Args:
        spec: of the game, from `spec_of`.
        envs: N environments, owned from here on.
        seeds: one for each environment's first reset; later episodes go on from there.
    """

    def __init__(self, spec: GameSpec, envs: Sequence[Env], seeds: Sequence[int]) -> None:
        self.spec = spec
        self.num_envs = len(envs)
        self._envs = list(envs)
        self._seeds: list[int | None] = list(seeds)
        self._see = viewer(envs[0].observation_space)
        self._stack = FrameStack(self.num_envs, spec.stack, spec.frame_shape, spec.dtype)
        self._tally = Tally(self.num_envs)
        self._over = np.ones(self.num_envs, np.bool_)  # the next step starts an episode
        self._actions: list[int] = []

    def reset(self) -> Frames:
        """Start a new episode everywhere; return its first frames, [N, *F]."""
        for env in range(self.num_envs):
            self._start(env)
        self._over[:] = False
        self._tally.clear()
        return self._newest()

    def send(self, actions: Int64) -> None:
        """Keep the actions: the work is done in `receive`."""
        self._actions = actions.tolist()

    def receive(self) -> VectorStep:
        """Step or restart every copy; see `VectorGame`."""
        is_reset = self._over.copy()
        rewards = np.zeros(self.num_envs, np.float32)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        for env, action in enumerate(self._actions):
            if is_reset[env]:
                self._start(env)
                continue
            observation, reward, terminated[env], truncated[env], _ = self._envs[env].step(action)
            rewards[env] = reward
            self._stack.push(env, self._see(observation))
        self._over = terminated | truncated
        returns, lengths = self._tally.add(rewards, self._over, is_reset)
        return VectorStep(
            self._newest(), rewards, terminated, truncated, is_reset, returns, lengths
        )

    def step(self, actions: Int64) -> VectorStep:
        """Send and receive."""
        self.send(actions)
        return self.receive()

    def states(self) -> Frames:
        """Return the current stacks, [N, C, *F]: a view that the next step changes."""
        return self._stack.states

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()

    def _start(self, env: int) -> None:
        observation, _ = self._envs[env].reset(seed=self._seeds[env])
        self._seeds[env] = None  # a second reset with a seed would replay the same episodes
        self._stack.start(env, self._see(observation))

    def _newest(self) -> Frames:
        frames: Frames = self._stack.states[:, -1].copy()  # [N, *F]
        return frames


def viewer(observations: spaces.Space[Any]) -> Callable[[Any], Frames]:
    """Return what makes a frame of an observation from a space that `spec_of` allows."""
    if isinstance(observations, spaces.Discrete):
        return lambda observation: one_hot(observation, observations)
    assert observations.shape is not None
    return vector if len(observations.shape) == 1 else grey


def one_hot(observation: int, space: spaces.Discrete) -> Float32:
    """Return a value of a Discrete space as float32 [n], one at its place and zeros."""
    frame = np.zeros(int(space.n), np.float32)
    frame[int(observation) - int(space.start)] = 1
    return frame


def vector(observation: Any) -> Float32:
    """Return numbers of any type, [D], as float32; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(observation).astype(np.float32)


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
        UnsupportedGameError: If its actions are not discrete, or its observations neither small
            images of bytes nor short vectors.
    """
    actions, observations = env.action_space, env.observation_space
    if not isinstance(actions, spaces.Discrete) or actions.start != 0:
        raise UnsupportedGameError(
            f"{game} takes {_short(actions)}; Q-learning needs Discrete actions that start at 0: "
            "register it with a wrapper that maps such onto its own, like gymnasium's "
            "TransformAction"
        )
    num_actions = int(actions.n)
    if isinstance(observations, spaces.Discrete):
        return _vector_spec(game, num_actions, int(observations.n))
    if not isinstance(observations, spaces.Box):
        _refuse(game, _short(observations), "FlattenObservation, which makes a vector of them")
    shape = observations.shape
    if len(shape) == 1:
        return _vector_spec(game, num_actions, shape[0])
    if observations.dtype != np.uint8:
        _refuse(
            game,
            f"{_short(observations)}, neither an image of bytes nor a vector",
            "FlattenObservation or RescaleObservation",
        )
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        _refuse(
            game,
            f"bytes of shape {shape}, which is no grey or RGB image",
            "FlattenObservation or GrayscaleObservation",
        )
    if max(shape[:2]) > MAX_PIXELS:
        _refuse(
            game,
            f"images of {shape[0]}x{shape[1]}, larger than {MAX_PIXELS}x{MAX_PIXELS}",
            "ResizeObservation, which shrinks them",
        )
    stack = int(env.metadata.get("frame_stack", STACK))
    return GameSpec(game, num_actions, (int(shape[0]), int(shape[1])), stack)


def _vector_spec(game: str, num_actions: int, numbers: int) -> GameSpec:
    if not 1 <= numbers <= MAX_NUMBERS:
        raise UnsupportedGameError(
            f"{game} shows vectors of {numbers} numbers; 1 to {MAX_NUMBERS} can be played"
        )
    return GameSpec(game, num_actions, (numbers,), stack=1, dtype="float32")


def _refuse(game: str, shown: str, wrapper: str) -> NoReturn:
    raise UnsupportedGameError(
        f"{game} shows {shown}; register it with a wrapper such as gymnasium's {wrapper}"
    )


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
    """Describe a space in a few words (a Box prints its bounds in full)."""
    if isinstance(space, spaces.Box):
        return f"{space.dtype} numbers of shape {space.shape}"
    if isinstance(space, spaces.Discrete):
        return str(space)
    return f"values of a {type(space).__name__} space"
