"""The command line of ddq.py."""

import pytest

from barista.driver import command_line


def test_every_option_is_explained():
    for action in command_line.driver_parser()._actions:
        assert action.help, action.dest


@pytest.mark.parametrize(
    ("typed", "minutes"),
    [([], 4.0), (["--minutes", "2"], 2.0), (["--rounds", "3"], None)],
)
def test_a_run_without_an_end_gets_one(typed, minutes):
    assert command_line.minutes(command_line.driver_parser().parse_args(typed)) == minutes
