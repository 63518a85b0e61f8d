"""Policies by themselves: how they are spelled, what they object to, what they keep."""

import numpy as np
import pytest
from param_server.staleness import DelayCompensation, PolicyError, parse_policy


@pytest.mark.parametrize("text", ["accept", "reject:0", "scale", "dc", "dc:1.5", "ssp:3", "sync",
                                  "sync:4"])  # fmt: skip
def test_policies_keep_the_name_that_was_typed(text):
    assert parse_policy(text).name == text


@pytest.mark.parametrize("text", [
    "", "always", "accept:1", "reject", "reject:", "reject:-1", "reject:1.5", "reject:x", "scale:2",
    "dc:", "dc:x", "dc:-1", "dc:inf", "dc:nan", "ssp", "ssp:-1", "sync:0", "sync:x", "SSP:1",
    "ssp:1:2", "ssp:99999999999", "ssp:²",
])  # fmt: skip
def test_anything_else_is_one_line_that_says_how_to_spell_it(text):
    with pytest.raises(PolicyError, match=r"none of accept|not of the form") as caught:
        parse_policy(text)
    assert "\n" not in str(caught.value)


def test_only_those_that_wait_look_at_others():
    waits = {text for text in ("accept", "reject:1", "scale", "dc", "ssp:1", "sync")
             if parse_policy(text).waits}  # fmt: skip
    assert waits == {"ssp:1", "sync"}


def test_ring_of_past_weights_is_bounded_in_number():
    policy = DelayCompensation("dc", 1.0)
    for version in range(200):
        policy.remember(version, np.full(4, version, np.float32))
    gradient, now = np.ones(4, np.float32), np.full(4, 199, np.float32)
    kept = policy.adapt(gradient, 136, now, 199)
    assert kept.scale == 1
    assert np.array_equal(kept.gradient, 1 + (199 - 136) * np.ones(4))
    assert policy.adapt(gradient, 135, now, 199).scale == 1 / 65
    assert np.array_equal(gradient, np.ones(4))  # it is only read


def test_forgotten_versions_are_not_compensated_for():
    policy = DelayCompensation("dc", 1.0)
    policy.remember(0, np.zeros(4, np.float32))
    policy.forget()
    assert policy.adapt(np.ones(4, np.float32), 0, np.ones(4, np.float32), 1).scale == 0.5


def test_fresh_gradient_is_handed_on_as_it_is():
    gradient = np.ones(4, np.float32)
    for text in ("accept", "scale", "dc", "ssp:1", "sync"):
        adapted = parse_policy(text).adapt(gradient, 5, gradient, 5)
        assert adapted.gradient is gradient
        assert adapted.scale == 1
