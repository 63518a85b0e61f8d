"""Update rules as prototxt."""

import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from barista.games import UnsupportedGameError
from barista.games.solvers import (
    adam_solver,
    quantile_solver,
    rainbow_solver,
    rmsprop_solver,
    solvers_for,
)

ALL = (adam_solver, quantile_solver, rainbow_solver, rmsprop_solver)


def _solver(text):
    return text_format.Parse(text, caffe_pb2.SolverParameter())


def test_adam_is_the_default_rule():
    solver = _solver(adam_solver("nature"))
    assert (solver.type, solver.net) == ("Adam", "models/deepq/train_val.prototxt")
    assert (solver.lr_policy, solver.base_lr) == ("fixed", np.float32(1e-4))
    assert (solver.momentum, solver.momentum2) == (np.float32(0.9), np.float32(0.999))
    assert solver.delta == np.float32(1e-8)


@pytest.mark.parametrize(
    ("write", "rate", "delta"),
    [(quantile_solver, 5e-5, 0.01 / 32), (rainbow_solver, 6.25e-5, 1.5e-4)],
)
def test_papers_set_adam_as_they_say(write, rate, delta):
    solver = _solver(write("nature"))
    assert (solver.type, solver.base_lr, solver.delta) == (
        "Adam",
        np.float32(rate),
        np.float32(delta),
    )


def test_rmsprop_makes_the_papers_steps_where_gradients_are_small():
    solver = _solver(rmsprop_solver("nature"))
    assert (solver.type, solver.momentum) == ("RMSProp", 0.0)  # Caffe refuses momentum with it
    gradient = 4.7e-5  # a batch's mean, median of a live net
    ours = solver.base_lr * gradient / (gradient + solver.delta)
    paper = 2.5e-4 * 32 * gradient / np.sqrt((32 * gradient) ** 2 + 0.01)
    assert ours == pytest.approx(paper, rel=0.03)


@pytest.mark.parametrize("write", ALL)
def test_solver_names_another_network(write):
    assert _solver(write("snake", "a/b.prototxt")).net == "a/b.prototxt"


@pytest.mark.parametrize("write", ALL)
def test_solver_of_an_unknown_architecture_is_refused(write):
    with pytest.raises(UnsupportedGameError, match="no architecture other"):
        write("other")


def test_the_papers_rule_lies_beside_the_papers_network_alone():
    assert set(solvers_for("nature")) == {"solver.prototxt", "solver_rmsprop.prototxt"}
    assert set(solvers_for("nature", dueling=True)) == {"solver.prototxt"}
    assert solvers_for("nature", quantiles=9)["solver_quantile.prototxt"] is quantile_solver
    both = solvers_for("nature", dueling=True, quantiles=9)
    assert both["solver_rainbow.prototxt"] is rainbow_solver
    assert solvers_for("snake", dueling=True, quantiles=9) == {"solver.prototxt": adam_solver}
