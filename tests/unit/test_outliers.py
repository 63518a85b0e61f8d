"""The running statistics of the loss."""

import math

import numpy as np
from param_server.outliers import Outliers


def fed(outliers, losses):
    return [outliers.objection(float(loss)) for loss in losses]


def test_nothing_is_rejected_before_there_is_a_hundred_losses():
    outliers = Outliers(3)
    assert not any(fed(outliers, [1.0] * 50 + [1e9] + [1.0] * 49))


def test_outlier_is_named_with_its_limit():
    outliers = Outliers(3)
    fed(outliers, np.random.default_rng(0).normal(10, 1, 500))
    assert outliers.objection(30.0).startswith("outlier: loss 30 above 1")


def test_sign_of_the_loss_does_not_matter():
    outliers = Outliers(3)
    fed(outliers, np.random.default_rng(0).normal(10, 1, 500))
    assert outliers.objection(-30.0)


def test_a_loss_that_has_risen_for_good_is_accepted_after_a_while():
    outliers = Outliers(4)
    rng = np.random.default_rng(0)
    fed(outliers, rng.normal(1, 0.1, 300))
    verdicts = fed(outliers, rng.normal(2, 0.1, 300))
    assert verdicts[0]
    assert not any(verdicts[-100:])
    assert not outliers.overruled


def test_loss_that_is_not_finite_is_not_its_affair():
    outliers = Outliers(3)
    fed(outliers, np.random.default_rng(0).normal(1, 0.1, 200))
    before = vars(outliers).copy()
    assert outliers.objection(math.nan) == outliers.objection(math.inf) == ""
    assert {k: v for k, v in vars(outliers).items() if k != "_recent"} == {
        k: v for k, v in before.items() if k != "_recent"
    }


def test_mean_and_deviation_are_those_of_the_losses():
    outliers = Outliers(3)
    losses = np.random.default_rng(0).normal(10, 2, 100)
    fed(outliers, losses)
    assert math.isclose(outliers._mean, losses.mean(), rel_tol=1e-9)
    assert math.isclose(outliers._variance, losses.var(), rel_tol=1e-9)
