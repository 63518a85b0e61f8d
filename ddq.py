"""The driver: plan, parameter server, rounds, report.

    spark-submit --master local[2,4] ddq.py --game ALE/Pong-v5

This file reads the options and composes the parts; what a round is lies in barista/spark/, what a
worker does in barista/, and the weights in param-server/.
"""

from __future__ import annotations

import secrets
import signal
import socket
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import caffe
from barista import model, options
from barista.config import AgentConfig, ConfigError
from barista.games import GameError, GameSpec, spec
from barista.report import Progress, draw_curve, quiet, verdict
from barista.run_folder import Resume, RunFolder, RunFolderError, find_resume, logs_root
from barista.server_link import ServerLink, ServerLinkError

if TYPE_CHECKING:
    import argparse

    from pyspark import SparkContext

    from barista.games.models import ModelFiles
    from barista.play import Evaluation
    from barista.spark.training import Limits

DEFAULT_MINUTES = 4.0  # with start, stop and evaluation about five on two cores
DEFAULT_EPISODES = {"ddq/Snake-v0": 100}  # of the evaluation; else 8


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


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit code: 0 done, 2 the user's mistake, 1 a failure, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        job = _prepare(_parser().parse_args(argv))
    except (UsageError, ConfigError, GameError, model.ModelError, RunFolderError) as error:
        _complain(error)
        return 2
    try:
        return _train(job)
    except UsageError as error:
        _complain(error)
        job.folder.discard()
        return 2
    except ServerLinkError as error:
        _complain(error)
        job.folder.discard()
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = options.OneLineParser(prog="ddq.py", description="Train a deep Q-network on Spark.")
    run = parser.add_argument_group("the run")
    run.add_argument("--workers", type=options.positive_int, help="(default: the task slots)")
    run.add_argument("--rounds", type=options.positive_int, help="end after so many rounds")
    run.add_argument(
        "--minutes",
        type=options.positive_float,
        help=f"end after so much training (default, without --rounds: {DEFAULT_MINUTES:g})",
    )
    run.add_argument(
        "--updates-per-round",
        type=options.positive_int,
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
    net = parser.add_argument_group("the model")
    net.add_argument("--model", help="prototxt of the Q-network (default: the game's)")
    net.add_argument("--solver", help="prototxt of the update rule (default: the game's)")
    net.add_argument("--weights", metavar="FILE.caffemodel", help="start from these weights")
    server = parser.add_argument_group("the parameter server")
    server.add_argument("--server", metavar="HOST:PORT", help="use this one; token from DDQ_TOKEN")
    server.add_argument("--server-host", help="where an embedded server binds")
    server.add_argument(
        "--server-port", type=options.positive_int, help="(default: 5500 or next free)"
    )
    options.add_agent_options(parser)
    return parser


def _prepare(given: argparse.Namespace) -> Job:
    """Check everything that can be checked before something is started."""
    resume = find_resume(given.resume) if given.resume else None
    config = options.agent_config(given, resume.config if resume else {})
    if given.evaluate is not None and given.evaluate < 0:
        raise UsageError(f"--evaluate must be at least 0, not {given.evaluate}")
    if given.weights and resume:
        raise UsageError("--weights and --resume exclude each other: a snapshot has its weights")
    if given.weights and not Path(given.weights).is_file():
        raise UsageError(f"--weights {given.weights}: there is no such file")
    game = spec(config.game)
    model_file, solver_file = given.model, given.solver
    if resume and resume.folder:  # the resumed run's own files, unless others are named
        model_file = model_file or str(resume.folder.path / "train_val.prototxt")
        solver_file = solver_file or str(resume.folder.path / "solver.prototxt")
    files = model.choose(game, model_file, solver_file)
    logs = logs_root()
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    name = f"{stamp}-{config.game.rpartition('/')[2].lower()}"
    folder = RunFolder.create(Path(given.run_dir) if given.run_dir else logs / name)
    if resume and resume.folder:  # one curve over all the runs of a chain
        for row in resume.folder.metrics():
            folder.append(row)
    run = f"{folder.path.name}-{secrets.token_hex(3)}"
    return Job(
        given, config, game, files, folder, model.write(files, folder.path), resume, run, logs
    )


def _train(job: Job) -> int:
    from barista.spark import session  # noqa: PLC0415 (pyspark: only when there is work for it)

    with ExitStack() as stack:
        # The server and Spark each take seconds to start: side by side.
        starter = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="server"))
        local = session.is_local(session.master())
        link: Future[ServerLink] | None = _open_link(job, "127.0.0.1", starter) if local else None
        try:
            context = session.open_context(f"ddq {job.config.game}")
            stack.callback(context.stop)
            if link is None:
                link = _open_link(job, session.driver_host(context), starter)
            server = link.result()
        except session.SessionError as error:
            raise UsageError(str(error)) from error
        except BaseException:
            if link is not None and not link.cancel() and link.exception() is None:
                link.result().close()
            raise
        stack.callback(server.close)
        return _run(job, context, server)


def _open_link(job: Job, host: str, starter: ThreadPoolExecutor) -> Future[ServerLink]:
    given = job.given
    arguments = [str(job.solver), "--snapshot-dir", str(job.folder.snapshots), "--run", job.run]
    arguments += ["--game", job.config.game, "--target-period", str(job.config.target_period)]
    arguments += ["--seed", str(job.config.seed), "--host", given.server_host or host]
    if given.server_port:
        arguments += ["--port", str(given.server_port)]
    if given.weights:
        arguments += ["--weights", str(Path(given.weights).resolve())]
    if job.resume:
        arguments += ["--resume", str(job.resume.path)]
    return starter.submit(
        ServerLink.open,
        given.server,
        arguments,
        solver=job.solver,
        run=job.run,
        logs=job.logs,
        may_join=not (given.resume or given.weights or given.server_host or given.server_port),
    )


def _run(job: Job, context: SparkContext, server: ServerLink) -> int:
    from barista.spark import session, task, training  # noqa: PLC0415
    from barista.spark.rounds import RoundError, Rounds  # noqa: PLC0415

    slots = session.task_slots(context)
    workers = _workers(job, context, slots)
    config = AgentConfig.from_json({**job.config.to_json(), "workers": workers})
    _check_memory(job, config, local=session.is_local(context.master))
    limits = training.Limits(
        job.given.rounds,
        job.given.minutes or (None if job.given.rounds else DEFAULT_MINUTES),
        job.given.updates_per_round,
    )
    session.ship_code(context)
    _write_config(job, config, context, server)
    where = f"{context.master}, {slots} task slot{'s' * (slots > 1)}"
    print(_plan(job, config, server, where, limits), flush=True)
    rounds = Rounds(context, workers, session.slots_per_executor(context))
    progress = Progress(minutes=limits.minutes, rounds=limits.rounds)
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
                "run": job.run,
                "config": config.to_json(),
                "local_workers": min(workers, session.slots_per_executor(context)),
            },
            slots=session.slots_per_executor(context),
            log=str(job.logs / "barista.log"),
            host=socket.gethostname(),
        ),
        workers=workers,
        limits=limits,
    )
    interrupted = False
    try:
        work.run()
    except KeyboardInterrupt:
        interrupted = True
        progress.say("interrupted: stopping the workers, keeping a snapshot")
        rounds.cancel()
    except (training.TrainingError, RoundError) as error:
        progress.close()
        _complain(error)
        server.finish()
        return 1
    finally:
        progress.close()
        rounds.stop_baristas()
    return _finish(job, config, server, interrupted=interrupted)


def _finish(job: Job, config: AgentConfig, server: ServerLink, *, interrupted: bool) -> int:
    """Evaluate, draw the curve, keep the final snapshot, say what there is."""
    greedy: Evaluation | None = None
    random: Evaluation | None = None
    default = DEFAULT_EPISODES.get(config.game, 8)
    episodes = default if job.given.evaluate is None else job.given.evaluate
    if episodes and not interrupted:
        greedy, random = _evaluate(job, config, server, episodes)
    status = server.status() or {}
    snapshot = server.finish()
    summary = {
        "run": job.run,
        "interrupted": interrupted,
        "version": status.get("version"),
        "steps": status.get("steps"),
        "episodes": status.get("episodes"),
        "snapshot": snapshot,
        "greedy": greedy and asdict(greedy),
        "random": random and asdict(random),
    }
    quiet(lambda: job.folder.write_summary(summary))
    curve = job.folder.path / "curve.png"
    rows = job.folder.metrics()
    if rows:
        quiet(
            lambda: draw_curve(
                curve,
                rows,
                title=f"{config.game}, {config.workers} workers",
                greedy=greedy.mean if greedy else None,
                random=random.mean if random else None,
            )
        )
    print(
        f"Trained {config.game}: {status.get('version', 0):,} updates, {status.get('steps', 0):,} "
        f"steps, {status.get('episodes', 0):,} episodes."
    )
    if greedy is not None and random is not None:
        print("\n".join(verdict(greedy, random)))
    print(f"  snapshot {snapshot or 'none (see logs/param-server.log)'}")
    if rows:
        print(f"  curve    {curve}")
    return 130 if interrupted else 0


def _evaluate(
    job: Job, config: AgentConfig, server: ServerLink, episodes: int
) -> tuple[Evaluation, Evaluation]:
    from barista import play  # noqa: PLC0415 (the engine: only when there is something to play)

    print(f"Evaluating {episodes} episodes, and a random player's …", flush=True)
    net = caffe.Net(str(job.folder.path / "train_val.prototxt"), caffe.TEST)
    net.param_arena[...] = server.weights()
    greedy = play.evaluate(net, config.game, episodes=episodes, seed=config.seed)
    random = play.random_player(config.game, episodes=episodes, seed=config.seed)
    return greedy, random


def _workers(job: Job, context: SparkContext, slots: int) -> int:
    wanted = job.given.workers or slots
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
    ends += [f"{limits.rounds} rounds"] if limits.rounds else []
    origin = f", resumed from {job.given.resume}" if job.resume else ""
    rule = model.solver_line(job.files)
    return f"""\
Distributed Deep Q: {config.game} on {where}{origin}
  workers  {config.workers}, a Barista each
  model    {job.given.model or "the default"}, {server.layout_size:,} parameters, {rule}
  agent    {kind}, {config.n_step}-step, batch {config.batch_size}, \
a gradient every {config.steps_per_update} steps, \
ε {config.epsilon_start:g} → {config.epsilon_end:g} over {config.epsilon_steps:,} steps
  replay   {config.replay_capacity:,} transitions in all, \
{config.warmup:,} before the first gradient
  server   {server.describe()}
  ends     after {" or ".join(ends)}; Ctrl-C ends it sooner and keeps a snapshot
  files    {job.folder.path}, {job.logs / "barista.log"}"""


def _write_config(job: Job, config: AgentConfig, context: SparkContext, server: ServerLink) -> None:
    job.folder.write_config(
        {
            "run": job.run,
            "started": time.time(),
            "master": context.master,
            "server": server.address,
            "resume": str(job.resume.path) if job.resume else None,
            "agent": config.to_json(),
            "options": {k: v for k, v in vars(job.given).items() if v is not None},
        }
    )


def _complain(error: object) -> None:
    sys.stderr.write(f"ddq.py: {error}\n")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
