"""The command line of `ddq.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from barista.driver.server_options import add_server_options
from barista.options import OneLineParser, add_agent_options, count, positive_float, positive_int

if TYPE_CHECKING:
    import argparse

DEFAULT_MINUTES = 4.0  # of training; with start, stop and evaluation about five on two cores


def driver_parser() -> argparse.ArgumentParser:
    """Return the parser of `ddq.py`."""
    parser = OneLineParser(prog="ddq.py", description="Train a deep Q-network on Spark.")
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--serial",
        action="store_true",
        help="all in this one process, without Spark: workers take turns",
    )
    run.add_argument(
        "--exchange",
        choices=["server", "spark"],
        help="server: a parameter server, workers push when they like (default); spark: no server, "
        "each update is a job of Spark's and the mean of a gradient of each worker",
    )
    run.add_argument(
        "--workers", type=positive_int, help="(default: the task slots; with --serial 1)"
    )
    run.add_argument(
        "--rounds", type=count, help="end after so many rounds; 0, with --resume: evaluate only"
    )
    run.add_argument(
        "--minutes",
        type=positive_float,
        help=f"end after so much training (default, without --rounds: {DEFAULT_MINUTES:g})",
    )
    run.add_argument(
        "--updates-per-round",
        type=positive_int,
        metavar="K",
        help="of each worker (default: what lasts about 20 s)",
    )
    run.add_argument("--run-dir", help="folder of this run (default: logs/<time>-<game>)")
    run.add_argument("--resume", metavar="RUN_OR_SNAPSHOT", help="go on from there")
    run.add_argument(
        "--evaluate",
        type=int,
        metavar="EPISODES",
        help="at the end; 0: none (default: 8, Snake 100)",
    )
    run.add_argument(
        "--evaluate-every",
        type=int,
        default=0,
        metavar="R",
        help="after every R rounds too, and keep the best snapshot (default: 0, at the end only)",
    )
    run.add_argument("--profile", action="store_true", help="print where the workers' time went")
    run.add_argument(
        "--doctor",
        action="store_true",
        help="do not train: say for each executor what would go wrong",
    )
    net = parser.add_argument_group("the model")
    net.add_argument("--model", help="prototxt of the Q-network (default: the game's)")
    net.add_argument("--solver", help="prototxt of the update rule (default: the game's)")
    net.add_argument("--weights", metavar="FILE.caffemodel", help="start from these weights")
    add_server_options(parser)
    add_agent_options(parser)
    return parser


def minutes(given: argparse.Namespace) -> float | None:
    """Return how long to train, None where rounds decide alone."""
    if given.minutes is not None or given.rounds is not None:
        return cast("float | None", given.minutes)
    return DEFAULT_MINUTES
