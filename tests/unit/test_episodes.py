"""Which episodes count, what they are seeded by, what stops them."""

import math

import numpy as np
import pytest

from barista import games
from barista.playing.episodes import BLOCK, Evaluation, PlayError, Terms, play, play_block
from barista.playing.players import random_player
from tests.coin_env import Coin

COIN, ECHO = "tests.coin_env:Coin-v0", "tests.coin_env:Echo-v0"


def by_chance(game, episodes, seed=0, **limits):
    terms = Terms(game, episodes, seed)
    return play(random_player(terms), terms, **limits)


def test_statistics():
    result = Evaluation((1.0, 2.0, 6.0), (1, 1, 1), complete=True)
    assert result.mean == 3.0
    assert result.median == 2.0
    assert result.standard_error == pytest.approx(math.sqrt(7.0 / 3.0))
    assert (result.worst, result.best) == (1.0, 6.0)


def test_statistics_of_too_few_episodes_are_not_numbers():
    none = Evaluation((), (), complete=False)
    assert all(math.isnan(value) for value in (none.mean, none.median, none.worst, none.best))
    assert math.isnan(Evaluation((1.0,), (1,), complete=True).standard_error)
    assert none.to_json()["mean"] is None


def test_an_evaluation_survives_json():
    result = Evaluation((1.0, 2.5), (3, 4), complete=False)
    assert Evaluation.from_json(result.to_json()) == result


@pytest.mark.parametrize("episodes", [1, 5, 8, 9, 24])
def test_each_episode_is_the_first_of_a_copy_of_its_own(episodes):
    """Against a slow twin: every copy alone."""
    result = by_chance(COIN, episodes, seed=4)
    expected = []
    for block in range(math.ceil(episodes / BLOCK)):
        copies = min(BLOCK, episodes - block * BLOCK)
        seed = int(np.random.SeedSequence((4, block)).generate_state(1)[0])
        for own in games._seeds(seed, copies, evaluation=True):
            env = Coin()
            env.reset(seed=own)
            expected.append((10.0 if env.length == 30 else -10.0, env.length))
    assert list(zip(result.returns, result.lengths, strict=True)) == expected
    assert result.complete


def test_short_episodes_are_not_favoured():
    """Of the first 200 episodes to finish nearly all would be short ones."""
    result = by_chance(COIN, 200)
    assert abs(result.mean) < 3 * 10 / math.sqrt(200)


def test_blocks_played_apart_in_any_order_are_the_whole():
    terms = Terms(ECHO, 20, seed=3)
    whole = play(random_player(terms), terms)
    parts = {block: play_block(random_player(terms), terms, block) for block in (2, 0, 1)}
    assert Evaluation.join(parts[block] for block in terms.blocks) == whole
    assert len(set(whole.returns[:8])) > 1
    assert whole.returns[:8] != whole.returns[8:16]


def test_same_seed_same_result_and_another_seed_another():
    results = [by_chance(ECHO, 5, seed) for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_a_deadline_leaves_it_incomplete():
    assert by_chance(ECHO, 9, deadline_s=0) == Evaluation((), (), complete=False)
    one = Evaluation((1.0,), (1,), complete=True)
    assert not Evaluation.join([one, Evaluation((), (), complete=False)]).complete


def test_progress_counts_finished_episodes():
    seen = []
    by_chance(ECHO, 20, progress=lambda *counts: seen.append(counts))
    assert seen == [(8, 20), (16, 20), (20, 20)]


def test_the_actions_of_the_first_episode_are_told():
    actions = []
    result = by_chance(ECHO, 10, actions=actions)
    assert len(actions) == result.lengths[0] == 10
    assert actions.count(1) == result.returns[0]


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        (Terms(ECHO, 0), "--episodes must be at least 1, not 0"),
        (Terms(ECHO, 1, epsilon=1.5), "--epsilon must be between 0 and 1, not 1.5"),
        (Terms(ECHO, 1, epsilon=math.nan), "--epsilon must be between 0 and 1, not nan"),
        (Terms(ECHO, 1, seed=-1), "--seed must be at least 0, not -1"),
    ],
)
def test_numbers_out_of_range_are_refused(terms, reason):
    with pytest.raises(PlayError, match=reason):
        terms.check()


def test_exploration_is_the_protocols_unless_it_is_given():
    assert Terms(ECHO, 1, protocol="nature").exploration == 0.05
    assert Terms(ECHO, 1).exploration == 0.01
    assert Terms(ECHO, 1, protocol="nature", epsilon=0.0).exploration == 0.0
