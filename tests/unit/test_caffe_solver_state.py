import h5py
import numpy as np
import pytest
from caffe.proto.caffe_pb2 import BlobProto, SolverState

import caffe

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "frozen" type: "InnerProduct" bottom: "x" top: "h"
  param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "fc" type: "InnerProduct" bottom: "h" top: "y"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Reduction" bottom: "y" top: "loss" loss_weight: 1
  reduction_param { operation: SUMSQ } }
"""


@pytest.fixture
def make(tmp_path):
    def make(kind="Adam", form="BINARYPROTO"):
        caffe.set_random_seed(0)
        (tmp_path / "net.prototxt").write_text(NET)
        path = tmp_path / "solver.prototxt"
        momentum = 0 if kind in ("AdaGrad", "RMSProp") else 0.9
        path.write_text(
            f'net: "{tmp_path}/net.prototxt" snapshot_prefix: "{tmp_path}/snap" type: "{kind}" '
            f'base_lr: 0.1 lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 4 '
            f"momentum: {momentum} snapshot_format: {form}"
        )
        solver = caffe.get_solver(str(path))
        solver.net.blobs["x"].data[...] = np.random.default_rng(1).normal(size=(4, 3))
        return solver

    return make


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_a_resumed_run_is_the_uninterrupted_one(make, tmp_path, kind, form):
    solver = make(kind, form)
    solver.step(3)
    solver.snapshot()
    suffix = ".h5" if form == "HDF5" else ""
    other = make(kind, form)
    other.restore(str(tmp_path / f"snap_iter_3.solverstate{suffix}"))
    assert (other.iter, other.current_step) == (3, solver.current_step)
    solver.step(3)
    other.step(3)
    np.testing.assert_array_equal(other.net.param_arena, solver.net.param_arena)


def test_histories_are_those_of_all_parameters_in_prototxt_order(make, tmp_path):
    solver = make()
    solver.step(1)
    solver.snapshot()
    state = SolverState.FromString((tmp_path / "snap_iter_1.solverstate").read_bytes())
    shapes = [tuple(history.shape.dim) for history in state.history]
    assert shapes == [(3, 3), (3,), (2, 3), (2,)] * 2
    assert not any(state.history[0].data)
    assert any(state.history[2].data)
    assert state.learned_net.endswith("snap_iter_1.caffemodel")


def test_weights_are_found_beside_a_moved_state(make, tmp_path):
    solver = make()
    solver.step(1)
    solver.snapshot()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("snap_iter_1.caffemodel", "snap_iter_1.solverstate"):
        (tmp_path / name).rename(moved / name)
    other = make()
    other.net.param_arena[:] = 0
    other.restore(moved / "snap_iter_1.solverstate")
    np.testing.assert_array_equal(other.net.param_arena, solver.net.param_arena)


def refused(solver, path, match):
    solver.step(1)
    parts = [solver.net.param_arena, *[history.host.numpy() for history in solver.histories]]
    before = [part.copy() for part in parts]
    with pytest.raises(caffe.CaffeError, match=match) as error:
        solver.restore(str(path))
    assert "\n" not in str(error.value)
    assert solver.iter == 1
    for old, new in zip(before, parts, strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_state_of_another_solver_is_refused(make, tmp_path):
    make("SGD").snapshot()
    refused(
        make("Adam"), tmp_path / "snap_iter_0.solverstate", "4 histories, but AdamSolver keeps 8"
    )


@pytest.mark.parametrize("name", ["nope.solverstate", "nope.solverstate.h5"])
def test_a_missing_state_is_named(make, tmp_path, name):
    with pytest.raises(caffe.CaffeFileError, match="nope"):
        make().restore(str(tmp_path / name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iter": -1}, "iter is 18446744073709551615, not a number of iterations"),
        ({"current_step": -(2**31)}, "current_step is"),
        ({"learned_net": "/nope/w.caffemodel"}, "Could not open file /nope/w.caffemodel"),
        ({"learned_net": "nul\0"}, "Could not open file nul"),
        ({"learned_net": "/"}, "Could not open file /: it is a directory"),
        ({"learned_net": "{state}"}, "snap_iter_0.solverstate is damaged"),
        ({"history": [1, 2, 3]}, "history 0 of parameter 1 of layer 'fc' holds 3 values"),
        ({"history": [1, float("nan")]}, "parameter 1 of layer 'fc': 1 of 2 values are NaN"),
        ({"history": []}, "holds 0 values in the file, but its shape makes 2"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused(make, tmp_path, change, message):
    make("SGD").snapshot()
    path = tmp_path / "snap_iter_0.solverstate"
    state = SolverState.FromString(path.read_bytes())
    for name, value in change.items():
        if name == "history":
            state.history[3].CopyFrom(BlobProto(data=value))
        else:
            setattr(state, name, value.format(state=path) if isinstance(value, str) else value)
    path.write_bytes(state.SerializeToString())
    refused(make("SGD"), path, message)


def test_bad_weights_beside_a_good_state_change_nothing(make, tmp_path):
    solver = make("SGD")
    solver.step(3)
    solver.snapshot()
    (tmp_path / "snap_iter_3.caffemodel").write_bytes(b"")
    refused(make("SGD"), tmp_path / "snap_iter_3.solverstate", "snap_iter_3.caffemodel is damaged")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("iter", None, "no 'iter' and so is no solver state"),
        ("iter", np.float32([1]), "'iter' is no integer"),
        ("current_step", np.int32([-1]), "current_step is -1"),
        ("learned_net", np.int32([-1]), "'learned_net' is no string"),
        ("history", np.int32([-1]), "'history' is no group"),
        ("history/1", None, "3 histories, but SGDSolver keeps 4"),
        ("history/1", np.ones(4), "history 0 of parameter 1 of layer 'frozen' .* 3 values"),
        ("history/1", np.ones(3) * np.nan, "'frozen': 3 of 3 values are NaN"),
        ("history/1", h5py.SoftLink("/history/0"), "'1' in '/history' is a link"),
        ("history/1", h5py.Empty("f4"), "'frozen' is missing, or does not hold 3"),
    ],
)
def test_an_hdf5_state_that_makes_no_sense_is_refused(make, tmp_path, name, value, message):
    make("SGD", "HDF5").snapshot()
    path = tmp_path / "snap_iter_0.solverstate.h5"
    with h5py.File(path, "a") as file:
        del file[name]
        if value is not None:
            file[name] = value
    refused(make("SGD", "HDF5"), path, message)


def test_an_hdf5_state_may_name_no_weights(make, tmp_path):
    make("SGD", "HDF5").snapshot()
    path = tmp_path / "snap_iter_0.solverstate.h5"
    with h5py.File(path, "a") as file:
        del file["learned_net"]
        file["iter"][0] = 7
    solver = make("SGD", "HDF5")
    solver.restore(path)
    assert solver.iter == 7


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("suffix", ["caffemodel", "solverstate"])
def test_other_files_are_no_states(make, tmp_path, form, suffix):
    make("SGD", form).snapshot()
    path = tmp_path / f"snap_iter_0.{suffix}{'.h5' if form == 'HDF5' else ''}"
    if suffix == "solverstate":
        path.write_bytes(b"")
    refused(make("SGD"), path, "is damaged|holds 0 histories|no 'iter'")


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_a_snapshot_that_cannot_be_written_leaves_no_parts(make, tmp_path, form):
    solver = make("Adam", form)
    solver.message.snapshot_prefix = str(tmp_path / "missing/snap")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(caffe.CaffeFileError, match=r"Could not write file .*No such file"):
        solver.snapshot()
    assert sorted(tmp_path.iterdir()) == before


def test_a_state_of_many_small_histories_is_no_bomb(make, tmp_path):
    (tmp_path / "s").write_bytes(b"\x1a\0" * 100_000)
    refused(make("SGD"), tmp_path / "s", "100000 histories, but SGDSolver keeps 4")
