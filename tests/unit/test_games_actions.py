"""The minimal set of a game's actions, as places in the full one."""

from ale_py import Action

from barista.games.actions import minimal_set


def test_pong_answers_to_six():
    names = [Action(place).name for place in minimal_set("ALE/Pong-v5")]
    assert names == ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]


def test_a_game_that_needs_all_has_all_in_their_order():
    assert minimal_set("ALE/Alien-v5") == tuple(range(18))


def test_other_games_have_none():
    assert minimal_set("ddq/Snake-v0") is None
    assert minimal_set("nothing") is None
