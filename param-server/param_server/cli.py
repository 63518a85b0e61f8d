"""The server's process: the composition root, where every part is made and joined."""

from __future__ import annotations

import logging
import os
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server import process
from param_server.access import Access
from param_server.discovery import StandaloneServer, record_path, remove_record, write_record
from param_server.errors import SnapshotFailed, UserMistake
from param_server.leaving import leave
from param_server.options import DEFAULT_PORT, Config, parser
from param_server.places import logs_folder
from param_server.recovery import new_epoch
from param_server.same_host import SameHostServer, offer
from param_server.tls import server_context

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from param_server.core import Core
    from param_server.live import Live
    from param_server.recovery import Resumed
    from param_server.serving import Server

_log = logging.getLogger(__name__)

_POLL_S = 0.1  # how soon the accepting thread sees that it should stop


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a server until it is told to stop; return its exit code."""
    try:
        return _run(Config(**vars(parser().parse_args(arguments))))
    except (UserMistake, SnapshotFailed) as error:
        line = " ".join(str(error).split())
        if _log.hasHandlers():  # else the log would repeat the line on stderr
            _log.error("%s", line)
        process.say(f"param-server: {line}", to=sys.stderr)
        return 2


class _Parts(NamedTuple):
    """What a running server consists of."""

    core: Core
    server: Server
    same_host: SameHostServer | None
    live: Live
    token: str


def _run(config: Config) -> int:
    logs = logs_folder()
    process.start_log(logs)
    token = process.token(config.token_file)
    stop = threading.Event()
    process.set_at_signals(stop)
    server = process.bind(
        config.host, config.port, tls=server_context(config.tls_cert, config.tls_key)
    )
    # Flask, Caffe and PyTorch take seconds to import: a wrong flag should not wait for them.
    # A rule is a few passes over the weights: the other processors are the workers'.
    os.environ["OMP_NUM_THREADS"] = "1"
    from param_server.core import compose, working_folder  # noqa: PLC0415

    try:
        snapshots = _snapshot_folder(config, logs, server.port)
        with working_folder(snapshots, keep=config.keep) as (folder, work):
            core = compose(config, folder, work, partial(_say_what_is_left, config))
            return _serve(_surround(core, server, token), logs, stop)
    finally:
        server.server_close()


def _surround(core: Core, server: Server, token: str) -> _Parts:
    """Put the transports around a core."""
    from param_server.app import create_app  # noqa: PLC0415
    from param_server.service import Service  # noqa: PLC0415

    store = core.store
    described = _describe(core)
    service = Service(
        store,
        access=Access(token, host=server.host, port=server.port),
        snapshots=core.snapshotter,
        downloads=core.downloads,
        incidents=core.incidents,
        prototxt=described,
        status=core.status,
        new_epoch=lambda: new_epoch(store.epoch),
        durability=core.durability,
    )
    server.application = create_app(service)
    same_host = offer(service, server.port) if core.config.same_host else None
    described["same_host"] = str(same_host.path) if same_host else ""
    return _Parts(core, server, same_host, service.live, token)


def _serve(parts: _Parts, logs: Path, stop: threading.Event) -> int:
    """Answer requests until told to stop, then drain."""
    config, server, store = parts.core.config, parts.server, parts.core.store
    address = server.address
    record = record_path(logs, server.port)
    _log.info(
        "serving %s at %s, version %d, epoch %d",
        store.layout.digest,
        address,
        store.version,
        store.epoch,
    )
    threading.Thread(
        target=server.serve_forever, args=(_POLL_S,), name="accept", daemon=True
    ).start()
    if parts.same_host:
        parts.same_host.start()
    parts.core.snapshotter.start()
    parts.live.start()
    if config.embedded:
        process.announce(address, epoch=store.epoch, version=store.version)
        process.set_at_end_of_stdin(stop)
    else:
        description = StandaloneServer(
            address,
            parts.token,
            os.getpid(),
            store.layout.digest,
            store.game,
            tls_ca=str(config.tls_cert.absolute()) if config.tls_cert else "",
        )
        write_record(record, description)
        _say_where(parts, record)
    stop.wait()
    try:
        return _drain(parts)
    finally:
        server.shutdown()
        if parts.same_host:
            parts.same_host.close()
        parts.core.durability.close()
        remove_record(record, os.getpid())


def _drain(parts: _Parts) -> int:
    """Take no more pushes, write what is not on disk, stop."""
    exit_code = 0
    parts.live.close()
    try:
        line = parts.core.drain()
    except SnapshotFailed as error:
        line, exit_code = str(error), 1
    _log.info("%s", line)
    is_quiet = parts.core.config.embedded or exit_code
    process.say(line, to=sys.stderr if is_quiet else sys.stdout)
    return exit_code


def _describe(core: Core) -> dict[str, Any]:
    engine = core.engine
    entries = [[name, list(shape)] for name, shape in engine.layout.entries]
    return {
        "net": engine.net_text,
        "solver": engine.solver_text,
        "solver_type": engine.solver_type,
        "layout": {"digest": engine.layout.digest, "entries": entries},
        "game": core.store.game,
        "target_period": core.config.target_period,
    }


def _snapshot_folder(config: Config, logs: Path, port: int) -> Path:
    if config.snapshot_dir is not None:
        return config.snapshot_dir.absolute()
    return logs.absolute() / (config.run or f"param-server-{port}") / "snapshots"


def _say_what_is_left(config: Config, resumed: Resumed) -> None:
    """Tell from where the server goes on, before it forgets what was before."""
    for warning in resumed.warnings:
        process.say(f"warning: {warning}", to=sys.stderr)
    process.say(resumed.sentence, to=sys.stderr if config.embedded else sys.stdout)


def _say_where(parts: _Parts, record: Path) -> None:
    """Tell the person who started a standalone server what there is to know."""
    config, store, server = parts.core.config, parts.core.store, parts.server
    if config.port is None and server.port != DEFAULT_PORT:
        process.say(f"port {DEFAULT_PORT} is taken, using {server.port}")
    process.say(f"{store.layout.size:,} parameters, version {store.version}, epoch {store.epoch}")
    process.say(f"status page: {server.url}/current_status")
    process.say(f"token and address: {record}")


if __name__ == "__main__":
    leave(main())
