"""What a run is: decided and checked before anything is started."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import psutil

import caffe
from barista import model, one_net, options
from barista.config import AgentConfig, option_name
from barista.driver import command_line, memory, server_options, synchronous
from barista.driver.run_folder import Resume, RunFolder, RunFolderError, find_resume, logs_root
from barista.games import GameSpec, spec
from barista.playing.episodes import Terms

if TYPE_CHECKING:
    import argparse

    from barista.driver.interrupts import Interrupts
    from barista.games.models import ModelFiles

DEFAULT_EPISODES = {"ddq/Snake-v0": 100}  # of the evaluation; else 8
LOG_LIMIT_BYTES = 10 << 20  # a longer barista.log begins anew with the next run


class UsageError(ValueError):
    """The user asked for what cannot be; the message is one line."""


class Server(Protocol):
    """What is told of the parameter server."""

    address: str  # HOST:PORT

    @property
    def parameters(self) -> int:
        """How many are learned."""

    def status(self) -> dict[str, Any] | None:
        """Return status_data, None when it does not answer just now."""

    def describe(self) -> str:
        """Return which one it is, in words."""


class Job(NamedTuple):
    """All that is decided before anything is started."""

    given: argparse.Namespace
    config: AgentConfig
    spec: GameSpec
    files: ModelFiles
    folder: RunFolder
    solver: Path
    resume: Resume | None
    run: str  # this run's identity in the server's ledger
    logs: Path
    interrupts: Interrupts

    @property
    def net(self) -> Path:
        """The network's prototxt."""
        return self.folder.path / "train_val.prototxt"

    @property
    def terms(self) -> Terms:
        """The terms of every evaluation."""
        config, actions = self.config, self.spec.num_actions
        return Terms(config.game, self.episodes, config.seed, config.protocol, num_actions=actions)

    @property
    def episodes(self) -> int:
        """How many are played in an evaluation."""
        default = DEFAULT_EPISODES.get(self.config.game, 8)
        return default if self.given.evaluate is None else int(self.given.evaluate)


def prepare(given: argparse.Namespace, interrupts: Interrupts) -> Job:
    """Check everything that can be checked before something is started.

    Raises:
        UsageError: If options exclude each other.
        ConfigError: If an option of the agent cannot work.
        GameError: If the game cannot be played.
        ModelError: If the model does not fit it.
        RunFolderError: If a folder cannot be used.
    """
    resume = find_resume(given.resume) if given.resume else None
    inherited = dict(resume.config) if resume else {}
    for name in ("replay_to", "replay_from"):  # once, for the run that asked for it
        inherited.pop(name, None)
    config = options.agent_config(given, inherited)
    # A Barista works in a folder of Spark's.
    folders: dict[str, Any] = {
        name: str(Path(path).resolve())
        for name in ("replay_dir", "replay_to", "replay_from")
        if (path := getattr(config, name))
    }
    config = replace(config, **folders)
    _check_options(given)
    if resume and not (given.exchange or given.serial or given.server):
        given.exchange = resume.options.get("exchange")
    if given.exchange == "spark":
        synchronous.check(given, config)
    server_options.inherit(given, resume.options if resume else {})
    game = spec(config.game, config.protocol)
    if config.replay_to or config.replay_from:
        from barista import experience  # noqa: PLC0415 (pyarrow: only where it is needed)

        experience.check(config, game)
    model_file, solver_file = given.model, given.solver
    if resume:  # its own files, unless others are named
        model_file = model_file or str(resume.files / "train_val.prototxt")
        solver_file = solver_file or str(resume.files / "solver.prototxt")
    files = model.choose(
        game, model_file, solver_file, dueling=config.dueling, quantiles=config.quantiles
    )
    if model.is_one_net(files.net):
        one_net.check(config)
    logs = logs_root()
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    name = f"{stamp}-{config.game.rpartition('/')[2].lower()}"
    folder = RunFolder.create(Path(given.run_dir) if given.run_dir else logs / name)
    run = f"{folder.path.name}-{secrets.token_hex(3)}"
    try:
        solver = model.write(files, folder.path)
        _begin_log(logs / "barista.log")
    except OSError as error:
        raise RunFolderError(f"cannot write {folder.path}: {error.strerror}") from error
    return Job(given, config, game, files, folder, solver, resume, run, logs, interrupts)


def _check_options(given: argparse.Namespace) -> None:
    for name in ("evaluate", "evaluate_every"):
        if (getattr(given, name) or 0) < 0:
            raise UsageError(f"{option_name(name)} must be at least 0, not {getattr(given, name)}")
    if given.evaluate_every and given.evaluate == 0:
        raise UsageError("--evaluate-every needs episodes to play, and --evaluate is 0")
    if given.rounds == 0 and not given.resume:
        raise UsageError("--rounds 0 only evaluates, and needs --resume RUN_OR_SNAPSHOT")
    if given.serial and given.doctor:
        raise UsageError("--doctor looks at Spark's executors: drop --serial")
    if given.serial:
        _check_serial(given)
    server_options.check(given)


def _check_serial(given: argparse.Namespace) -> None:
    for name in server_options.OF_A_NETWORK:
        if getattr(given, name) is not None:
            raise UsageError(
                f"{option_name(name)} and --serial exclude each other: there is no network then"
            )


def _begin_log(log: Path) -> None:
    """Put a log that has grown too long aside."""
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))


def server_arguments(job: Job) -> list[str]:
    """Return the command line of a server of the run's own, but for where it listens."""
    given, config = job.given, job.config
    settings = {
        "--snapshot-dir": job.folder.snapshots,
        "--run": job.run,
        "--game": config.game,
        "--target-period": config.target_period,
        "--seed": config.seed,
        "--weights": given.weights and Path(given.weights).resolve(),
        "--resume": job.resume and job.resume.path,
        **server_options.arguments(given),
    }
    arguments = [str(job.solver)]
    for option, value in settings.items():
        arguments += [] if value is None else [option, str(value)]
    return arguments


def begin_folder(job: Job, config: AgentConfig, *, master: str, server: Server) -> int:
    """Write what this run is, and what it continues; return the number of its first round.

    Args:
        job: What was decided.
        config: With the number of workers that there are.
        master: Spark's.
        server: Has the weights.

    Raises:
        UsageError: If the folder cannot be written.
    """
    version = (server.status() or {}).get("version", 0)
    # One curve over all the runs of a chain, without what a lost snapshot has undone.
    rows = job.resume.metrics if job.resume else []
    rows = [row for row in rows if row.get("version", 0) <= version]
    try:
        job.folder.append(*rows)
        job.folder.write_config(
            {
                "run": job.run,
                "started": time.time(),
                "master": master,
                "server": server.address,
                "resume": str(job.resume.path) if job.resume else None,
                "engine": caffe.__file__,
                "agent": config.to_json(),
                "options": {k: v for k, v in vars(job.given).items() if v is not None},
            }
        )
    except OSError as error:
        raise UsageError(f"cannot write {job.folder.path}: {error.strerror}") from error
    return max((row.get("round", 0) for row in rows), default=0) + 1


def check_memory(job: Job, config: AgentConfig) -> None:
    """See that the replay fits into this machine, where all workers are.

    Raises:
        UsageError: If it does not.
    """
    needed = memory.serial_bytes(config, job.spec)
    free = psutil.virtual_memory().available
    if needed > free:
        raise UsageError(
            f"--replay-capacity {config.replay_capacity}: {config.workers} worker(s) need "
            f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; ask for a smaller one, or "
            "keep it on disk: --replay-dir FOLDER"
        )


def plan(job: Job, config: AgentConfig, *, where: str, server: Server) -> str:
    """Return what is about to happen, for the user.

    Args:
        job: What was decided.
        config: With the number of workers that there are.
        where: It runs.
        server: Has the weights.
    """
    given = job.given
    ends = [f"{minutes:g} minutes"] if (minutes := command_line.minutes(given)) else []
    if given.rounds is not None:
        ends += [f"{given.rounds} round{'s' * (given.rounds != 1)}"]
    origin = f", resumed from {given.resume}" if job.resume else ""
    rule = model.solver_line(job.files)
    engine = f"\n  engine   {caffe.__file__}" if os.environ.get("DDQ_CAFFE") else ""
    each = "taking turns" if given.serial else "a Barista each"
    return f"""\
Distributed Deep Q: {config.game} on {where}{origin}
  workers  {config.workers}, {each}
  model    {given.model or "the default"}, {server.parameters:,} parameters, {rule}
  agent    {config.describe()}, batch {config.batch_size}, \
a gradient every {config.steps_per_update} steps
  explores {_exploration(config)}
  replay   {config.replay_capacity:,} transitions in all, \
{config.warmup:,} before the first gradient
  server   {server.describe()}{engine}
  ends     after {" or ".join(ends)}; Ctrl-C ends it sooner and keeps a snapshot
  files    {job.folder.path}, {job.logs / "barista.log"}"""


def _exploration(config: AgentConfig) -> str:
    if config.epsilon_ladder:
        return "each copy of the game at an ε of its own, 0.4 down to 0.0007"
    return (
        f"ε {config.epsilon_start:g} → {config.epsilon_end:g} over {config.epsilon_steps:,} steps"
    )
