"""Protocols by name: what each says, and that the emulator is told."""

import dataclasses

import pytest

from barista import config, games
from barista.games import GameError, ale


def test_every_protocol_of_the_options_is_known():
    assert set(games.PROTOCOLS) == set(config.CHOICES["protocol"])
    assert [each.name for each in games.PROTOCOLS.values()] == list(games.PROTOCOLS)


def test_an_unknown_protocol_is_one_line_that_names_the_others():
    with pytest.raises(GameError, match=r"^no protocol Nature; there are ddq, nature, ale$"):
        games.protocol("Nature")


@pytest.mark.parametrize(
    "call",
    [
        lambda: games.spec("ddq/Snake-v0", "xyz"),
        lambda: games.make("ddq/Snake-v0", num_envs=1, seed=0, protocol="xyz"),
        lambda: games.make_screen("ddq/Snake-v0", seed=0, protocol="xyz"),
    ],
)
def test_games_refuse_an_unknown_protocol(call):
    with pytest.raises(GameError, match="no protocol xyz"):
        call()


def test_a_protocol_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        games.protocol("ale").sticky = 0.0


@pytest.mark.parametrize(
    ("name", "evaluation", "told"),
    [
        ("ddq", False, (4, 31, 0.0, False, 108_000)),
        ("ddq", True, (4, 31, 0.0, False, 108_000)),
        ("nature", False, (4, 31, 0.0, False, 108_000)),
        ("nature", True, (4, 31, 0.0, False, 18_000)),
        ("ale", False, (5, 1, 0.25, True, 18_000)),
        ("ale", True, (5, 1, 0.25, True, 18_000)),
    ],
)
def test_what_the_emulator_is_told(name, evaluation, told):
    settings = ale.settings(
        "pong", games.protocol(name), num_envs=8, threads=2, evaluation=evaluation
    )
    names = (
        "frameskip",
        "noop_max",  # exclusive
        "repeat_action_probability",
        "full_action_space",
        "max_num_frames_per_episode",
    )
    assert tuple(settings[each] for each in names) == told
    assert (settings["reward_clipping"], settings["episodic_life"]) == (False, False)
    assert (settings["maxpool"], settings["stack_num"], settings["num_threads"]) == (True, 4, 2)


@pytest.mark.parametrize(("name", "epsilon"), [("nature", 0.05), ("ddq", 0.01), ("ale", 0.01)])
def test_how_an_evaluation_is_played(name, epsilon):
    rules = games.protocol(name)
    assert (rules.evaluation_epsilon, rules.evaluation_episodes) == (epsilon, 30)


def test_the_protocol_decides_how_many_actions_an_atari_game_has():
    assert games.spec("ALE/Breakout-v5", "nature").num_actions == 4
    assert games.spec("ALE/Breakout-v5", "ale").num_actions == 18
    assert games.spec("ddq/Snake-v0", "ale") == games.spec("ddq/Snake-v0")
