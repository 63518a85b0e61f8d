"""The journal: what is appended is there after a kill, or was never acknowledged."""

import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from param_server import journal as journal_module
from param_server.errors import JournalFailed
from param_server.journal import Journal, prune, segment_path, segments
from param_server.journal_reader import Reading

POSITION = (7, 0)


def gradient(value=1.0, size=8):
    return np.full(size, value, np.float32)


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path, lambda: POSITION)
    journal.rotate()
    yield journal
    journal.close()


def records(folder, first=1):
    """Return what a whole journal holds."""
    reading = Reading(folder, first, POSITION)
    found = [(record, None if values is None else values.tolist()) for record, values in reading]
    assert reading.damage == ""
    return found


def test_what_is_appended_is_read_back_in_order(journal, tmp_path):
    journal.append({"kind": "push", "loss": None}, gradient(2.5))
    journal.append({"kind": "clear", "epoch": 8}, None)
    assert records(tmp_path) == [
        ({"kind": "push", "loss": None}, [2.5] * 8),
        ({"kind": "clear", "epoch": 8}, None),
    ]


def test_a_record_that_is_taken_back_never_was(journal, tmp_path):
    journal.append({"number": 1}, gradient(1))
    journal.append({"number": 2}, gradient(2))
    journal.undo()
    journal.append({"number": 3}, gradient(3))
    assert [record["number"] for record, _ in records(tmp_path)] == [1, 3]


def test_segments_are_read_one_after_the_other(journal, tmp_path):
    for number in range(4):
        journal.append({"number": number}, gradient(number))
        assert journal.rotate() == number + 2
    assert segments(tmp_path) == [1, 2, 3, 4, 5]
    assert [record["number"] for record, _ in records(tmp_path)] == [0, 1, 2, 3]


def test_only_its_owner_may_read_it(journal, tmp_path):
    assert stat.S_IMODE(segment_path(tmp_path, 1).stat().st_mode) == 0o600


def test_old_segments_are_removed(journal, tmp_path):
    journal.rotate()
    journal.rotate()
    (tmp_path / "journal-x.log").write_text("not one of ours")
    prune(tmp_path, 3)
    assert segments(tmp_path) == [3]
    assert (tmp_path / "journal-x.log").exists()


def test_the_next_life_continues_where_the_last_one_ended(journal, tmp_path):
    journal.append({"number": 1}, gradient())
    reading = Reading(tmp_path, 1, POSITION)
    list(reading)
    after = Journal(tmp_path, lambda: (9, 1))
    after.follow(reading.end)
    assert after.rotate() == 2
    after.append({"number": 2}, gradient())
    after.close()
    assert [record["number"] for record, _ in records(tmp_path)] == [1, 2]


def test_a_segment_is_full_when_it_exceeds_its_size(journal, monkeypatch):
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 1000)
    assert not journal.is_full()
    journal.append({}, gradient(size=250))
    assert journal.is_full()
    journal.rotate()
    assert not journal.is_full()


class Disk:
    """Counts, delays and fails the syncs of files."""

    def __init__(self, monkeypatch):
        self.calls, self.fails = 0, False
        self.began, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()
        self._sync = os.fdatasync
        monkeypatch.setattr(journal_module.os, "fdatasync", self.fdatasync)

    def fdatasync(self, file):
        self.calls += 1
        self.began.set()
        assert self.may_end.wait(10)
        if self.fails:
            raise OSError(5, "Input/output error")
        self._sync(file)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def test_sync_syncs_what_is_new_and_nothing_twice(journal, disk):
    journal.sync()
    assert disk.calls == 1  # the segment's beginning
    journal.sync()
    assert disk.calls == 1
    journal.append({}, None)
    journal.append({}, None)
    journal.sync()
    assert disk.calls == 2


def test_full_segments_are_synced_once_more_and_closed(journal, disk):
    journal.append({}, None)
    journal.rotate()
    journal.sync()
    assert disk.calls == 2
    journal.append({}, None)
    journal.sync()
    assert disk.calls == 3


def test_threads_that_wait_share_one_sync(journal, disk):
    """The first one syncs; what five append meanwhile is one more sync for all of them."""
    disk.may_end.clear()
    journal.append({}, None)
    threads = [threading.Thread(target=journal.sync)]
    threads[0].start()
    assert disk.began.wait(10)
    for _ in range(5):
        journal.append({}, None)
        threads.append(threading.Thread(target=journal.sync))
        threads[-1].start()
    disk.may_end.set()
    for thread in threads:
        thread.join(10)
    assert disk.calls == 2


def test_after_a_failed_sync_nothing_is_acknowledged_any_more(journal, disk, tmp_path, caplog):
    journal.append({"number": 1}, None)
    journal.sync()
    journal.append({"number": 2}, None)
    disk.fails = True
    with pytest.raises(JournalFailed, match="nothing more is acknowledged: fdatasync"):
        journal.sync()
    disk.fails = False
    for refused in (journal.sync, lambda: journal.append({}, None), journal.rotate):
        with pytest.raises(JournalFailed, match="nothing more is acknowledged"):
            refused()
    assert "start the server again with --resume" in caplog.text


def test_short_writes_are_continued(journal, tmp_path, monkeypatch):
    written = os.pwritev
    monkeypatch.setattr(
        journal_module.os, "pwritev", lambda file, parts, at: written(file, [parts[0][:7]], at)
    )
    journal.append({"number": 1}, gradient(3.0))
    assert records(tmp_path) == [({"number": 1}, [3.0] * 8)]


def test_a_segment_that_cannot_be_begun_leaves_the_old_one(journal, tmp_path):
    segment_path(tmp_path, 2).mkdir()
    with pytest.raises(JournalFailed, match="cannot begin the journal"):
        journal.rotate()
    segment_path(tmp_path, 2).rmdir()
    journal.append({"number": 1}, None)
    assert [record["number"] for record, _ in records(tmp_path)] == [1]


BEGIN = """
import os, resource, sys
from pathlib import Path
import numpy as np
from param_server.errors import JournalFailed
from param_server.journal import Journal

journal = Journal(Path(sys.argv[1]), lambda: (7, 0))
journal.rotate()
"""

FULL_DISK = """
large, small = np.ones(30000, np.float32), np.ones(8, np.float32)
unlimited = resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_FSIZE, (100000, unlimited))
journal.append({"number": 1}, small)
for _ in range(2):
    try:
        journal.append({"number": 2}, large)
    except JournalFailed as error:
        print(error)
journal.append({"number": 3}, small)
resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
journal.append({"number": 4}, large)
journal.sync()
journal.close()
"""

KILLED = """
journal.append({"number": 1}, None)
os.kill(os.getpid(), 9)
"""


def run(script, folder):
    """Run a script in a process of its own; return what it says."""
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script, str(folder)], check=False, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": paths}, timeout=60,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path):
    """A limit on the file's size makes a real write fail in the middle of a record."""
    assert run(FULL_DISK, tmp_path) == ["cannot write the journal: File too large"] * 2
    assert [record["number"] for record, _ in records(tmp_path)] == [1, 3, 4]


def test_what_a_killed_process_has_written_is_read(tmp_path):
    """It has synced nothing; the system keeps what it wrote."""
    run(KILLED, tmp_path)
    assert [record["number"] for record, _ in records(tmp_path)] == [1]
