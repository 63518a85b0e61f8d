"""The folder of a run: `config.json`, `metrics.jsonl`, its tables, `curve.png`, `snapshots/`.

Everything that a run leaves lies here, and what is needed to go on from it: `--resume` takes such a
folder, or one of its snapshots.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple


class RunFolderError(ValueError):
    """A folder cannot be used; the message is one line for the user."""


class Resume(NamedTuple):
    """Where a run goes on from."""

    path: Path  # what the server is told: a run's folder or a snapshot's
    files: Path  # the folder that has train_val.prototxt and solver.prototxt
    config: dict[str, Any]  # its agent's settings; the game alone where the run is unknown
    options: dict[str, Any]  # what else it was asked for; nothing where the run is unknown
    metrics: list[dict[str, Any]]  # the earlier run's


class RunFolder:
    """One run's files.  Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def snapshots(self) -> Path:
        """Where the server of this run puts its snapshots."""
        return self.path / "snapshots"

    @property
    def curve(self) -> Path:
        """The picture of the run."""
        return self.path / "curve.png"

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make a new run's folder.

        Raises:
            RunFolderError: If there is something in it already, or it cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise RunFolderError(
                    f"--run-dir {path} is used already: name another, or go on from it with "
                    f"--resume {path}"
                )
            folder = cls(path.resolve())
            folder.snapshots.mkdir()
        except OSError as error:
            raise RunFolderError(f"cannot write {path}: {error.strerror}") from error
        return folder

    def discard(self) -> None:
        """Remove the folder of a run that has come to nothing."""
        shutil.rmtree(self.path, ignore_errors=True)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write what this run was asked for; no secrets."""
        (self.path / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def config(self) -> dict[str, Any]:
        """Return what this run was asked for, or nothing if that is not readable."""
        try:
            config: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        except (OSError, ValueError):
            return {}
        return config

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write how this run ended."""
        (self.path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")

    def newest_snapshot(self) -> Path | None:
        """Return the newest whole snapshot, if there is one."""
        whole = [p for p in self.snapshots.glob("*") if p.name.isdecimal()]
        return max(whole, key=lambda p: int(p.name), default=None)

    def append(self, *rows: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl for each round, and a file to the tables for all of them.

        Raises:
            OSError: If they cannot be written.
        """
        if not rows:  # a file without a line would look like a round
            return
        with (self.path / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        if rounds := [row for row in rows if "round" in row]:
            from barista.driver import tables  # noqa: PLC0415 (pyarrow: not before Spark is started)

            tables.write(self.path, rounds)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl; a torn last line is left out."""
        rows: list[dict[str, Any]] = []
        try:
            lines = (self.path / "metrics.jsonl").read_text().splitlines()
        except OSError:
            return rows
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows


def bring(snapshot: Path, snapshots: Path) -> Path:
    """Return where a run has a snapshot: a joined server's is copied into the run's own folder.

    It stays where it is if it cannot be copied, or lies on another host.
    """
    here = snapshots / snapshot.name
    if snapshot.is_dir() and not here.exists():
        try:
            shutil.copytree(snapshot, here)
        except OSError:
            shutil.rmtree(here, ignore_errors=True)
    return here if here.is_dir() else snapshot


def logs_root() -> Path:
    """Return the folder of logs: `$DDQ_ROOT/logs`, or the repository's.

    Raises:
        RunFolderError: If it cannot be written.
    """
    root = os.environ.get("DDQ_ROOT")
    logs = (Path(root) if root else Path(__file__).resolve().parents[2]) / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot write {logs}: {error.strerror}") from error
    if not os.access(logs, os.W_OK | os.X_OK):
        raise RunFolderError(f"cannot write {logs}: set DDQ_ROOT to a folder of yours")
    return logs


def find_resume(given: str) -> Resume:
    """Make out what `--resume` names.

    Raises:
        RunFolderError: If it is neither a run's folder nor a snapshot's.
    """
    path = Path(given).resolve()
    if not path.is_dir():
        raise RunFolderError(f"--resume {given}: there is no such folder")
    if (path / "manifest.json").is_file():
        run = RunFolder(path.parents[1])
        if not (run.path / "config.json").is_file():
            return Resume(path, path, _game_of(path, given), {}, [])
    elif (path / "snapshots").is_dir():
        run = RunFolder(path)
    else:
        raise RunFolderError(
            f"--resume {given}: neither a run (with snapshots/) nor a snapshot (with manifest.json)"
        )
    config = run.config()
    return Resume(path, run.path, config.get("agent", {}), config.get("options", {}), run.metrics())


def _game_of(snapshot: Path, given: str) -> dict[str, Any]:
    try:
        game = json.loads((snapshot / "manifest.json").read_text()).get("game")
    except (OSError, ValueError, AttributeError) as error:
        raise RunFolderError(f"--resume {given}: manifest.json is damaged") from error
    return {"game": game} if game else {}
