"""What can be wrong with a game that somebody asked for.

* GameError (ValueError)
    * UnknownGameError: no game has this id
    * UnsupportedGameError: the game exists, but a Q-network of ours cannot play it

Every message is one line for the person who typed the id; none needs a traceback.
"""


class GameError(ValueError):
    """A game cannot be made; the message is one line that says why."""


class UnknownGameError(GameError):
    """No game has this id; the message suggests ids that look like it."""


class UnsupportedGameError(GameError):
    """The game's observations or actions are of a kind that is not played here."""
