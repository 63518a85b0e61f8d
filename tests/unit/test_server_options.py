"""The command line of the server."""

from dataclasses import asdict, fields
from pathlib import Path

import pytest
from param_server.errors import UserMistake
from param_server.options import Config, parser

SERVER = Path(__file__).resolve().parents[2]


def test_every_setting_has_its_flag_and_every_flag_its_setting():
    destinations = {action.dest for action in parser()._actions} - {"help"}
    assert destinations == {field.name for field in fields(Config)}


def test_defaults_are_those_of_the_config():
    assert Config(**vars(parser().parse_args([]))) == Config()


def test_every_flag_has_help():
    assert [action.dest for action in parser()._actions if not action.help] == []


def test_every_flag_is_in_the_docs():
    text = (SERVER / "docs/protocol.md").read_text()
    flags = [option for action in parser()._actions for option in action.option_strings]
    assert [flag for flag in flags if flag.startswith("--") and flag not in text] == []


def test_settings_are_parsed():
    line = "s.prototxt --port 0 --snapshot-seconds 1.5 --target-period 9 --embedded --seed 3"
    config = Config(**vars(parser().parse_args(line.split())))
    expected = {
        "solver": Path("s.prototxt"), "port": 0, "snapshot_seconds": 1.5, "target_period": 9,
        "embedded": True, "seed": 3,
    }  # fmt: skip
    assert asdict(config) == {**asdict(Config()), **expected}


@pytest.mark.parametrize(
    "line",
    ["--port 70000", "--port x", "--port -1", "--target-period 0", "--snapshot-seconds nan",
     "--snapshot-updates -1", "--durability never", "--unknown", "a b"],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(line):
    with pytest.raises(UserMistake, match="--help lists the options"):
        parser().parse_args(line.split())
