"""A server without a network: solver, store, snapshots and durability, put together.

The server's process (``cli``) surrounds it with transports; a driver in serial mode uses it as it
is, so that both train with the very same store.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.alarms import Alarms
from param_server.busy import Busy
from param_server.downloads import Downloads
from param_server.durability import Durability
from param_server.engine import Engine
from param_server.errors import SnapshotFailed, UserMistake
from param_server.incidents import Incidents
from param_server.journal import Journal
from param_server.judgement import Rules
from param_server.outliers import Outliers
from param_server.places import repository
from param_server.probe import Probe
from param_server.progress import Progress
from param_server.recovery import Resumed, fill, new_epoch, prune_journal, restore
from param_server.snapshot import Folder, Snapshot, find
from param_server.snapshotter import Moment, Snapshotter
from param_server.staleness import parse_policy
from param_server.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from param_server.options import Config


class Core(NamedTuple):
    """What a server consists of, whoever talks to it."""

    config: Config
    engine: Engine
    store: Store
    snapshotter: Snapshotter
    durability: Durability
    downloads: Downloads
    probe: Probe
    busy: Busy
    resumed: Resumed | None
    alarms: Alarms
    incidents: Incidents

    def status(self) -> dict[str, Any]:
        """Return what is known of the training, a JSON object."""
        status = self.store.status()
        return {
            **status,
            "alarms": self.alarms.look(status),
            "incidents": self.incidents.listing(),
            "lr": self.engine.lr,
            "busy": self.busy.share(),
            "layers": self.probe.layers,
            "durability": self.config.durability,
            "resumed": self.resumed.status() if self.resumed else None,
            "snapshots": {**self.snapshotter.status(), "available": self.downloads.listing()},
        }

    def drain(self) -> str:
        """Take no more pushes and write what is not on disk; say where things stand.

        Raises:
            SnapshotFailed: If it cannot be written; says where things stand too.
        """
        self.store.close()
        self.snapshotter.stop()
        line = f"stopped at version {self.store.version}"
        if self.snapshotter.has_changes():
            try:
                line += f", snapshot {self.snapshotter.now()['path']}"
            except SnapshotFailed as error:
                raise SnapshotFailed(f"{line}; {error}") from error
        return line


@contextmanager
def working_folder(path: Path, *, keep: int) -> Iterator[tuple[Folder, Path]]:
    """Prepare the folder of the snapshots, and one in it for Caffe's own files; leave both tidy."""
    folder = Folder(path, keep=keep)
    work = folder.path / f".tmp-engine-{os.getpid()}"
    try:
        folder.prepare()
        work.mkdir()
        yield folder, work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        folder.close()


def compose(config: Config, folder: Folder, work: Path, tell: Callable[[Resumed], None]) -> Core:
    """Make solver and store, at their beginning or where a snapshot left them.

    A first snapshot is written: there is always something to go back to.

    Args:
        config: The server's settings.
        folder: Of the snapshots.
        work: A folder for Caffe's own files.
        tell: Called with what is resumed before the folder forgets what was before.

    Raises:
        UserMistake: If a file is missing, malformed or does not fit, or two rules exclude each
            other.
        SnapshotFailed: If one cannot be read or written.
    """
    snapshot = find(config.resume) if config.resume else None
    engine = Engine(
        _solver_file(config, snapshot),
        roots=[Path.cwd(), repository()],
        work=work,
        seed=config.seed,
        weights=config.weights,
    )
    game = config.game or (snapshot.manifest.get("game", "") if snapshot else "")
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
        tell(resumed)
        if journal and resumed.path.parent.samefile(folder.path):
            journal.follow(resumed.end)
    snapshotter = _snapshotter(config, folder, engine, store, journal)
    snapshotter.now()
    durability = Durability(Progress(folder.path), journal)
    durability.acknowledge(store)
    downloads = Downloads(folder.path)
    return Core(
        config,
        engine,
        store,
        snapshotter,
        durability,
        downloads,
        probe,
        Busy(),
        resumed,
        Alarms(60 * config.stall_minutes),
        Incidents(),
    )


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


def _solver_file(config: Config, snapshot: Snapshot | None) -> Path:
    if config.solver is not None:
        return config.solver
    if snapshot is not None:
        return snapshot.path / "solver.prototxt"
    return repository() / "models" / "deepq" / "solver.prototxt"
