"""Snapshots are whole or absent, the newest good one is found, the best one stays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from param_server import snapshot
from param_server.errors import NoSnapshot, SnapshotFailed
from param_server.snapshot import Folder, find, load, read_evaluation


def fill(epoch=1, version=0, content=b"weights"):
    def write(path):
        (path / "model.caffemodel").write_bytes(content)
        return {"epoch": epoch, "version": version}

    return write


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path / "snapshots", keep=3)
    folder.prepare()
    yield folder
    folder.close()


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
    (passed_over,) = find(folder.path).passed_over
    assert str(folder.path / "2") in passed_over
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


def test_folder_of_damaged_ones_says_what_is_wrong(folder):
    truncate(folder.write(fill(version=1)).path)
    with pytest.raises(SnapshotFailed, match=r"no snapshot in .*; snapshot .*1 is damaged: model"):
        find(folder.path)


def test_what_a_crash_left_is_removed_at_the_start(folder):
    (folder.path / ".tmp-1").mkdir()
    folder.write(fill(version=3))
    (folder.path / ".tmp-2").mkdir()
    folder.prepare()
    assert names(folder) == ["3"]


def test_one_moved_aside_before_a_crash_is_found_and_removed_in_its_turn(folder):
    """The new one of the same version did not come; the old one has its other name."""
    written = folder.write(fill(version=3))
    written.path.rename(folder.path / "3-1")
    assert find(folder.path).age == (1, 3)
    for version in (4, 5, 6):
        folder.write(fill(epoch=2, version=version))
    assert names(folder) == ["4", "5", "6"]


def test_two_servers_do_not_write_to_one_folder(folder):
    other = Folder(folder.path)
    with pytest.raises(SnapshotFailed, match="another server writes its snapshots to"):
        other.prepare()
    folder.close()
    other.prepare()
    other.close()


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


def result(mean, **more):
    return {"return_mean": mean, "return_se": 0.5, "episodes": 8, **more}


def test_evaluation_is_written_beside_the_files(folder):
    path = folder.write(fill(version=3)).path
    assert folder.mark_evaluated(3, result(2.5))
    assert read_evaluation(path) == result(2.5)
    assert load(path).age == (1, 3)


def test_best_by_evaluation_stays_and_the_rest_goes_by_age(folder):
    for version, mean in enumerate((1.0, 9.0, 2.0, -3.0)):
        folder.write(fill(version=version))
        assert folder.mark_evaluated(version, result(mean)) == (version < 2)
    for version in (4, 5, 6):
        folder.write(fill(version=version))
    assert names(folder) == ["1", "4", "5", "6"]
    assert folder.mark_evaluated(6, result(9.0))  # of equals the newer
    folder.write(fill(version=7))
    assert names(folder) == ["5", "6", "7"]


def test_best_stays_when_a_later_life_comes_to_its_version(folder):
    folder.write(fill(epoch=1, version=3, content=b"good"))
    folder.mark_evaluated(3, result(5.0))
    folder.write(fill(epoch=2, version=3, content=b"bad"))
    assert read_evaluation(folder.path / "3") is None
    for version in (4, 5, 6):
        folder.write(fill(epoch=2, version=version))
    assert names(folder) == ["3-1", "4", "5", "6"]
    assert (load(folder.path / "3-1").path / "model.caffemodel").read_bytes() == b"good"


def test_the_same_model_keeps_its_evaluation_in_a_later_life(folder):
    folder.write(fill(epoch=1, version=3))
    folder.mark_evaluated(3, result(5.0))
    folder.write(fill(epoch=2, version=3))
    assert names(folder) == ["3"]
    assert read_evaluation(folder.path / "3") == result(5.0)
    assert find(folder.path).age == (2, 3)


def test_version_without_a_snapshot_cannot_be_evaluated(folder):
    with pytest.raises(NoSnapshot, match="version 4 has no snapshot"):
        folder.mark_evaluated(4, result(1.0))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"return_mean": null}', '{"return_mean": NaN}',
                '{"return_mean": true}', '{"return_mean": "1"}'],
)  # fmt: skip
def test_unreadable_evaluation_is_none(folder, content):
    path = folder.write(fill(version=1)).path
    (path / "evaluation.json").write_text(content)
    assert read_evaluation(path) is None
    for version in (2, 3, 4):
        folder.write(fill(version=version))
    assert names(folder) == ["2", "3", "4"]


def test_evaluation_that_cannot_be_written_leaves_the_one_before(folder, monkeypatch):
    path = folder.write(fill(version=1)).path
    folder.mark_evaluated(1, result(1.0))

    def failing(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot, "sync", failing)
    with pytest.raises(SnapshotFailed, match="no evaluation written"):
        folder.mark_evaluated(1, result(2.0))
    assert read_evaluation(path) == result(1.0)
    assert sorted(file.name for file in path.iterdir()) == [
        "evaluation.json", "manifest.json", "model.caffemodel",
    ]  # fmt: skip


FULL_DISK = """
import resource, sys
from pathlib import Path
from param_server.errors import SnapshotFailed
from param_server.snapshot import Folder, find, load

folder = Folder(Path(sys.argv[1]))
folder.prepare()

def fill(size, version):
    def write(path):
        (path / "model.caffemodel").write_bytes(bytes(size))
        return {"epoch": 1, "version": version}
    return write

folder.write(fill(500, 1))
unlimited = resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_FSIZE, (100000, unlimited))
for version in (1, 2):
    try:
        folder.write(fill(200000, version))
    except SnapshotFailed as error:
        print(error)
    load(folder.path / "1")
    print(*sorted(path.name for path in folder.path.iterdir()))
resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
print(folder.write(fill(200000, 2)).path.name, find(folder.path).age)
"""


def test_write_that_fails_half_way_leaves_nothing(tmp_path):
    """A limit on the size of files makes a real write fail in the middle."""
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], check=True, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": paths}, timeout=60,
    )  # fmt: skip
    failed = f"no snapshot written to {tmp_path}: [Errno 27] File too large"
    assert done.stdout.splitlines() == [failed, "1", failed, "1", "2 (1, 2)"]


def test_version_written_again_and_again_keeps_its_evaluation_and_one_folder(folder):
    """Of the same epoch it is the same model, though its files differ in a time or a ledger."""
    for content in (b"1", b"2", b"3"):
        folder.write(fill(version=7, content=content))
        if content == b"1":
            folder.mark_evaluated(7, {"return_mean": 2.0, "return_se": 0.1, "episodes": 8})
    assert names(folder) == ["7"]
    assert read_evaluation(folder.path / "7")["return_mean"] == 2.0
