"""Options made from AgentConfig, and complaints of one line."""

import argparse
from dataclasses import fields

import pytest

from barista import options
from barista.config import AgentConfig, ConfigError, defaults_for


def test_the_number_of_workers_is_not_taken_from_the_command_line(parser):
    parser.add_argument("--workers")
    assert options.agent_config(parser.parse_args([]), {}).workers == 1


@pytest.fixture
def parser():
    parser = options.OneLineParser(prog="ddq.py")
    options.add_agent_options(parser)
    return parser


def test_every_field_is_an_option(parser):
    typed = {action.dest for action in parser._actions} - {"help"}
    assert typed == {each.name for each in fields(AgentConfig)} - {"workers"}


def test_what_is_not_typed_follows_the_game(parser):
    config = options.agent_config(parser.parse_args(["--game", "ddq/Snake-v0"]), {})
    assert config == defaults_for("ddq/Snake-v0")


def test_typed_beats_inherited_beats_default(parser):
    given = parser.parse_args(["--n-step", "2", "--no-double"])
    config = options.agent_config(given, {"game": "ddq/Snake-v0", "n_step": 5, "gamma": 0.9})
    assert (config.game, config.n_step, config.gamma, config.double) == (
        "ddq/Snake-v0", 2, 0.9, False,
    )  # fmt: skip


def test_a_bad_value_names_the_option(parser):
    with pytest.raises(ConfigError, match="--batch-size"):
        options.agent_config(parser.parse_args(["--batch-size", "0"]), {})


@pytest.mark.parametrize("arguments", [["--n-step", "x"], ["--no-such-option"], ["--n-step"]])
def test_a_complaint_is_one_line_with_exit_code_2(parser, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("text", ["0", "-1", "x", "nan", "inf", ""])
def test_only_positive_numbers_pass(text):
    for parse in (options.positive_int, options.positive_float):
        with pytest.raises(argparse.ArgumentTypeError, match="above 0"):
            parse(text)


def test_positive_numbers_pass():
    assert options.positive_int("3") == 3
    assert options.positive_float("0.5") == 0.5
