import numpy as np
import pytest
from caffe.blob import Blob, BlobVec, canonical_axis
from caffe.errors import CaffeError


def test_data_and_diff_are_live_writable_views():
    blob = Blob(2, 3)
    view = blob.data
    blob.data[...] = 7
    blob.diff[1] = 2
    assert view.dtype == np.float32
    assert view.flags.c_contiguous
    assert (view == 7).all()
    assert blob.diff.tolist() == [[0, 0, 0], [2, 2, 2]]


def test_data_cannot_be_replaced():
    with pytest.raises(AttributeError):
        Blob(2).data = np.zeros(2)


def test_reshape_to_fewer_values_keeps_them():
    blob = Blob(4)
    blob.data[...] = [1, 2, 3, 4]
    blob.reshape(1, 3)
    assert blob.data.tolist() == [[1, 2, 3]]
    blob.reshape(2, 2)
    assert blob.data.tolist() == [[1, 2], [3, 4]]


def test_reshape_to_more_values_starts_from_zero():
    blob = Blob(1)
    blob.data[...] = 5
    blob.reshape(2, 2)
    assert blob.data.sum() == 0
    assert blob.diff.shape == (2, 2)


@pytest.mark.parametrize(
    ("dims", "error"),
    [
        (((2, 3),), TypeError),
        ((-1,), CaffeError),
        ((1,) * 33, CaffeError),
        ((2, 2**30), CaffeError),
        ((2**62, 2**62), CaffeError),
    ],
)
def test_reshape_refuses_what_is_no_shape(dims, error):
    blob = Blob(2)
    with pytest.raises(error):
        blob.reshape(*dims)
    assert blob.shape == (2,)


def test_reshape_takes_no_keywords():
    with pytest.raises(RuntimeError, match="no kwargs"):
        Blob(2).reshape(dims=3)


def test_reshape_reports_a_change_only():
    calls = []
    blob = Blob(2, on_reshape=lambda: calls.append(1))
    blob.reshape(2)
    assert calls == []
    blob.reshape(3)
    assert calls == [1]


def test_legacy_names_fill_up_with_ones():
    blob = Blob(2, 5)
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (2, 5, 1, 1, 10)
    with pytest.raises(CaffeError):
        _ = Blob(1, 1, 1, 1, 1).num


def test_shared_data_is_the_same_memory_in_another_shape():
    owner, other = Blob(2, 3), Blob(6)
    other.share_data(owner)
    owner.data[1, 0] = 4
    assert other.data[3] == 4


def test_blobvec_adds_blobs_and_names_a_bad_index():
    blobs = BlobVec()
    blobs.add_blob(2, 2)
    assert blobs[-1].shape == (2, 2)
    with pytest.raises(IndexError, match="Index out of range"):
        blobs[1]


def test_negative_axes_count_from_the_end():
    assert canonical_axis(-1, 4, "x") == 3
    with pytest.raises(CaffeError, match="axis 4"):
        canonical_axis(4, 4, "x")
