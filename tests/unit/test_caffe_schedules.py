import math

import pytest
from caffe.errors import CaffeError
from caffe.proto.caffe_pb2 import SolverParameter
from caffe.schedules import POLICIES, learning_rate

FREE = ("fixed", "poly")


def rate(iteration, policy, **settings):
    param = SolverParameter(base_lr=0.5, lr_policy=policy, **settings)
    return learning_rate(param, iteration, 0)[0]


def test_every_policy_follows_its_formula():
    assert rate(7, "fixed") == 0.5
    assert rate(7, "step", gamma=0.1, stepsize=3) == pytest.approx(0.005)
    assert rate(7, "exp", gamma=0.9) == pytest.approx(0.5 * 0.9**7)
    assert rate(7, "inv", gamma=0.1, power=0.75) == pytest.approx(0.5 * 1.7**-0.75)
    assert rate(7, "poly", power=2, max_iter=10) == pytest.approx(0.5 * 0.3**2)
    expected = 0.5 / (1 + math.exp(-0.2 * (7 - 5)))
    assert rate(7, "sigmoid", gamma=0.2, stepsize=5) == pytest.approx(expected)


def test_multistep_takes_one_step_at_a_time():
    param = SolverParameter(base_lr=1, lr_policy="multistep", gamma=0.1, stepvalue=[2, 3])
    rates, step = [], 0
    for iteration in range(5):
        value, step = learning_rate(param, iteration, step)
        rates.append(value)
    assert rates == pytest.approx([1, 1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("policy", "settings"),
    [
        ("nope", {}),
        ("", {}),
        ("step", {"gamma": 0.1}),
        ("sigmoid", {"gamma": 0.1}),
        *((name, {"gamma": -1, "stepsize": 1}) for name in POLICIES if name not in FREE),
    ],
)
def test_an_unfit_policy_is_refused(policy, settings):
    with pytest.raises(CaffeError, match="lr_policy"):
        rate(1, policy, **settings)


@pytest.mark.parametrize("policy", FREE)
def test_gamma_may_be_anything_where_it_is_not_used(policy):
    assert rate(1, policy, gamma=-1, max_iter=4) == 0.5


def test_rates_may_leave_the_numbers():
    assert math.isnan(rate(0, "poly", power=1))  # no max_iter: 0 / 0
    assert math.isnan(rate(3, "poly", power=0.5, max_iter=2))
    assert rate(1000, "exp", gamma=2) == math.inf


def test_the_policies_are_listed():
    assert len(POLICIES) == 7
