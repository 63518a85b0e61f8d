import pytest
from caffe.errors import CaffeError
from caffe.proto.caffe_pb2 import NetParameter, SolverParameter
from caffe.prototxt import parse_text, read_solver
from caffe.upgrade import upgrade_net, upgrade_solver


def upgraded(text):
    net = parse_text(text, NetParameter())
    upgrade_net(net)
    return net


@pytest.mark.parametrize("dims", ["input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5",
                                  "input_shape { dim: 2 dim: 3 dim: 4 dim: 5 }"])  # fmt: skip
def test_inputs_become_an_input_layer(dims):
    net = upgraded(f'input: "x" {dims} layer {{ name: "a" }}')
    assert [layer.name for layer in net.layer] == ["input", "a"]
    assert list(net.layer[0].input_param.shape[0].dim) == [2, 3, 4, 5]
    assert not net.input
    assert not net.input_dim


def test_sizes_for_more_inputs_than_there_are_do_no_harm():
    net = upgraded('input: "x" input_shape { dim: 2 } input_shape { dim: 3 }')
    assert [list(shape.dim) for shape in net.layer[0].input_param.shape] == [[2]]


def test_inputs_without_their_sizes_are_refused():
    with pytest.raises(CaffeError, match="2 inputs"):
        upgraded('input: "x" input: "y" input_dim: 2')


def test_batch_norms_three_parameters_are_frozen():
    net = upgraded('layer { type: "BatchNorm" param { name: "m" lr_mult: 1 } param {} param {} }')
    assert [(p.name, p.lr_mult, p.decay_mult) for p in net.layer[0].param] == [
        ("m", 0, 0), ("", 0, 0), ("", 0, 0)
    ]  # fmt: skip


def test_a_solvers_type_becomes_a_name():
    solver = SolverParameter(solver_type=SolverParameter.ADAM)
    upgrade_solver(solver)
    assert solver.type == "Adam"
    assert not solver.HasField("solver_type")


def test_a_solver_with_both_types_is_refused():
    with pytest.raises(CaffeError, match="once"):
        upgrade_solver(SolverParameter(solver_type=SolverParameter.ADAM, type="SGD"))


@pytest.mark.parametrize(
    ("given", "prefix"),
    [("", "{here}/my.solver"), ("snap/x", "snap/x"), ("{here}", "{here}/my.solver")],
)
def test_snapshots_are_named_after_the_solvers_file(tmp_path, given, prefix):
    path = tmp_path / "my.solver.prototxt"
    line = f'snapshot_prefix: "{given}"'.format(here=tmp_path) if given else ""
    path.write_text(line)
    assert read_solver(path).snapshot_prefix == prefix.format(here=tmp_path)


def test_a_snapshot_prefix_may_be_any_string(tmp_path):
    (tmp_path / "s").write_text(f'snapshot_prefix: "{"long" * 100}"')
    assert read_solver(tmp_path / "s").snapshot_prefix == "long" * 100
