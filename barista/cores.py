"""The processors that this process may use, and a worker's share of them.

Threads beyond the processors cost more than they bring: those of an engine wait for each other at
the end of every loop, and the slowest decides.  So each of W workers on C processors starts C // W
threads in all, and where the workers of a host are known, keeps to C / W processors of its own.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class Threads(NamedTuple):
    """How a worker's threads are shared out."""

    engine: int  # that compute a gradient
    games: int  # that step the emulators


def count(root: Path = Path("/")) -> int:
    """Return how many processors this process may keep busy, at least 1.

    Args:
        root: of the file system that shows the limits of the container or service.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *map(int, _quotas(root))]))


def share(workers: int) -> int:
    """Return how many threads each of `workers` on this host has, at least 1."""
    return max(1, count() // workers)


def split(threads: int, *, overlaps: bool, on_gpu: bool) -> Threads:
    """Share a worker's threads out.

    Where everything happens in turn, the games rest while the engine works, and both have all of
    them.  Where they work at once, the smaller job gets one: the games, or the thread that keeps a
    GPU busy.
    """
    if not overlaps:
        return Threads(threads, threads)
    most = max(1, threads - 1)
    return Threads(1, most) if on_gpu else Threads(most, 1)


def slice_of(index: int, workers: int) -> set[int]:
    """Return the processors of worker `index` among `workers`.

    Empty where there are fewer processors than workers, or no such worker: it then goes where the
    operating system puts it.
    """
    usable = sorted(os.sched_getaffinity(0))
    if not 0 <= index < workers <= len(usable):
        return set()
    first, end = (number * len(usable) // workers for number in (index, index + 1))
    return set(usable[first:end])


@contextmanager
def confined_to(cores: Collection[int]) -> Iterator[None]:
    """Keep this thread, and the processes that it starts in the block, to `cores`; none: to all."""
    before = os.sched_getaffinity(0)  # of the calling thread alone
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the limits of this process's control group and those above it, in processors."""
    path = "/"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, inside = line.split(":", 2)
        if not controllers:  # version 2 has one tree for all of them
            path = inside
    groups = root / "sys/fs/cgroup"
    here = groups / path.strip("/")
    for folder in (here, *here.parents):
        if not folder.is_relative_to(groups):
            break
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdecimal() and int(period) > 0:
            yield int(quota) / int(period)
    first = _read(groups / "cpu/cpu.cfs_quota_us").strip()  # version 1; −1: none
    each = _read(groups / "cpu/cpu.cfs_period_us").strip()
    if first.isdecimal() and each.isdecimal() and int(each) > 0:
        yield int(first) / int(each)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
