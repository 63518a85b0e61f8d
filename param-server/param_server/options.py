"""The server's settings and its command line.

One flag for each field of ``Config``; the parser's defaults are the Config's.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

from param_server.errors import UserMistake
from param_server.staleness import PolicyError, parse_policy

DEFAULT_PORT = 5500


@dataclass(frozen=True)
class Config:
    """The server's settings, one field for each flag, with its default.

    Raises:
        UserMistake: If two of them exclude each other.
    """

    solver: Path | None = None
    port: int | None = None
    host: str = "127.0.0.1"
    weights: Path | None = None
    snapshot_dir: Path | None = None
    resume: Path | None = None
    keep: int = 5
    durability: str = "interval"
    snapshot_updates: int = 0
    snapshot_seconds: float = 120.0
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    same_host: bool = True
    target_period: int = 500
    staleness: str = "accept"
    outliers: float = 0.0
    lease: float = 60.0
    stall_minutes: float = 30.0
    game: str = ""
    run: str = ""
    embedded: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.weights and self.resume:
            raise UserMistake(
                "--weights and --resume exclude each other: a snapshot has its weights"
            )


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
        type=positive,
        metavar="N",
        help="updates between two target copies (default: %(default)s)",
    )
    group = result.add_argument_group("address")
    group.add_argument(
        "--port", type=port, help=f"0 is any (default: the first free one from {DEFAULT_PORT})"
    )
    group.add_argument("--host", help="address to bind to (default: %(default)s)")
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="holds the token (default: DDQ_TOKEN, or a random one)",
    )
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve https with this PEM")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    group.add_argument(
        "--no-same-host",
        dest="same_host",
        action="store_false",
        help="no shared memory for workers of this machine: HTTP only",
    )
    _add_consistency_flags(result)
    _add_snapshot_flags(result)
    group = result.add_argument_group("run")
    group.add_argument("--run", metavar="ID", help="serve this run only")
    group.add_argument(
        "--stall-minutes",
        type=minutes,
        metavar="M",
        help="training without a better return that raises an alarm; 0: none (default: "
        "%(default)g)",
    )
    group.add_argument(
        "--embedded",
        action="store_true",
        help="a driver's child: one JSON line when ready, stop when stdin ends",
    )
    return result


def _add_consistency_flags(result: argparse.ArgumentParser) -> None:
    group = result.add_argument_group("consistency (docs/consistency.md says when to choose which)")
    group.add_argument(
        "--staleness",
        type=policy,
        metavar="POLICY",
        help="accept, reject:S, scale, dc[:LAMBDA], ssp:S, sync[:N] (default: %(default)s)",
    )
    group.add_argument(
        "--outliers",
        type=sigmas,
        metavar="SIGMAS",
        help="reject a gradient whose loss is so many standard deviations above the mean; 0: none",
    )
    group.add_argument(
        "--lease",
        type=seconds,
        metavar="S",
        help="seconds of silence after which nobody waits for a worker (default: %(default)s)",
    )


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
        choices=["interval", "acknowledged"],
        help="what a kill can lose: interval = what came after the last snapshot; acknowledged = "
        "nothing, each push is on disk before it is answered (default: %(default)s)",
    )
    group.add_argument(
        "--keep",
        type=positive,
        metavar="K",
        help="snapshots kept, beside the best by evaluation (default: %(default)s)",
    )
    group.add_argument(
        "--snapshot-updates",
        type=_count,
        metavar="N",
        help="updates between two; 0: by time only (default: %(default)s)",
    )
    group.add_argument(
        "--snapshot-seconds",
        type=seconds,
        metavar="S",
        help="seconds between two; 0: by updates only (default: %(default)s)",
    )


def _count(text: str) -> int:
    return _integer(text, 0, 2**31 - 1)


def positive(text: str) -> int:
    """Parse a whole number above zero."""
    return _integer(text, 1, 2**31 - 1)


def port(text: str) -> int:
    """Parse a TCP port; 0 is any."""
    return _integer(text, 0, 65535)


def _integer(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
    return int(text)


def policy(text: str) -> str:
    """Check a staleness policy; return it as it was typed."""
    try:
        parse_policy(text)
    except PolicyError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def sigmas(text: str) -> float:
    """Parse a number of standard deviations."""
    return _number(text, "a number of standard deviations")


def seconds(text: str) -> float:
    """Parse a duration."""
    return _number(text, "a number of seconds")


def minutes(text: str) -> float:
    """Parse a duration in minutes."""
    return _number(text, "a number of minutes")


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value
