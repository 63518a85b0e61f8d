"""Which snapshots a browser may fetch, and that it can fetch nothing else."""

import json
import os

import pytest
from param_server.downloads import Downloads
from param_server.snapshot import MANIFEST, Folder


def write(folder, version, content=b"weights", epoch=1):
    def fill(path):
        (path / "model.caffemodel").write_bytes(content)
        (path / "solver.prototxt").write_text("type: 'SGD'")
        return {"epoch": epoch, "version": version}

    return folder.write(fill).path


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path / "snapshots")
    folder.prepare()
    return folder


@pytest.fixture
def downloads(folder):
    return Downloads(folder.path)


def read(opened):
    file, size = opened
    with file:
        content = file.read()
    assert len(content) == size
    return content


def test_listing_says_what_there_is_newest_first(folder, downloads):
    assert downloads.listing() == []
    path = write(folder, 100)
    write(folder, 250)
    newest, oldest = downloads.listing()
    assert (newest["name"], newest["version"], newest["epoch"]) == ("250", 250, 1)
    assert oldest["files"]["model.caffemodel"] == 7
    assert set(oldest["files"]) == {"model.caffemodel", "solver.prototxt", MANIFEST}
    assert oldest["bytes"] == sum(file.stat().st_size for file in path.iterdir())
    assert oldest["time"] == (path / MANIFEST).stat().st_mtime
    assert oldest["evaluation"] is None
    assert not oldest["best"]


def test_the_best_evaluated_is_marked(folder, downloads):
    for version in (1, 2, 3):
        write(folder, version)
    assert downloads.listing()[2]["evaluation"] is None
    folder.mark_evaluated(1, {"return_mean": 7.5, "return_se": 0.5})
    folder.mark_evaluated(2, {"return_mean": -3.0, "return_se": 0.5})
    listing = downloads.listing()
    assert [snapshot["best"] for snapshot in listing] == [False, False, True]
    assert listing[2]["evaluation"]["return_mean"] == 7.5


def test_removed_snapshot_is_not_listed(folder, downloads):
    for version in range(7):
        write(folder, version)
        downloads.listing()
    assert [snapshot["version"] for snapshot in downloads.listing()] == [6, 5, 4, 3, 2]


def test_files_are_opened_by_name(folder, downloads):
    path = write(folder, 100, b"\0" * 1000)
    assert read(downloads.open("100", "model.caffemodel")) == b"\0" * 1000
    assert read(downloads.open("100", MANIFEST)) == (path / MANIFEST).read_bytes()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("101", "model.caffemodel"), ("100", "other.caffemodel"), ("100", ""), ("", ""),
        ("..", "secret"), ("100", "../../secret"), ("100", ".."), ("100", "/etc/passwd"),
        ("../snapshots/100", "model.caffemodel"), (".tmp-1", MANIFEST), ("100", "unlisted"),
        ("100", "model.caffemodel\0"), ("٢", "model.caffemodel"),
    ],
)  # fmt: skip
def test_nothing_else_is_opened(folder, downloads, name, file):
    path = write(folder, 100)
    (folder.path.parent / "secret").write_text("secret")
    (path / "unlisted").write_text("of nobody's manifest")
    unfinished = folder.path / ".tmp-1"
    unfinished.mkdir()
    (unfinished / MANIFEST).write_text((path / MANIFEST).read_text())
    assert downloads.open(name, file) is None


def test_links_lead_nowhere(folder, downloads):
    path = write(folder, 100)
    (path / "model.caffemodel").unlink()
    (path / "model.caffemodel").symlink_to("/etc/passwd")
    assert downloads.open("100", "model.caffemodel") is None
    (folder.path / "200").symlink_to(path)
    assert [snapshot["name"] for snapshot in downloads.listing()] == ["100"]


def test_what_is_no_plain_file_is_not_opened(folder, downloads):
    path = write(folder, 100)
    (path / "model.caffemodel").unlink()
    os.mkfifo(path / "model.caffemodel")
    assert downloads.open("100", "model.caffemodel") is None


@pytest.mark.parametrize(
    "manifest",
    [
        "", "[]", "{}", '{"version": 1, "epoch": 1}', '{"version": "x", "epoch": 1, "files": {}}',
        '{"version": 1, "epoch": 1, "files": {"a": 7}}', '{"version": 1, "epoch": 1, "files": []}',
    ],
)  # fmt: skip
def test_damaged_manifest_is_no_snapshot(folder, downloads, manifest):
    write(folder, 100)
    broken = folder.path / "200"
    broken.mkdir()
    (broken / MANIFEST).write_text(manifest)
    assert [snapshot["name"] for snapshot in downloads.listing()] == ["100"]


def test_manifest_cannot_name_files_elsewhere(folder, downloads):
    path = write(folder, 100)
    (folder.path / "secret").write_text("secret")
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"]["../secret"] = {"bytes": 6, "crc32": 0}
    (path / MANIFEST).write_text(json.dumps(manifest))
    assert "../secret" not in downloads.listing()[0]["files"]
    assert downloads.open("100", "../secret") is None


def test_folder_that_is_not_there_has_no_snapshots(tmp_path):
    assert Downloads(tmp_path / "nowhere").listing() == []
