"""The model files of a run, and whether they fit the game."""

from pathlib import Path

import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from barista import model
from barista.games import GameSpec
from barista.games.models import q_network

PONG = GameSpec("ALE/Pong-v5", 6, (84, 84), 4)


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
        (lambda t: t.replace("num_output: 6", "num_output: 4"), "4 outputs, but .* 6 actions"),
        (lambda t: t.replace('"Q_out"', '"out"'), "no layer with the top `Q_out`"),
        (lambda t: t.replace("dim: 84 }", "dim: 42 }"), r"has shape \[32, 4, 84, 42\]"),
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
