"""The stand-in for a real pycaffe shows what a real build showed, and is as strict."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tests.plain_pycaffe import caffe as plain
from tests.plain_pycaffe.caffe import _plain

CASES = Path(__file__).resolve().parents[1] / "reference/cases.zip"


@pytest.fixture(scope="module")
def observed():
    """What was seen of a real build."""
    with zipfile.ZipFile(CASES) as cases:
        return json.loads(cases.read("api_behaviour/meta.json"))["observed"]


@pytest.fixture
def net(tmp_path):
    return plain.Net(tiny.write_model(tmp_path)[0], plain.TRAIN)


@pytest.fixture
def solver(tmp_path):
    return plain.get_solver(tiny.write_model(tmp_path)[1])


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("caffe", _plain.MODULE),
        ("Net", _plain.NET),
        ("Blob", _plain.BLOB),
        ("Layer", _plain.LAYER),
        ("SGDSolver", _plain.SOLVER),
    ],
)
def test_its_names_are_those_of_a_real_build(observed, what, names):
    assert sorted(names.split()) == sorted(observed[f"dir({what})"])


def test_nothing_else_can_be_reached(net, solver):
    assert dir(plain) == sorted(_plain.MODULE.split())
    assert not [name for name in vars(plain) if not name.startswith("_") and name != "proto"]
    for thing, name in (
        (plain, "CaffeError"),
        (plain, "set_num_threads"),
        (net, "param_arena"),
        (net, "arena"),
        (solver, "histories"),
        (solver.net, "diff_arena"),
        (net.layers[2], "param"),
        (net.layers[2].blobs[0], "data_tensor"),
        (net.blobs["state"], "resize"),
    ):
        assert not hasattr(thing, name), name
    with pytest.raises(ModuleNotFoundError):
        __import__("tests.plain_pycaffe.caffe.errors")


def test_it_computes(net):
    out = net.forward(state=np.ones((16, 1, 5, 5), np.float32))
    assert out["Q_out"].shape == (16, 3)
    net.backward(Q_out=np.ones((16, 3), np.float32))
    assert net.params["fc1"][0].diff.any()


def test_arrays_are_live_and_cannot_be_assigned(net):
    blob = net.params["fc1"][0]
    blob.data[...] = 2
    assert (net.layers[2].blobs[0].data == 2).all()
    with pytest.raises(AttributeError, match="no setter"):
        blob.data = 1


def test_it_takes_names_as_text_and_dimensions_as_int(net, tmp_path):
    with pytest.raises(TypeError):
        plain.Net(tmp_path / "train_val.prototxt", plain.TRAIN)
    with pytest.raises(TypeError):
        net.save(tmp_path / "w.caffemodel")
    with pytest.raises(TypeError):
        net.blobs["state"].reshape(np.int64(2), 1, 5, 5)
    with pytest.raises(TypeError):
        net.blobs["state"].reshape((2, 1, 5, 5))
    assert tuple(net.blobs["state"].shape) == (16, 1, 5, 5)
    assert net.blobs["state"].shape != (16, 1, 5, 5)


def test_what_a_real_build_raises_is_raised(net):
    with pytest.raises(RuntimeError, match="Could not open file"):
        plain.Net("nowhere.prototxt", plain.TRAIN)
    with pytest.raises(Exception, match="do not match net inputs") as raised:
        net.forward(other=np.ones(1))
    assert type(raised.value) is Exception
