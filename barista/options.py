"""Command-line options: those of an agent, made from `AgentConfig`'s fields, and a parser.

`ddq.py` and `python -m barista` take the same agent options, spelled the same, with the same help.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

from barista.config import AGENTS, AgentConfig, defaults_for, option_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NOT_OPTIONS = ("workers",)  # ddq.py's own: the default depends on the cluster
_TYPES: dict[type, Any] = {str: str, int: int, float: float}


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaint is one line on stderr, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with exit code 2."""
        sys.stderr.write(f"{self.prog}: {message} (--help lists the options)\n")
        raise SystemExit(2)


def add_agent_options(parser: argparse.ArgumentParser) -> None:
    """Add one option for each field of `AgentConfig`.

    What the user did not type is absent from the result: its default depends on the game.
    """
    group = parser.add_argument_group("the agent")
    defaults = AgentConfig()
    for each in fields(AgentConfig):
        if each.name in _NOT_OPTIONS:
            continue
        default = getattr(defaults, each.name)
        keywords: dict[str, Any] = {
            "default": argparse.SUPPRESS,
            "dest": each.name,
            "help": f"{each.metadata['help']} (default: {default})",
        }
        if isinstance(default, bool):
            keywords["action"] = argparse.BooleanOptionalAction
        else:
            keywords["type"] = _typed(_TYPES[type(default)], each.metadata["words"])
            keywords["metavar"] = type(default).__name__.upper()
        group.add_argument(option_name(each.name), **keywords)


def _typed(type_: Callable[[str], Any], words: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return a parser of values that also knows words for some of them."""

    def parse(text: str) -> Any:
        return words[text] if text in words else type_(text)

    parse.__name__ = type_.__name__  # argparse names it in its complaint
    return parse


def agent_config(given: argparse.Namespace, inherited: Mapping[str, Any]) -> AgentConfig:
    """Return what the user typed, over what a resumed run had, over the defaults.

    An agent that is typed brings its preset, also where the resumed run was of another one.

    Args:
        given: the parsed command line.
        inherited: fields of the run that is resumed; empty for a new one.

    Raises:
        barista.config.ConfigError: If a value cannot work.
    """
    names = {each.name for each in fields(AgentConfig)} - set(_NOT_OPTIONS)
    typed = {name: getattr(given, name) for name in names if name in given}
    preset = AGENTS[typed["agent"]] if typed.get("agent") in AGENTS else {}
    merged = {**inherited, **preset, **typed}
    game = merged.pop("game", AgentConfig().game)
    return defaults_for(game, **merged)


def count(text: str) -> int:
    """Parse a whole number of at least zero."""
    return 0 if text.strip() == "0" else positive_int(text)


def positive_int(text: str) -> int:
    """Parse a whole number above zero."""
    return int(_positive(text, int))


def port(text: str) -> int:
    """Parse a TCP port."""
    number = positive_int(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"a port is at most 65535, not {text}")
    return number


def positive_float(text: str) -> float:
    """Parse a number above zero."""
    return float(_positive(text, float))


def _positive(text: str, kind: type) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        word = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(f"a {word} above 0 is needed, not {text!r}")
    return value
