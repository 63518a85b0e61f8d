"""Human scores, and scores relative to them."""

import gymnasium
import pytest

from barista.games import human


def test_every_game_of_the_table_is_one_of_ales():
    known = {name for name in gymnasium.registry if name.startswith("ALE/")}
    assert {f"ALE/{name}-v5" for name in human.HUMAN} <= known
    assert len(human.HUMAN) == 57


def test_chance_is_nothing_and_people_are_a_hundred():
    assert human.human_score("ALE/Pong-v5") == 14.6
    assert human.normalised("ALE/Pong-v5", -20.7, random=-20.7) == 0
    assert human.normalised("ALE/Pong-v5", 14.6, random=-20.7) == pytest.approx(100)
    # Mnih et al., 2015, extended data table 2, has 132 % with people's 9.3 of its own testers;
    # with those of this table, 18.9 stands at 39.6 of 35.3.
    assert human.normalised("ALE/Pong-v5", 18.9, random=-20.7) == pytest.approx(100 * 39.6 / 35.3)


@pytest.mark.parametrize("game", ["ALE/Tetris-v5", "ddq/Snake-v0", "Pong-v5"])
def test_a_game_without_a_human_score_has_no_share(game):
    assert human.human_score(game) is None
    assert human.normalised(game, 1.0, random=0.0) is None


def test_chance_that_is_as_good_as_people_has_no_share():
    assert human.normalised("ALE/VideoPinball-v5", 20_000.0, random=18_000.0) is None


def test_the_line_says_where_the_number_is_from_or_why_there_is_none():
    assert human.describe("ddq/Snake-v0", 1.0, 0.0) is None
    line = human.describe("ALE/Pong-v5", 14.6, -20.7)
    assert line.startswith("human-normalised 100.0 % (people score 14.6: Wang et al., 2016")
    assert "nobody has published" in human.describe("ALE/Tetris-v5", 1.0, 0.0)
    assert "as good as people" in human.describe("ALE/VideoPinball-v5", 1.0, 18_000.0)
