"""The folder of sockets: private or none, and without leftovers."""

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest
from param_server import rendezvous
from param_server.rendezvous import NoPrivateFolder, new_path, private_folder, remove_leftovers


@pytest.fixture
def temporary(monkeypatch):
    """A folder for temporary files whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="ddq-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_runtime_directory_is_preferred(temporary):
    runtime = temporary / "run"
    runtime.mkdir()
    folder = private_folder({"XDG_RUNTIME_DIR": str(runtime)})
    assert (folder, mode(folder)) == (runtime / "ddq", 0o700)
    assert private_folder({"XDG_RUNTIME_DIR": str(runtime)}) == folder  # and found again


@pytest.mark.parametrize("name", ["", "missing", "file", "link"])
def test_without_a_runtime_directory_of_ours_a_temporary_one_serves(temporary, name):
    (temporary / "file").touch()
    (temporary / "link").symlink_to(temporary)
    environ = {"XDG_RUNTIME_DIR": str(temporary / name)} if name else {}
    folder = private_folder(environ)
    assert (folder, mode(folder)) == (temporary / f"ddq-{os.geteuid()}", 0o700)


def test_a_runtime_directory_too_deep_for_sockets_is_passed_over(temporary):
    runtime = temporary / ("x" * 90)
    runtime.mkdir()
    assert private_folder({"XDG_RUNTIME_DIR": str(runtime)}).parent == temporary


def test_everything_too_deep_is_refused(temporary, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / ("x" * 90)))
    with pytest.raises(NoPrivateFolder, match="too long"):
        private_folder({})


def test_a_folder_that_others_can_enter_is_refused(temporary):
    (temporary / f"ddq-{os.geteuid()}").mkdir(mode=0o755)
    with pytest.raises(NoPrivateFolder, match="only user"):
        private_folder({})


def test_a_link_in_the_folder_s_place_is_refused(temporary):
    (temporary / "elsewhere").mkdir(mode=0o700)
    (temporary / f"ddq-{os.geteuid()}").symlink_to(temporary / "elsewhere")
    with pytest.raises(NoPrivateFolder, match="only user"):
        private_folder({})


def test_a_file_in_the_folder_s_place_is_refused(temporary):
    (temporary / f"ddq-{os.geteuid()}").touch()
    with pytest.raises(NoPrivateFolder, match="File exists"):
        private_folder({})


def test_somebody_else_s_folder_is_refused(temporary, monkeypatch):
    """As another user finds it: the folder is there, private, and not his."""
    other = os.geteuid() + 1
    (temporary / f"ddq-{other}").mkdir(mode=0o700)
    monkeypatch.setattr(rendezvous.os, "geteuid", lambda: other)
    with pytest.raises(NoPrivateFolder, match="only user"):
        private_folder({})


def test_no_path_comes_twice_and_each_names_its_port(temporary):
    paths = {new_path(temporary, 5500) for _ in range(100)}
    assert len(paths) == 100
    assert all(path.name.startswith("5500-") and path.suffix == ".sock" for path in paths)
    assert all(len(os.fsencode(path)) <= rendezvous.PATH_LIMIT_BYTES for path in paths)


def test_leftovers_go_and_living_sockets_and_other_files_stay(temporary):
    dead, living, note = (temporary / name for name in ("1-a.sock", "2-b.sock", "note.txt"))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    note.touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(living))
        listener.listen()
        remove_leftovers(temporary)
        assert sorted(temporary.iterdir()) == [living, note]
