"""Snapshots are whole or absent, the newest good one is found, and they come in time."""

import json
import os
from pathlib import Path

import pytest
from param_server import snapshot
from param_server.errors import SnapshotFailed
from param_server.snapshot import Folder, Snapshotter, find, load

from tests.server_rig import Clock, until


def fill(epoch=1, version=0, content=b"weights"):
    def write(path):
        (path / "model.caffemodel").write_bytes(content)
        return {"epoch": epoch, "version": version}

    return write


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path / "snapshots", keep=3)
    folder.prepare()
    return folder


def names(folder):
    return sorted(path.name for path in folder.path.iterdir())


def test_snapshot_is_a_folder_named_by_its_version(folder):
    written = folder.write(fill(version=12))
    assert names(folder) == ["12"]
    assert load(written.path).manifest["files"]["model.caffemodel"]["bytes"] == 7


def test_oldest_are_removed(folder):
    for version in (2, 10, 9, 30):
        folder.write(fill(version=version))
    assert names(folder) == ["10", "30", "9"]


def test_later_epoch_is_newer_whatever_its_version(folder):
    folder.write(fill(epoch=1, version=500))
    folder.write(fill(epoch=2, version=3))
    assert find(folder.path).age == (2, 3)


def test_same_version_of_a_later_life_takes_the_place(folder):
    folder.write(fill(epoch=1, content=b"old"))
    folder.write(fill(epoch=2, content=b"new"))
    assert (find(folder.path).path / "model.caffemodel").read_bytes() == b"new"
    assert names(folder) == ["0"]


@pytest.mark.parametrize("given", ["snapshots/7", "snapshots", "."])
def test_snapshot_is_found_from_itself_its_folder_or_its_run(folder, given):
    folder.write(fill(version=7))
    assert find(folder.path.parent / given).age == (1, 7)


def truncate(path):
    (path / "model.caffemodel").write_bytes(b"weigh")


def flip(path):
    (path / "model.caffemodel").write_bytes(b"weightz")


def remove(path):
    (path / "model.caffemodel").unlink()


@pytest.mark.parametrize("damage", [truncate, flip, remove])
def test_damaged_one_is_passed_over_with_a_warning(folder, damage, caplog):
    folder.write(fill(version=1))
    damage(folder.write(fill(version=2)).path)
    assert find(folder.path).age == (1, 1)
    assert "passed over" in caplog.text
    with pytest.raises(SnapshotFailed, match="damaged"):
        find(folder.path / "2")


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"epoch": 1, "version": "x", "files": {}}'])
def test_one_without_a_manifest_is_none(folder, manifest):
    folder.write(fill(version=1))
    (folder.write(fill(version=2)).path / "manifest.json").write_text(manifest)
    assert find(folder.path).age == (1, 1)


def test_one_of_another_format_is_refused(folder):
    path = folder.write(fill()).path
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(SnapshotFailed, match="format 99"):
        find(path)


def test_manifest_cannot_point_outside_its_folder(folder):
    path = folder.write(fill()).path
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"] = {"../../../etc/passwd": manifest["files"]["model.caffemodel"]}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SnapshotFailed, match="passwd"):
        find(path)


def test_folder_without_snapshots_has_none(tmp_path):
    with pytest.raises(SnapshotFailed, match="no snapshot in"):
        find(tmp_path / "nowhere")


def test_what_a_crash_left_is_removed_at_the_start(folder):
    (folder.path / ".tmp-1").mkdir()
    (folder.path / ".old-3").mkdir()
    folder.write(fill(version=3))
    (folder.path / ".old-3").mkdir()
    folder.prepare()
    assert names(folder) == ["3"]


def test_what_was_moved_aside_before_a_crash_is_put_back_at_the_start(folder):
    written = folder.write(fill(version=3))
    written.path.rename(folder.path / ".old-3")
    folder.prepare()
    assert find(folder.path).age == (1, 3)


def test_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SnapshotFailed, match="cannot write snapshots"):
        Folder(tmp_path / "file" / "snapshots").prepare()


def failure_of(write):
    try:
        write()
    except SnapshotFailed as error:
        return error
    return None


@pytest.mark.parametrize("version", [1, 2])
def test_whichever_operation_fails_the_last_good_one_stays(folder, monkeypatch, version):
    """Fail the first operation, then the second, and so on until the writing succeeds."""
    folder.write(fill(version=1, content=b"good"))
    calls = {"count": 0, "fails_at": 0}

    def failing(function):
        def call(*args, **kwargs):
            calls["count"] += 1
            if calls["count"] == calls["fails_at"]:
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return call

    for name in ("mkdir", "write_bytes", "write_text", "rename"):
        monkeypatch.setattr(Path, name, failing(getattr(Path, name)))
    monkeypatch.setattr(snapshot.os, "fsync", failing(os.fsync))
    for fails_at in range(1, 30):
        calls.update(count=0, fails_at=fails_at)
        error = failure_of(lambda: folder.write(fill(epoch=2, version=version, content=b"newer")))
        if error is None:
            break
        assert "No space left" in str(error)
        calls["fails_at"] = 0
        # Whole: the one before, or the new one if only the last fsync failed.
        content = (find(folder.path).path / "model.caffemodel").read_bytes()
        assert content in {b"good", b"newer"}
        assert (folder.path / "1").exists()
        assert not list(folder.path.glob(".tmp-*"))
    assert fails_at > 6
    assert (find(folder.path).path / "model.caffemodel").read_bytes() == b"newer"


class Rig:
    """A snapshotter over a store that is two numbers."""

    def __init__(self, folder, **limits):
        self.changes, self.updates, self.written = 0, 0, []
        self.clock = Clock()
        self.fails = False
        self.snapshotter = Snapshotter(
            folder,
            self.fill,
            progress=lambda: (self.changes, self.updates),
            written=self.written.append,
            clock=self.clock,
            **{"every_updates": 0, "every_s": 0.0, **limits},
        )

    def fill(self, path):
        if self.fails:
            raise OSError(28, "No space left on device")
        return fill(version=self.updates)(path)


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


def test_snapshot_on_demand_says_where_and_what(folder):
    rig = Rig(folder)
    rig.updates = 4
    assert rig.snapshotter.now() == {"path": str(folder.path / "4"), "epoch": 1, "version": 4}
    assert [written.age for written in rig.written] == [(1, 4)]
    assert rig.snapshotter.status()["last_version"] == 4


def test_failure_is_shown_logged_once_and_tried_again_at_the_next_turn(folder, caplog):
    rig = Rig(folder, every_s=120.0)
    rig.changes, rig.fails = 1, True
    rig.clock.now += 121
    rig.snapshotter._turn()
    rig.snapshotter._turn()
    assert caplog.text.count("No space left") == 1
    assert "No space left" in rig.snapshotter.status()["error"]
    rig.fails = False
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
    monkeypatch.setattr(snapshot, "_TICK_S", 0.01)
    rig = Rig(folder, every_updates=1)
    rig.snapshotter.start()
    rig.changes = rig.updates = 1
    until(lambda: rig.written)
    rig.snapshotter.stop()
    assert names(folder) == ["1"]
