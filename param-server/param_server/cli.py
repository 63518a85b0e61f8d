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
from param_server.discovery import StandaloneServer, record_path, remove_record, write_record
from param_server.errors import BadRequest, SnapshotFailed, UserMistake
from param_server.options import DEFAULT_PORT, Config, parser
from param_server.places import logs_folder, repository
from param_server.snapshot import Folder, Snapshot, Snapshotter, find

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from param_server.engine import Engine
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
    store: Store
    snapshotter: Snapshotter
    token: str
    resumed: str  # a sentence, empty if it was not


def _run(config: Config) -> int:
    logs = logs_folder()
    process.start_log(logs)
    if config.weights and config.resume:
        raise UserMistake("--weights and --resume exclude each other: a snapshot has its weights")
    token = process.token(config.token_file)
    stop = threading.Event()
    process.set_at_signals(stop)
    server = process.bind(config.host, config.port)
    folder = Folder(_snapshot_folder(config, logs, server.port))
    folder.prepare()
    work = folder.path / f".tmp-engine-{os.getpid()}"
    work.mkdir()
    try:
        parts = _compose(config, server, folder, work, token)
        return _serve(config, parts, logs, stop)
    finally:
        server.server_close()
        shutil.rmtree(work, ignore_errors=True)


def _compose(config: Config, server: Server, folder: Folder, work: Path, token: str) -> _Parts:
    """Make the engine, the store, the snapshotter and the application, and join them."""
    # Flask, Caffe and PyTorch take seconds to import: a wrong flag should not wait for them.
    # A rule is a few passes over the weights: the other processors are the workers'.
    os.environ["OMP_NUM_THREADS"] = "1"
    from param_server.app import create_app  # noqa: PLC0415
    from param_server.engine import Engine  # noqa: PLC0415
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
    store = Store(
        engine.layout,
        engine.weights,
        apply=engine.apply,
        reset=engine.reset,
        epoch=_new_epoch(0),
        clock=time.monotonic,
        run=config.run,
        may_change_run=not config.embedded,
        target_period=config.target_period,
        game=game,
    )
    resumed = _restore(engine, store, snapshot, game) if snapshot else ""
    snapshotter = Snapshotter(
        folder,
        lambda path: _fill(path, engine, store, config),
        progress=lambda: (store.changes, store.version),
        written=lambda written: store.mark_durable(*written.age),
        every_updates=config.snapshot_updates,
        every_s=config.snapshot_seconds,
        clock=time.monotonic,
    )
    service = Service(
        store,
        access=Access(token, host=server.host, port=server.port),
        snapshots=snapshotter,
        prototxt=_describe(engine, config, game),
        status=lambda: {**store.status(), "lr": engine.lr, "snapshots": snapshotter.status()},
        new_epoch=lambda: _new_epoch(store.epoch),
    )
    server.application = create_app(service)
    return _Parts(server, store, snapshotter, token, resumed)


def _serve(config: Config, parts: _Parts, logs: Path, stop: threading.Event) -> int:
    """Answer requests until told to stop, then drain."""
    server, store = parts.server, parts.store
    threading.Thread(
        target=server.serve_forever, args=(_POLL_S,), name="accept", daemon=True
    ).start()
    parts.snapshotter.start()
    address = server.address
    record = record_path(logs, server.port)
    _log.info("serving %s at %s, version %d", store.layout.digest, address, store.version)
    if config.embedded:
        process.announce(address, epoch=store.epoch, version=store.version)
        process.set_at_end_of_stdin(stop)
    else:
        description = StandaloneServer(
            address, parts.token, os.getpid(), store.layout.digest, store.game
        )
        write_record(record, description)
        _say_where(config, parts, record)
    stop.wait()
    try:
        return _drain(config, parts)
    finally:
        server.shutdown()
        remove_record(record, os.getpid())


def _drain(config: Config, parts: _Parts) -> int:
    """Take no more pushes, write what is not on disk, stop."""
    store, snapshotter = parts.store, parts.snapshotter
    store.close()
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


def _fill(path: Path, engine: Engine, store: Store, config: Config) -> dict[str, Any]:
    """Write a snapshot's files; return its manifest."""
    capture, _ = store.capture(lambda: engine.save(path))
    engine.finish(path, capture.target)
    return {**capture.state, "solver_type": engine.solver_type, "seed": config.seed}


def _restore(engine: Engine, store: Store, snapshot: Snapshot, game: str) -> str:
    """Continue a snapshot; return a sentence that says from where.

    Raises:
        UserMistake: If it is of another game, net or solver type.
    """
    manifest, path = snapshot.manifest, snapshot.path
    for what, theirs, ours in (
        ("game", manifest.get("game"), game),
        ("solver type", manifest.get("solver_type"), engine.solver_type),
    ):
        if theirs and theirs != ours:  # a snapshot need not say its game
            raise UserMistake(f"--resume {path}: its {what} is {theirs!r}, not {ours!r}")
    if manifest.get("layout") != engine.layout.digest or not engine.has_net_of(path):
        raise UserMistake(f"--resume {path}: its network is not the one of the solver given")
    epoch = _new_epoch(manifest["epoch"])
    engine.restore(path)
    try:
        store.restore(manifest, engine.read_target(path), epoch=epoch)
    except (BadRequest, KeyError, ValueError) as error:
        raise UserMistake(f"--resume {path}: its manifest is damaged: {error}") from error
    counters = store.counters()
    sentence = (
        f"resumed at version {store.version} from {path}: "
        f"{counters.steps} steps, {counters.episodes} episodes; what came after it is lost"
    )
    _log.info("%s", sentence)
    return sentence


def _describe(engine: Engine, config: Config, game: str) -> Mapping[str, Any]:
    entries = [[name, list(shape)] for name, shape in engine.layout.entries]
    return {
        "net": engine.net_text,
        "solver": engine.solver_text,
        "solver_type": engine.solver_type,
        "layout": {"digest": engine.layout.digest, "entries": entries},
        "game": game,
        "target_period": config.target_period,
    }


def _new_epoch(previous: int) -> int:
    """Return an epoch that no server of this model had before: milliseconds since 1970."""
    return max(previous + 1, time.time_ns() // 1_000_000)


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


def _say_where(config: Config, parts: _Parts, record: Path) -> None:
    """Tell the person who started a standalone server what there is to know."""
    store, server = parts.store, parts.server
    if config.port is None and server.port != DEFAULT_PORT:
        process.say(f"port {DEFAULT_PORT} is taken, using {server.port}")
    if parts.resumed:
        process.say(parts.resumed)
    process.say(f"{store.layout.size:,} parameters, version {store.version}, epoch {store.epoch}")
    process.say(f"status page: http://{server.address}/current_status")
    process.say(f"token and address: {record}")


if __name__ == "__main__":
    sys.exit(main())
