"""Snapshots come in time: after updates, seconds, a clear, a full journal, or when asked for."""

import pytest
from param_server import snapshotter
from param_server.snapshot import Folder, read_evaluation
from param_server.snapshotter import Moment, Snapshotter

from tests.server_rig import until
from tests.store_rig import Clock


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path / "snapshots", keep=3)
    folder.prepare()
    yield folder
    folder.close()


class Rig:
    """A snapshotter over a store that is two numbers."""

    def __init__(self, folder, **limits):
        self.epoch, self.changes, self.updates, self.written = 1, 0, 0, []
        self.clock = Clock()
        self.fails = False
        self.snapshotter = Snapshotter(
            folder,
            self.fill,
            moment=lambda: Moment(self.epoch, self.changes, self.updates),
            written=self.written.append,
            clock=self.clock,
            **{"every_updates": 0, "every_s": 0.0, **limits},
        )

    def fill(self, path):
        if self.fails:
            raise OSError(28, "No space left on device")
        (path / "model.caffemodel").write_bytes(b"weights")
        return {"epoch": self.epoch, "version": self.updates}


def test_due_after_so_many_updates(folder):
    rig = Rig(folder, every_updates=10)
    rig.changes = rig.updates = 9
    assert not rig.snapshotter.is_due()
    rig.changes = rig.updates = 10
    assert rig.snapshotter.is_due()
    rig.snapshotter.now()
    assert not rig.snapshotter.is_due()


def test_due_after_so_many_seconds_if_anything_changed(folder):
    rig = Rig(folder, every_s=120.0)
    rig.clock.now += 500
    assert not rig.snapshotter.is_due()
    rig.changes += 1
    assert rig.snapshotter.is_due()
    rig.snapshotter.now()
    rig.changes += 1
    rig.clock.now += 119
    assert not rig.snapshotter.is_due()


def test_without_limits_it_is_never_due(folder):
    rig = Rig(folder)
    rig.changes, rig.clock.now = 5, 1e9
    assert not rig.snapshotter.is_due()
    assert rig.snapshotter.has_changes()


def test_due_when_the_model_was_cleared(folder):
    rig = Rig(folder)
    rig.changes = rig.updates = 5
    rig.epoch, rig.changes, rig.updates = 2, 6, 0
    assert rig.snapshotter.is_due()
    rig.snapshotter.now()
    assert not rig.snapshotter.is_due()
    rig.changes += 1
    assert not rig.snapshotter.is_due()


def test_due_when_the_journal_is_full(folder):
    full = []
    rig = Rig(folder, is_full=lambda: bool(full))
    rig.changes = 1
    assert not rig.snapshotter.is_due()
    full.append(True)
    assert rig.snapshotter.is_due()
    rig.fails = True
    rig.snapshotter._turn()
    assert not rig.snapshotter.is_due()  # each try holds up pushes
    rig.clock.now += 10
    assert rig.snapshotter.is_due()


def test_evaluation_reaches_the_folder(folder):
    rig = Rig(folder)
    rig.snapshotter.now()
    assert rig.snapshotter.mark_evaluated(0, return_mean=1.5, return_se=0.5, episodes=8)
    expected = {"return_mean": 1.5, "return_se": 0.5, "episodes": 8}
    assert read_evaluation(folder.path / "0") == expected


def test_snapshot_on_demand_says_where_and_what(folder):
    rig = Rig(folder)
    rig.updates = 4
    assert rig.snapshotter.now() == {"path": str(folder.path / "4"), "epoch": 1, "version": 4}
    assert [written.age for written in rig.written] == [(1, 4)]
    assert rig.snapshotter.status()["last_version"] == 4


def test_failure_is_shown_logged_once_and_tried_again_later(folder, caplog):
    rig = Rig(folder, every_s=120.0)
    rig.changes, rig.fails = 1, True
    rig.clock.now += 121
    rig.snapshotter._turn()
    rig.snapshotter._turn()
    assert caplog.text.count("No space left") == 1
    assert "No space left" in rig.snapshotter.status()["error"]
    rig.fails = False
    rig.snapshotter._turn()
    assert rig.written == []
    rig.clock.now += 121
    rig.snapshotter._turn()
    assert rig.snapshotter.status()["error"] == ""
    assert len(rig.written) == 1


def test_thread_outlives_what_nobody_foresaw(folder, caplog):
    rig = Rig(folder, every_s=120.0)
    rig.changes = 1
    rig.clock.now += 121
    rig.fill = None
    rig.snapshotter._fill = lambda path: 1 / 0
    rig.snapshotter._turn()
    assert "ZeroDivisionError" in rig.snapshotter.status()["error"]
    assert "Traceback" in caplog.text


def test_thread_writes_in_time_and_stops(folder, monkeypatch):
    monkeypatch.setattr(snapshotter, "_TICK_S", 0.01)
    rig = Rig(folder, every_updates=1)
    rig.snapshotter.start()
    rig.changes = rig.updates = 1
    until(lambda: rig.written)
    rig.snapshotter.stop()
    assert [path.name for path in folder.path.iterdir()] == ["1"]
