import pytest
from caffe.errors import CaffeError
from caffe.proto.caffe_pb2 import TEST, TRAIN, SolverParameter
from caffe.prototxt import parse_text
from caffe.solver_nets import test_nets as make_test_nets
from caffe.solver_nets import train_net

NET = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
PHASED = NET + (
    'layer { name: "train" type: "TanH" bottom: "x" top: "y" include { phase: TRAIN } }'
    'layer { name: "deep" type: "TanH" bottom: "x" top: "z" include { stage: "s" } }'
)


def solver(text):
    return parse_text(text, SolverParameter())


def test_the_training_net_has_phase_and_state_of_the_solver():
    net = train_net(solver(f'net_param {{ {PHASED} }} train_state {{ stage: "s" }}'), "s")
    assert list(net.layer_dict)[-2:] == ["train", "deep"]
    assert net._phase == TRAIN


@pytest.mark.parametrize("text", ["", f"net_param {{ {NET} }} train_net_param {{ {NET} }}"])
def test_the_training_net_must_be_given_once(text):
    with pytest.raises(CaffeError, match=r"solver.prototxt.*once"):
        train_net(solver(text), "solver.prototxt")


def test_test_nets_come_before_generic_ones():
    nets = make_test_nets(
        solver(
            f"net_param {{ {PHASED} }} test_net_param {{ {NET} }} test_iter: 1 test_iter: 1 "
            'test_interval: 5 test_state {} test_state { stage: "s" }'
        ),
        "s",
    )
    assert [list(net.layer_dict)[-1] for net in nets] == ["x", "deep"]
    assert all(net._phase == TEST for net in nets)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"train_net_param {{ {NET} }} test_net_param {{ {NET} }}", "0 test_iter"),
        (f"net_param {{ {NET} }} test_iter: 1", "test_interval"),
        (f"net_param {{ {NET} }} test_iter: 1 test_interval: 1 test_state {{}} test_state {{}}",
         "2 test_state"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit_are_refused(text, message):
    with pytest.raises(CaffeError, match=message):
        make_test_nets(solver(text), "s")


def test_the_error_of_a_net_names_where_it_comes_from():
    with pytest.raises(CaffeError, match=r"solver\.prototxt"):
        train_net(solver('net_param { layer { name: "a" type: "Foo" } }'), "solver.prototxt")
