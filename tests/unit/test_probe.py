"""The probe's measures, against NumPy's own; and how seldom it measures."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from param_server.probe import Probe
from param_server.wire import Layout

from tests.store_rig import Clock, make_push, make_store, ones

LAYOUT = Layout.from_entries([("conv1/0", (2, 3)), ("conv1/1", (2,)), ("fc2/0", (4, 2))])


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def probe(clock):
    return Probe(LAYOUT, clock=clock, period_s=2.0)


def test_norms_and_ratio_are_those_of_each_parameter(probe):
    rng = np.random.default_rng(0)
    before, gradient = rng.normal(size=(2, LAYOUT.size)).astype(np.float32)
    after = before - np.float32(0.01) * gradient
    assert probe.begin(before)
    probe.end(gradient, after)
    assert [layer["name"] for layer in probe.layers] == ["conv1/0", "conv1/1", "fc2/0"]
    assert probe.layers[0]["shape"] == [2, 3]
    for layer, (_, part) in zip(probe.layers, LAYOUT.slices(), strict=True):
        norms = [np.linalg.norm(values[part]) for values in (after, gradient, after - before)]
        measured = layer["weight_norm"], layer["gradient_norm"], layer["update_ratio"]
        assert_allclose(measured, [norms[0], norms[1], norms[2] / norms[0]], rtol=1e-5)


def test_nothing_it_is_given_is_kept_or_changed(probe):
    weights, gradient = ones(LAYOUT), ones(LAYOUT, 0.5)
    probe.begin(weights)
    weights -= gradient  # in place, as a solver does
    probe.end(gradient, weights)
    assert np.all(weights == 0.5)
    assert np.all(gradient == 0.5)
    assert [layer["update_ratio"] for layer in probe.layers] == pytest.approx([1, 1, 1])


def test_one_update_in_a_while_is_measured(probe, clock):
    weights = ones(LAYOUT)
    assert probe.begin(weights)
    assert not probe.begin(weights)
    clock.now += 1.9
    assert not probe.begin(weights)
    clock.now += 0.1
    assert probe.begin(weights)


def test_before_the_first_update_the_layers_are_named_and_nothing_is_known(probe):
    layer = probe.layers[2]
    assert (layer["name"], layer["shape"]) == ("fc2/0", [4, 2])
    assert layer["weight_norm"] is layer["gradient_norm"] is layer["update_ratio"] is None


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan, 3e38])
def test_what_is_no_number_is_none(probe, value):
    """JSON has no infinity; weights of zero have no ratio."""
    weights = ones(LAYOUT, value)
    probe.begin(weights)
    probe.end(ones(LAYOUT), weights)
    assert probe.layers[0]["update_ratio"] is None
    assert probe.layers[0]["weight_norm"] == (0 if value == 0 else None)


def test_store_has_its_updates_measured(clock):
    probe = Probe(LAYOUT, clock=clock)
    store = make_store(LAYOUT, probe=probe)
    store.apply(make_push(layout=LAYOUT.digest), ones(LAYOUT, 0.25))
    assert probe.layers[0]["update_ratio"] == pytest.approx(1 / 3)
    assert probe.layers[1]["gradient_norm"] == pytest.approx(0.25 * np.sqrt(2))
