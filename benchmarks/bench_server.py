"""The parameter server beside its floors and its peers, in one interleaved run.

Latency of a pull, a push, both as two requests and both in one, at three sizes; updates/s and
processor time per update with 1 to 8 workers; what each durability costs.  Every variant has a
server and workers in processes of their own, ours started as anybody starts it.  Variants take
turns in rounds and are stopped between their turns, so that a busy moment of the machine hits them
all and none disturbs another; figures are medians.  Workers compute nothing.

Beside ours: the same bytes over a bare socket with the same rule applied (the floor, over TCP and
over a Unix socket), ``torch.distributed.rpc``, and the designs of elephas and of this project in
2015.  benchmarks/server/ holds them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.server import nets, report  # noqa: E402  # after the path is set
from benchmarks.server.children import ChildError  # noqa: E402
from benchmarks.server.machine import file_system, machine  # noqa: E402
from benchmarks.server.measuring import (  # noqa: E402
    Pace,
    latencies,
    running,
    summary,
    throughputs,
)
from benchmarks.server.rig import VARIANTS, durable_variants  # noqa: E402

if TYPE_CHECKING:
    from types import FrameType

    from benchmarks.server.measuring import Rounds

SECTIONS = ("latency", "throughput", "durability")
#: Seconds for each variant and way in a round, and by how much to divide the rounds: a larger net's
#: exchanges take longer.
PACES = {"0.91 MB": (0.12, 1), "6.75 MB": (0.25, 1), "33.9 MB": (0.5, 2)}
WINDOW_S = 1.0  # in which updates are counted


def main() -> int:
    """Measure, print the tables and write the JSON file."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)
    scratch = Path(tempfile.mkdtemp(prefix="bench-server-", dir=options.scratch))
    try:
        _measure(options, scratch)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ChildError as failure:
        print(failure, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _measure(options: argparse.Namespace, scratch: Path) -> None:
    facts = machine()
    print(f"{facts['processor']}, {facts['cores']} cores, PyTorch {facts['packages']['torch']}")
    run = _Run(options, scratch)
    run.all()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(run.document(), indent=1))
    print(f"\nwritten to {options.output}")


def _options() -> argparse.Namespace:
    sizes = [size.label for size in nets.SIZES]
    names = [variant.name for variant in VARIANTS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one size, few rounds: a minute")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--sizes", nargs="+", choices=sizes, default=sizes)
    parser.add_argument("--variants", nargs="+", choices=names, default=names)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=6, help="half as many of updates/s")
    parser.add_argument("--solver", type=Path, default=nets.SOLVER, help="whose rule is applied")
    parser.add_argument("--scratch", type=Path, help="where servers keep files and journals")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/server.json")
    parser.set_defaults(speed=1.0)
    options = parser.parse_args()
    if options.quick:
        parser.set_defaults(
            sections=["latency", "throughput"],
            sizes=[nets.MAIN],
            workers=[1, 2],
            rounds=3,
            speed=0.4,
        )
        options = parser.parse_args()
    return options


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Run:
    """One run: what was measured so far.

    Args:
        options: Of the command line.
        scratch: A folder for everything that is not a result.
    """

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self._options = options
        self._scratch = scratch
        self._variants = [each for each in VARIANTS if each.name in options.variants]
        self._latency: dict[str, dict[str, Rounds]] = {}
        self._throughput: dict[str, dict[str, Rounds]] = {}
        self._durability: dict[str, dict[str, Rounds]] = {}
        self._targets: list[dict[str, Any]] = []
        self._missing: dict[str, str] = {}
        self._load = [os.getloadavg()[0]]

    def all(self) -> None:
        """Measure every section that was asked for, and print its tables."""
        chosen = self._options.sizes
        #: The size of all that is measured at one size.
        self.main = nets.MAIN if nets.MAIN in chosen else chosen[-1]
        for size in nets.SIZES:
            if size.label in chosen:
                self._at(size)
        for name, reason in self._missing.items():
            print(f"\nleft out: {name}: {reason}")
        self._targets = list(report.targets(self._latency.get(self.main, {}), self._throughput))
        report.print_targets(self.main, self._targets)
        self._load.append(os.getloadavg()[0])

    def _at(self, size: nets.Size) -> None:
        options, label = self._options, size.label
        solver = nets.write_solver(options.solver, size, self._scratch / label / "net")
        is_main = label == self.main
        counts = options.workers if is_main and "throughput" in options.sections else []
        if "latency" in options.sections or counts:
            with running(
                self._variants,
                solver=solver,
                folder=self._scratch / label,
                workers=max(counts, default=1),
                missing=self._missing,
            ) as rigs:
                if "latency" in options.sections:
                    self._latency[label] = latencies(rigs, self._pace(*PACES[label]))
                    report.print_latency(label, self._latency[label])
                if counts:
                    self._throughput = throughputs(rigs, counts, self._pace(WINDOW_S, 2))
                    report.print_throughput(label, self._throughput)
        if is_main and "durability" in options.sections:
            with running(
                durable_variants(),
                solver=solver,
                folder=self._scratch / "durability",
                workers=max(options.workers),
                missing=self._missing,
            ) as rigs:
                pace = self._pace(WINDOW_S, 2)
                counts = sorted({min(options.workers), max(options.workers)})
                self._durability = throughputs(rigs, counts, pace)
                columns = ("update_ms", "server_cpu_ms")
                report.print_throughput(f"{label}, each durability", self._durability, columns)

    def _pace(self, seconds: float, fewer: int) -> Pace:
        rounds = max(2, round(self._options.rounds / fewer))
        return Pace(rounds=rounds, seconds=seconds * self._options.speed)

    def document(self) -> dict[str, Any]:
        """Return everything as JSON: each figure with quartiles and count."""
        return {
            "machine": machine(),
            "load_before_and_after": [*self._load],
            "file_system": file_system(self._scratch),
            "options": {
                name: _plain(value)
                for name, value in vars(self._options).items()
                if name not in ("output", "scratch")
            },
            "latency_ms": {
                label: {variant: _summaries(ways) for variant, ways in variants.items()}
                for label, variants in self._latency.items()
            },
            "size_of_what_follows": self.main,
            "throughput": _by_workers(self._throughput),
            "durability": _by_workers(self._durability),
            "targets": self._targets,
            "left_out": self._missing,
        }


def _summaries(rounds: Rounds) -> dict[str, Any]:
    return {name: summary(values) for name, values in rounds.items()}


def _by_workers(found: dict[str, dict[str, Rounds]]) -> dict[str, Any]:
    return {
        variant: {count: _summaries(columns) for count, columns in by_count.items()}
        for variant, by_count in found.items()
    }


def _plain(value: Any) -> Any:
    """Return an option as JSON, a file's path as seen from the repository."""
    return os.path.relpath(value, ROOT) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
