"""The driver: plan, parameter server, rounds, report.

    spark-submit --master local[2,4] ddq.py --game ALE/Pong-v5

This file reads the options and composes the parts; what a round is lies in barista/spark/, what a
worker does in barista/, and the weights in param-server/.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from param_server.errors import ParamServerError

import caffe
from barista import model, options, server_options
from barista.config import AgentConfig, ConfigError, option_name
from barista.evaluation import Evaluator
from barista.games import GameError, GameSpec, spec
from barista.interrupts import Interrupts, StartInterrupted
from barista.report import Progress
from barista.run_folder import Resume, RunFolder, RunFolderError, find_resume, logs_root
from barista.server_link import ServerLink, ServerLinkError, Wish

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from pyspark import SparkContext

    from barista.games.models import ModelFiles
    from barista.results import Players
    from barista.spark.training import Limits

DEFAULT_EPISODES = {"ddq/Snake-v0": 100}  # of the evaluation; else 8
LOG_LIMIT_BYTES = 10 << 20  # a longer barista.log begins anew with the next run


class UsageError(ValueError):
    """The user asked for what cannot be; the message is one line."""


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


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit code: 0 done, 2 the user's mistake, 1 a failure, 130 interrupted."""
    # Without any handler, py4j's log of an interrupt would print a traceback.
    logging.getLogger().addHandler(logging.NullHandler())
    interrupts = Interrupts()
    interrupts.install()
    job: Job | None = None
    halt = False
    try:
        job = _prepare(options.driver_parser().parse_args(argv), interrupts)
        return _train(job)
    except (UsageError, ConfigError, GameError, model.ModelError, RunFolderError) as error:
        code, said = 2, str(error)
    except ServerLinkError as error:
        code, said = error.exit_code, str(error)
    except KeyboardInterrupt as error:
        code, said = 130, "interrupted"
        halt = isinstance(error, StartInterrupted)
    _complain(said)
    if job is not None and not job.folder.metrics():
        job.folder.discard()
    if halt:
        _halt_spark(code)
    return code


def _prepare(given: argparse.Namespace, interrupts: Interrupts) -> Job:
    """Check everything that can be checked before something is started."""
    resume = find_resume(given.resume) if given.resume else None
    config = options.agent_config(given, resume.config if resume else {})
    _check_options(given)
    server_options.inherit(given, resume.options if resume else {})
    game = spec(config.game)
    model_file, solver_file = given.model, given.solver
    if resume:  # its own files, unless others are named
        model_file = model_file or str(resume.files / "train_val.prototxt")
        solver_file = solver_file or str(resume.files / "solver.prototxt")
    files = model.choose(game, model_file, solver_file)
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
    server_options.check(given)


def _begin_log(log: Path) -> None:
    """Put a log that has grown too long aside."""
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))


def _train(job: Job) -> int:
    from barista.spark import session  # noqa: PLC0415 (pyspark: only when there is work for it)

    with ExitStack() as stack:
        # The server and Spark each take seconds to start: side by side.
        starter = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="server"))
        link: Future[ServerLink] | None = None
        try:
            if session.is_local(session.master()):
                link = starter.submit(ServerLink.open, _wish(job, "127.0.0.1"))
            context = session.open_context(f"ddq {job.config.game}")
            stack.callback(context.stop)
            if link is None:
                link = starter.submit(ServerLink.open, _wish(job, session.driver_host(context)))
            server = link.result()
            job.interrupts.check()
        except session.SessionError as error:
            _abandon(link)
            raise ServerLinkError(str(error), error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            _abandon(link)
            raise StartInterrupted from interrupt
        except BaseException:
            _abandon(link)
            raise
        stack.callback(server.close)
        return _run(job, context, server)


def _wish(job: Job, host: str) -> Wish:
    given, config = job.given, job.config
    settings = {
        "--snapshot-dir": job.folder.snapshots,
        "--run": job.run,
        "--game": config.game,
        "--target-period": config.target_period,
        "--seed": config.seed,
        "--host": given.server_host or host,
        "--port": given.server_port,
        "--weights": given.weights and Path(given.weights).resolve(),
        "--resume": job.resume and job.resume.path,
        **server_options.arguments(given),
    }
    arguments = [str(job.solver)]
    for option, value in settings.items():
        arguments += [] if value is None else [option, str(value)]
    return Wish(
        run=job.run,
        game=config.game,
        net=job.files.net,
        arguments=arguments,
        logs=job.logs,
        address=given.server,
        may_join=server_options.may_join(given),
        host=host,
        ca=server_options.trusted(given),
    )


def _abandon(link: Future[ServerLink] | None) -> None:
    """Leave a server that is being started or joined while the run has come to nothing."""
    if link is not None and not link.cancel():
        with suppress(ServerLinkError):
            link.result().close()


def _run(job: Job, context: SparkContext, server: ServerLink) -> int:
    from barista.spark import session, task, training  # noqa: PLC0415
    from barista.spark.rounds import RoundError, Rounds  # noqa: PLC0415

    slots = session.task_slots(context, job.given.workers)
    workers = _workers(job, context, slots)
    config = AgentConfig.from_json({**job.config.to_json(), "workers": workers})
    _check_memory(job, config, local=session.is_local(context.master))
    limits = training.Limits(
        job.given.rounds,
        job.given.minutes or (None if job.given.rounds else options.DEFAULT_MINUTES),
        job.given.updates_per_round,
    )
    session.ship_code(context, job.folder.path)
    first_round = _begin_folder(job, config, context, server)
    where = f"{context.master}, {slots} task slot{'s' * (slots > 1)}"
    print(_plan(job, config, server, where, limits), flush=True)
    rounds = Rounds(context, workers)
    progress = Progress(minutes=limits.minutes, rounds=limits.rounds)
    evaluator = _evaluator(job, config, server, progress.say)
    per_executor = session.slots_per_executor(context)
    work = training.Training(
        rounds=rounds,
        server=server,
        folder=job.folder,
        progress=progress,
        config=config,
        assignment=task.Assignment(
            round={},
            orders={
                "server": server.address,
                "token": server.token,
                "ca": server.trusted(),
                "run": job.run,
                "config": config.to_json(),
                "local_workers": min(workers, per_executor),
            },
            slots=per_executor,
            log=str(job.logs / "barista.log"),
            host=socket.gethostname(),
        ),
        workers=workers,
        limits=limits,
        check=job.interrupts.check,
        evaluator=evaluator,
        evaluate_every=job.given.evaluate_every,
    )
    interrupted = failed = False
    try:
        work.run(first_round)
    except KeyboardInterrupt:
        interrupted = True
        progress.say("interrupted: stopping the workers, keeping a snapshot")
    except (training.TrainingError, RoundError) as error:
        failed = True
        progress.say(f"ddq.py: {error}")
    progress.close()
    if interrupted or failed:
        rounds.cancel()
    rounds.stop_baristas()
    return _finish(job, config, server, evaluator, interrupted=interrupted, failed=failed)


def _evaluator(
    job: Job, config: AgentConfig, server: ServerLink, say: Callable[[str], object]
) -> Evaluator | None:
    default = DEFAULT_EPISODES.get(config.game, 8)
    episodes = default if job.given.evaluate is None else job.given.evaluate
    if not episodes:
        return None
    net = job.folder.path / "train_val.prototxt"
    return Evaluator(server, net, config.game, episodes=episodes, seed=config.seed, say=say)


def _begin_folder(job: Job, config: AgentConfig, context: SparkContext, server: ServerLink) -> int:
    """Write what this run is, and what it continues; return the number of its first round."""
    status = server.status() or {}
    # One curve over all the runs of a chain, without what a lost snapshot has undone.
    rows = job.resume.metrics if job.resume else []
    rows = [row for row in rows if row.get("version", 0) <= status.get("version", 0)]
    try:
        for row in rows:
            job.folder.append(row)
        job.folder.write_config(
            {
                "run": job.run,
                "started": time.time(),
                "master": context.master,
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


def _finish(
    job: Job,
    config: AgentConfig,
    server: ServerLink,
    evaluator: Evaluator | None,
    *,
    interrupted: bool,
    failed: bool,
) -> int:
    """Evaluate, keep the final snapshot, draw the curve, say what there is."""
    from barista import results  # noqa: PLC0415 (the engine: only when there is something to play)

    players: Players | None = None
    status = server.status() or {}
    if evaluator is not None and not (interrupted or failed):
        print(f"Evaluating {evaluator.episodes} episodes, and a random player's …", flush=True)
        try:
            players = results.Players(evaluator.score().evaluation, evaluator.by_chance())
        except KeyboardInterrupt:
            interrupted = True
        except ParamServerError as error:
            failed = True
            _complain(error)
    snapshot = server.finish(job.folder.snapshots)
    best = results.better_one(evaluator, job.folder, snapshot)
    title = f"{config.game}, {config.workers} worker{'s' * (config.workers > 1)}"
    more = {"interrupted": interrupted, "failed": failed, "snapshot": str(snapshot)}
    results.conclude(job.folder, status, title=title, players=players, best=best, **more)
    said = results.lines(job.folder, status, players=players, snapshot=snapshot, best=best)
    print("\n".join(said), flush=True)
    if interrupted:
        return 130
    return 1 if failed or snapshot is None else 0


def _workers(job: Job, context: SparkContext, slots: int) -> int:
    wanted = job.given.workers or slots
    if not slots and not job.given.workers:
        raise UsageError(
            f"{context.master} has given no executor within half a minute: is the cluster busy, or "
            "does it not have what spark.executor.* asks for?  See logs/spark.log"
        )
    dynamic = context.getConf().get("spark.dynamicAllocation.enabled", "false") == "true"
    if wanted > slots and not dynamic:
        raise UsageError(
            f"--workers {wanted}: {context.master} has {slots} task slots, one a worker; "
            "give Spark more (--master local[N,4], more executors) or ask for fewer workers"
        )
    return int(wanted)


def _check_memory(job: Job, config: AgentConfig, *, local: bool) -> None:
    import psutil  # noqa: PLC0415

    from replay import ReplayBuffer  # noqa: PLC0415

    if not local:
        return
    each = ReplayBuffer.nbytes_for(
        config.replay_share,
        frame_shape=job.spec.frame_shape,
        num_envs=config.num_envs,
        n_step=config.n_step,
        stack=job.spec.stack,
    )
    needed, free = config.workers * (each + 400e6), psutil.virtual_memory().available
    if needed > free:
        raise UsageError(
            f"--replay-capacity {config.replay_capacity}: {config.workers} worker(s) need "
            f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; ask for a smaller one"
        )


def _plan(job: Job, config: AgentConfig, server: ServerLink, where: str, limits: Limits) -> str:
    kind = "double DQN" if config.double else "DQN"
    ends = [f"{limits.minutes:g} minutes"] if limits.minutes else []
    ends += [f"{limits.rounds} round{'s' * (limits.rounds > 1)}"] if limits.rounds else []
    origin = f", resumed from {job.given.resume}" if job.resume else ""
    rule = model.solver_line(job.files)
    engine = f"\n  engine   {caffe.__file__}" if os.environ.get("DDQ_CAFFE") else ""
    return f"""\
Distributed Deep Q: {config.game} on {where}{origin}
  workers  {config.workers}, a Barista each
  model    {job.given.model or "the default"}, {server.about.layout.size:,} parameters, {rule}
  agent    {kind}, {config.n_step}-step, batch {config.batch_size}, \
a gradient every {config.steps_per_update} steps, \
ε {config.epsilon_start:g} → {config.epsilon_end:g} over {config.epsilon_steps:,} steps
  replay   {config.replay_capacity:,} transitions in all, \
{config.warmup:,} before the first gradient
  server   {server.describe()}{engine}
  ends     after {" or ".join(ends)}; Ctrl-C ends it sooner and keeps a snapshot
  files    {job.folder.path}, {job.logs / "barista.log"}"""


def _complain(error: object) -> None:
    sys.stderr.write(f"ddq.py: {error}\n")


def _halt_spark(code: int) -> None:
    """End the JVM at once: with a context half made, its shutdown can wait for ever."""
    from barista.spark import session  # noqa: PLC0415

    sys.stderr.flush()
    time.sleep(0.3)  # our last line goes through that JVM
    session.halt(code)


if __name__ == "__main__":
    sys.exit(main())
