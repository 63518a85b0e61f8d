"""The rounds of a run, seen from the driver: start, watch, read the rows, decide on the next.

While a round's job runs, the driver looks once a second at three things that nobody else can see:
whether Spark gave the job any slot, whether the server lives, and whether it rejects one gradient
after another.  Evaluations run beside the rounds: the driver only asks whether a score has come.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from barista import dqn
from barista.driver.alarm_lines import AlarmLines
from barista.driver.push_period import PushPeriod, costs
from barista.driver.report import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from barista.config import AgentConfig
    from barista.driver.report import Progress
    from barista.driver.run_folder import RunFolder
    from barista.playing.evaluation import Evaluator, Score

ROUND_S = 20.0  # how long a round lasts by default: then a job's overhead is under two per cent
FIRST_UPDATES = 100  # of each worker in the first round, before the rate is known
ROUND_LIMIT_S = 900.0  # a round's time, where no `--minutes` cuts it shorter
GRACE_S = 150.0  # beyond a round's time: a Barista found hung (60 s) can be replaced
RESOURCES_WARN_S = 15.0
RESOURCES_LIMIT_S = 90.0
REPORTED = (
    "version", "steps", "episodes", "loss", "return_mean", "updates_per_s", "staleness_mean",
)  # fmt: skip
MAX_NON_FINITE = 20  # gradients in a row


class TrainingError(RuntimeError):
    """The run cannot go on; the message says what, and what to look at."""


class Server(Protocol):
    """What training needs of the parameter server; see `barista.driver.server_link`."""

    def status(self) -> dict[str, Any] | None:
        """Return status_data, None when it does not answer just now."""

    def revive(self) -> str | None:
        """Restart a dead server of our own; returns a line about it, None if all is well.

        Raises:
            RuntimeError: If it is dead or silent for good.
        """

    def incident(self, text: str, /) -> None:
        """Have it shown where people look."""


class Round(Protocol):
    """A round under way."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; says whether it came."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the row of each worker, once it is over.

        Raises:
            RoundError: If it failed.
        """


class Rounds(Protocol):
    """Who carries rounds out: Spark (`spark.rounds`), or this process (`barista.driver.serial`)."""

    def start(self, request: Mapping[str, Any], description: str, /) -> Round:
        """Begin a round; returns at once."""

    def has_running_tasks(self) -> bool:
        """Say whether any worker was given a place to work."""

    def cancel(self) -> None:
        """Stop whatever round there is."""

    def stop_baristas(self) -> None:
        """Stop the workers for good."""


class Limits(NamedTuple):
    """When a run ends: whichever comes first."""

    rounds: int | None
    minutes: float | None
    updates_per_round: int | None  # of each worker; None: what lasts about 20 s


class Training:
    """Runs rounds until a limit.  Not thread-safe."""

    def __init__(
        self,
        *,
        rounds: Rounds,
        server: Server,
        folder: RunFolder,
        progress: Progress,
        config: AgentConfig,
        log: Path,
        workers: int,
        limits: Limits,
        check: Callable[[], None] = lambda: None,
        evaluator: Evaluator | None = None,
        evaluate_every: int = 0,
        in_step: bool = False,
    ) -> None:
        self._rounds = rounds
        self._server = server
        self._folder = folder
        self._progress = progress
        self._config = config
        self._log = log  # the driver's barista.log
        self._workers = workers
        self._limits = limits
        self._check = check  # raises what was asked for while nobody could listen
        self._evaluator = evaluator
        self._evaluate_every = evaluate_every  # rounds; 0: never
        self._in_step = in_step  # whether workers wait for each other, whatever the server says
        self._deadline: float | None = None
        self._pushes_per_s = 0.0
        self._push_period = PushPeriod(config.push_period, workers)
        self._snapshot_error = ""
        self._alarms = AlarmLines(progress.say)
        self._score: Score | None = None  # that has come in this round
        self._present: set[str] = set()  # workers of the round before
        self.last_status: dict[str, Any] = {}

    def run(self, first_round: int = 1) -> int:
        """Train until a limit; returns the number of rounds run.

        Raises:
            TrainingError: If the run cannot go on.
        """
        if self._limits.minutes is not None:
            self._deadline = time.monotonic() + 60 * self._limits.minutes
        done = 0
        while self._limits.rounds is None or done < self._limits.rounds:
            left_s = ROUND_LIMIT_S if self._deadline is None else self._deadline - time.monotonic()
            if left_s < 1:
                break
            # Not after the last round: the end of the run has an evaluation of its own.
            every = self._evaluate_every
            if self._evaluator and every and done and done % every == 0:
                self._evaluator.begin(self.last_status.get("steps"))
            self._round(first_round + done, done, min(left_s, ROUND_LIMIT_S))
            done += 1
        return done

    def _round(self, number: int, done: int, limit_s: float) -> None:
        pushes = self._pushes_per_worker()
        request = {
            "number": number,
            "quota": pushes * self._workers,
            "deadline_s": limit_s,
            "push_period": self._push_period.now,
        }
        began = time.monotonic()
        job = self._rounds.start(request, f"ddq round {number}: {self._summary()}")
        self._watch(job, number, done, began + limit_s + GRACE_S)
        row = self._take(job.rows(), number, time.monotonic() - began)
        self._look_at_evaluation()
        if self._score is not None:
            row["evaluation"] = {**self._score.to_json(), "steps": self._score.steps}
            self._score = None
        self._keep(row)

    def _watch(self, job: Round, number: int, done: int, give_up_at: float) -> None:
        waiting_since: float | None = time.monotonic()
        warned = False
        while not job.wait(1.0):
            self._check()
            now = time.monotonic()
            self._look_at_server(number, done)
            self._look_at_evaluation()
            if self._rounds.has_running_tasks():
                waiting_since = None
            elif waiting_since is None:
                waiting_since = now
            waited_s = 0.0 if waiting_since is None else now - waiting_since
            if waited_s > RESOURCES_WARN_S and not warned:
                warned = True
                self._progress.say(
                    f"waiting: Spark has given round {number} no task slot for {waited_s:.0f} s; "
                    "are there free executors (cores, memory)? See Spark's UI and logs/spark.log"
                )
            if waited_s > RESOURCES_LIMIT_S:
                self._rounds.cancel()
                raise TrainingError(
                    f"Spark gave round {number} no task slot for {waited_s:.0f} s: no executor is "
                    "free, or none can give what a task asks for (spark.executor.*, spark.task.*)"
                )
            if now > give_up_at:
                self._rounds.cancel()
                raise TrainingError(
                    f"round {number} did not end in time; see logs/barista.log and logs/spark.log"
                )

    def _look_at_server(self, number: int, done: int) -> None:
        try:
            revived = self._server.revive()
        except RuntimeError as error:
            self._rounds.cancel()
            raise TrainingError(str(error)) from error
        if revived is not None:
            self._tell(revived)
        status = self._server.status()
        if status is None:
            return
        self.last_status = status
        self._progress.show(self._line(number), done)
        self._look_at_snapshots(status)
        self._alarms.show(status)
        bad = status.get("consecutive_non_finite") or {}
        if bad.get("count", 0) >= MAX_NON_FINITE:
            self._rounds.cancel()
            raise TrainingError(
                f"{bad['count']} gradients in a row were not finite, first in {bad['parameter']}, "
                f"at learning rate {status.get('lr', '?')}: lower base_lr, or set clip_gradients"
            )

    def _look_at_evaluation(self) -> None:
        if self._evaluator is not None:
            self._score = self._evaluator.poll() or self._score

    def _look_at_snapshots(self, status: dict[str, Any]) -> None:
        """Say once when snapshots cannot be written: a full disk is not the end of a run."""
        error = (status.get("snapshots") or {}).get("error") or ""
        if error and error != self._snapshot_error:
            self._progress.say(f"warning: {error}; the last good snapshot stays, training goes on")
        self._snapshot_error = error

    def _take(self, rows: list[dict[str, Any]], number: int, seconds: float) -> dict[str, Any]:
        """Read a finished round's rows: restarts, rate; return the round's line of metrics."""
        for row in rows:
            for event in row.get("restarts", ()):
                self._tell(f"{event}; restarted")
            self._keep_log(row.pop("log", []))
        rows = _one_of_each(rows)
        self._compare_workers({row["worker"] for row in rows}, number)
        rates = [
            (row["applied"] + row["gathered"] + row["rejected"]) / busy
            for row in rows
            if (
                busy := sum(
                    row.get(f"{s}_s", 0.0) for s in ("act", "sample", "compute", "exchange")
                )
            )
        ]
        self._pushes_per_s = sum(rates) or self._pushes_per_s
        status = self._server.status()
        if status is not None:
            self.last_status = status
            self._alarms.show(status)
        self._progress.end_of_round(self._line(number))
        period = self._push_period.now
        self._choose_push_period(rows, seconds)
        return {
            "round": number,
            "time": time.time(),
            "seconds": round(seconds, 3),
            "epsilon": self.epsilon(),
            "push_period": period,
            **{key: self.last_status.get(key) for key in REPORTED},
            "alarms": self._alarms.active,
            "workers": rows,
        }

    def _compare_workers(self, workers: set[str], number: int) -> None:
        """Say which workers are others than in the round before."""
        if self._present:
            for worker in sorted(self._present - workers):
                self._tell(f"{worker} took no part in round {number}")
            for worker in sorted(workers - self._present):
                self._tell(f"{worker} takes part since round {number}")
        self._present = workers

    def _choose_push_period(self, rows: list[dict[str, Any]], seconds: float) -> None:
        """Say how many gradients the next round's pushes hold, where that is for us to choose."""
        busy = float(self.last_status.get("busy") or 0.0)
        in_step = self._in_step or bool(self.last_status.get("in_step"))
        found = costs(rows, self._push_period.now, seconds=seconds, busy=busy, in_step=in_step)
        if found and (line := self._push_period.follow(found)):
            self._progress.say(line)
            self._pushes_per_s = found.pushes_per_s(self._workers, self._push_period.now)

    def _keep(self, row: dict[str, Any]) -> None:
        """Add a line to the run's metrics."""
        try:
            self._folder.append(row)
        except OSError as error:
            self._progress.say(f"warning: metrics.jsonl: {error.strerror}; training goes on")

    def _tell(self, line: str) -> None:
        """Say on the console, dashboard and workers' log what has become of a process."""
        self._progress.say(line)
        self._server.incident(line)
        self._keep_log([f"{time.strftime('%Y-%m-%d %H:%M:%S')} driver WARNING {line}"])

    def _keep_log(self, lines: list[str]) -> None:
        """Add lines to the driver's file: its own, or what Baristas of other hosts have logged."""
        if lines:
            with suppress(OSError), self._log.open("a") as file:
                file.write("\n".join(lines) + "\n")

    def _pushes_per_worker(self) -> int:
        if self._limits.updates_per_round is not None:
            return self._limits.updates_per_round
        if not self._pushes_per_s:
            return FIRST_UPDATES
        return max(1, round(self._pushes_per_s * ROUND_S / self._workers))

    def epsilon(self) -> float:
        """Return ε at the total of agent steps last seen."""
        return dqn.linear_schedule(
            int(self.last_status.get("steps", 0)) - self._config.warmup,
            start=self._config.epsilon_start,
            end=self._config.epsilon_end,
            duration=self._config.epsilon_steps,
        )

    def _line(self, number: int) -> str:
        return describe(self.last_status, epsilon=self.epsilon(), round_number=number)

    def _summary(self) -> str:
        if not self.last_status:
            return "warm-up"
        return self._line(int(self.last_status["round"].get("number") or 0)).partition(" · ")[2]


def _one_of_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without those that one Barista gave twice.

    A task that was lost with its executor is done again by another, whose Barista may have been
    through with the round.
    """
    seen: set[str | None] = set()
    once = []
    for row in rows:
        barista = row.pop("incarnation", None)
        if barista is None or barista not in seen:
            once.append(row)
        seen.add(barista)
    return once
