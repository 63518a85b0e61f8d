"""The progress file says what was last answered, however its server ended."""

import os
import stat
import subprocess
import sys
import threading

import pytest
from param_server import progress as progress_module
from param_server.errors import SnapshotFailed
from param_server.progress import NAME, Progress, Reached, read


@pytest.fixture
def progress(tmp_path):
    progress = Progress(tmp_path)
    yield progress
    progress.close()


def test_the_last_note_is_read(progress, tmp_path):
    progress.write(5, 1, 1)
    progress.write(5, 2, 3)
    assert read(tmp_path) == Reached(epoch=5, version=2, changes=3)


def test_an_older_note_that_comes_late_is_passed_over(progress, tmp_path):
    progress.write(5, 2, 2)
    progress.write(5, 1, 1)
    assert read(tmp_path) == (5, 2, 2)


def test_a_clear_is_newer_whatever_its_version(progress, tmp_path):
    progress.write(5, 900, 900)
    progress.write(6, 0, 901)
    assert read(tmp_path) == (6, 0, 901)


def test_a_new_life_may_have_reached_less(progress, tmp_path):
    progress.write(5, 900, 900)
    after = Progress(tmp_path)
    after.write(6, 800, 800)
    after.close()
    assert read(tmp_path) == (6, 800, 800)


def test_without_a_file_nothing_is_known(tmp_path):
    assert read(tmp_path) is None


def test_a_file_that_says_nothing_is_none(tmp_path):
    for content in (b"", bytes(80), b"Z" * 80):
        (tmp_path / NAME).write_bytes(content)
        assert read(tmp_path) is None


@pytest.mark.parametrize("byte", range(40))
def test_half_of_a_note_leaves_the_one_before(progress, tmp_path, byte):
    progress.write(5, 1, 1)
    before = (tmp_path / NAME).read_bytes()
    progress.write(5, 2, 2)
    after = (tmp_path / NAME).read_bytes()
    place = next(i for i in range(len(after)) if before[i : i + 1] != after[i : i + 1]) // 40 * 40
    torn = after[: place + byte] + before[place + byte : place + 40] + after[place + 40 :]
    (tmp_path / NAME).write_bytes(torn)
    assert read(tmp_path) == (5, 1, 1)


def test_only_its_owner_may_read_it(progress, tmp_path):
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


def test_threads_leave_the_newest(progress, tmp_path):
    def write(first):
        for changes in range(first, 400, 4):
            progress.write(5, changes, changes)

    threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert read(tmp_path) == (5, 399, 399)


def test_it_outlives_a_kill(tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom param_server.progress import Progress\n"
        "Progress(Path(sys.argv[1])).write(5, 6, 7)\nos.kill(os.getpid(), 9)\n"
    )
    paths = os.pathsep.join(filter(None, sys.path))
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        check=False, env={**os.environ, "PYTHONPATH": paths}, timeout=60,
    )  # fmt: skip
    assert read(tmp_path) == (5, 6, 7)


def test_a_file_that_cannot_be_made_is_said(tmp_path):
    with pytest.raises(SnapshotFailed, match=r"cannot write .*progress: No such file"):
        Progress(tmp_path / "nowhere")


def test_a_failing_disk_is_said_once_and_stops_nothing(progress, monkeypatch, caplog):
    def failing(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(progress_module.os, "pwrite", failing)
    progress.write(5, 1, 1)
    progress.write(5, 2, 2)
    assert caplog.text.count("what a kill loses will not be known") == 1
