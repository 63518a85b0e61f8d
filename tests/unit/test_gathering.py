"""Pushes that wait for the rest of their update."""

import json

import numpy as np
import pytest
from param_server.errors import BadRequest
from param_server.gathering import Gathering


def filled(*, averages):
    gathering = Gathering(3, averages=averages)
    gathering.add("w0", np.array([1, 2, 3], np.float32), 1.0)
    gathering.add("w1", np.array([5, 6, 7], np.float32), 0.5)
    return gathering


@pytest.mark.parametrize(("averages", "expected"), [(True, [3, 4, 5]), (False, [6, 8, 10])])
def test_update_is_the_mean_or_the_sum_and_its_scale_the_mean(averages, expected):
    update = filled(averages=averages).update()
    assert update.gradient.tolist() == expected
    assert update.scale == 0.75


def test_update_keeps_what_is_here_until_it_was_applied():
    gathering = filled(averages=True)
    first = gathering.update().gradient.tolist()
    assert gathering.update().gradient.tolist() == first
    gathering.clear()
    assert len(gathering) == 0
    gathering.add("w0", np.full(3, 9, np.float32), 1.0)
    assert gathering.update().gradient.tolist() == [9, 9, 9]


@pytest.mark.parametrize(("averages", "expected"), [(True, [4, 5, 6]), (False, [12, 15, 18])])
def test_last_push_is_in_the_update_and_not_yet_here(averages, expected):
    gathering = filled(averages=averages)
    update = gathering.update(np.array([6, 7, 8], np.float32), 0.0)
    assert update.gradient.tolist() == expected
    assert update.scale == 0.5
    assert gathering.workers == ["w0", "w1"]


def test_update_of_one_push_alone():
    update = Gathering(3, averages=True).update(np.array([6, 7, 8], np.float32), 0.25)
    assert (update.gradient.tolist(), update.scale) == ([6, 7, 8], 0.25)


def test_there_is_nothing_to_take_of_nothing():
    with pytest.raises(AssertionError):
        Gathering(3, averages=True).update()


def test_state_comes_back_from_json():
    gathering = filled(averages=True)
    state, gradient = json.loads(json.dumps(gathering.state())), gathering.gradient()
    again = Gathering(3, averages=True)
    again.restore(state, gradient)
    assert again.workers == ["w0", "w1"]
    assert again.update().gradient.tolist() == gathering.update().gradient.tolist()


@pytest.mark.parametrize("state", [
    {}, {"workers": "w0", "scales": 1.0}, {"workers": [1], "scales": 1.0},
    {"workers": ["w0"], "scales": "x"}, {"workers": ["w0"], "scales": 1.0},
])  # fmt: skip
def test_damaged_state_is_refused_and_changes_nothing(state):
    gathering = filled(averages=True)
    with pytest.raises(BadRequest):
        gathering.restore(state, None)
    assert gathering.workers == ["w0", "w1"]
