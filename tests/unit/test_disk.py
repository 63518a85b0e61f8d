"""Names and contents are synced where a power cut must not take them."""

from pathlib import Path

import pytest
from param_server import disk
from param_server.disk import make_folder, sync


@pytest.fixture
def synced(monkeypatch):
    """The paths that were synced."""
    paths = []

    def fsync(descriptor):
        paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(disk.os, "fsync", fsync)
    return paths


def test_file_and_folder_are_synced(tmp_path, synced):
    (tmp_path / "file").write_text("x")
    sync(tmp_path / "file")
    sync(tmp_path)
    assert synced == [str(tmp_path / "file"), str(tmp_path)]


def test_each_folder_made_is_a_name_that_is_synced(tmp_path, synced):
    make_folder(tmp_path / "a" / "b")
    assert synced == [str(tmp_path / "a"), str(tmp_path)]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_what_is_not_there_cannot_be_synced(tmp_path):
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "nothing")
