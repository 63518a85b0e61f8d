"""The model files of a run, and whether they fit the game."""

from pathlib import Path

import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from barista import model
from barista.games import GameSpec
from barista.games.models import mlp_network, one_net, q_network

PONG = GameSpec("ALE/Pong-v5", 6, (84, 84), 4)
POLE = GameSpec("CartPole-v1", 2, (4,), 1, "float32")


def test_the_default_fits_its_game():
    files = model.choose(PONG, None, None)
    assert "Q_out" in files.net
    assert model.solver_line(files) == "Adam 0.0001"


def test_written_files_refer_to_each_other(tmp_path):
    solver = model.write(model.choose(PONG, None, None), tmp_path)
    parsed = text_format.Parse(solver.read_text(), caffe_pb2.SolverParameter())
    assert Path(parsed.net) == tmp_path / "train_val.prototxt"
    assert parsed.type == "Adam"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda t: t.replace("num_output: 6", "num_output: 4"),
            "4 outputs, but .* 6 actions: set num_output of Q_out to 6, or leave --model out$",
        ),
        (
            lambda t: t.replace("num_output: 6", "num_output: 18"),
            "18 outputs, but .* 6 actions: set .* or say --quantiles 3 if",
        ),
        (lambda t: t.replace('"Q_out"', '"out"'), "no layer with the top `Q_out`"),
        (
            lambda t: t.replace("dim: 84 }", "dim: 42 }"),
            r"\[32, 4, 84, 42\], but .* \[batch, 4, 84, 84\]: ",
        ),
        (lambda t: t.replace('"state"', '"pixels"'), "no input `state`"),
        (lambda t: t.replace("loss_weight: 1", ""), "loss_weight: 1"),
        (lambda t: t + "}", "not a NetParameter"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, change, complaint):
    file = tmp_path / "net.prototxt"
    text = change(q_network("nature", 6, 4, 84, 84))
    file.write_text(text)
    with pytest.raises(model.ModelError, match=complaint) as raised:
        model.choose(PONG, str(file), None)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("option", ["--model", "--solver"])
def test_a_missing_file_names_its_option(option):
    given = ("nowhere", None) if option == "--model" else (None, "nowhere")
    with pytest.raises(model.ModelError, match=f"{option} nowhere"):
        model.choose(PONG, *given)


def test_a_binary_file_is_no_prototxt(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(model.ModelError, match="not a text file"):
        model.choose(PONG, str(tmp_path / "x"), None)


def test_old_style_inputs_are_read():
    shape = "input_shape { dim: 32 dim: 4 dim: 84 dim: 84 }"
    layer = (
        'layer { name: "Q_out" type: "InnerProduct" bottom: "state" top: "Q_out" loss_weight: 1 '
    )
    layer += "inner_product_param { num_output: 6 } }"
    model.check(f'input: "state" {shape} {layer}', PONG, "net")
    model.check(f'input: "state" input_dim: [32, 4, 84, 84] {layer}', PONG, "net")


def outputs_complaint(text, spec, **choice):
    with pytest.raises(model.ModelError) as raised:
        model.check(text, spec, "net", **choice)
    return str(raised.value)


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("quantiles", [1, 5])
def test_outputs_are_actions_times_quantiles(dueling, quantiles):
    text = mlp_network(2, 4, dueling=dueling, quantiles=quantiles)
    model.check(text, POLE, "net", quantiles=quantiles)
    model.check(text, POLE, "net")
    said = outputs_complaint(text, POLE, quantiles=3)
    maker = "advantage" if dueling else "Q_out"
    assert f"has {2 * quantiles} outputs, but CartPole-v1 has 2 actions and 3 quantiles" in said
    assert f"set num_output of {maker} to 6, " in said
    assert f"say --quantiles {quantiles} " in said
    odd = mlp_network(3, 4, dueling=dueling)
    assert "3 outputs, but CartPole-v1 has 2 actions: " in outputs_complaint(odd, POLE)


def test_size_that_the_text_does_not_tell_is_left_to_the_engine():
    text = q_network("nature", 4, 4, 84, 84).replace(
        'type: "InnerProduct"\n  bottom: "fc4"', 'type: "Python"\n  bottom: "fc4"'
    )
    model.check(text, PONG, "net", quantiles=1)


def test_the_default_is_of_the_kind_asked_for():
    files = model.choose(POLE, None, None, dueling=True, quantiles=5)
    assert files.net == mlp_network(2, 4, dueling=True, quantiles=5)


def test_a_file_decides_on_its_architecture_but_not_on_its_outputs(tmp_path):
    file = tmp_path / "net.prototxt"
    file.write_text(mlp_network(2, 4))
    assert model.choose(POLE, str(file), None, dueling=True).net == file.read_text()
    with pytest.raises(model.ModelError, match=r"51 quantiles of each: .*--quantiles 1 "):
        model.choose(POLE, str(file), None, dueling=True, quantiles=51)


def test_a_network_for_images_cannot_take_vectors():
    said = outputs_complaint(q_network("nature", 2, 4, 84, 84), POLE)
    assert "gives [batch, 1, 4]: write a network for it " in said
    assert "--game CartPole-v1" in said


def test_one_net_is_told_from_a_q_network():
    assert model.is_one_net(one_net("mlp", 2, (1, 4)))
    assert not model.is_one_net(mlp_network(2, 4))
    old = 'input: "state" input: "action" input: "reward" input: "next_state" '
    old += 'input: "non_terminal" layer { name: "l" type: "EuclideanLoss" top: "loss" }'
    assert model.is_one_net(old)
    assert not model.is_one_net(old.replace('input: "action"', ""))
    assert not model.is_one_net(old.replace('top: "loss"', ""))
    with pytest.raises(model.ModelError, match="other is not a NetParameter"):
        model.is_one_net("}", "other")


def test_one_net_can_be_chosen(tmp_path):
    file = tmp_path / "net.prototxt"
    file.write_text(one_net("mlp", 2, (1, 4)))
    assert model.choose(POLE, str(file), None).net == file.read_text()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('top: "P_out"', 'top: "P"'), "no layer with the top `P_out`"),
        (("num_output: 2", "num_output: 3"), "3 outputs, but CartPole-v1 has 2 actions"),
        (("dim: 32 dim: 2 }", "dim: 32 dim: 3 }"), r"input `action` has .* \[batch, 2\]"),
        (("dim: 32 dim: 1 dim: 4 }", "dim: 32 dim: 4 }"), "input `state` has shape"),
        (("lr_mult: 0", "lr_mult: 1"), "layer Pfc1 is of the target network and must not learn"),
        (("param { lr_mult: 0 }\n  param", "param"), "layer Pfc1 is of the target network"),
    ],
)
def test_one_net_that_does_not_fit_is_one_line(change, complaint):
    text = one_net("mlp", 2, (1, 4))
    model.check_one_net(text, POLE)
    with pytest.raises(model.ModelError, match=complaint) as raised:
        model.check_one_net(text.replace(*change), POLE, "net")
    assert "\n" not in str(raised.value)


def test_a_frozen_convolution_of_one_net_is_seen():
    text = one_net("snake", 4, (2, 16, 16))
    spec = GameSpec("ddq/Snake-v0", 4, (16, 16), 2)
    model.check_one_net(text, spec)
    learns = text.replace("  param { lr_mult: 0 }\n", "", 1)
    with pytest.raises(model.ModelError, match="layer Pconv1"):
        model.check_one_net(learns, spec)
    model.check_one_net(learns.replace("num_output: 16", "num_output: 16 bias_term: false"), spec)
