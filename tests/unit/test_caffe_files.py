import os
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
from caffe.errors import CaffeError, CaffeFileError
from caffe.files import (
    hdf5_array,
    hdf5_int,
    hdf5_member,
    hdf5_string,
    is_hdf5,
    read_bytes,
    reading_hdf5,
    write_bytes,
    write_hdf5,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def test_a_file_comes_back(path):
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert read_bytes(path) == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("read", [read_bytes, is_hdf5, lambda path: reading_hdf5(path).__enter__()])
@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "circle", "name\0"])
def test_what_is_no_file_is_refused_with_the_reason(tmp_path, read, kind):
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)  # reading it would never end
    elif kind == "circle":
        path.symlink_to(path)
    reasons = {"directory": "a directory", "pipe": "no regular file", "name\0": "null"}
    with pytest.raises(CaffeFileError, match=f"Could not open file .*: .*{reasons.get(kind, '')}"):
        read(path)


def test_a_file_that_is_too_large_is_not_read(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no space
    with pytest.raises(CaffeError, match="1099511627776 bytes"):
        read_bytes(path)


def test_writing_fails_whole(path):
    write_bytes(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # as a full disk
    try:
        with pytest.raises(CaffeFileError, match=r"Could not write file .*file: \w+") as error:
            write_bytes(path, bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupt_leaves_the_old_file(path, monkeypatch):
    write_bytes(path, b"old")

    def replace(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["missing/file", "", "a" * 300, "nul\0", "circle"])
def test_what_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CaffeFileError, match="Could not write file"):
        write_bytes(tmp_path / name, b"x")
    assert sorted(tmp_path.iterdir()) == before


def test_devices_are_not_replaced():
    with pytest.raises(CaffeFileError, match="no regular file"):
        write_bytes("/dev/null", b"x")
    assert Path("/dev/null").is_char_device()


def test_links_and_modes_are_those_of_any_other_writer(path):
    link = path.with_name("link")
    link.symlink_to(path)
    write_bytes(link, b"new")
    plain = path.with_name("plain")
    plain.touch()
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode == plain.stat().st_mode


# -- HDF5 ------------------------------------------------------------------------------------


def write(path, **datasets):
    write_hdf5(path, datasets)
    return path


def read(path, name="a", expected=0):
    with reading_hdf5(path) as file:
        return hdf5_array(hdf5_member(file, name), f"{path}: '{name}'", expected)


def test_hdf5_values_come_back(path):
    write(path, group=None, a=np.float32([1, 2]), n=np.int32([3]), s=np.bytes_(b"text"))
    assert is_hdf5(path)
    with reading_hdf5(path) as file:
        assert list(file) == ["a", "group", "n", "s"]
        assert hdf5_int(file["n"], "n") == 3
        assert hdf5_string(file["s"], "s") == "text"
        assert hdf5_member(file, "nope") is None
        assert hdf5_member(file, "group/a") is None
    assert read(path).tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "u8", "i4"])
def test_numbers_of_any_type_become_float32(path, dtype):
    values = read(write(path, a=np.array([[1, 2, 3]], dtype)))
    assert values.dtype == np.float32
    assert values.tolist() == [[1, 2, 3]]


def test_strings_of_variable_length_are_read(path):
    with h5py.File(path, "w") as file:
        file["s"] = "häß"
    with reading_hdf5(path) as file:
        assert hdf5_string(file["s"], "s") == "häß"


@pytest.mark.parametrize(
    "value", [np.bytes_(b"text"), None, True, h5py.Empty("f4"), np.zeros(2, [("x", "f4")]), 1j]
)
def test_what_are_no_numbers_is_refused(path, value):
    with pytest.raises(CaffeError, match="'a' is no dataset of numbers"):
        read(write(path, a=value))


@pytest.mark.parametrize("value", [np.float32(1), np.int32([1, 2]), None])
def test_integers_and_strings_are_checked(path, value):
    with reading_hdf5(write(path, a=value)) as file:
        with pytest.raises(CaffeError, match="here is no integer"):
            hdf5_int(file["a"], "here")
        with pytest.raises(CaffeError, match="here is no string"):
            hdf5_string(file["a"], "here")


@pytest.mark.parametrize(
    "link", [h5py.SoftLink("/b"), h5py.ExternalLink("secret.h5", "/a"), h5py.SoftLink("/nowhere")]
)
def test_links_are_not_followed(tmp_path, link):
    write(tmp_path / "secret.h5", a=np.ones(3))
    path = write(tmp_path / "file", b=np.ones(3))
    with h5py.File(path, "a") as file:
        file["a"] = link
    with pytest.raises(CaffeError, match="'a' in '/' is a link"):
        read(path)


def test_values_in_other_files_are_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(12))
    with h5py.File(tmp_path / "external", "w") as file:
        file.create_dataset("a", (3,), "f4", external=[(str(tmp_path / "secret"), 0, 12)])
    write(tmp_path / "source", a=np.ones(3))
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "source", "a", (3,))
    with h5py.File(tmp_path / "virtual", "w") as file:
        file.create_virtual_dataset("a", layout)
    for name in ("external", "virtual"):
        with pytest.raises(CaffeError, match="in other files"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "settings",
    [
        {"shape": (1 << 34,)},  # never written
        {"shape": (1 << 34,), "chunks": (1 << 20,), "compression": "gzip"},
        {"shape": (3,), "maxshape": (None,), "chunks": (1 << 29,)},  # one chunk of 2 GiB
    ],
)
def test_a_few_bytes_that_claim_gigabytes_are_refused(path, settings):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", dtype="f4", **settings)
    assert path.stat().st_size < 10_000
    with pytest.raises(CaffeError, match="claims"):
        read(path)


def test_what_compresses_well_is_believed(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.zeros(1 << 20, np.float32), compression="gzip")
    assert path.stat().st_size < 20_000
    assert read(path).shape == (1 << 20,)


@pytest.mark.parametrize("kept", [0, 8, 100, 500, -1])
def test_a_damaged_hdf5_file_is_refused(path, kept):
    write(path, a=np.ones(500))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CaffeError, match="damaged, or no HDF5 file"):
        read(path)


def test_hdf5_is_known_by_name_or_content(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"\x89HDF")
    assert is_hdf5(tmp_path / "a.h5")
    assert not is_hdf5(tmp_path / "b")


def test_an_hdf5_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(CaffeFileError, match="Could not write file"):
        write(tmp_path / "missing/file", a=1)
    with pytest.raises(CaffeFileError, match="Could not write file"):
        write(tmp_path / "file", a=object())
