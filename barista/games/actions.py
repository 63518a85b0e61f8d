"""The actions of Atari games: a network of the minimal set among players of the full one.

The console has 18 actions.  Each game answers to some of them, its minimal set; the others do what
one of these does, or nothing.
"""

from __future__ import annotations

import functools

import ale_py
import gymnasium

from barista.games import ale


@functools.cache
def minimal_set(game: str) -> tuple[int, ...] | None:
    """Return the minimal set's places in the full one, in the minimal set's order.

    Args:
        game: a Gymnasium id.

    Returns:
        None for a game that is not Atari's, or not registered.

    Raises:
        barista.games.UnsupportedGameError: If its ROM cannot be had.
    """
    registered = gymnasium.registry.get(game)
    if registered is None or not str(registered.entry_point).startswith("ale_py"):
        return None
    path = ale.rom_path(game, str(registered.kwargs["game"]))
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner on stderr
    emulator = ale_py.ALEInterface()
    emulator.loadROM(path)
    full = list(emulator.getLegalActionSet())
    return tuple(full.index(action) for action in emulator.getMinimalActionSet())
