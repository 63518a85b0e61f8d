"""Memory with and without a mirror; a mirror is tried with two pieces of the same memory."""

import numpy as np
import pytest
import torch
from caffe.errors import CaffeError
from caffe.layouts import to_channels_last
from caffe.memory import Memory, Storage

from caffe import memory


@pytest.fixture(params=[False, True], ids=["seen", "mirrored"])
def mirrored(request, monkeypatch):
    monkeypatch.setattr(memory, "is_mirrored", lambda _: request.param)
    return request.param


def new(*dims):
    return Memory(Storage(int(np.prod(dims))), dims)


@pytest.mark.usefixtures("mirrored")
def test_both_sides_see_what_the_other_wrote():
    values = new(2, 3)
    values.numpy()[...] = 2
    assert values.tensor.tolist() == [[2.0] * 3] * 2
    values.tensor[0] = 5
    assert values.numpy().tolist() == [[5.0] * 3, [2.0] * 3]
    values.put(torch.full((2, 3), 7.0), scale=2.0)
    assert values.numpy().tolist() == [[14.0] * 3] * 2


def test_a_mirror_moves_only_what_is_newer(mirrored):
    storage = Storage(4)
    assert (storage.host is storage.flat) is not mirrored
    if mirrored:
        storage.host[:] = 1
        storage._flat[:] = 9  # not seen: the host's side counts as newer
        assert storage.flat.tolist() == [1.0] * 4
        storage._host[:] = 3  # not seen: nobody asked for the host's side
        assert storage.flat.tolist() == [1.0] * 4
        assert storage.host.tolist() == [1.0] * 4


@pytest.mark.usefixtures("mirrored")
def test_parts_of_a_storage_are_one_memory():
    storage = Storage(6)
    left, right = Memory(storage, (2,)), Memory(storage, (2, 2))
    right.lie_in(storage, (2, 2), start=2)
    assert (left.room, right.room) == (6, 4)
    left.numpy()[...] = 1
    right.put(torch.full((2, 2), 4.0))
    assert right.numpy().tolist() == [[4, 4], [4, 4]]
    assert Memory(storage, (6,)).tensor.tolist() == [1, 1, 4, 4, 4, 4]


def test_what_is_put_stays_as_it_is_until_somebody_looks(mirrored):
    values = new(2, 3, 4, 5)
    given = to_channels_last(torch.arange(120.0).view(2, 3, 4, 5)).bfloat16()
    values.put(given, scale=0.5)
    raw, scale = values.newest_scaled()
    if mirrored:  # on a GPU memory stays where it is
        assert raw is values.tensor
        assert scale == 1
    else:
        assert raw is given
        assert scale == 0.5
    np.testing.assert_array_equal(values.numpy(), given.float().numpy() * 0.5)
    view = values.numpy()
    values.put(given + 1)
    np.testing.assert_array_equal(values.numpy(), (given + 1).float().numpy())
    if not mirrored:
        np.testing.assert_array_equal(view, values.numpy())  # the view is live


@pytest.mark.usefixtures("mirrored")
def test_bytes_and_scaled_values_are_no_layers_input():
    values = new(3)
    values.put(torch.tensor([1, 2, 255], dtype=torch.uint8))
    assert values.newest().tolist() == [1.0, 2.0, 255.0]
    assert values.newest().dtype is torch.float32
    values.put(torch.ones(3), scale=0.25)
    assert values.newest().tolist() == [0.25] * 3


def test_another_storage_is_nobodys_view():
    values = new(2)
    view = values.numpy()
    assert not values.takes_bytes
    values.lie_in(Storage(2), (2,))
    assert values.takes_bytes
    view[...] = 1
    assert values.tensor.tolist() == [0, 0]


def test_what_does_not_fit_into_the_memory_is_refused():
    with pytest.raises(CaffeError, match="do not fit"):
        Storage(1 << 60)


def test_halves_are_made_anew_unless_values_are_held(mirrored):
    storage = Storage(6)
    values, others = Memory(storage, (2,)), Memory(storage, (2, 2))
    others.lie_in(storage, (2, 2), start=2)
    values.numpy()[...] = 3
    first = values.half()
    assert (first.dtype, first.tolist()) == (torch.bfloat16, [3, 3])
    values.numpy()[...] = 4
    assert values.half(anew=False).tolist() == [3, 3]  # as it was made last
    assert values.half().tolist() == [4, 4]
    storage.flat[...] = 5
    assert others.half(anew=False).tolist() == [[5, 5], [5, 5]]  # none was made before
    storage.hold()
    assert values.half().tolist() == [5, 5]
    storage.flat[...] = 6  # a promise broken: not seen
    assert values.half().tolist() == [6 if mirrored else 5] * 2  # a GPU's passes are recorded
    storage.hold()
    assert values.half(anew=False).tolist() == [6, 6]
    assert others.half().tolist() == [[6, 6], [6, 6]]
    assert values.half() is first  # the same memory
    storage.release()
    storage.flat[...] = 7
    assert values.half().tolist() == [7, 7]


def test_values_are_no_longer_held_once_numpy_may_write_them():
    storage = Storage(2)
    values = Memory(storage, (2,))
    values.half()
    storage.hold()
    values.numpy()[...] = 8
    assert values.half().tolist() == [8, 8]


def test_storage_lies_in_an_array_that_is_given():
    given = np.arange(4, dtype=np.float32)
    storage = Storage(4, given)
    Memory(storage, (4,)).tensor.mul_(2)
    assert given.tolist() == [0, 2, 4, 6]
    given[...] = 1
    assert storage.host.tolist() == [1] * 4
