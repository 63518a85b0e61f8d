"""Games: `make` gives N copies of one, `spec` says what a network must know of it.

`make_screen` shows one of the copies to a human, `protocol` knows the rules of Atari games by name.

`ALE/…` ids are played by ale-py's vector environment, all others as Gymnasium environments, among
them `ddq/Snake-v0`, which importing this package registers.
"""

from __future__ import annotations

import difflib
import importlib
import re
from typing import TYPE_CHECKING, Any

import ale_py
import gymnasium
import numpy as np

from barista.games import ale, gym, snake
from barista.games.errors import GameError, UnknownGameError, UnsupportedGameError
from barista.games.protocol import PROTOCOLS, Protocol, named
from barista.games.screen import AleScreen, EnvScreen, Screen
from barista.games.vector import GameSpec, VectorGame, VectorStep

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

__all__ = [
    "PROTOCOLS",
    "GameError",
    "GameSpec",
    "Protocol",
    "Screen",
    "UnknownGameError",
    "UnsupportedGameError",
    "VectorGame",
    "VectorStep",
    "make",
    "make_screen",
    "protocol",
    "spec",
]

protocol = named  # as a caller reads it: games.protocol("nature")

gymnasium.register_envs(ale_py)
if snake.SNAKE_ID not in gymnasium.registry:
    gymnasium.register(snake.SNAKE_ID, entry_point="barista.games.snake:SnakeEnv")


def spec(game: str, protocol: str = "ddq") -> GameSpec:
    """Return what a network must know of a game; makes at most one copy of it.

    Args:
        game: a Gymnasium id, such as ALE/Pong-v5.
        protocol: a key of `PROTOCOLS`: it decides how many actions an Atari game has.

    Raises:
        UnknownGameError: If no game has this id; the message suggests some.
        UnsupportedGameError: If a Q-network of ours cannot play it.
        GameError: If there is no such protocol.
    """
    rules = named(protocol)
    rom = _rom(game)
    if rom is not None:
        return ale.spec_of(game, rom, rules)
    env = _make_env(game)
    try:
        return gym.spec_of(game, env)
    finally:
        env.close()


def make(
    game: str,
    *,
    num_envs: int,
    seed: int,
    threads: int = 1,
    evaluation: bool = False,
    protocol: str = "ddq",
) -> VectorGame:
    """Return N copies of a game, not yet reset.

    Rewards are raw, and starts are random in training and evaluation alike.  The two differ in
    their seeds, so that no evaluation replays what training has seen, and in what the protocol
    says: where episodes are cut off, and whether a lost life ends one for the learner.

    Args:
        game: a Gymnasium id, such as ALE/Pong-v5.
        num_envs: N, at least 1.
        seed: at least 0; each copy gets a seed of its own from it.
        threads: of the emulator, where it has threads.
        evaluation: whether this is for an evaluation.
        protocol: a key of `PROTOCOLS`, the rules of Atari games; others have their own.

    Raises:
        UnknownGameError: If no game has this id; the message suggests some.
        UnsupportedGameError: If a Q-network of ours cannot play it.
        GameError: If there is no such protocol.
        ValueError: If there are no copies or threads.
    """
    if num_envs < 1 or threads < 1:
        raise ValueError(f"num_envs and threads must be positive, got {num_envs} and {threads}")
    rules = named(protocol)
    seeds = _seeds(seed, num_envs, evaluation=evaluation)
    rom = _rom(game)
    if rom is not None:
        return ale.AleVector(game, rom, rules, seeds=seeds, threads=threads, evaluation=evaluation)
    return gym.make_vector(game, lambda: _make_env(game), num_envs=num_envs, seeds=seeds)


def make_screen(game: str, *, seed: int, copy: int = 0, protocol: str = "ddq") -> Screen:
    """Return the screen of one copy of an evaluation's games, not yet reset.

    Args:
        game: a Gymnasium id.
        seed: that `make` was given, with `evaluation=True`.
        copy: which of the copies, from 0.
        protocol: that `make` was given.

    Raises:
        UnknownGameError: If no game has this id; the message suggests some.
        UnsupportedGameError: If it has nothing to show.
        GameError: If there is no such protocol.
    """
    rules = named(protocol)
    own_seed = _seeds(seed, copy + 1, evaluation=True)[copy]
    rom = _rom(game)
    if rom is not None:
        return AleScreen(game, rom, rules, own_seed)
    env = _make_env(game)
    if "rgb_array" in env.metadata.get("render_modes", ()):
        env.close()
        env = _make_env(game, render_mode="rgb_array")
    return EnvScreen(game, env, own_seed)


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


def _make_env(game: str, render_mode: str | None = None) -> gym.Env:
    """Make one environment of a registered id, with a render mode that it has.

    Raises:
        UnsupportedGameError: If it needs something that is not installed, or is out of date.
    """
    if game == snake.SNAKE_ID:  # without gymnasium's checking wrappers, which cost more than it
        return snake.SnakeEnv(render_mode=render_mode)
    try:
        # Not every environment knows the word.
        drawn: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        return gymnasium.make(game, disable_env_checker=True, **drawn)
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
