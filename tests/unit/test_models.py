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
from barista.games.models import mlp_network, model_for, network, one_net, q_network

MODELS = Path(__file__).resolve().parents[2] / "models"
FOLDERS = ("deepq", "snake", "mlp", "dueling", "quantile", "rainbow")


def _net(text):
    return text_format.Parse(text, caffe_pb2.NetParameter())


def _built(text):
    return caffe.Net(_net(text), caffe.TRAIN)


@pytest.mark.parametrize(
    ("folder", "game"),
    [("deepq", "ALE/Pong-v5"), ("snake", "ddq/Snake-v0"), ("mlp", "CartPole-v1")],
)
def test_committed_model_is_the_default_of_its_game(folder, game):
    files = model_for(games.spec(game))
    assert files.net == (MODELS / folder / "train_val.prototxt").read_text()
    assert files.solver == (MODELS / folder / "solver.prototxt").read_text()


@pytest.mark.parametrize(
    ("folder", "choice"),
    [
        ("dueling", {"dueling": True}),
        ("quantile", {"quantiles": 200}),
        ("rainbow", {"dueling": True, "quantiles": 51}),
    ],
)
def test_committed_variant_is_that_of_pong(folder, choice):
    files = model_for(GameSpec("ALE/Pong-v5", 6, (84, 84), 4), **choice)
    assert files.net == (MODELS / folder / "train_val.prototxt").read_text()


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


@pytest.mark.parametrize("folder", FOLDERS)
def test_readme_tells_the_size_of_the_network_and_shows_it(folder):
    readme = (MODELS / folder / "readme.md").read_text()
    net = caffe.Net(str(MODELS / folder / "train_val.prototxt"), caffe.TRAIN)
    assert f"parameters: {net.param_arena.size}\n" in readme
    assert f'input: "state {list(net.blobs["state"].shape)}' in readme
    assert f'output: "Q_out {list(net.blobs["Q_out"].shape)}' in readme
    assert readme.startswith("---\nname: ")
    assert "\nlicense: MIT\n" in readme
    pictures = set(re.findall(r"\]\((\w+\.svg)\)", readme))
    assert pictures == {path.name for path in (MODELS / folder).glob("*.svg")}
    for path in (MODELS / folder).glob("*.[ps]*"):
        assert f"`{path.name}`" in readme


@pytest.mark.parametrize("arch", ["nature", "snake", "mlp"])
def test_pixels_are_scaled_and_gradients_let_through(arch):
    net = _net(q_network(arch, 5, 4, 84, 84))
    scale = next(layer for layer in net.layer if layer.type == "Power")
    assert np.float32(scale.power_param.scale) == np.float32(1 / 255)
    assert (net.layer[0].name, list(net.layer[0].top)) == ("state", ["state"])
    assert (net.layer[-1].name, list(net.layer[-1].top)) == ("Q_out", ["Q_out"])
    assert list(net.layer[-1].loss_weight) == [1.0]
    # Each layer reads what the one before it made.
    for before, layer in zip(net.layer, net.layer[1:], strict=False):
        assert list(layer.bottom) == list(before.top)


def test_vectors_are_not_scaled():
    net = _net(mlp_network(2, 7))
    assert list(net.layer[0].input_param.shape[0].dim) == [32, 1, 7]
    assert "Power" not in {layer.type for layer in net.layer}


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("quantiles", [1, 5])
def test_only_what_makes_the_output_has_a_loss_weight(dueling, quantiles):
    net = _net(mlp_network(3, 4, dueling=dueling, quantiles=quantiles))
    weights = {layer.name: list(layer.loss_weight) for layer in net.layer if layer.loss_weight}
    assert weights == {"Q_out": [1.0]}
    assert _built(mlp_network(3, 4, dueling=dueling, quantiles=quantiles)).outputs == ["Q_out"]


@pytest.mark.parametrize("quantiles", [1, 5])
def test_dueling_output_is_value_plus_centred_advantages(quantiles):
    # The slow twin of equation 9 of Wang et al., 2016, for each quantile.
    net = _built(network("snake", 4, (2, 8, 8), batch=3, dueling=True, quantiles=quantiles))
    states = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 8)).astype(np.float32)
    out = net.forward(state=states)["Q_out"].reshape(3, quantiles, 4)
    value, advantage = net.blobs["value"].data, net.blobs["advantage"].data
    assert value.shape == (3, quantiles)
    for b in range(3):
        for n in range(quantiles):
            row = advantage[b, 4 * n : 4 * n + 4]
            np.testing.assert_allclose(out[b, n], value[b, n] + row - row.mean(), atol=1e-6)


def test_dueling_streams_share_the_convolutions_alone():
    net = _net(network("nature", 6, (4, 84, 84), dueling=True))
    bottoms = {layer.name: list(layer.bottom) for layer in net.layer}
    assert bottoms["fc4_value"] == bottoms["fc4_advantage"] == ["conv3"]
    assert "fc4" not in bottoms


def test_model_for_another_game_has_its_actions():
    pong = model_for(GameSpec("ALE/Pong-v5", 6, (84, 84), 4))
    breakout = model_for(GameSpec("ALE/Breakout-v5", 4, (84, 84), 4))
    assert breakout.net.replace("num_output: 4\n", "num_output: 6\n") == pong.net
    assert breakout.solver == pong.solver


def test_model_for_another_frame_size():
    net = _net(model_for(GameSpec("test/Game-v0", 3, (50, 64), 2)).net)
    assert list(net.layer[0].input_param.shape[0].dim) == [32, 2, 50, 64]
    assert net.name == "deepq"


def test_name_and_comment_tell_the_variant():
    text = model_for(GameSpec("a", 3, (9,), 1), dueling=True, quantiles=7).net
    assert 'name: "mlp_dueling_7_quantiles"' in text
    assert "# 7 quantiles for each action" in text


def test_game_with_colours_has_no_default_model():
    with pytest.raises(UnsupportedGameError, match=r"frames of shape \(8, 8, 3\); give --model"):
        model_for(GameSpec("test/Colour-v0", 2, (8, 8, 3), 1))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("other", 6, (4, 84, 84)), "no architecture other; there are nature, snake, mlp"),
        (("nature", 6, (4, 16, 16)), "frames of 16x16 are too small for nature's conv2"),
        (("nature", 6, (1, 4)), "nature has convolutions, which need images, not vectors of 4"),
        (("nature", 0, (4, 84, 84)), "positive sizes, got 0 actions"),
        (("nature", 6, (4, 84, -1)), "states of 4x84x-1"),
    ],
)
@pytest.mark.parametrize("write", [network, one_net])
def test_impossible_networks_are_refused(write, arguments, reason):
    with pytest.raises(UnsupportedGameError, match=re.escape(reason)):
        write(*arguments)


def test_number_of_quantiles_must_be_positive():
    with pytest.raises(UnsupportedGameError, match="0 quantiles"):
        q_network("snake", 4, 2, 16, 16, quantiles=0)
