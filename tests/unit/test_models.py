"""The committed model files and the choice of a model for a game."""

import re
from pathlib import Path

import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

import caffe
from barista import games
from barista.games import GameSpec, UnsupportedGameError
from barista.games.models import (
    ARCHITECTURES,
    adam_solver,
    architecture_for,
    model_for,
    q_network,
    rmsprop_solver,
)

MODELS = Path(__file__).resolve().parents[2] / "models"


def _net(text):
    return text_format.Parse(text, caffe_pb2.NetParameter())


def _solver(text):
    return text_format.Parse(text, caffe_pb2.SolverParameter())


def _parameters(net):
    """Count weights and biases by the shapes that the layers imply."""
    channels, height, width = net.layer[0].input_param.shape[0].dim[1:]
    total = 0
    for layer in net.layer:
        if layer.type == "Convolution":
            each = layer.convolution_param
            kernel, stride = each.kernel_size[0], each.stride[0]
            total += each.num_output * (channels * kernel**2 + 1)
            channels = each.num_output
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        elif layer.type == "InnerProduct":
            outputs = layer.inner_product_param.num_output
            total += outputs * (channels * height * width + 1)
            channels, height, width = outputs, 1, 1
    return total


@pytest.mark.parametrize(("folder", "game"), [("deepq", "ALE/Pong-v5"), ("snake", "ddq/Snake-v0")])
def test_committed_model_is_the_default_of_its_game(folder, game):
    files = model_for(games.spec(game))
    assert files.net == (MODELS / folder / "train_val.prototxt").read_text()
    assert files.solver == (MODELS / folder / "solver.prototxt").read_text()


def test_deepq_is_the_network_of_the_paper():
    net = _net((MODELS / "deepq/train_val.prototxt").read_text())
    assert [layer.name for layer in net.layer if not layer.name.endswith("_relu")] == [
        "state",
        "scale",
        "conv1",
        "conv2",
        "conv3",
        "fc4",
        "Q_out",
    ]
    assert list(net.layer[0].input_param.shape[0].dim) == [32, 4, 84, 84]
    convolutions = [each.convolution_param for each in net.layer if each.type == "Convolution"]
    assert [(each.num_output, each.kernel_size[0], each.stride[0]) for each in convolutions] == [
        (32, 8, 4),
        (64, 4, 2),
        (64, 3, 1),
    ]
    dense = [layer.inner_product_param for layer in net.layer if layer.type == "InnerProduct"]
    assert [each.num_output for each in dense] == [512, 6]
    assert _parameters(net) == 1_687_206


@pytest.mark.parametrize("folder", ["deepq", "snake"])
def test_readme_tells_the_size_of_the_network(folder):
    readme = (MODELS / folder / "readme.md").read_text()
    net = _net((MODELS / folder / "train_val.prototxt").read_text())
    shape = list(net.layer[0].input_param.shape[0].dim)
    actions = net.layer[-1].inner_product_param.num_output
    assert f"parameters: {_parameters(net)}\n" in readme
    assert f'input: "state {shape}' in readme
    assert f'output: "Q_out [{shape[0]}, {actions}]' in readme
    assert readme.startswith("---\nname: ")
    assert "\nlicense: MIT\n" in readme


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_network_scales_its_input_and_lets_gradients_through(arch):
    net = _net(q_network(arch, 5, 4, 84, 84))
    scale = next(layer for layer in net.layer if layer.type == "Power")
    assert np.float32(scale.power_param.scale) == np.float32(1 / 255)
    assert (net.layer[0].name, list(net.layer[0].top)) == ("state", ["state"])
    assert (net.layer[-1].name, list(net.layer[-1].top)) == ("Q_out", ["Q_out"])
    assert list(net.layer[-1].loss_weight) == [1.0]
    # Each layer reads what the one before it made.
    for before, layer in zip(net.layer, net.layer[1:], strict=False):
        assert list(layer.bottom) == list(before.top)


def test_weights_and_biases_start_within_one_over_root_fan_in():
    net = _net(q_network("nature", 6, 4, 84, 84))
    fan_ins = {"conv1": 4 * 64, "conv2": 32 * 16, "conv3": 64 * 9, "fc4": 64 * 49, "Q_out": 512}
    for layer in net.layer:
        if layer.name in fan_ins:
            inner = layer.convolution_param if "conv" in layer.name else layer.inner_product_param
            for filler in (inner.weight_filler, inner.bias_filler):
                assert filler.type == "uniform"
                assert filler.max == -filler.min
                assert filler.max == pytest.approx(fan_ins[layer.name] ** -0.5, rel=1e-5)


def test_model_for_another_game_has_its_actions():
    pong = model_for(games.spec("ALE/Pong-v5"))
    breakout = model_for(games.spec("ALE/Breakout-v5"))
    assert breakout.net.replace("num_output: 4\n", "num_output: 6\n") == pong.net
    assert breakout.solver == pong.solver


def test_model_for_another_frame_size():
    net = _net(model_for(GameSpec("test/Game-v0", 3, (50, 64), 2)).net)
    assert list(net.layer[0].input_param.shape[0].dim) == [32, 2, 50, 64]
    assert net.name == "deepq"


@pytest.mark.parametrize(
    ("size", "arch"),
    [
        ((84, 84), "nature"),
        ((36, 200), "nature"),
        ((35, 84), "snake"),
        ((5, 5), "snake"),
        ((5, 4), "mlp"),
        ((1, 1), "mlp"),
    ],
)
def test_every_frame_size_has_an_architecture_that_fits(size, arch):
    assert architecture_for(*size) == arch
    assert q_network(arch, 2, 4, *size)


def test_game_without_images_has_no_default_model():
    with pytest.raises(UnsupportedGameError, match=r"frames of shape \(8,\); give --model"):
        model_for(GameSpec("test/Vector-v0", 2, (8,), 1))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("other", 6, 4, 84, 84), "no architecture other; there are nature, snake, mlp"),
        (("nature", 6, 4, 16, 16), "frames of 16x16 are too small for nature's conv2"),
        (("nature", 0, 4, 84, 84), "positive sizes, got 0 actions"),
        (("nature", 6, 4, 84, -1), "frames of 84x-1"),
    ],
)
def test_impossible_networks_are_refused(arguments, reason):
    with pytest.raises(UnsupportedGameError, match=re.escape(reason)):
        q_network(*arguments)


def test_adam_is_the_default_rule():
    solver = _solver(adam_solver("nature"))
    assert (solver.type, solver.net) == ("Adam", "models/deepq/train_val.prototxt")
    assert (solver.lr_policy, solver.base_lr) == ("fixed", np.float32(1e-4))
    assert (solver.momentum, solver.momentum2) == (np.float32(0.9), np.float32(0.999))
    assert solver.delta == np.float32(1e-8)


def test_rmsprop_makes_the_papers_steps_where_gradients_are_small():
    solver = _solver(rmsprop_solver("nature"))
    assert (solver.type, solver.momentum) == ("RMSProp", 0.0)  # Caffe refuses momentum with it
    gradient = 4.7e-5  # a batch's mean, median of a live net
    ours = solver.base_lr * gradient / (gradient + solver.delta)
    paper = 2.5e-4 * 32 * gradient / np.sqrt((32 * gradient) ** 2 + 0.01)
    assert ours == pytest.approx(paper, rel=0.03)


def test_solver_names_another_network():
    assert _solver(adam_solver("snake", "a/b.prototxt")).net == "a/b.prototxt"
    assert _solver(rmsprop_solver("snake", "a/b.prototxt")).net == "a/b.prototxt"


def test_solver_of_an_unknown_architecture_is_refused():
    with pytest.raises(UnsupportedGameError, match="no architecture other"):
        adam_solver("other")


@pytest.mark.parametrize(("arch", "size"), [("nature", 84), ("snake", 16), ("mlp", 5)])
def test_engine_builds_the_network_and_gradients_flow_from_its_output(arch, size, tmp_path):
    path = tmp_path / "train_val.prototxt"
    path.write_text(q_network(arch, 3, 4, size, size, batch=2))
    net = caffe.Net(str(path), caffe.TRAIN)
    assert sum(each.count for blobs in net.params.values() for each in blobs) == _parameters(
        _net(path.read_text())
    )
    states = net.blobs["state"].data
    states[...] = np.random.default_rng(0).integers(0, 256, states.shape)
    net.forward()
    assert net.blobs["scaled"].data.max() <= 1
    net.clear_param_diffs()
    net.backward(Q_out=np.ones((2, 3), np.float32))
    for blobs in net.params.values():
        assert all(each.diff.any() for each in blobs)
