"""One worker that learns Pong, beside Stable-Baselines3's and CleanRL's DQN and its own ceilings.

All learn with the same net (Nature's) from minibatches of 32, one gradient for 4 agent steps of 4
frames, replay warm.  Ours is what runs in product: Baristas and a parameter server in processes of
their own, a push and a pull for every gradient; so is the end-to-end row, a whole ``spark-submit``.
Processor time is that of all of a contender's processes, servers, JVM and Python workers included.

Contenders take turns and stand still between them, so that a busy moment of the machine hits them
all; figures are medians.  One core means one: processes are confined to it.  What was measured is
kept in the results file, and the next call goes on from there; a changed program, machine or size
begins anew.  The peers are installed into .venv/peers by the first call.  A section's contenders
are in memory at once: about 12 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import peers  # noqa: E402
from benchmarks.server.children import ChildError  # noqa: E402  # after the path is set
from benchmarks.server.machine import machine  # noqa: E402
from benchmarks.worker import contenders, record, report  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from benchmarks.worker.contenders import Contender, Racer
    from benchmarks.worker.record import Record

RESULTS = ROOT / "benchmarks/results"
QUICK = (
    "SB3, 1 core",
    "CleanRL, 1 core",
    "ours, plain, float32, 1 core",
    "parts, plain, float32",
    "2 workers, default, bf16, 2 cores",
)


def main() -> int:
    """Measure what is missing, print the tables, write the JSON file; return the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)
    scratch = Path(tempfile.mkdtemp(prefix="bench-worker-", dir=options.scratch))
    try:
        _measure(options, scratch)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ChildError, RuntimeError) as failure:
        print(failure, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few contenders, briefly: a minute")
    parser.add_argument("--minutes", type=float, help="begin no turn that would end later")
    parser.add_argument(
        "--sections", nargs="+", choices=contenders.SECTIONS, default=list(contenders.SECTIONS)
    )
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", help="contenders whose names hold one of these"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of a window")
    parser.add_argument("--repeats", type=int, default=5, help="windows of each contender")
    parser.add_argument("--capacity", type=int, default=20_000, help="transitions, of each replay")
    parser.add_argument("--warmup", type=int, default=10_000, help="agent steps by chance, first")
    parser.add_argument("--epsilon", type=float, default=0.02, help="afterwards")
    parser.add_argument("--scratch", type=Path, help="where contenders keep files")
    parser.add_argument("--output", type=Path, default=RESULTS / "worker.json")
    options = parser.parse_args()
    if options.quick:
        parser.set_defaults(
            only=QUICK,
            seconds=2.0,
            repeats=1,
            capacity=2000,
            warmup=400,
            output=RESULTS / "worker-quick.json",
        )
        options = parser.parse_args()
    return options


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _measure(options: argparse.Namespace, scratch: Path) -> None:
    sections = [_chosen(contenders.SECTIONS[name], options.only) for name in options.sections]
    python, versions = Path(), {}
    if any(each.is_peer for section in sections for each in section):
        python = peers.environment()
        versions = peers.versions(python)
    work = {name: getattr(options, name) for name in ("capacity", "warmup", "epsilon")}
    subject: dict[str, Any] = {
        "machine": machine(),
        "peers": peers.digest(),
        "product": record.digest(ROOT),
        "work": {**work, "seconds": options.seconds},
    }
    kept = record.Record(options.output, subject)
    _say_what(subject["machine"], versions, kept)
    course = _Course(kept, options, peers_python=python, scratch=scratch, work=work)
    for section in sections:
        course.run(section)
    report.print_all(kept.windows)
    kept.write(versions_of_peers=versions, **report.conclusions(kept.windows))
    print(f"\nwritten to {options.output}")
    if course.left_out:
        print(f"out of time: the same call goes on with {', '.join(course.left_out)}")


def _say_what(about: dict[str, Any], of_peers: dict[str, str], kept: Record) -> None:
    versions = {**of_peers, "ours: torch": about["packages"]["torch"]}
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"{about['processor']}, {about['cores']} cores; {said}", flush=True)
    if kept.put_aside:
        path, differing = kept.put_aside
        print(f"other than before: {', '.join(differing)}; the older figures are in {path}")


def _chosen(section: Sequence[Contender], only: Sequence[str] | None) -> list[Contender]:
    return [each for each in section if only is None or any(text in each.name for text in only)]


class _Course:
    """Where contenders take turns.

    Args:
        kept: What was measured so far.
        options: Of the command line.
        peers_python: Their interpreter.
        scratch: A folder for contenders' files.
        work: Options that all contenders have.
    """

    def __init__(
        self,
        kept: Record,
        options: argparse.Namespace,
        *,
        peers_python: Path,
        scratch: Path,
        work: dict[str, Any],
    ) -> None:
        self._kept, self._seconds, self._repeats = kept, options.seconds, options.repeats
        self._peers_python, self._scratch, self._work = peers_python, scratch, work
        self._until = time.monotonic() + 60 * (options.minutes or float("inf"))
        self._numbers = itertools.count()
        self._racers: dict[str, Racer] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        self.left_out: list[str] = []

    def run(self, section: Sequence[Contender]) -> None:
        """Give each contender turns until it has its windows, or the time is over."""
        try:
            while lacking := self._kept.lacking(section, self._repeats):
                for contender in lacking:
                    if not self._has_time(contender):
                        self.left_out += [each.name for each in lacking]
                        return
                    self._turn(contender)
        except BaseException:
            for racer in self._racers.values():
                racer.kill()
            raise
        finally:
            for name in list(self._racers):
                self._end(name)

    def _has_time(self, contender: Contender) -> bool:
        needed_s: float = contender.windows * self._seconds
        return time.monotonic() + needed_s + contender.starts_s < self._until

    def _turn(self, contender: Contender) -> None:
        racer = self._racers.get(contender.name) or self._start(contender)
        for _ in range(contender.windows):
            load = os.getloadavg()[0]
            done = racer.turn(self._seconds)
            self._kept.add(contender, {**done, **self._facts[contender.name], "load": load})
            if "gradients" in done:
                said = f"{done['steps']} steps, {done['gradients']} gradients"
                print(
                    f"{contender.name}: {said}, {done['wall_s']:.1f} s, "
                    f"{done['cpu_s']:.1f} CPU-s, load {load:.1f}",
                    file=sys.stderr,
                    flush=True,
                )
        if contender.starts_s:
            self._end(contender.name)

    def _start(self, contender: Contender) -> Racer:
        racer = contenders.Racer(
            contender,
            python=self._peers_python if contender.is_peer else Path(sys.executable),
            folder=self._scratch / str(next(self._numbers)),
            work=self._work,
        )
        self._racers[contender.name] = racer
        facts = racer.settle()
        self._facts[contender.name] = {k: v for k, v in facts.items() if k != "ready"}
        return racer

    def _end(self, name: str) -> None:
        racer = self._racers.pop(name)
        with contextlib.suppress(ProcessLookupError):
            racer.hang_up()
        racer.close()


if __name__ == "__main__":
    sys.exit(main())
