"""The server's settings and its command line.

One flag for each field of ``Config``; the parser's defaults are the Config's.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

from param_server.errors import UserMistake

DEFAULT_PORT = 5500


@dataclass(frozen=True)
class Config:
    """The server's settings, one field for each flag, with its default."""

    solver: Path | None = None
    port: int | None = None
    host: str = "127.0.0.1"
    weights: Path | None = None
    snapshot_dir: Path | None = None
    resume: Path | None = None
    durability: str = "interval"
    snapshot_updates: int = 0
    snapshot_seconds: float = 120.0
    token_file: Path | None = None
    target_period: int = 500
    game: str = ""
    run: str = ""
    embedded: bool = False
    seed: int | None = None


class _Parser(argparse.ArgumentParser):
    """A parser that leaves it to its caller to say what is wrong, in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserMistake(f"{message}; --help lists the options")


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser, whose defaults are the Config's."""
    result = _Parser(
        prog="param-server",
        description="Holds a network's weights, applies gradients to them, hands them out.",
    )
    result.set_defaults(**{field.name: field.default for field in fields(Config)})
    group = result.add_argument_group("model")
    group.add_argument(
        "solver",
        nargs="?",
        type=Path,
        help="solver prototxt (default: models/deepq/solver.prototxt, or the snapshot's)",
    )
    group.add_argument("--weights", type=Path, metavar="FILE", help="begin with a .caffemodel")
    group.add_argument("--game", metavar="ID", help="the game the weights are for, a label")
    group.add_argument("--seed", type=_count, help="of the initial weights (default: random)")
    group.add_argument(
        "--target-period",
        type=_positive,
        metavar="N",
        help="updates between two target copies (default: %(default)s)",
    )
    group = result.add_argument_group("address")
    group.add_argument(
        "--port", type=_port, help=f"0 is any (default: the first free one from {DEFAULT_PORT})"
    )
    group.add_argument("--host", help="address to bind to (default: %(default)s)")
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="holds the token (default: DDQ_TOKEN, or a random one)",
    )
    _add_snapshot_flags(result)
    group = result.add_argument_group("run")
    group.add_argument("--run", metavar="ID", help="serve this run only")
    group.add_argument(
        "--embedded",
        action="store_true",
        help="a driver's child: one JSON line when ready, stop when stdin ends",
    )
    return result


def _add_snapshot_flags(result: argparse.ArgumentParser) -> None:
    group = result.add_argument_group("snapshots")
    group.add_argument(
        "--snapshot-dir",
        type=Path,
        metavar="DIR",
        help="where they go (default: logs/RUN/snapshots, or logs/param-server-PORT/snapshots)",
    )
    group.add_argument(
        "--resume", type=Path, metavar="SNAPSHOT", help="go on from a snapshot's or a run's folder"
    )
    group.add_argument(
        "--durability",
        choices=["interval"],
        help="what a kill can lose: interval = what came after the last snapshot",
    )
    group.add_argument(
        "--snapshot-updates",
        type=_count,
        metavar="N",
        help="updates between two; 0: by time only (default: %(default)s)",
    )
    group.add_argument(
        "--snapshot-seconds",
        type=_seconds,
        metavar="S",
        help="seconds between two; 0: by updates only (default: %(default)s)",
    )


def _count(text: str) -> int:
    return _integer(text, 0, 2**31 - 1)


def _positive(text: str) -> int:
    return _integer(text, 1, 2**31 - 1)


def _port(text: str) -> int:
    return _integer(text, 0, 65535)


def _integer(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value
