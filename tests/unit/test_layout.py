"""Layouts: where parameters lie, what tells two networks apart, and how they differ."""

import pytest
from param_server.layout import Layout

LAYOUT = Layout.from_entries([("conv1/0", (2, 3)), ("conv1/1", (2,))])


def test_layout_places_each_parameter_in_the_arena():
    assert LAYOUT.size == 8
    assert list(LAYOUT.slices()) == [("conv1/0", slice(0, 6)), ("conv1/1", slice(6, 8))]


def test_layout_of_a_caffe_arena_names_layer_and_index():
    assert Layout.from_arena([("conv1", 0, (2, 3)), ("conv1", 1, (2,))]) == LAYOUT


@pytest.mark.parametrize(
    "entries",
    [
        [("conv1/0", (3, 2)), ("conv1/1", (2,))],
        [("conv1/1", (2,)), ("conv1/0", (2, 3))],
        [("conv2/0", (2, 3)), ("conv1/1", (2,))],
    ],
)
def test_layout_digest_tells_shape_order_and_name(entries):
    assert Layout.from_entries(entries).digest != LAYOUT.digest


def test_layout_digest_is_stable():
    assert LAYOUT.digest == "cd587720da7f9c20"


HERE = Layout.from_entries(
    [("conv1/0", (32, 4, 8, 8)), ("conv2/0", (64, 32, 4, 4)), ("fc/0", (6, 9))]
)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            [("conv1/0", (32, 4, 8, 8)), ("conv2/0", (32, 32, 4, 4)), ("fc/0", (4, 9))],
            "conv2/0 is (64, 32, 4, 4) here, (32, 32, 4, 4) there",
        ),
        ([("conv1/0", (32, 4, 8, 8)), ("fc/0", (6, 9))], "conv2/0 (64, 32, 4, 4) is missing there"),
        (
            [*HERE.entries[:2], ("fc0/0", (5, 5)), HERE.entries[2]],
            "fc0/0 (5, 5) is not in the network here",
        ),
        ([*HERE.entries, ("fc2/0", (3,))], "fc2/0 (3,) is not in the network here"),
        (
            [HERE.entries[1], HERE.entries[0], HERE.entries[2]],
            "conv1/0 is here where there is conv2/0 there: the order differs",
        ),
        ([*HERE.entries, HERE.entries[0]], "no more is here where"),
        ([], "conv1/0 (32, 4, 8, 8) is missing there"),
    ],
)
def test_difference_names_the_first_parameter_that_differs(entries, said):
    assert HERE.difference(Layout.from_entries(entries)).startswith(said)


def test_equal_layouts_do_not_differ():
    assert HERE.difference(Layout.from_entries(HERE.listing())) == ""


def test_refusal_lists_what_is_here_and_names_what_differs_if_it_can():
    other = Layout.from_entries([("conv1/0", (2, 4)), ("conv1/1", (2,))])
    told = LAYOUT.mismatch(other.digest, other.entries)
    assert told.detail.endswith("conv1/0 is (2, 3) here, (2, 4) there")
    assert told.members == {"layout": LAYOUT.digest, "entries": LAYOUT.listing()}
    guessed = LAYOUT.mismatch(other.digest)
    assert guessed.detail.endswith("entries lists what is here")
    assert guessed.members == told.members
