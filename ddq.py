"""The driver: plan, parameter server, rounds, report.

    spark-submit --master local[2,4] ddq.py --game ALE/Pong-v5
    python ddq.py --serial --game ALE/Pong-v5

This file reads the options and composes the parts: on Spark, with a server of its own process or
with none, or serially in this one.  What a round is lies in barista/, what becomes of gradients in
param-server/.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.errors import ParamServerError, UserMistake

from barista import model
from barista.config import AgentConfig, ConfigError
from barista.driver import command_line, memory, results, server_options
from barista.driver.interrupts import Interrupts, StartInterrupted
from barista.driver.job import (
    Job,
    UsageError,
    begin_folder,
    check_memory,
    plan,
    prepare,
    server_arguments,
)
from barista.driver.report import Progress, profile
from barista.driver.run_folder import RunFolderError
from barista.driver.server_link import ServerLink, ServerLinkError, Wish
from barista.driver.synchronous import Updates
from barista.driver.training import Limits, Training, TrainingError
from barista.games import GameError
from barista.playing.episodes import PlayError
from barista.playing.evaluation import Evaluator
from barista.rounds import RoundError

if TYPE_CHECKING:
    from pyspark import SparkContext

    from barista.driver.local_server import LocalServer
    from barista.driver.training import Rounds
    from barista.playing.episodes import Players
    from barista.playing.evaluation import Hall


class Site(NamedTuple):
    """Where a run takes place, and with whom."""

    where: str  # in words, for the plan
    master: str  # Spark's
    server: ServerLink | LocalServer
    rounds: Rounds
    hall: Hall  # where the evaluation at the end takes place
    config: AgentConfig  # with the number of workers that there are


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit code: 0 done, 2 the user's mistake, 1 a failure, 130 interrupted."""
    # Without any handler, py4j's log of an interrupt would print a traceback.
    logging.getLogger().addHandler(logging.NullHandler())
    interrupts = Interrupts()
    interrupts.install()
    job: Job | None = None
    halt = False
    try:
        job = prepare(command_line.driver_parser().parse_args(argv), interrupts)
        if job.given.doctor:
            return _examine(job)
        if job.given.serial:
            return _train_serially(job)
        return _train_on_spark(job) if job.given.exchange != "spark" else _train_in_step(job)
    except (UsageError, ConfigError, GameError, model.ModelError, RunFolderError) as error:
        code, said = 2, str(error)
    except (UserMistake, ParamServerError) as error:
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


# -- on Spark


def _train_on_spark(job: Job) -> int:
    # pyspark only when there is work for it
    from barista.spark import cluster, session  # noqa: PLC0415

    with ExitStack() as stack:
        # The server and Spark each take seconds to start: side by side.
        starter = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="server"))
        link: Future[ServerLink] | None = None
        try:
            if session.is_local(session.master()):
                link = starter.submit(ServerLink.open, _wish(job, "127.0.0.1"))
            context = _open_spark(job)
            stack.callback(context.stop)
            if in_clear := cluster.closures_in_clear(session.settings(context)):
                _complain(f"warning: {in_clear}")
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
        return _run(job, _spark_site(job, context, server))


def _open_spark(job: Job) -> SparkContext:
    from barista.spark import session  # noqa: PLC0415

    return session.open_context(
        f"ddq {job.config.game}", device=job.config.device, folder=job.folder.path
    )


def _examine(job: Job) -> int:
    """Say what would go wrong on the executors; returns 0 if nothing, else 1."""
    from barista.spark import doctor, session  # noqa: PLC0415

    with ExitStack() as stack:
        stack.callback(job.folder.discard)
        try:
            context = _open_spark(job)
        except session.SessionError as error:
            raise ServerLinkError(str(error), error.exit_code) from error
        stack.callback(context.stop)
        slots = session.task_slots(context, job.given.workers)
        workers = _workers(job, context, slots)
        session.ship_code(context, job.folder.path)
        config = AgentConfig.from_json({**job.config.to_json(), "workers": workers})
        lines, is_well = doctor.consult(context, job, config, slots)
    print("\n".join(lines), flush=True)
    return 0 if is_well else 1


def _wish(job: Job, host: str) -> Wish:
    given = job.given
    arguments = [*server_arguments(job), "--host", given.server_host or host]
    if given.server_port is not None:
        arguments += ["--port", str(given.server_port)]
    return Wish(
        run=job.run,
        game=job.config.game,
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


def _train_in_step(job: Job) -> int:
    """Train with Spark alone: this process holds the weights, each update is a job."""
    from barista.driver.local_server import LocalServer  # noqa: PLC0415 (PyTorch: seconds)
    from barista.spark import session  # noqa: PLC0415

    with ExitStack() as stack:
        server = stack.enter_context(LocalServer.open(server_arguments(job), print, job.interrupts))
        try:
            context = _open_spark(job)
            stack.callback(context.stop)
            job.interrupts.check()
        except session.SessionError as error:
            raise ServerLinkError(str(error), error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            raise StartInterrupted from interrupt
        return _run(job, _spark_site(job, context, server))


def _spark_site(job: Job, context: SparkContext, server: ServerLink | LocalServer) -> Site:
    from barista.spark import cluster, session, task  # noqa: PLC0415
    from barista.spark.evaluation import play_on_spark  # noqa: PLC0415
    from barista.spark.rounds import Rounds, SynchronousRounds  # noqa: PLC0415

    slots = session.task_slots(context, job.given.workers)
    workers = _workers(job, context, slots)
    config = AgentConfig.from_json({**job.config.to_json(), "workers": workers})
    per_executor = session.slots_per_executor(context)
    if session.is_local(context.master):
        check_memory(job, config)
    else:
        each = memory.worker_bytes(config, job.spec, server.parameters)
        in_one = min(workers, per_executor)
        short = cluster.memory_shortage(session.settings(context), each, in_one)
        if short:
            raise UsageError(short)
    session.ship_code(context, job.folder.path)
    assignment = task.Assignment(
        round={},
        orders={
            **_way_to(server, job, config),
            "run": job.run,
            "local_workers": min(workers, per_executor),
            "alone": session.is_local(context.master),
        },
        slots=per_executor,
        log=str(job.logs / "barista.log"),
        host=socket.gethostname(),
    )
    rounds = Rounds(context, workers, assignment)
    if not isinstance(server, ServerLink):
        updates = Updates(server, job.run, workers)
        rounds = SynchronousRounds(context, workers, assignment, updates)
    return Site(
        where=f"{context.master}, {slots} task slot{'s' * (slots > 1)}",
        master=str(context.master),
        server=server,
        rounds=rounds,
        hall=partial(play_on_spark, context, check=job.interrupts.check, say=print),
        config=config,
    )


def _way_to(server: ServerLink | LocalServer, job: Job, config: AgentConfig) -> dict[str, Any]:
    """Return the part of a Barista's orders that says where gradients go, and how."""
    if isinstance(server, ServerLink):
        way = {"server": server.address, "token": server.token, "ca": server.trusted()}
        return {**way, "config": config.to_json()}
    # What is to be the same twice happens in turn.
    config = replace(config, overlap="off")
    return {"server": "", "token": "", "net": job.net.read_text(), "config": config.to_json()}


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


# -- in this process


def _train_serially(job: Job) -> int:
    from barista.driver.local_server import LocalServer  # noqa: PLC0415 (PyTorch: seconds)
    from barista.driver.serial import SerialRounds, make_workers  # noqa: PLC0415
    from barista.playing.players import play_here  # noqa: PLC0415

    told = {
        "workers": job.given.workers or 1,
        "push_period": job.config.push_period or 1,  # auto: an exchange costs nothing here
    }
    config = AgentConfig.from_json({**job.config.to_json(), **told})
    check_memory(job, config)
    with LocalServer.open(server_arguments(job), print, job.interrupts) as server:
        rounds = SerialRounds(make_workers(config, job.net, server, job.run))
        return _run(job, Site("this process", "serial", server, rounds, play_here, config))


# -- on either


def _run(job: Job, site: Site) -> int:
    """Say what is about to happen, run the rounds, say what came of it."""
    config, server, given = site.config, site.server, job.given
    first_round = begin_folder(job, config, master=site.master, server=server)
    print(plan(job, config, where=site.where, server=server), flush=True)
    limits = Limits(given.rounds, command_line.minutes(given), given.updates_per_round)
    progress = Progress(minutes=limits.minutes, rounds=limits.rounds)
    evaluator: Evaluator | None = None
    if job.episodes:
        evaluator = Evaluator(
            server,
            job.net,
            job.terms,
            folder=job.folder.path,
            say=progress.say,
        )
    work = Training(
        rounds=site.rounds,
        server=server,
        folder=job.folder,
        progress=progress,
        config=config,
        log=job.logs / "barista.log",
        workers=config.workers,
        limits=limits,
        check=job.interrupts.check,
        evaluator=evaluator,
        evaluate_every=given.evaluate_every,
        in_step=given.exchange == "spark",
    )
    interrupted = failed = False
    try:
        work.run(first_round)
    except KeyboardInterrupt:
        interrupted = True
        progress.say("interrupted: stopping the workers, keeping a snapshot")
    except (TrainingError, RoundError) as error:
        failed = True
        progress.say(f"ddq.py: {error}")
    progress.close()
    if interrupted or failed:
        site.rounds.cancel()
    site.rounds.stop_baristas()
    if given.profile:
        print("\n".join(profile(job.folder.metrics())), flush=True)
    return _finish(job, site, evaluator, interrupted=interrupted, failed=failed)


def _finish(
    job: Job, site: Site, evaluator: Evaluator | None, *, interrupted: bool, failed: bool
) -> int:
    """Evaluate, keep the final snapshot, draw the curve, say what there is."""
    config, server = site.config, site.server
    players: Players | None = None
    status = server.status() or {}
    if evaluator is not None and not (interrupted or failed):
        print(f"Evaluating {job.episodes} episodes, and a random player's …", flush=True)
        try:
            players = evaluator.final(site.hall)
        except KeyboardInterrupt:
            interrupted = True
        except (ParamServerError, RoundError, PlayError) as error:
            failed = True
            _complain(error)
    elif evaluator is not None:
        evaluator.stop()
    snapshot = server.finish(job.folder.snapshots)
    best = results.better_one(evaluator, job.folder, snapshot)
    title = f"{config.game}, {config.workers} worker{'s' * (config.workers > 1)}"
    more = {"interrupted": interrupted, "failed": failed, "snapshot": str(snapshot)}
    results.conclude(
        job.folder,
        status,
        title=title,
        game=config.game,
        players=players,
        evaluator=evaluator,
        best=best,
        **more,
    )
    said = results.lines(
        job.folder, status, game=config.game, players=players, snapshot=snapshot, best=best
    )
    print("\n".join(said), flush=True)
    if interrupted:
        return 130
    return 1 if failed or snapshot is None else 0


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
