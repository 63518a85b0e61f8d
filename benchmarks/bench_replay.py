"""The replay buffer beside a ring written by hand and the buffers of the peers, in one run.

Frames of 84 × 84 bytes, stacks of 4, one step a transition, minibatches of 32.  All buffers are
filled to the brim with the same frames; then they take turns in rounds, so that a busy moment of
the machine hits them all.  Measured are samples and adds in seconds of processor time, the system's
part included; the figures are medians.  Bytes are those of the arrays that a buffer holds (peers':
as counted from their arrays, or from how much the process grew), by transition.

The ring is what one writes by hand: frames once, stacks by one gather, no stack beyond the write
position or the episode's start.  It is uniform, of one environment, and repeats an episode's first
frame where ours has zeros.

The script runs in the peers' environment (see `peers.py`): one process, one NumPy.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import peers  # noqa: E402 - needs the path above

NAMED = ("numpy", "torch", "stable-baselines3", "cpprb")
SHAPE, STACK, BATCH, ACTIONS = (84, 84), 4, 32, 6
EPISODE = 800  # steps
ADDS = 400  # in a turn
DRAWS = 20  # in a turn
RING = "ring by hand"
# (name, quantity, at least so many times, of whose)
TARGETS = (
    ("ours", "samples", 1.0, RING),
    ("ours, prioritised", "samples", 0.5, RING),
)
MOST_BYTES = 7200

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray


class Buffer(Protocol):
    """What is measured.  A buffer is told of frames by number, modulo those in `pool`."""

    def add(self, first: int, count: int) -> None:
        """Add steps number first … first + count − 1."""

    def draw(self) -> object:
        """Draw a minibatch, and where there are priorities tell of its errors."""

    def nbytes(self) -> int:
        """Bytes of all that it holds."""


class Ours:
    """This project's buffer."""

    def __init__(self, capacity: int, pool: NDArray[np.uint8], **options: Any) -> None:
        import numpy as np  # noqa: PLC0415 - of the environment that the script has made

        from replay import ReplayBuffer  # noqa: PLC0415

        self._pool, self._is_prioritised = pool, bool(options.get("priorities"))
        self._buffer = ReplayBuffer(
            capacity, frame_shape=SHAPE, stack=STACK, num_envs=1, n_step=1, gamma=0.99,
            rng=np.random.default_rng(0), **options,
        )  # fmt: skip

    def add(self, first: int, count: int) -> None:
        """Add steps."""
        for number in range(first, first + count):
            frame = self._pool[number % len(self._pool)]
            if number % EPISODE == 0:
                self._buffer.start(0, frame)
            else:
                self._buffer.append(
                    0, number % ACTIONS, 0.0, frame,
                    terminated=number % EPISODE == EPISODE - 1, truncated=False,
                )  # fmt: skip

    def draw(self) -> object:
        """Draw, and tell of errors."""
        batch = self._buffer.sample(BATCH, 0.4)
        if self._is_prioritised:
            self._buffer.update_priorities(batch.ids, batch.rewards + 1)
        return batch

    def nbytes(self) -> int:
        """Bytes as the buffer says."""
        return self._buffer.nbytes


class Ring:
    """A ring of single frames, as written by hand."""

    def __init__(self, capacity: int, pool: NDArray[np.uint8]) -> None:
        import numpy as np  # noqa: PLC0415

        self._capacity, self._pool, self._head, self._size, self._start = capacity, pool, 0, 0, 0
        self._frames = np.zeros((capacity, *SHAPE), np.uint8)
        self._actions = np.zeros(capacity, np.int32)
        self._rewards = np.zeros(capacity, np.float32)
        self._is_end = np.zeros(capacity, np.bool_)
        self._ages = np.zeros(capacity, np.int32)  # frames since the episode's first
        self._offsets = np.arange(1 - STACK, 2)
        self._rng = np.random.default_rng(0)

    def add(self, first: int, count: int) -> None:
        """Add steps: a frame, and the action taken on it."""
        for number in range(first, first + count):
            head, age = self._head, number % EPISODE
            self._frames[head] = self._pool[number % len(self._pool)]
            self._actions[head], self._rewards[head] = number % ACTIONS, 0.0
            self._is_end[head], self._ages[head] = age == EPISODE - 1, age
            self._head = (head + 1) % self._capacity
            self._size = min(self._size + 1, self._capacity)

    def draw(self) -> object:
        """Draw anywhere but at the write position."""
        back = self._rng.integers(2, self._size - STACK, size=BATCH)
        rows = (self._head - back) % self._capacity
        offsets = (-self._ages[rows])[:, None].clip(min=self._offsets)  # not before the episode
        frames = self._frames[(rows[:, None] + offsets) % self._capacity]
        return (
            frames[:, :STACK], self._actions[rows], self._rewards[rows], self._is_end[rows],
            frames[:, 1:],
        )  # fmt: skip

    def nbytes(self) -> int:
        """Bytes of its arrays."""
        arrays = (self._frames, self._actions, self._rewards, self._is_end, self._ages)
        return sum(array.nbytes for array in arrays)


class StableBaselines:
    """Stable-Baselines3's buffer, which is given stacks."""

    def __init__(self, capacity: int, pool: NDArray[np.uint8], **options: bool) -> None:
        import numpy as np  # noqa: PLC0415
        from gymnasium.spaces import Box, Discrete  # noqa: PLC0415
        from stable_baselines3.common.buffers import (  # type: ignore[import-not-found] # noqa: PLC0415
            ReplayBuffer,
        )

        self._buffer = ReplayBuffer(
            capacity, Box(0, 255, (STACK, *SHAPE), np.uint8), Discrete(ACTIONS), device="cpu",
            **options, **({"handle_timeout_termination": False} if options else {}),
        )  # fmt: skip
        self._stacks = _stacks(pool)
        self._one = np.zeros(1, np.float32)
        self._actions = np.zeros((1, 1), np.int64)

    def add(self, first: int, count: int) -> None:
        """Add transitions."""
        stacks = self._stacks
        for number in range(first, first + count):
            self._buffer.add(
                stacks[number % len(stacks)][None], stacks[(number + 1) % len(stacks)][None],
                self._actions, self._one, self._one, [{}],
            )  # fmt: skip

    def draw(self) -> object:
        """Draw; it returns tensors."""
        return self._buffer.sample(BATCH)

    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(getattr(array, "nbytes", 0) for array in vars(self._buffer).values())


class Cpprb:
    """cpprb's buffers."""

    def __init__(
        self, capacity: int, pool: NDArray[np.uint8], *, kind: str, **options: Any
    ) -> None:
        import cpprb  # type: ignore[import-not-found] # noqa: PLC0415
        import numpy as np  # noqa: PLC0415

        fields = {
            "obs": {"shape": (*SHAPE, STACK), "dtype": np.uint8},
            "act": {"shape": 1, "dtype": np.int32}, "rew": {}, "done": {},
        }  # fmt: skip
        if "next_of" not in options:  # which reads them from the states
            fields["next_obs"] = fields["obs"]
        self._is_prioritised = kind == "PrioritizedReplayBuffer"
        self._buffer = getattr(cpprb, kind)(capacity, fields, **options)
        # Stacks along the last axis, as it wants them to compress.
        self._stacks = np.ascontiguousarray(_stacks(pool).transpose(0, 2, 3, 1))
        self._capacity = capacity

    def add(self, first: int, count: int) -> None:
        """Add transitions."""
        stacks = self._stacks
        for number in range(first, first + count):
            self._buffer.add(
                obs=stacks[number % len(stacks)], next_obs=stacks[(number + 1) % len(stacks)],
                act=number % ACTIONS, rew=0.0, done=float(number % EPISODE == EPISODE - 1),
            )  # fmt: skip
            if number % EPISODE == EPISODE - 1:
                self._buffer.on_episode_end()

    def draw(self) -> object:
        """Draw, and tell of errors."""
        if not self._is_prioritised:
            return self._buffer.sample(BATCH)
        batch = self._buffer.sample(BATCH, 0.4)
        self._buffer.update_priorities(batch["indexes"], batch["rew"][:, 0] + 1)
        return batch

    def nbytes(self) -> int:
        """Not told by the package."""
        return 0


def _stacks(pool: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import numpy as np  # noqa: PLC0415

    return np.stack([np.roll(pool, back, axis=0) for back in range(STACK - 1, -1, -1)], axis=1)


def contenders(
    capacity: int, pool: NDArray[np.uint8], scratch: Path
) -> dict[str, Callable[[], Buffer]]:
    """Return the makers of all buffers, by name."""
    from barista.priorities import SumTree  # noqa: PLC0415
    from barista.storage import open_storage  # noqa: PLC0415

    def mapped() -> Buffer:
        storage = open_storage(scratch / "mapped", compress=False, settings={})
        return Ours(capacity, pool, storage=storage)

    def compressed() -> Buffer:
        storage = open_storage(None, compress=True, settings={})
        return Ours(capacity, pool, storage=storage)

    stacked = {"stack_compress": "obs", "next_of": "obs"}
    prioritised = {"kind": "PrioritizedReplayBuffer"}
    return {
        "ours": lambda: Ours(capacity, pool),
        "ours, prioritised": lambda: Ours(capacity, pool, priorities=SumTree),
        "ours, mapped": mapped,
        "ours, compressed": compressed,
        RING: lambda: Ring(capacity, pool),
        "SB3": lambda: StableBaselines(capacity, pool),
        "SB3, optimised": lambda: StableBaselines(capacity, pool, optimize_memory_usage=True),
        "cpprb": lambda: Cpprb(capacity, pool, kind="ReplayBuffer"),
        "cpprb, compressed stacks": lambda: Cpprb(capacity, pool, kind="ReplayBuffer", **stacked),
        "cpprb, prioritised": lambda: Cpprb(capacity, pool, **prioritised, **stacked),
    }


def measure(
    makers: dict[str, Callable[[], Buffer]], capacity: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Return for each buffer samples and adds per second of processor time, and bytes."""
    buffers: dict[str, Buffer] = {}
    grown: dict[str, int] = {}
    for name, make in makers.items():
        before = _resident()
        buffers[name] = make()
        buffers[name].add(0, capacity + capacity // 10)
        grown[name] = _resident() - before
    speeds: dict[str, dict[str, list[float]]] = {n: {"samples": [], "adds": []} for n in buffers}
    names, number = list(buffers), capacity + capacity // 10
    number -= number % EPISODE  # a peer's episode begins where ours does
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            buffer = buffers[name]
            buffer.draw()
            speeds[name]["samples"].append(DRAWS / _cpu_s(lambda b=buffer: _draws(b)))  # type: ignore[misc]
            speeds[name]["adds"].append(
                ADDS / _cpu_s(lambda b=buffer, n=number: b.add(n, ADDS))  # type: ignore[misc]
            )
        number += ADDS
    return {
        name: {
            **{quantity: statistics.median(values) for quantity, values in speeds[name].items()},
            "bytes": (buffers[name].nbytes() or grown[name]) / capacity,
        }
        for name in buffers
    }


def _draws(buffer: Buffer) -> None:
    for _ in range(DRAWS):
        buffer.draw()


def _cpu_s(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def _resident() -> int:
    """Return the bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pong(count: int) -> NDArray[np.uint8]:
    """Return frames that compress about as Pong's do: a plain ground, two bats, a ball, digits."""
    import numpy as np  # noqa: PLC0415

    rng = np.random.default_rng(0)
    frames = np.full((count, *SHAPE), 87, np.uint8)
    frames[:, :13], frames[:, 80:] = 0, 148
    for frame in frames:
        left, right, y, x = rng.integers((15, 15, 15, 5), (70, 70, 78, 78))
        frame[left : left + 8, 8:10], frame[right : right + 8, 74:76] = 130, 147
        frame[y : y + 2, x : x + 1] = 236
        frame[2:10, 20:26] = rng.choice((0, 130), (8, 6))
    return frames


def table(results: dict[str, dict[str, float]]) -> None:
    """Print all figures and whether the targets are met."""
    ring = results[RING]
    print(f"\n{'':26}{'samples of 32':>18}{'adds':>16}{'bytes':>10}")
    for name, found in results.items():
        print(
            f"  {name:24}{found['samples']:9,.0f} ({found['samples'] / ring['samples']:4.2f})"
            f"{found['adds']:16,.0f}{found['bytes']:10,.0f}"
        )
    print("  a second of processor time; in brackets: × the ring; bytes a transition\n")
    for name, quantity, limit, other in TARGETS:
        ratio = results[name][quantity] / results[other][quantity]
        verdict = "met" if ratio >= limit else "MISSED"
        print(f"  {verdict:6} {name}: {quantity} {ratio:.2f} × {other}, at least {limit}")
    for name in ("ours", "ours, prioritised"):
        verdict = "met" if results[name]["bytes"] <= MOST_BYTES else "MISSED"
        print(f"  {verdict:6} {name}: {results[name]['bytes']:,.0f} bytes, at most {MOST_BYTES:,}")


def main() -> int:
    """Measure, print the table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capacity", type=int, default=20_000, help="transitions")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--scratch", type=Path, help="where the mapped buffer has its folder")
    parser.add_argument("--no-peers", action="store_true", help="ours and the ring alone, at once")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/replay.json")
    options = parser.parse_args()
    if not options.no_peers and Path(sys.prefix) != peers.HOME:
        try:
            python = str(peers.environment())
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(python, [python, *sys.argv])  # noqa: S606 - no shell
    for folder in (ROOT / "caffe/python", ROOT / "param-server"):
        sys.path.insert(0, str(folder))
    from benchmarks.server.machine import machine  # noqa: PLC0415

    facts = machine()
    with tempfile.TemporaryDirectory(prefix="bench-replay-", dir=options.scratch) as scratch:
        makers = contenders(options.capacity, pong(64), Path(scratch))
        if options.no_peers:
            makers = {
                name: make for name, make in makers.items() if name.startswith(("ours", RING))
            }
        print(f"{facts['processor']}, {options.capacity:,} transitions of {SHAPE}, stack {STACK}")
        results = measure(makers, options.capacity, options.rounds)
    table(results)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    versions = {} if options.no_peers else {n: importlib.metadata.version(n) for n in NAMED}
    document = {"machine": facts, "versions": versions, "capacity": options.capacity}
    document |= {"rounds": options.rounds, "per_cpu_second": results}
    options.output.write_text(json.dumps(document, indent=1))
    print(f"\nwritten to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
