"""A Barista: one long-lived worker process.  `python -m barista --server HOST:PORT --game ID`.

Started by a Spark task it gets its orders, secrets among them, as one line of JSON on stdin,
answers that task's requests, and works in rounds.  Started by hand it takes options, and works
until it is stopped.  This file wires the parts together and decides when the process leaves, and
with which exit code: 0 stopped, 2 the user's mistake, 1 a failure, 130 interrupted.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from param_server.errors import Crowded, Draining, ParamServerError, Refused, Untrusted, UserMistake
from param_server.leaving import leave

from barista import assembly, options
from barista.assembly import Orders
from barista.config import AgentConfig, ConfigError
from barista.games import GameError
from barista.launch import FATAL
from barista.model import ModelError
from barista.rounds import RoundRequest
from barista.server import BASE_PORT, PortTakenError, RequestServer, RoundDesk
from barista.watch import leave_with

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from barista.worker import Worker

_log = logging.getLogger("barista")


def main(argv: list[str] | None = None) -> int:
    """Run a Barista; returns its exit code."""
    given = _parser().parse_args(argv)
    try:
        orders = _read_orders() if given.orders_on_stdin else _own_orders(given)
        _log_to_stderr(orders.worker)
        return _run(orders, given)
    except (ConfigError, GameError, PortTakenError) as error:
        sys.stderr.write(f"barista: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = options.OneLineParser(prog="barista", description="Play, learn, exchange gradients.")
    where = parser.add_argument_group("where")
    where.add_argument(
        "--server", metavar="HOST:PORT", help="the parameter server; needs DDQ_TOKEN"
    )
    where.add_argument(
        "--port", type=options.port, help=f"of its own (default: {BASE_PORT} or next free)"
    )
    where.add_argument("--run", default="by-hand", help="the run its gradients count for")
    where.add_argument("--tls-ca", metavar="FILE", help="PEM: certificates to trust of the server")
    where.add_argument("--name", help="this worker's name (default: host and process)")
    where.add_argument("--orders-on-stdin", action="store_true", help="as Spark's tasks start it")
    where.add_argument("--ready-fd", type=int, help="descriptor to announce the port on")
    options.add_agent_options(parser)
    return parser


def _read_orders() -> Orders:
    orders = Orders(**json.loads(sys.stdin.readline()))
    sys.stdin.close()
    return orders


def _own_orders(given: argparse.Namespace) -> Orders:
    token = os.environ.get("DDQ_TOKEN", "")
    if not given.server or not token:
        raise ConfigError("--server HOST:PORT and the token in DDQ_TOKEN are needed")
    return Orders(
        server=given.server,
        token=token,
        run=given.run,
        config=options.agent_config(given, {}).to_json(),
        worker=given.name or f"{socket.gethostname().split('.')[0]}-{os.getpid()}",
        incarnation=secrets.token_hex(8),
        local_token=secrets.token_urlsafe(24),
        ca=_read_ca(given.tls_ca) if given.tls_ca else "",
    )


def _read_ca(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no PEM"
        raise ConfigError(f"--tls-ca {path}: {reason}") from error


def _run(orders: Orders, given: argparse.Namespace) -> int:
    """Answer requests at once, become a worker, work until told to stop."""
    holder: list[Worker] = []
    began = time.monotonic()

    def progress() -> dict[str, Any]:
        if holder:
            return holder[0].progress()
        return {"phase": "starting", "heartbeat": _signs_of_life(began), "replay_size": 0}

    desk = RoundDesk(progress)
    port = BASE_PORT if given.port is None else given.port
    requests = RequestServer(desk, orders.local_token, port, exact=given.port is not None)
    requests.start()
    signal.signal(signal.SIGTERM, lambda *_: desk.stop())
    if orders.executor is not None:
        leave_with(int(orders.executor["pid"]), orders.executor["created"], desk.stop)
    if given.ready_fd is not None:
        with os.fdopen(given.ready_fd, "w") as announced:
            announced.write(f"{requests.port}\n")
    _log.info(
        "listening on 127.0.0.1:%d, pid %d, server %s",
        requests.port,
        os.getpid(),
        orders.server or "none: updates are Spark's jobs",
    )
    return _guarded(lambda: _work(orders, desk, holder), desk)


def _signs_of_life(began: float) -> float:
    """Return what changes as long as a start, begun at `began`, may be taken for one.

    It takes its time on a cold or busy machine; beyond three minutes one that does not compute (it
    may be reading experience) is hung.  Answering who asks takes far less than a second a minute.
    """
    return min(time.monotonic() - began, 180.0) + time.process_time() // 1


def _guarded(work: Callable[[], None], desk: RoundDesk) -> int:
    """Run `work`; leave what went wrong where the task can read it, then wait to be stopped."""
    try:
        work()
    except (Draining, Crowded) as error:  # it may come back
        _log.error("%s", error)
        desk.fail(str(error))
        code = 1
    except (ConfigError, GameError, ModelError, Refused, Untrusted, UserMistake) as error:
        _log.error("%s", error)
        desk.fail(f"{FATAL}{error}")
        code = 2
    except MemoryError:
        message = "the replay buffer does not fit in memory: give a smaller --replay-capacity"
        _log.error("%s", message)
        desk.fail(f"{FATAL}{message}")
        code = 2
    except ParamServerError as error:
        _log.error("%s", error)
        desk.fail(str(error))
        code = 1
    except Exception as error:  # noqa: BLE001 (whatever it is, the task is told)
        _log.exception("failed")
        desk.fail(f"{type(error).__name__}: {error}")
        code = 1
    else:
        _log.info("stopped")
        return 0
    desk.stopped.wait(30)  # long enough for the task to ask why
    return code


def _work(orders: Orders, desk: RoundDesk, holder: list[Worker]) -> None:
    with tempfile.TemporaryDirectory(prefix="ddq-") as folder:
        _work_in(Path(folder), orders, desk, holder)


def _work_in(folder: Path, orders: Orders, desk: RoundDesk, holder: list[Worker]) -> None:
    config = AgentConfig.from_json(orders.config)
    worker = assembly.assemble(orders, config, folder, desk.mailbox)
    holder.append(worker)
    if orders.executor is None:  # started by hand: one round without end
        desk.submit(RoundRequest(number=0, partition=0, quota=0, deadline_s=math.inf))
    try:
        while not desk.stopped.is_set():
            request = desk.next_round()
            if request is None:
                return
            _log.info("round %d, partition %d", request.number, request.partition)
            metrics = worker.run_round(request, desk.interrupt)
            _log.info(
                "round %d over: %d applied, %d gathered, %d steps, loss %s, %s",
                request.number,
                metrics["applied"],
                metrics["gathered"],
                metrics["steps"],
                metrics["loss_mean"],
                worker.timings,
            )
            desk.finish(request, dict(metrics))
    finally:
        worker.close()


def _log_to_stderr(worker: str) -> None:
    """Log to stderr, which is the log file's: each line with the worker's name."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s {worker} %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )


if __name__ == "__main__":
    leave(main())
