import numpy as np
import pytest
from caffe.proto.caffe_pb2 import SolverState

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


def test_a_state_of_another_solver_is_refused(make, tmp_path):
    make("SGD").snapshot()
    solver = make("Adam")
    with pytest.raises(caffe.CaffeError, match="4 histories, but AdamSolver keeps 8"):
        solver.restore(str(tmp_path / "snap_iter_0.solverstate"))
    assert solver.iter == 0


@pytest.mark.parametrize("name", ["nope.solverstate", "nope.solverstate.h5"])
def test_a_missing_state_is_named(make, tmp_path, name):
    with pytest.raises(caffe.CaffeFileError, match="nope"):
        make().restore(str(tmp_path / name))


def test_an_hdf5_file_of_something_else_is_refused(make, tmp_path):
    make("SGD", "HDF5").snapshot()
    with pytest.raises(caffe.CaffeError, match="not a solver state"):
        make().restore(str(tmp_path / "snap_iter_0.caffemodel.h5"))
