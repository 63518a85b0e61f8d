"""First-layer filters as bytes."""

import base64

import numpy as np
import pytest
from param_server.filters import Filters, draw
from param_server.wire import Layout

from tests.store_rig import make_push, make_store, ones

LAYOUT = Layout.from_entries([("fc0/0", (3, 2)), ("conv1/0", (2, 1, 2, 2)), ("conv1/1", (2,))])


def test_zero_is_the_middle_and_the_largest_magnitude_an_end():
    filters = np.array([0, 1, -2, 4, 0.01, -4, 2, -1], np.float32).reshape(2, 1, 2, 2)
    pixels = draw(filters)
    assert pixels.dtype == np.uint8
    assert pixels.reshape(-1).tolist() == [128, 160, 64, 255, 128, 1, 192, 96]


def test_filters_that_are_all_zero_are_all_middle():
    assert set(draw(np.zeros((2, 1, 3, 3), np.float32)).flat) == {128}


def test_weights_that_are_no_numbers_are_drawn_as_zero():
    filters = np.array([np.nan, np.inf, -np.inf, 1], np.float32).reshape(1, 1, 2, 2)
    assert draw(filters).reshape(-1).tolist() == [128, 128, 128, 255]


def test_of_a_large_layer_a_corner_is_drawn():
    assert draw(np.ones((256, 128, 32, 32), np.float32)).shape == (64, 16, 16, 16)


def test_picture_is_of_the_first_convolution():
    store = make_store(LAYOUT)
    gradient = ones(LAYOUT, 0.0)
    gradient[6] = 1.5  # the convolution's first weight: 1 becomes −0.5
    store.apply(make_push(layout=LAYOUT.digest), gradient)
    picture = Filters(store).picture()
    assert (picture["layer"], picture["version"]) == ("conv1/0", 1)
    assert picture["shape"] == picture["layer_shape"] == [2, 1, 2, 2]
    assert list(base64.b64decode(picture["pixels"])) == [64] + [255] * 7


def test_picture_is_drawn_once_for_a_version():
    store = make_store(LAYOUT)
    filters = Filters(store)
    first = filters.picture()
    assert filters.picture() is first
    store.apply(make_push(layout=LAYOUT.digest), ones(LAYOUT, 0.5))
    assert filters.picture()["version"] == 1


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2)])
def test_network_without_a_convolution_has_no_picture(shape):
    filters = Filters(make_store(Layout.from_entries([("fc1/0", shape)])))
    assert not filters.exist
    assert filters.picture() is None
