"""An update in one pass is the update in many, to the last bits but few."""

import numpy as np
import pytest

import caffe

NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 30 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a"
  param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 40 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { lr_mult: 0 }
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
ADAM = 'type: "Adam" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 momentum2: 0.999'


@pytest.fixture
def solve(tmp_path, monkeypatch):
    """Return the weights after some gradients, and the solver."""
    (tmp_path / "net.prototxt").write_text(NET)

    def solve(settings, *, is_fused, updates=20):
        monkeypatch.setenv("DDQ_FUSED", "1" if is_fused else "0")
        path = tmp_path / "solver.prototxt"
        path.write_text(f'net: "{tmp_path}/net.prototxt" {settings}')
        caffe.set_random_seed(3)
        solver = caffe.get_solver(str(path))
        rng = np.random.default_rng(0)
        history = []
        for _ in range(updates):
            gradient = rng.normal(size=solver.net.diff_arena.size).astype(np.float32)
            before = gradient.copy()
            solver.apply_gradient(gradient)
            assert np.array_equal(gradient, before)  # it is only read
            history.append(solver.net.param_arena.copy())
        return np.array(history), solver

    return solve


@pytest.mark.parametrize("more", [
    "", "weight_decay: 0.01", "clip_gradients: 2", "iter_size: 4", "delta: 0.1",
    "clip_gradients: 2 iter_size: 3 weight_decay: 0.1",
])  # fmt: skip
def test_one_pass_gives_what_many_do(solve, more):
    fused, _ = solve(f"{ADAM} {more}", is_fused=True)
    plain, _ = solve(f"{ADAM} {more}", is_fused=False)
    assert np.allclose(fused, plain, rtol=1e-5, atol=2e-6)
    assert not np.array_equal(fused[0], fused[-1])


@pytest.mark.parametrize("settings", [
    ADAM + ' weight_decay: 0.01 regularization_type: "L1"', ADAM.replace("0.999", "1"),
    'type: "SGD" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9',
    'type: "RMSProp" base_lr: 0.01 lr_policy: "fixed" rms_decay: 0.9',
])  # fmt: skip
def test_what_has_no_single_pass_is_done_in_many(solve, settings):
    asked, _ = solve(settings, is_fused=True)
    plain, _ = solve(settings, is_fused=False)
    assert np.array_equal(asked, plain, equal_nan=True)


def test_updates_are_counted_and_rates_follow_the_policy(solve):
    settings = ADAM.replace('"fixed"', '"step" gamma: 0.5 stepsize: 10')
    fused, solver = solve(settings, is_fused=True)
    plain, other = solve(settings, is_fused=False)
    assert solver.iter == other.iter == 20
    assert solver.lr == other.lr
    assert np.allclose(fused, plain, rtol=1e-5, atol=2e-6)


def test_a_snapshot_goes_on_either_way(solve, tmp_path):
    prefix = f'snapshot_prefix: "{tmp_path}/s"'
    _, solver = solve(f"{ADAM} {prefix}", is_fused=True, updates=5)
    solver.snapshot()
    _, other = solve(f"{ADAM} {prefix}", is_fused=False, updates=0)
    other.restore(f"{tmp_path}/s_iter_5.solverstate")
    assert other.iter == 5
    assert np.array_equal(other.net.param_arena, solver.net.param_arena)
    gradient = np.full(solver.net.diff_arena.size, 0.5, np.float32)
    for each in (solver, other):
        each.apply_gradient(gradient)
    assert np.allclose(solver.net.param_arena, other.net.param_arena, rtol=1e-5, atol=2e-6)
