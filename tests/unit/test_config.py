"""The agent's hyper-parameters: defaults, ranges, JSON."""

import json
from dataclasses import FrozenInstanceError, fields

import pytest

from barista.config import AgentConfig, ConfigError, defaults_for, option_name

SNAKE = "ddq/Snake-v0"


def test_the_record_is_frozen():
    with pytest.raises(FrozenInstanceError):
        AgentConfig().seed = 1


def test_every_field_has_a_help():
    assert all(len(field.metadata["help"]) > 10 for field in fields(AgentConfig))


def test_json_and_back_is_the_identity():
    config = defaults_for(SNAKE, seed=7, double=False, gamma=0.9)
    assert AgentConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_fields_that_a_document_lacks_have_their_defaults():
    assert AgentConfig.from_json({"game": SNAKE}) == AgentConfig(game=SNAKE)


@pytest.mark.parametrize("game", ["ALE/Pong-v5", "ALE/Breakout-v5", SNAKE, "CartPole-v1"])
def test_every_game_has_defaults_that_are_valid(game):
    assert defaults_for(game).game == game


def test_snake_keeps_less_experience_than_atari():
    assert defaults_for(SNAKE).replay_capacity < defaults_for("ALE/Pong-v5").replay_capacity


def test_changes_win_over_a_games_defaults():
    assert defaults_for(SNAKE, warmup=3_000).warmup == 3_000


def test_shares_are_of_the_total():
    config = AgentConfig(workers=3, replay_capacity=1000, warmup=100)
    assert (config.replay_share, config.warmup_share) == (333, 34)


def test_a_whole_number_is_taken_for_a_float():
    value = AgentConfig(gamma=1).gamma
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": 23}, "--warmup must be at least 24: 1 workers × 8 games × 3 steps, not 23"),
        ({"warmup": "many"}, "--warmup must be a whole number, not 'many'"),
        ({"warmup": True}, "--warmup must be a whole number, not True"),
        ({"gamma": 1.5}, "--gamma must be between 0 and 1, not 1.5"),
        ({"gamma": float("nan")}, "--gamma must be between 0 and 1, not nan"),
        ({"gamma": "high"}, "--gamma must be a number, not 'high'"),
        ({"double": 1}, "--double must be true or false, not 1"),
        ({"epsilon_end": -0.1}, "--epsilon-end must be between 0 and 1, not -0.1"),
        ({"epsilon_steps": -1}, "--epsilon-steps must be at least 0, not -1"),
        ({"num_envs": 0}, "--num-envs must be at least 1, not 0"),
        ({"n_step": 256}, "--n-step must be at most 255, not 256"),
        ({"push_period": -1}, "--push-period must be at least 1, or auto, not -1"),
        ({"game": " "}, "--game must be a Gymnasium id, not ' '"),
        ({"game": None}, "--game must be a text, not None"),
        ({"device": "gpu"}, "--device must be auto, cpu or cuda:N, not 'gpu'"),
        (
            {"wire_dtype": "float16"},
            "--wire-dtype must be float32 or bfloat16, not 'float16'",
        ),
        (
            {"replay_capacity": 47, "workers": 2},
            "--replay-capacity must be at least 192: 2 workers × 32 transitions × 3 steps, not 47",
        ),
        ({"colour": 3}, "there is no option --colour"),
    ],
)
def test_a_value_that_cannot_work_is_one_line_naming_the_option(changes, message):
    with pytest.raises(ConfigError) as caught:
        AgentConfig.from_json(changes)
    assert str(caught.value) == message


def test_an_option_is_named_as_it_is_typed():
    assert option_name("replay_capacity") == "--replay-capacity"
