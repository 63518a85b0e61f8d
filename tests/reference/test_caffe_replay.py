"""Every case recorded from real Caffe, through our engine."""

import importlib.util
import json
import zipfile
from pathlib import Path

import pytest

import caffe
from caffe import memory

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("caffe_replay", HERE / "replay.py")
replay = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(replay)


def _names():
    with zipfile.ZipFile(HERE / "cases.zip") as archive:
        kinds = {
            Path(name).parent.name: json.loads(archive.read(name))["kind"]
            for name in archive.namelist()
            if name.endswith("/meta.json")
        }
    return sorted(name for name, kind in kinds.items() if kind in replay.RUNNERS)


NAMES = _names()


def test_the_archive_is_complete():
    assert len(NAMES) == 299


@pytest.mark.parametrize("mirrored", [False, True], ids=["plain", "mirrored"])
@pytest.mark.parametrize("name", NAMES)
def test_case(cases, monkeypatch, name, mirrored):
    """Mirrored: NumPy sees other memory than the engine computes in, as with a GPU."""
    if mirrored:
        monkeypatch.setattr(memory, "is_mirrored", lambda _: True)
    folder = cases / name
    meta = json.loads((folder / "meta.json").read_text())
    differences = []
    replay.RUNNERS[meta["kind"]](caffe, str(folder), meta, differences)
    assert differences == []
