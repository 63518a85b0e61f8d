"""The recordings that need more than replaying: files, MemoryData, fillers, apply_update."""

import json

import numpy as np
import pytest
from caffe.proto import caffe_pb2
from caffe.prototxt import read_solver
from google.protobuf import text_format
from numpy.testing import assert_allclose

import caffe


def close(actual, expected):
    scale = float(np.abs(expected).max(initial=0.0))
    assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * scale + 1e-7)


class Arrays(dict):
    @property
    def files(self):
        return list(self)


def arrays(path):
    with np.load(path) as file:
        return Arrays((key, file[key]) for key in file.files)


def open_solver(folder):
    path = folder / "solver.prototxt"
    path.write_text(path.read_text().replace("{CASE}", str(folder)))
    return caffe.get_solver(str(path))


def start(net, given):
    for key in given.files:
        if key.startswith("param:"):
            layer, index = key[6:].rsplit(":", 1)
            net.params[layer][int(index)].data[...] = given[key]


def compare(net, want, step):
    for key in want.files:
        kind, _, rest = key.partition(":")
        if kind not in ("param", "paramdiff") or not rest.endswith(f"@{step}"):
            continue
        layer, index = rest.split("@")[0].rsplit(":", 1)
        blob = net.params[layer][int(index)]
        close(blob.data if kind == "param" else blob.diff, want[key])


@pytest.mark.parametrize(
    "name",
    [
        "solvermem_adadelta_it1",
        "solvermem_adadelta_it2",
        "solvermem_adam_it1",
        "solvermem_nesterov_it1",
        "solvermem_nesterov_it2",
        "solvermem_sgd_it1",
    ],
)
def test_a_net_fed_by_memory_data_trains_as_in_caffe(cases, name):
    folder = cases / name
    solver = open_solver(folder)
    given, want = arrays(folder / "in.npz"), arrays(folder / "out.npz")
    start(solver.net, given)
    solver.net.set_input_arrays(given["mem:data"], given["mem:labels"])
    for step in range(1, 11):
        solver.step(1)
        compare(solver.net, want, step)


def test_apply_update_takes_gradients_from_outside(cases):
    folder = cases / "solver_apply_update"
    solver = open_solver(folder)
    given, want = arrays(folder / "in.npz"), arrays(folder / "out.npz")
    start(solver.net, given)
    for step in range(1, 11):
        for key in given.files:
            if key.startswith("grad:") and key.endswith(f"@{step - 1}"):
                layer, index = key[5:].split("@")[0].rsplit(":", 1)
                solver.net.params[layer][int(index)].diff[...] = given[key]
        solver.apply_update()
        compare(solver.net, want, step)
    assert solver.iter == 10


SNAPSHOTS = (
    "solversnap_adadelta_hdf5",
    "solversnap_adagrad_binaryproto",
    "solversnap_adam_binaryproto",
    "solversnap_adam_hdf5",
)


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_caffes_own_snapshot_resumes(cases, name):
    folder = cases / name
    solver = open_solver(folder)
    given, want = arrays(folder / "in.npz"), arrays(folder / "out.npz")
    state = next(path for path in folder.iterdir() if "solverstate" in path.name)
    solver.restore(str(state))
    assert solver.iter == 5
    for step in range(6, 11):
        for key in given.files:
            if key.startswith("blob:") and key.endswith(f"@{step - 1}"):
                solver.net.blobs[key[5:].split("@")[0]].data[...] = given[key]
        solver.step(1)
        compare(solver.net, want, step)


@pytest.mark.parametrize("name", ["rmsprop_decay_1", "rmsprop_momentum", "unknown_reg"])
def test_what_aborts_caffe_raises_here(cases, name):
    with pytest.raises(caffe.CaffeError):
        open_solver(cases / f"solverabort_{name}").step(1)


def test_memory_data_wraps_around_as_in_caffe(cases):
    folder = cases / "memory_data"
    net = caffe.Net(str(folder / "net.prototxt"), caffe.TRAIN)
    given, want = arrays(folder / "in.npz"), arrays(folder / "out.npz")
    start(net, given)
    net.set_input_arrays(given["data"], given["labels"])
    steps = 1 + max(int(key.split("@")[1]) for key in want.files)
    for step in range(steps):
        net.forward()
        for name in ("data", "label", "y"):
            assert net.blobs[name].data.shape == want[f"blob:{name}@{step}"].shape
            close(net.blobs[name].data, want[f"blob:{name}@{step}"])


@pytest.mark.parametrize("suffix", ["caffemodel", "caffemodel.h5"])
def test_files_saved_by_caffe_load(cases, suffix):
    folder = cases / "save_load"
    net = caffe.Net(
        str(folder / "net.prototxt"), caffe.TEST, weights=str(folder / f"saved.{suffix}")
    )
    given, want = arrays(folder / "in.npz"), arrays(folder / "out.npz")
    net.forward(data=given["blob:data"])
    for key in want.files:
        close(net.blobs[key[5:]].data, want[key])


def test_saved_files_have_caffes_structure(cases, tmp_path):
    folder = cases / "save_load"
    net = caffe.Net(str(folder / "net.prototxt"), caffe.TEST)
    net.save(str(tmp_path / "w.caffemodel"))
    message = caffe_pb2.NetParameter.FromString((tmp_path / "w.caffemodel").read_bytes())
    for layer in message.layer:
        for blob in layer.blobs:
            blob.ClearField("data")
    expected = text_format.Parse(
        (folder / "saved_structure.txt").read_text(), caffe_pb2.NetParameter()
    )
    assert message == expected


STATS = ("mean", "std", "min", "max", "rowsum", "zeros")


@pytest.mark.parametrize(
    "name",
    [
        "constant",
        "default",
        "gaussian",
        "gaussian_sparse",
        "msra",
        "msra_out",
        "positive_unitball",
        "uniform",
        "xavier",
        "xavier_avg",
        "xavier_out",
    ],
)
def test_fillers_have_caffes_statistics(cases, name):
    caffe.set_random_seed(1)
    folder = cases / "fillers"
    expected = json.loads((folder / "meta.json").read_text())["stats"][name]
    net = caffe.Net(str(folder / f"{name}.prototxt"), caffe.TEST)
    values = next(iter(net.params.values()))[0].data
    assert list(values.shape) == expected["shape"]
    spread = expected["max"] - expected["min"]
    assert values.mean() == pytest.approx(expected["mean"], abs=0.01 * spread + 1e-7)
    assert values.std() == pytest.approx(expected["std"], rel=0.05, abs=1e-6)
    assert (values == 0).mean() == pytest.approx(expected["zeros"], abs=0.005)
    if name in ("uniform", "xavier", "xavier_avg", "xavier_out"):
        assert values.min() == pytest.approx(expected["min"], rel=0.01)
        assert values.max() == pytest.approx(expected["max"], rel=0.01)
    if name == "positive_unitball":
        assert_allclose(values.reshape(values.shape[0], -1).sum(axis=1), 1, rtol=1e-5)


def test_the_bilinear_filler_is_caffes(cases):
    folder = cases / "fillers"
    net = caffe.Net(str(folder / "net.prototxt"), caffe.TEST)
    close(net.params["c"][0].data, arrays(folder / "out.npz")["bilinear5"])


def test_an_old_solver_is_upgraded_as_by_caffe(cases):
    folder = cases / "upgrade_solver"
    solver = read_solver(folder / "in.prototxt")
    solver.ClearField("snapshot_prefix")  # filled in when it is read, not when it is upgraded
    assert solver == text_format.Parse(
        (folder / "upgraded.prototxt").read_text(), caffe_pb2.SolverParameter()
    )
