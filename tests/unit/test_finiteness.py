"""What may not enter a solver's history, and whose fault it is."""

import numpy as np
import pytest
from param_server.finiteness import first_not_finite
from param_server.wire import Layout

LAYOUT = Layout.from_entries([("conv1/0", (2, 3)), ("conv1/1", (2,))])


def test_finite_is_finite():
    assert first_not_finite(LAYOUT, np.full(8, 1e15, np.float32)) == ""


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize(("place", "name"), [(0, "conv1/0"), (5, "conv1/0"), (6, "conv1/1")])
def test_first_offender_is_named(value, place, name):
    gradient = np.ones(8, np.float32)
    gradient[place:] = value
    assert first_not_finite(LAYOUT, gradient) == name


def test_sum_that_overflows_only_altogether_names_the_largest():
    gradient = np.full(8, 6e18, np.float32)
    assert first_not_finite(LAYOUT, gradient) == ("" if np.isfinite(np.dot(gradient, gradient))
                                                  else "conv1/0")  # fmt: skip
