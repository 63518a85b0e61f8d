import sys
import types

import numpy as np
import pytest

import caffe
from caffe import detector as module
from caffe import layers

IMAGE = np.random.default_rng(3).random((20, 30, 3)).astype(np.float32)


@pytest.fixture
def files(tmp_path):
    """Return the files of a net whose output is the mean of each channel, and of its weights."""
    n = caffe.NetSpec()
    n.data = layers.Input(shape={"dim": [2, 3, 8, 8]})
    n.out = layers.Flatten(layers.Pooling(n.data, pool=1, global_pooling=True))
    model, weights = tmp_path / "net.prototxt", str(tmp_path / "w.caffemodel")
    model.write_text(str(n.to_proto()))
    caffe.Net(str(model), caffe.TEST).save(weights)
    return str(model), weights


@pytest.fixture(autouse=True)
def _images(monkeypatch):
    """Let images be read from no file, and be resized by repeating pixels."""

    def resize(image, size, order, mode):
        rows, columns = (np.arange(n) * old // n for n, old in zip(size, image.shape, strict=False))
        return image[rows][:, columns]

    monkeypatch.setattr(module, "load_image", {"a.png": IMAGE, "b.png": 1 - IMAGE}.__getitem__)
    monkeypatch.setattr(caffe.io, "resize", resize)


def test_windows_of_images_are_classified(files):
    net = caffe.Detector(*files, raw_scale=2)
    windows = [(0, 0, 8, 8), np.array([4, 10, 20, 26])]
    found = net.detect_windows([("a.png", windows), ("b.png", windows[:1]), ("b.png", [])])
    assert [d["filename"] for d in found] == ["a.png", "a.png", "b.png"]
    assert found[1]["window"] is windows[1]
    np.testing.assert_allclose(found[0]["prediction"], 2 * IMAGE[:8, :8].mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(
        found[1]["prediction"], 2 * IMAGE[4:20:2, 10:26:2].mean((0, 1)), rtol=1e-4
    )
    np.testing.assert_allclose(found[2]["prediction"], 2 - found[0]["prediction"], rtol=1e-4)
    assert net.detect_windows([]) == []


def test_selective_search_proposes_windows(files, monkeypatch, tmp_path):
    search = types.ModuleType("selective_search_ijcv_with_python")
    asked = []

    def get_windows(names, cmd):
        asked.append((names, cmd))
        return [[(0, 0, 8, 8)]]

    search.get_windows = get_windows
    monkeypatch.setitem(sys.modules, search.__name__, search)
    monkeypatch.setattr(module, "load_image", lambda _: IMAGE)
    monkeypatch.chdir(tmp_path)
    found = caffe.Detector(*files).detect_selective_search(["a.png"])
    assert len(found) == 1
    assert asked == [([str(tmp_path / "a.png")], "selective_search_rcnn")]


def test_without_selective_search_one_line_says_what_is_needed(files):
    with pytest.raises(caffe.CaffeError, match="selective_search_ijcv_with_python and MATLAB"):
        caffe.Detector(*files).detect_selective_search(["a.png"])


def test_a_window_with_context_lies_in_the_inner_square(files):
    net = caffe.Detector(*files, context_pad=2)
    assert net.crop_dims.tolist() == [8, 8, 3]
    crop = net.crop(IMAGE, np.array([8, 10, 12, 14]))
    # The inner square is half the input: the crop is twice the window, about the same centre.
    np.testing.assert_array_equal(crop[0, 0], IMAGE[6, 8])
    assert crop.shape == (8, 8, 3)


def test_what_lies_outside_the_image_is_the_mean(files):
    net = caffe.Detector(
        *files, mean=np.array([10.0, 20, 30]), raw_scale=10, channel_swap=(2, 1, 0), context_pad=2
    )
    crop = net.crop(IMAGE, [0, 0, 7, 7])
    np.testing.assert_allclose(crop[0, 0], [3, 2, 1])  # before raw_scale and the swap
    np.testing.assert_allclose(crop[:2], np.broadcast_to([3, 2, 1], (2, 8, 3)))
    assert (crop[2:, 2:] <= 1).all()
    net.configure_crop(None)
    np.testing.assert_array_equal(net.crop(IMAGE, [0, 0, 7, 7]), IMAGE[:7, :7])


def test_a_window_is_cut_at_the_images_edge(files):
    assert caffe.Detector(*files).crop(IMAGE, [15, 25, 99, 99]).shape == (5, 5, 3)


@pytest.mark.parametrize(
    "window", [(5, 5, 5, 9), (0, 0, 4), (20, 0, 25, 5), (9, 9, 1, 1), (-5, 0, 0, 5)]
)
def test_a_window_with_nothing_in_it_is_refused(files, window):
    with pytest.raises(caffe.CaffeError, match="window"):
        caffe.Detector(*files).crop(IMAGE, window)


@pytest.mark.parametrize("context_pad", [4, -1])
def test_context_must_leave_room_for_the_window(files, context_pad):
    with pytest.raises(caffe.CaffeError, match="context_pad"):
        caffe.Detector(*files, context_pad=context_pad)
