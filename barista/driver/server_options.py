"""The options of `ddq.py` that concern its parameter server.

A server of the run's own takes most of them: they have the names, checks and meanings of the
server's command line, and go on to it as they are.  What the user has not typed stays None here,
so that a resumed run keeps what it had, and the server its own defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from param_server import options as server
from param_server.errors import UserMistake
from param_server.tls import client_context, server_context

from barista.config import ConfigError, option_name

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

# What a run's own server is told as it was typed.
_PASSED_ON = (
    "staleness", "outliers", "lease", "durability", "keep", "stall_minutes", "tls_cert", "tls_key",
)  # fmt: skip
# What makes no sense for a server that somebody else has started.
_FOR_OWN = ("weights", "resume", "server_host", "server_port", *_PASSED_ON)
# What a resumed run goes on with: how its updates are made, and what a kill may cost.
_INHERITED = ("staleness", "outliers", "durability")
# What has no meaning where nothing goes over a network.
OF_A_NETWORK = ("server", "server_host", "server_port", "tls_ca", "tls_cert", "tls_key")
_FILES = ("tls_cert", "tls_key")


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add a group of options to the parser of `ddq.py`."""
    group = parser.add_argument_group("the parameter server")
    defaults = server.Config()
    group.add_argument("--server", metavar="HOST:PORT", help="use this one; token from DDQ_TOKEN")
    group.add_argument("--tls-ca", metavar="FILE", help="PEM: certificates to trust of a server")
    group = parser.add_argument_group("a parameter server of the run's own")
    group.add_argument("--server-host", metavar="ADDRESS", help="where it binds")
    group.add_argument("--server-port", type=server.port, help="(default: 5500 or next free)")
    group.add_argument(
        "--staleness",
        type=server.policy,
        metavar="POLICY",
        help="accept, reject:S, scale, dc[:LAMBDA], ssp:S, sync[:N] "
        f"(default: {defaults.staleness})",
    )
    group.add_argument(
        "--outliers",
        type=server.sigmas,
        metavar="SIGMAS",
        help="reject gradients whose loss is so many standard deviations above the mean (default: "
        "none)",
    )
    group.add_argument(
        "--lease",
        type=server.seconds,
        metavar="S",
        help="seconds of silence after which nobody waits for a worker "
        f"(default: {defaults.lease:g})",
    )
    group.add_argument(
        "--durability",
        choices=["interval", "acknowledged"],
        help="what a kill of the server can lose: interval: updates since the last snapshot; "
        f"acknowledged: nothing (default: {defaults.durability})",
    )
    group.add_argument(
        "--keep",
        type=server.positive,
        metavar="K",
        help=f"snapshots kept, beside the best by evaluation (default: {defaults.keep})",
    )
    group.add_argument(
        "--stall-minutes",
        type=server.minutes,
        metavar="M",
        help="training without a better return that raises an alarm; 0: none (default: "
        f"{defaults.stall_minutes:g})",
    )
    group.add_argument("--tls-cert", metavar="FILE", help="serve https with this PEM certificate")
    group.add_argument("--tls-key", metavar="FILE", help="its private key, PEM")


def check(given: argparse.Namespace) -> None:
    """Check what the options say together.

    Raises:
        barista.config.ConfigError: If they cannot be meant, or name a file that is not there.
    """
    for name in _FOR_OWN:
        if given.server and getattr(given, name) is not None:
            option = option_name(name)
            raise ConfigError(
                f"--server and {option} exclude each other: {option} is for a server of our own"
            )
    if given.weights and given.resume:
        raise ConfigError("--weights and --resume exclude each other: a snapshot has its weights")
    if given.tls_ca and not (given.server or given.tls_cert):
        raise ConfigError("--tls-ca is for a server with TLS: --server or --tls-cert is needed too")
    if given.weights and not Path(given.weights).is_file():
        raise ConfigError(f"--weights {given.weights}: there is no such file")
    try:
        server_context(_path(given.tls_cert), _path(given.tls_key))
        if given.tls_ca:
            client_context(given.tls_ca)
    except UserMistake as error:
        raise ConfigError(str(error)) from error


def inherit(given: argparse.Namespace, earlier: Mapping[str, Any]) -> None:
    """Fill in what a resumed run was asked for, where nothing else is asked for now."""
    names = ("outliers",) if given.exchange == "spark" else _INHERITED
    for name in names:
        if getattr(given, name) is None:
            setattr(given, name, earlier.get(name))


def trusted(given: argparse.Namespace) -> Path | None:
    """Return the file that vouches for the server; one with TLS of our own vouches for itself."""
    file = given.tls_ca or given.tls_cert
    return Path(file).resolve() if file else None


def may_join(given: argparse.Namespace) -> bool:
    """Say whether a server that runs already would do: nothing asks for one of our own."""
    return not any(getattr(given, name) is not None for name in (*_FOR_OWN, "solver"))


def arguments(given: argparse.Namespace) -> dict[str, Any]:
    """Return what a server of our own is told, option to value; files by their full paths."""
    told = {name: getattr(given, name) for name in _PASSED_ON}
    told.update({name: Path(told[name]).resolve() for name in _FILES if told.get(name)})
    return {option_name(name): value for name, value in told.items() if value is not None}


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
