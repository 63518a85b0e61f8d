import logging

import numpy as np
import pytest
import torch
from torch import nn

import caffe

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 4 dim: 2 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y" SPEC
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
"""

Q_NET = """
layer { name: "state" type: "Input" top: "state" input_param { shape { dim: 4 dim: 2 dim: 20 dim: 20 } } }
layer { name: "scale" type: "Power" bottom: "state" top: "scaled" power_param { scale: 0.00392156862745 } }
layer { name: "conv1" type: "Convolution" bottom: "scaled" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 8 stride: 4 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "fc" type: "InnerProduct" bottom: "conv2" top: "fc"
  inner_product_param { num_output: 16 weight_filler { type: "msra" } } }
layer { name: "relu3" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "q" type: "InnerProduct" bottom: "fc" top: "Q_out" loss_weight: 1
  inner_product_param { num_output: 3 weight_filler { type: "msra" } } }
"""  # noqa: E501


@pytest.fixture
def make(tmp_path):
    def make(settings="", net=NET, spec="", cls=caffe.get_solver):
        caffe.set_random_seed(0)
        (tmp_path / "net.prototxt").write_text(net.replace("SPEC", spec))
        path = tmp_path / "solver.prototxt"
        defaults = {"base_lr": 0.1, "lr_policy": '"fixed"'}
        given = "".join(f"{k}: {v}\n" for k, v in defaults.items() if f"{k}:" not in settings)
        path.write_text(
            f'net: "{tmp_path}/net.prototxt"\nsnapshot_prefix: "{tmp_path}/snap"\n'
            + given + settings
        )  # fmt: skip
        solver = cls(str(path))
        generator = np.random.default_rng(1)
        for blob in solver.net.blobs.values():
            blob.data[...] = generator.normal(size=blob.shape)
        return solver

    return make


def test_a_hundred_updates_equal_those_written_by_hand(make):
    solver = make('type: "Adam" base_lr: 1e-3 momentum: 0.9 momentum2: 0.999 delta: 1e-8', Q_NET)
    net = solver.net
    twin = nn.Sequential(
        nn.Conv2d(2, 8, 8, 4), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip
    with torch.no_grad():
        for theirs, (layer, index, _) in zip(twin.parameters(), net.arena_layout, strict=True):
            theirs.copy_(torch.from_numpy(net.params[layer][index].data))
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in twin.parameters()]
    generator = np.random.default_rng(2)
    for step in range(1, 101):
        states = generator.integers(0, 256, (4, 2, 20, 20), dtype=np.uint8)
        targets = generator.normal(size=(4, 3)).astype(np.float32)
        q = net.forward(state=states)["Q_out"]
        net.clear_param_diffs()
        net.backward(Q_out=(q - targets) / 4)
        solver.apply_update()
        twin.zero_grad()
        out = twin(torch.from_numpy(states).float() / 255)
        out.backward((out.detach() - torch.from_numpy(targets)) / 4)
        rate = 1e-3 * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
        with torch.no_grad():
            for p, (m, v) in zip(twin.parameters(), moments, strict=True):
                m.mul_(0.9).add_(p.grad, alpha=0.1)
                v.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                p.sub_(rate * m / (v.sqrt() + 1e-8))
    expected = torch.cat([p.detach().view(-1) for p in twin.parameters()]).numpy()
    # Adam divides rounding noise by tiny deviations: a hundred steps of 1e-3 keep it below 1e-3.
    np.testing.assert_allclose(net.param_arena, expected, atol=1e-3)
    assert np.abs(net.param_arena - expected).mean() < 1e-5
    assert solver.iter == 100


def test_the_type_in_the_file_counts_for_get_solver_only(make):
    assert type(make('type: "Adam"')).__name__ == "AdamSolver"
    assert type(make('type: "Adam"', cls=caffe.SGDSolver)).__name__ == "SGDSolver"


def test_apply_update_moves_the_arena_in_place_and_leaves_the_update_in_the_diffs(make):
    solver = make()
    view, before = solver.net.param_arena, solver.net.param_arena.copy()
    solver.net.diff_arena[:] = 2
    solver.apply_update()
    np.testing.assert_allclose(view, before - 0.2, rtol=1e-6)
    np.testing.assert_allclose(solver.net.diff_arena, 0.2, rtol=1e-6)
    assert solver.iter == 1


def test_multipliers_hold_for_their_parameter(make):
    spec = "param { lr_mult: 2 decay_mult: 0 } param { lr_mult: 0.5 decay_mult: 3 }"
    solver = make("weight_decay: 0.1", spec=spec)
    weight, bias = solver.net.params["fc"]
    bias.data[...] = 1
    before = weight.data.copy()
    solver.net.diff_arena[:] = 1
    solver.apply_update()
    np.testing.assert_allclose(weight.data, before - 0.2, rtol=1e-5)
    np.testing.assert_allclose(bias.data, 1 - 0.05 * (1 + 0.3), rtol=1e-5)


def test_a_decay_may_become_infinite_or_nan_as_in_caffe(make):
    for decay in ("3e38", "inf"):
        solver = make(f"weight_decay: {decay}", spec="param { decay_mult: 9 }")
        solver.apply_update()  # no warning
        assert not np.isfinite(solver.net.params["fc"][0].data).all()


def test_clipping_bounds_the_norm_of_all_gradients(make):
    solver = make("clip_gradients: 1")
    solver.net.diff_arena[:] = 5
    solver.apply_update()
    assert np.linalg.norm(solver.net.diff_arena) == pytest.approx(0.1, rel=1e-5)


def test_frozen_parameters_stay(make):
    solver = make("weight_decay: 1", spec="param { lr_mult: 0 } param { lr_mult: 1 }")
    before = solver.net.params["fc"][0].data.copy()
    solver.step(3)
    np.testing.assert_array_equal(solver.net.params["fc"][0].data, before)
    assert solver.net.params["fc"][1].data.any()


def test_step_lowers_the_loss_and_calls_back(make):
    solver = make()
    heard = []
    solver.add_callback(lambda: heard.append("start"), lambda: heard.append("ready"))
    first = float(solver.net.forward()["loss"])
    solver.step(20)
    assert float(solver.net.forward()["loss"]) < first
    assert heard == ["start", "ready"] * 20
    assert solver.iter == 20


def test_iter_is_read_only_and_base_lr_is_not(make):
    solver = make("max_iter: 7 display: 0")
    with pytest.raises(AttributeError):
        solver.iter = 3
    solver.param.base_lr = 0.25
    assert solver.lr == 0.25
    assert (solver.param.max_iter, solver.param.display) == (7, 0)
    assert solver.param.layer_wise_reduce


def test_solve_runs_to_the_end_and_snapshots(make, tmp_path):
    solver = make("max_iter: 5 snapshot: 2")
    solver.solve()
    assert solver.iter == 5
    assert sorted(path.name for path in tmp_path.glob("*.solverstate")) == [
        f"snap_iter_{n}.solverstate" for n in (2, 4, 5)
    ]
    other = make("max_iter: 6 snapshot_after_train: false")
    other.solve(str(tmp_path / "snap_iter_5.solverstate"))
    assert other.iter == 6


def test_display_and_tests_are_logged(make, caplog):
    caplog.set_level(logging.INFO, logger="caffe.solver")
    make("display: 1 test_iter: 2 test_interval: 1 max_iter: 2 snapshot_after_train: false").solve()
    assert "Iteration 1, lr = 0.1" in caplog.text
    assert "Test net 0: loss" in caplog.text
    assert "Iteration 2, loss" in caplog.text


def test_test_nets_see_the_trained_weights(make):
    solver = make("test_iter: 1 test_interval: 1")
    (test_net,) = solver.test_nets
    solver.share_weights(test_net)
    solver.net.param_arena[:] = 4
    assert (test_net.param_arena == 4).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('type: "Nope"', "unknown solver type 'Nope'"),
        ('type: "AdaGrad" momentum: 0.9', "momentum"),
        ('type: "RMSProp" rms_decay: 1', "rms_decay"),
        ("average_loss: 0", "average_loss"),
        ("iter_size: 0", "iter_size"),
    ],
)
def test_unfit_solvers_are_refused(make, settings, message):
    with pytest.raises(caffe.CaffeError, match=message):
        make(settings)


def test_where_snapshots_cannot_be_written_is_told_at_once(tmp_path):
    net = 'net_param { layer { name: "x" type: "Input" top: "x" } }'
    text = f'{net} snapshot_prefix: "{tmp_path}/missing/snap" snapshot: '
    path = tmp_path / "solver.prototxt"
    path.write_text(text + "0")
    caffe.get_solver(str(path))
    path.write_text(text + "1")
    with pytest.raises(caffe.CaffeError, match=r"missing/snap.* exists"):
        caffe.get_solver(str(path))


def test_an_unknown_regularization_is_refused_when_used(make):
    solver = make('weight_decay: 1 regularization_type: "L3"')
    with pytest.raises(caffe.CaffeError, match="L3"):
        solver.apply_update()


def test_the_seed_of_the_file_repeats_the_weights(make):
    one = make("random_seed: 5").net.param_arena.copy()
    caffe.set_random_seed(99)
    np.testing.assert_array_equal(make("random_seed: 5").net.param_arena, one)


def test_start_weights_are_loaded(make, tmp_path):
    first = make()
    first.net.param_arena[:] = 3
    first.net.save(str(tmp_path / "w.caffemodel"))
    assert (make(f'weights: "{tmp_path}/w.caffemodel"').net.param_arena == 3).all()


def test_start_weights_are_loaded_into_the_test_nets_too(make, tmp_path):
    first = make()
    first.net.save(str(tmp_path / "w.caffemodel"))
    settings = f'weights: " {tmp_path}/w.caffemodel ,{tmp_path}/w.caffemodel" test_iter: 1 '
    solver = make(settings + "test_interval: 1")
    for net in (solver.net, *solver.test_nets):
        np.testing.assert_array_equal(net.params["fc"][0].data, first.net.params["fc"][0].data)


def test_a_step_of_the_learning_rate_is_taken_once_an_update(make):
    solver = make('lr_policy: "multistep" gamma: 0.1 stepvalue: [1, 1, 1] display: 1')
    for expected in (0, 1, 2):
        solver.step(1)
        assert solver.current_step == expected


def test_updates_in_callbacks_count(make):
    solver = make()
    solver.add_callback(lambda: None, solver.apply_update)
    solver.step(4)
    assert solver.iter == 4


def test_a_momentum_of_one_divides_by_zero_as_in_caffe(make):
    solver = make('type: "Adam" momentum: 1 momentum2: 1')
    solver.step(1)
    assert np.isnan(solver.net.params["fc"][0].data).all()
