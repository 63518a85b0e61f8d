"""Where a server's life begins and what it leaves behind.

A snapshot and the journal's segments from the one that it names are the state; the progress file
tells whether that is all that was acknowledged.  Every life begins with a snapshot of its own, so
there is always one to go back to, and the initial weights are not lost with a server that dies
early.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server import progress
from param_server.errors import BadRequest, JournalFailed, SnapshotFailed, UserMistake
from param_server.journal import prune, segments
from param_server.journal_reader import Reading
from param_server.snapshot import by_age, load

if TYPE_CHECKING:
    from pathlib import Path

    from param_server.engine import Engine
    from param_server.journal import End, Journal
    from param_server.progress import Reached
    from param_server.snapshot import Snapshot
    from param_server.store import Store

_log = logging.getLogger(__name__)

_SURVIVORS = 2  # snapshots that can be recovered from, so that one may be damaged


class Resumed(NamedTuple):
    """What a server that was started again goes on from."""

    sentence: str
    warnings: tuple[str, ...]  # what is damaged
    path: Path  # of the snapshot
    version: int  # after the journal
    replayed: int  # changes that the journal did again
    lost_updates: int | None  # that were acknowledged and are gone; None: not known
    end: End | None  # of the journal that was replayed; the next one follows it

    def status(self) -> dict[str, Any]:
        """Return what the status tells."""
        return {
            "path": str(self.path),
            "version": self.version,
            "replayed": self.replayed,
            "lost_updates": self.lost_updates,
        }


def restore(engine: Engine, store: Store, snapshot: Snapshot, game: str) -> Resumed:
    """Continue a snapshot and what the journal holds after it, in a new epoch.

    An older snapshot than the newest of its folder was named on purpose: it is taken as it is, and
    what came after it is left aside.

    Raises:
        UserMistake: If it is of another game, net or solver type.
        SnapshotFailed: If it cannot be read.
    """
    _check(engine, snapshot, game)
    manifest, path = snapshot.manifest, snapshot.path
    folder = path.parent
    reached = progress.read(folder)
    epoch = new_epoch(max(manifest["epoch"], reached.epoch if reached else 0))
    engine.restore(path)
    try:
        store.restore(
            manifest,
            engine.read_target(path),
            epoch=epoch,
            gathered=engine.read_gathered(path),
        )
    except (BadRequest, KeyError, TypeError, ValueError) as error:
        raise UserMistake(f"--resume {path}: its manifest is damaged: {error}") from error
    newer = [age for age, _ in by_age(folder) if age > snapshot.age]
    is_chosen = bool(newer) and not snapshot.passed_over
    replayed, damage, end = (0, "", None) if is_chosen else _replay(store, snapshot)
    lost: int | None = None
    if is_chosen:
        after = f"newer snapshots there are left aside: {len(newer)}"
    else:
        is_whole = not (snapshot.passed_over or damage)
        lost, after = _compare(store, reached, since=manifest["epoch"] if is_whole else epoch)
    if replayed:
        after = f"changes done again from its journal: {replayed:,}; {after}"
    counters = store.counters()
    resumed = Resumed(
        f"resumed at version {store.version} from {path}: {counters.steps} steps, "
        f"{counters.episodes} episodes; {after}",
        tuple(filter(None, (*snapshot.passed_over, damage))),
        path,
        store.version,
        replayed,
        lost,
        end,
    )
    for warning in resumed.warnings:
        _log.warning("%s", warning)
    _log.info("%s", resumed.sentence)
    return resumed


def _check(engine: Engine, snapshot: Snapshot, game: str) -> None:
    """See that a snapshot is one for this server."""
    manifest, path = snapshot.manifest, snapshot.path
    for what, theirs, ours in (
        ("game", manifest.get("game"), game),
        ("solver type", manifest.get("solver_type"), engine.solver_type),
    ):
        if theirs and theirs != ours:  # a snapshot need not say its game
            raise UserMistake(f"--resume {path}: its {what} is {theirs!r}, not {ours!r}")
    if manifest.get("layout") != engine.layout.digest or not engine.has_net_of(path):
        raise UserMistake(f"--resume {path}: its network is not the one of the solver given")


def _replay(store: Store, snapshot: Snapshot) -> tuple[int, str, End | None]:
    """Do again what came after a snapshot; return how much, what is damaged, where it ends."""
    manifest = snapshot.manifest
    first = manifest.get("journal")
    if not first:
        return 0, "", None
    reading = Reading(snapshot.path.parent, first, (manifest["epoch"], manifest.get("changes", 0)))
    count = 0
    for record, gradient in reading:
        try:
            store.replay(record, gradient)
        except (BadRequest, KeyError, TypeError, ValueError) as error:
            return count, f"the journal does not fit the snapshot: {error}", None
        count += 1
    return count, reading.damage, reading.end


def _compare(store: Store, reached: Reached | None, *, since: int) -> tuple[int | None, str]:
    """Return how many acknowledged updates are gone, and that in words.

    Args:
        store: Restored.
        reached: What the life before had answered.
        since: The epoch in which that life began; only clearing the model begins another.
    """
    if reached is None:
        return None, "whether anything came after it is not known"
    changes = reached.changes - store.changes  # an answer that counted is one, and so is a clear
    if changes <= 0:
        return 0, "nothing acknowledged is lost"
    if reached.epoch > since:
        updates = reached.version
        return updates, f"clearing the model, and updates after it ({updates:,}), are gone"
    updates = max(0, reached.version - store.version)
    what = f"{updates:,} acknowledged update{'' if updates == 1 else 's'}"
    if changes > updates:
        what += (
            f" and {changes - updates:,} push{'' if changes - updates == 1 else 'es'} without one"
        )
    return updates, f"{what} {'is' if changes == 1 else 'are'} gone"


def new_epoch(previous: int) -> int:
    """Return an epoch that no server of this model had before: milliseconds since 1970."""
    return max(previous + 1, time.time_ns() // 1_000_000)


def fill(
    path: Path,
    engine: Engine,
    store: Store,
    *,
    seed: int | None,
    journal: Journal | None = None,
) -> dict[str, Any]:
    """Write a snapshot's files; return its manifest.

    Raises:
        SnapshotFailed: If they, or the beginning of its journal, cannot be written.
    """
    try:
        capture, _ = store.capture(lambda: engine.save(path))
        if journal is not None:
            journal.sync()  # a manifest must not name a segment that a power cut takes away
    except JournalFailed as error:
        raise SnapshotFailed(f"no snapshot written to {path.parent}: {error}") from error
    engine.finish(path, capture.target, capture.gathered)
    return {**capture.state, "solver_type": engine.solver_type, "seed": seed}


def prune_journal(folder: Path) -> None:
    """Remove the segments that the newest two undamaged snapshots do not need."""
    if not segments(folder):
        return
    needed = []
    for _, path in by_age(folder):
        try:
            # Without a number it was written where nothing was journalled, and needs none.
            needed.append(load(path).manifest.get("journal") or sys.maxsize)
        except SnapshotFailed:
            continue
        if len(needed) == _SURVIVORS:
            prune(folder, min(needed))
            return
