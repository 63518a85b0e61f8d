import pytest
from caffe.errors import CaffeError
from caffe.proto.caffe_pb2 import NetParameter, SolverParameter
from caffe.prototxt import parse_text
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


def test_inputs_without_their_sizes_are_refused():
    with pytest.raises(CaffeError, match="2 inputs"):
        upgraded('input: "x" input: "y" input_dim: 2')


def test_batch_norm_loses_its_three_param_messages():
    net = upgraded('layer { type: "BatchNorm" param {} param {} param {} }')
    assert not net.layer[0].param


def test_a_solvers_type_becomes_a_name():
    solver = SolverParameter(solver_type=SolverParameter.ADAM)
    upgrade_solver(solver)
    assert solver.type == "Adam"
    assert not solver.HasField("solver_type")


def test_a_solver_with_both_types_is_refused():
    with pytest.raises(CaffeError, match="once"):
        upgrade_solver(SolverParameter(solver_type=SolverParameter.ADAM, type="SGD"))
