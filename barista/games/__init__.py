"""Games: `make` gives N copies of one, `spec` says what a network must know of it.

`ALE/…` ids are played by ale-py's vector environment, all others as Gymnasium environments, among
them `ddq/Snake-v0`, which importing this package registers.
"""

from __future__ import annotations

import difflib
import importlib
import re
from typing import TYPE_CHECKING

import ale_py
import gymnasium
import numpy as np

from barista.games import ale, gym, snake
from barista.games.errors import GameError, UnknownGameError, UnsupportedGameError
from barista.games.vector import GameSpec, VectorGame, VectorStep

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

__all__ = [
    "GameError",
    "GameSpec",
    "UnknownGameError",
    "UnsupportedGameError",
    "VectorGame",
    "VectorStep",
    "make",
    "spec",
]

gymnasium.register_envs(ale_py)
if snake.SNAKE_ID not in gymnasium.registry:
    gymnasium.register(snake.SNAKE_ID, entry_point="barista.games.snake:SnakeEnv")


def spec(game: str) -> GameSpec:
    """Return what a network must know of a game; makes at most one copy of it.

    Raises:
        UnknownGameError: If no game has this id; the message suggests some.
        UnsupportedGameError: If a Q-network of ours cannot play it.
    """
    rom = _rom(game)
    if rom is not None:
        return ale.spec_of(game, rom)
    env = _make_env(game)
    try:
        return gym.spec_of(game, env)
    finally:
        env.close()


def make(
    game: str, *, num_envs: int, seed: int, threads: int = 1, evaluation: bool = False
) -> VectorGame:
    """Return N copies of a game, not yet reset.

    Training and evaluation play by the same rules: full episodes, raw rewards, random starts.
    They differ in their seeds only, so that no evaluation replays what training has seen.

    Args:
        game: a Gymnasium id, such as ALE/Pong-v5.
        num_envs: N, at least 1.
        seed: at least 0; each copy gets a seed of its own from it.
        threads: of the emulator, where it has threads.
        evaluation: whether to draw the seeds for evaluation.

    Raises:
        UnknownGameError: If no game has this id; the message suggests some.
        UnsupportedGameError: If a Q-network of ours cannot play it.
        ValueError: If there are no copies or threads.
    """
    if num_envs < 1 or threads < 1:
        raise ValueError(f"num_envs and threads must be positive, got {num_envs} and {threads}")
    seeds = _seeds(seed, num_envs, evaluation=evaluation)
    rom = _rom(game)
    if rom is not None:
        return ale.AleVector(ale.spec_of(game, rom), rom, seeds=seeds, threads=threads)
    return gym.make_vector(game, lambda: _make_env(game), num_envs=num_envs, seeds=seeds)


def _seeds(seed: int, num_envs: int, *, evaluation: bool) -> list[int]:
    """Return N seeds of 31 bits: neighbouring seeds share none, as `seed + i` would."""
    sequence = np.random.SeedSequence(seed, spawn_key=(int(evaluation),))
    seeds: list[int] = (sequence.generate_state(num_envs) >> 1).tolist()
    return seeds


def _rom(game: str) -> str | None:
    """Return the ROM's name of an `ALE/…` id, None for another registered game.

    Raises:
        UnknownGameError: If the id is not registered, or its module cannot be imported.
        UnsupportedGameError: If it is one of gym's old ids of an Atari game.
    """
    registered = _registered(game)
    if not str(registered.entry_point).startswith("ale_py"):
        return None
    rom = str(registered.kwargs["game"])
    if registered.namespace != "ALE":
        title = "".join(word.capitalize() for word in rom.split("_"))
        raise UnsupportedGameError(f"{game}: Atari games have other ids here; use ALE/{title}-v5")
    return rom


def _registered(game: str) -> EnvSpec:
    """Look an id up; `module:id`, as gymnasium allows, imports the module that registers it."""
    module, _, name = game.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UnknownGameError(f"no game {game}: cannot import {module}: {error}") from error
    registered = gymnasium.registry.get(name)
    if registered is None:
        raise UnknownGameError(_unknown(name))
    return registered


def _make_env(game: str) -> gym.Env:
    """Make one environment of a registered id.

    Raises:
        UnsupportedGameError: If it needs something that is not installed, or is out of date.
    """
    if game == snake.SNAKE_ID:
        return snake.SnakeEnv()  # without gymnasium's checking wrappers, which cost more than it
    try:
        return gymnasium.make(game, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsupportedGameError(f"{game} cannot be made: {reason}") from error


def _unknown(game: str) -> str:
    """Return the line about an unregistered id, with up to three that look like it."""
    # People forget the capitals, the namespace and the version; ids differ in little else.
    # The newest version of a name is registered last and stays.
    names = {_stem(name): name for name in gymnasium.registry}
    stem = _stem(game)
    close = [stem] if stem in names else difflib.get_close_matches(stem, names, n=3)
    if not close:
        return f"no game {game}; ids look like ALE/Pong-v5 or {snake.SNAKE_ID}"
    return f"no game {game}; did you mean {' or '.join(names[match] for match in close)}?"


def _stem(game: str) -> str:
    """Return an id without namespace and version, in small letters: "pong" of ALE/Pong-v5."""
    return re.sub(r"-v\d+$", "", game.rpartition("/")[2].lower())
