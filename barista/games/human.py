"""What people score in Atari games, and scores relative to theirs.

The human-normalised score of a player is 100 × (score − random) / (human − random), in per cent: 0
is what chance gets, 100 what a professional tester got (Mnih et al., 2015).  Only the human scores
are taken from the literature; the random player is measured, under the same protocol as the score.
"""

from __future__ import annotations

import re

SOURCE = "Wang et al., 2016"

# Wang et al., 2016 (arXiv 1511.06581), table 2: episodes that begin with up to 30 no-ops and end
# after at most 108 000 frames, raw scores.  The games are named as in their ids, ALE/<name>-v5.
HUMAN = {
    "Alien": 7127.7,
    "Amidar": 1719.5,
    "Assault": 742.0,
    "Asterix": 8503.3,
    "Asteroids": 47388.7,
    "Atlantis": 29028.1,
    "BankHeist": 753.1,
    "BattleZone": 37187.5,
    "BeamRider": 16926.5,
    "Berzerk": 2630.4,
    "Bowling": 160.7,
    "Boxing": 12.1,
    "Breakout": 30.5,
    "Centipede": 12017.0,
    "ChopperCommand": 7387.8,
    "CrazyClimber": 35829.4,
    "Defender": 18688.9,
    "DemonAttack": 1971.0,
    "DoubleDunk": -16.4,
    "Enduro": 860.5,
    "FishingDerby": -38.7,
    "Freeway": 29.6,
    "Frostbite": 4334.7,
    "Gopher": 2412.5,
    "Gravitar": 3351.4,
    "Hero": 30826.4,
    "IceHockey": 0.9,
    "Jamesbond": 302.8,
    "Kangaroo": 3035.0,
    "Krull": 2665.5,
    "KungFuMaster": 22736.3,
    "MontezumaRevenge": 4753.3,
    "MsPacman": 6951.6,
    "NameThisGame": 8049.0,
    "Phoenix": 7242.6,
    "Pitfall": 6463.7,
    "Pong": 14.6,
    "PrivateEye": 69571.3,
    "Qbert": 13455.0,
    "Riverraid": 17118.0,
    "RoadRunner": 7845.0,
    "Robotank": 11.9,
    "Seaquest": 42054.7,
    "Skiing": -4336.9,
    "Solaris": 12326.7,
    "SpaceInvaders": 1668.7,
    "StarGunner": 10250.0,
    "Surround": 6.5,
    "Tennis": -8.3,
    "TimePilot": 5229.2,
    "Tutankham": 167.6,
    "UpNDown": 11693.2,
    "Venture": 1187.5,
    "VideoPinball": 17667.9,
    "WizardOfWor": 4756.5,
    "YarsRevenge": 54576.9,
    "Zaxxon": 9173.3,
}


def is_atari(game: str) -> bool:
    """Say whether an id is one of ALE's."""
    return _name(game) is not None


def human_score(game: str) -> float | None:
    """Return what people score in a game; None where nobody has published it."""
    return HUMAN.get(_name(game) or "")


def normalised(game: str, score: float, random: float) -> float | None:
    """Return the human-normalised score in per cent.

    Args:
        game: a Gymnasium id.
        score: mean raw score of the player.
        random: mean raw score of a player who acts by chance, under the same protocol.

    Returns:
        None where there is no human score, or where chance is as good as people.
    """
    human = human_score(game)
    if human is None or not random < human:
        return None
    return 100 * (score - random) / (human - random)


def describe(game: str, score: float, random: float) -> str | None:
    """Return the human-normalised score as a line of text; None for a game that is not ALE's."""
    if not is_atari(game):
        return None
    human = human_score(game)
    if human is None:
        return f"human-normalised: none, as nobody has published a human score of {game}"
    share = normalised(game, score, random)
    if share is None:
        return f"human-normalised: none, as chance is as good as people ({human:g}; {SOURCE})"
    return f"human-normalised {share:.1f} % (people score {human:g}: {SOURCE}; chance as measured)"


def _name(game: str) -> str | None:
    found = re.fullmatch(r"(?:\w+:)?ALE/(\w+)-v\d+", game)
    return found[1] if found else None
