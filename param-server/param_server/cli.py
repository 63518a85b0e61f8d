"""The server's process: the composition root, where every part is made and joined."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server import process
from param_server.access import Access
from param_server.busy import Busy
from param_server.discovery import StandaloneServer, record_path, remove_record, write_record
from param_server.downloads import Downloads
from param_server.durability import Durability
from param_server.errors import SnapshotFailed, UserMistake
from param_server.journal import Journal
from param_server.judgement import Rules
from param_server.options import DEFAULT_PORT, Config, parser
from param_server.outliers import Outliers
from param_server.places import logs_folder, repository
from param_server.progress import Progress
from param_server.recovery import Resumed, fill, new_epoch, prune_journal, restore
from param_server.same_host import SameHostServer, offer
from param_server.snapshot import Folder, Snapshot, find
from param_server.snapshotter import Moment, Snapshotter
from param_server.staleness import parse_policy
from param_server.tls import server_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from param_server.engine import Engine
    from param_server.live import Live
    from param_server.serving import Server
    from param_server.store import Store

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

    server: Server
    same_host: SameHostServer | None
    store: Store
    live: Live
    snapshotter: Snapshotter
    durability: Durability
    token: str


def _run(config: Config) -> int:
    logs = logs_folder()
    process.start_log(logs)
    if config.weights and config.resume:
        raise UserMistake("--weights and --resume exclude each other: a snapshot has its weights")
    token = process.token(config.token_file)
    stop = threading.Event()
    process.set_at_signals(stop)
    server = process.bind(
        config.host, config.port, tls=server_context(config.tls_cert, config.tls_key)
    )
    folder = Folder(_snapshot_folder(config, logs, server.port), keep=config.keep)
    work = folder.path / f".tmp-engine-{os.getpid()}"
    try:
        folder.prepare()
        work.mkdir()
        parts = _compose(config, server, folder, work, token)
        return _serve(config, parts, logs, stop)
    finally:
        server.server_close()
        shutil.rmtree(work, ignore_errors=True)
        folder.close()


def _compose(config: Config, server: Server, folder: Folder, work: Path, token: str) -> _Parts:
    """Make the engine, the store, the snapshotter and the application, and join them."""
    # Flask, Caffe and PyTorch take seconds to import: a wrong flag should not wait for them.
    # A rule is a few passes over the weights: the other processors are the workers'.
    os.environ["OMP_NUM_THREADS"] = "1"
    from param_server.app import create_app  # noqa: PLC0415
    from param_server.engine import Engine  # noqa: PLC0415
    from param_server.probe import Probe  # noqa: PLC0415
    from param_server.service import Service  # noqa: PLC0415
    from param_server.store import Store  # noqa: PLC0415

    snapshot = find(config.resume) if config.resume else None
    engine = Engine(
        _solver_file(config, snapshot),
        roots=[Path.cwd(), repository()],
        work=work,
        seed=config.seed,
        weights=config.weights,
    )
    game = config.game or (snapshot.manifest.get("game", "") if snapshot else "")
    busy = Busy()
    probe = Probe(engine.layout, clock=time.monotonic)
    journal: Journal | None = None
    if config.durability == "acknowledged":
        journal = Journal(folder.path, lambda: (store.epoch, store.changes))
    store = Store(
        engine.layout,
        engine.weights,
        apply=engine.apply,
        reset=engine.reset,
        epoch=new_epoch(0),
        clock=time.monotonic,
        run=config.run,
        may_change_run=not config.embedded,
        target_period=config.target_period,
        game=game,
        lease_s=config.lease,
        rules=_rules(config, engine),
        journal=journal,
        probe=probe,
    )
    resumed = restore(engine, store, snapshot, game) if snapshot else None
    if resumed:
        _say_what_is_left(config, resumed)
        if journal and resumed.path.parent.samefile(folder.path):
            journal.follow(resumed.end)
    snapshotter = _snapshotter(config, folder, engine, store, journal)
    snapshotter.now()  # a life begins with one: there is always something to go back to
    durability = Durability(Progress(folder.path), journal)
    durability.acknowledge(store)
    downloads = Downloads(folder.path)
    described = _describe(engine, config, game)
    service = Service(
        store,
        access=Access(token, host=server.host, port=server.port),
        snapshots=snapshotter,
        downloads=downloads,
        prototxt=described,
        status=lambda: {
            **store.status(),
            "lr": engine.lr,
            "busy": busy.share(),
            "layers": probe.layers,
            "durability": config.durability,
            "resumed": resumed.status() if resumed else None,
            "snapshots": {**snapshotter.status(), "available": downloads.listing()},
        },
        new_epoch=lambda: new_epoch(store.epoch),
        durability=durability,
    )
    server.application = create_app(service)
    same_host = offer(service, server.port) if config.same_host else None
    described["same_host"] = str(same_host.path) if same_host else ""
    return _Parts(server, same_host, store, service.live, snapshotter, durability, token)


def _snapshotter(
    config: Config, folder: Folder, engine: Engine, store: Store, journal: Journal | None
) -> Snapshotter:
    def after_snapshot(written: Snapshot) -> None:
        store.mark_durable(*written.age)
        prune_journal(folder.path)

    return Snapshotter(
        folder,
        lambda path: fill(path, engine, store, seed=config.seed, journal=journal),
        moment=lambda: Moment(store.epoch, store.changes, store.version),
        written=after_snapshot,
        every_updates=config.snapshot_updates,
        every_s=config.snapshot_seconds,
        is_full=journal.is_full if journal else lambda: False,
        clock=time.monotonic,
    )


def _rules(config: Config, engine: Engine) -> Rules:
    """Return how pushes become updates.

    Raises:
        UserMistake: If two rules exclude each other.
    """
    policy = parse_policy(config.staleness)
    if policy.gathers and engine.iter_size > 1:
        raise UserMistake(
            f"--staleness {policy.name} and the solver's iter_size: {engine.iter_size} exclude "
            "each other: both say which pushes make an update"
        )
    return Rules(policy, Outliers(config.outliers), engine.iter_size)


def _serve(config: Config, parts: _Parts, logs: Path, stop: threading.Event) -> int:
    """Answer requests until told to stop, then drain."""
    server, store = parts.server, parts.store
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
    parts.snapshotter.start()
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
        _say_where(config, parts, record)
    stop.wait()
    try:
        return _drain(config, parts)
    finally:
        server.shutdown()
        if parts.same_host:
            parts.same_host.close()
        parts.durability.close()
        remove_record(record, os.getpid())


def _drain(config: Config, parts: _Parts) -> int:
    """Take no more pushes, write what is not on disk, stop."""
    store, snapshotter = parts.store, parts.snapshotter
    store.close()
    parts.live.close()
    snapshotter.stop()
    line = f"stopped at version {store.version}"
    exit_code = 0
    if snapshotter.has_changes():
        try:
            line += f", snapshot {snapshotter.now()['path']}"
        except SnapshotFailed as error:
            line += f"; {error}"
            exit_code = 1
    _log.info("%s", line)
    process.say(line, to=sys.stderr if config.embedded or exit_code else sys.stdout)
    return exit_code


def _describe(engine: Engine, config: Config, game: str) -> dict[str, Any]:
    entries = [[name, list(shape)] for name, shape in engine.layout.entries]
    return {
        "net": engine.net_text,
        "solver": engine.solver_text,
        "solver_type": engine.solver_type,
        "layout": {"digest": engine.layout.digest, "entries": entries},
        "game": game,
        "target_period": config.target_period,
    }


def _solver_file(config: Config, snapshot: Snapshot | None) -> Path:
    if config.solver is not None:
        return config.solver
    if snapshot is not None:
        return snapshot.path / "solver.prototxt"
    return repository() / "models" / "deepq" / "solver.prototxt"


def _snapshot_folder(config: Config, logs: Path, port: int) -> Path:
    if config.snapshot_dir is not None:
        return config.snapshot_dir.absolute()
    return logs.absolute() / (config.run or f"param-server-{port}") / "snapshots"


def _say_what_is_left(config: Config, resumed: Resumed) -> None:
    """Tell from where the server goes on, before it forgets what was before."""
    for warning in resumed.warnings:
        process.say(f"warning: {warning}", to=sys.stderr)
    process.say(resumed.sentence, to=sys.stderr if config.embedded else sys.stdout)


def _say_where(config: Config, parts: _Parts, record: Path) -> None:
    """Tell the person who started a standalone server what there is to know."""
    store, server = parts.store, parts.server
    if config.port is None and server.port != DEFAULT_PORT:
        process.say(f"port {DEFAULT_PORT} is taken, using {server.port}")
    process.say(f"{store.layout.size:,} parameters, version {store.version}, epoch {store.epoch}")
    process.say(f"status page: {server.url}/current_status")
    process.say(f"token and address: {record}")


if __name__ == "__main__":
    sys.exit(main())
