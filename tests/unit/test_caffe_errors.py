import pytest
from caffe.errors import require

import caffe


def test_the_tree_follows_pycaffe():
    assert issubclass(caffe.CaffeError, ValueError)
    for error in (caffe.CaffeFileError, caffe.CaffeCallError):
        assert issubclass(error, caffe.CaffeError)
        assert issubclass(error, RuntimeError)


def test_a_missing_file_is_named_as_by_pycaffe():
    with pytest.raises(RuntimeError, match=r"Could not open file /nope\.prototxt"):
        caffe.Net("/nope.prototxt", caffe.TEST)


def test_require_raises_its_message():
    require(1, "unused")
    with pytest.raises(caffe.CaffeError, match="the reason"):
        require(0, "the reason")
