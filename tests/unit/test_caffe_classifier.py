import sys

import numpy as np
import pytest

import caffe
from caffe import layers, params


@pytest.fixture
def files(tmp_path):
    """Return the files of a small random net of 3 × 4 × 6 images and of its weights."""
    n = caffe.NetSpec()
    n.data = layers.Input(shape={"dim": [4, 3, 4, 6]})
    n.conv = layers.Convolution(
        n.data, num_output=5, kernel_size=3, weight_filler={"type": "gaussian", "std": 0.1}
    )
    n.relu = layers.ReLU(n.conv, in_place=True)
    n.pool = layers.Pooling(n.relu, pool=params.Pooling.AVE, global_pooling=True)
    n.prob = layers.Softmax(
        layers.InnerProduct(n.pool, num_output=7, weight_filler={"type": "xavier"})
    )
    model, weights = str(tmp_path / "deploy.prototxt"), str(tmp_path / "w.caffemodel")
    (tmp_path / "deploy.prototxt").write_text(str(n.to_proto()))
    caffe.Net(model, caffe.TEST).save(weights)
    return model, weights


@pytest.fixture
def images():
    return list(np.random.default_rng(1).random((3, 8, 10, 3)).astype(np.float32))


def test_the_centre_is_what_the_net_says_of_the_centre(files, images):
    net = caffe.Classifier(
        *files, image_dims=(8, 10), mean=np.array([10.0, 20, 30]), raw_scale=255,
        channel_swap=(2, 1, 0), input_scale=0.01,
    )  # fmt: skip
    centre = np.array([image[2:6, 2:8] for image in images])
    x = ((centre[..., ::-1] * 255 - [10, 20, 30]) * 0.01).transpose(0, 3, 1, 2)
    expected = caffe.Net(*files, caffe.TEST).forward_all(data=x)["prob"]
    np.testing.assert_allclose(net.predict(images, oversample=False), expected, rtol=1e-4)


def test_ten_crops_are_averaged(files, images):
    net = caffe.Classifier(*files, image_dims=(8, 10))
    prediction = net.predict(images)
    crops = caffe.io.oversample(images, (4, 6)).transpose(0, 3, 1, 2)
    each = caffe.Net(*files, caffe.TEST).forward_all(data=crops)["prob"].reshape(3, 10, 7)
    assert prediction.shape == (3, 7)
    np.testing.assert_allclose(prediction, each.mean(1), rtol=1e-5)
    np.testing.assert_allclose(prediction.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(net.predict([image[:, ::-1] for image in images]), prediction,
                               rtol=1e-4)  # fmt: skip


def test_the_nets_own_size_is_the_default(files):
    image = np.random.default_rng(2).random((4, 6, 3))
    net = caffe.Classifier(*files)
    assert net.image_dims.tolist() == [4, 6]
    straight = net.forward_all(data=image.transpose(2, 0, 1)[np.newaxis])["prob"]
    np.testing.assert_allclose(net.predict([image], oversample=False), straight, rtol=1e-6)


def test_a_classifier_is_a_net_in_its_test_phase(files):
    net = caffe.Classifier(*files)
    assert isinstance(net, caffe.Net)
    assert caffe.classifier.Classifier is caffe.Classifier
    assert net.transformer.transpose["data"] == (2, 0, 1)


@pytest.mark.parametrize(
    ("settings", "images", "message"),
    [
        ({"image_dims": (3, 6)}, [], "image_dims must be"),
        ({"image_dims": (8,)}, [], "image_dims must be"),
        ({"mean": np.ones(4)}, [], "as many channels"),
        ({}, [], "at least one"),
        ({}, [np.ones((4, 6))], r"images \[H, W, 3\]"),
        ({}, [np.ones((4, 6, 1))], r"images \[H, W, 3\]"),
    ],
)
def test_what_does_not_suit_the_net_is_refused(files, settings, images, message):
    with pytest.raises(caffe.CaffeError, match=message):
        caffe.Classifier(*files, **settings).predict(images)


@pytest.mark.parametrize("shape", ["dim: 1 dim: 3", ""])
def test_a_net_without_an_image_is_refused(tmp_path, shape):
    path = tmp_path / "net.prototxt"
    path.write_text(
        f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {shape} }} }} }}'
    )
    with pytest.raises(caffe.CaffeError, match="must be an image"):
        caffe.Classifier(str(path), None)


def test_images_of_another_size_need_scikit_image(files, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.transform", None)
    with pytest.raises(caffe.CaffeError, match="pip install scikit-image"):
        caffe.Classifier(*files).predict(images)


def test_images_are_resized_by_scikit_image(files, images):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    assert caffe.Classifier(*files).predict(images).shape == (3, 7)
