"""Processors, and who has which."""

import os
import subprocess
import sys

import pytest

from barista import cores
from barista.cores import Threads


@pytest.fixture
def eight(monkeypatch):
    """Eight processors may be used, and not the first ones of the machine."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(2, 10)))


def limits(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_without_a_limit_all_that_may_be_used_count(eight, tmp_path):
    assert cores.count(tmp_path) == 8


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),  # a container sees itself as the root
        ({"sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "500000 100000\n"}, 5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "500000 100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/x\n1:name=systemd:/y\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_a_container_may_be_given_less(eight, tmp_path, files, expected):
    assert cores.count(limits(tmp_path, files)) == expected


@pytest.mark.parametrize(("workers", "expected"), [(1, 8), (2, 4), (3, 2), (8, 1), (9, 1)])
def test_workers_never_have_more_threads_than_there_are_processors(monkeypatch, workers, expected):
    monkeypatch.setattr(cores, "count", lambda: 8)
    assert cores.share(workers) == expected


@pytest.mark.parametrize("workers", range(1, 9))
def test_slices_are_apart_and_leave_nothing_over(eight, workers):
    slices = [cores.slice_of(index, workers) for index in range(workers)]
    assert sorted(core for each in slices for core in each) == list(range(2, 10))
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


@pytest.mark.parametrize(("index", "workers"), [(0, 9), (2, 2), (-1, 2)])
def test_who_cannot_have_processors_of_its_own_has_no_slice(eight, index, workers):
    assert cores.slice_of(index, workers) == set()


@pytest.mark.parametrize(
    ("threads", "overlaps", "on_gpu", "expected"),
    [
        (4, False, False, Threads(4, 4)),  # in turn
        (4, True, False, Threads(3, 1)),
        (4, True, True, Threads(1, 3)),
        (2, True, False, Threads(1, 1)),
        (1, True, False, Threads(1, 1)),
    ],
)
def test_threads_that_work_at_once_add_up(threads, overlaps, on_gpu, expected):
    assert cores.split(threads, overlaps=overlaps, on_gpu=on_gpu) == expected


def test_a_process_inherits_its_cores_and_its_parent_keeps_its_own():
    before = os.sched_getaffinity(0)
    one = {min(before)}
    show = "import os; print(sorted(os.sched_getaffinity(0)))"
    with cores.confined_to(one):
        seen = subprocess.run([sys.executable, "-c", show], check=True, stdout=subprocess.PIPE)
    assert seen.stdout.decode().strip() == str(sorted(one))
    assert os.sched_getaffinity(0) == before
    with cores.confined_to(set()):
        assert os.sched_getaffinity(0) == before
