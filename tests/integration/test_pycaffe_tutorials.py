"""Scripts in the style of pycaffe's own tutorials, on small nets and made-up data."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from google.protobuf import text_format

import caffe
from caffe import layers as L  # noqa: N812  # as the tutorials do
from caffe import params as P  # noqa: N812


@pytest.fixture
def rng():
    caffe.set_random_seed(0)
    return np.random.default_rng(0)


def write(path, content):
    path.write_text(str(content))
    return str(path)


def stripes(rng, count):
    """Return images of 12 × 12 with one bright row, and which third of the image it is in."""
    rows = rng.integers(0, 12, count)
    images = rng.normal(0, 0.1, (count, 1, 12, 12)).astype(np.float32)
    images[np.arange(count), 0, rows] += 1
    return images, (rows // 4).astype(np.float32)


# -- 01-learning-lenet ----------------------------------------------------------------------------


def lenet(batch_size):
    n = caffe.NetSpec()
    n.data, n.label = L.MemoryData(ntop=2, batch_size=batch_size, channels=1, height=12, width=12)
    n.conv1 = L.Convolution(n.data, kernel_size=3, num_output=6, weight_filler={"type": "xavier"})
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.fc1 = L.InnerProduct(n.pool1, num_output=16, weight_filler={"type": "xavier"})
    n.relu1 = L.ReLU(n.fc1, in_place=True)
    n.score = L.InnerProduct(n.relu1, num_output=3, weight_filler={"type": "xavier"})
    n.loss = L.SoftmaxWithLoss(n.score, n.label)
    return n.to_proto()


def test_learning_lenet(tmp_path, rng):
    train, test = (write(tmp_path / f"{size}.prototxt", lenet(size)) for size in (16, 30))
    solver_file = write(
        tmp_path / "solver.prototxt",
        f'train_net: "{train}" test_net: "{test}" test_iter: 2 test_interval: 1000 '
        'base_lr: 0.05 momentum: 0.9 weight_decay: 0.0005 lr_policy: "inv" gamma: 0.0001 '
        f'power: 0.75 max_iter: 100 snapshot_prefix: "{tmp_path}/lenet" random_seed: 3',
    )
    caffe.set_mode_cpu()
    solver = caffe.SGDSolver(solver_file)
    sizes = [(k, v.data.shape) for k, v in solver.net.blobs.items()]
    assert sizes[:3] == [("data", (16, 1, 12, 12)), ("label", (16,)), ("conv1", (16, 6, 10, 10))]
    assert [(k, v[0].data.shape) for k, v in solver.net.params.items()] == [
        ("conv1", (6, 1, 3, 3)), ("fc1", (16, 150)), ("score", (3, 16)),
    ]  # fmt: skip
    solver.net.set_input_arrays(*stripes(rng, 320))
    images, labels = stripes(rng, 60)
    solver.test_nets[0].set_input_arrays(images, labels)
    solver.net.forward()
    solver.test_nets[0].forward()

    train_loss = np.zeros(80)
    for it in range(80):
        solver.step(1)
        train_loss[it] = solver.net.blobs["loss"].data
    assert train_loss[-10:].mean() < 0.5 * train_loss[:5].mean()

    # The tutorial counts correct answers of the test net by hand, in the weights of the other.
    correct = 0
    for _ in range(2):
        solver.test_nets[0].share_with(solver.net)
        solver.test_nets[0].forward()
        answers = solver.test_nets[0].blobs["score"].data.argmax(1)
        correct += sum(answers == solver.test_nets[0].blobs["label"].data.ravel())
    assert correct >= 48
    solver.test_nets[0].forward(start="conv1")  # the same batch again
    filters = solver.net.params["conv1"][0].data[:, 0].reshape(2, 3, 3, 3)
    assert filters.transpose(0, 2, 1, 3).reshape(6, 9).shape == (6, 9)


def test_the_same_net_without_names():
    data, label = L.DummyData(
        shape=[{"dim": [4, 1, 12, 12]}, {"dim": [4, 1, 1, 1]}], ntop=2,
        transform_param={"scale": 1.0 / 255},
    )  # fmt: skip
    relu = L.ReLU(L.InnerProduct(data, num_output=3), in_place=True)
    proto = L.SoftmaxWithLoss(relu, label).to_proto()
    names = ["DummyData1", "InnerProduct1", "ReLU1", "SoftmaxWithLoss1"]
    assert [layer.name for layer in proto.layer] == names
    assert caffe.Net(proto, caffe.TEST).forward()["SoftmaxWithLoss1"] == pytest.approx(np.log(3))


# -- net_surgery ----------------------------------------------------------------------------------


def test_filters_are_edited_by_hand(tmp_path, rng):
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [1, 1, 8, 8]})
    n.conv = L.Convolution(n.data, num_output=3, kernel_size=3)
    net = caffe.Net(write(tmp_path / "conv.prototxt", n.to_proto()), caffe.TEST)
    image = rng.random((8, 8)).astype(np.float32)
    net.blobs["data"].reshape(1, 1, *image.shape)
    net.blobs["data"].data[...] = image[np.newaxis, np.newaxis]
    net.forward()
    assert not net.blobs["conv"].data.any()
    net.params["conv"][1].data[0] = 1.0
    net.params["conv"][0].data[1] = 1 / 9
    net.params["conv"][0].data[2, 0] = [[-1, 0, 1]] * 3
    net.forward()
    blurred, sobel = net.blobs["conv"].data[0, 1:]
    assert (net.blobs["conv"].data[0, 0] == 1).all()
    np.testing.assert_allclose(blurred[2, 3], image[2:5, 3:6].mean(), rtol=1e-5)
    np.testing.assert_allclose(
        sobel[0, 0], (image[:3, 2] - image[:3, 0]).sum(), rtol=1e-4, atol=1e-6
    )


def classifier_net(convolutional, size):
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [1, 3, size, size]})
    n.conv1 = L.Convolution(n.data, num_output=4, kernel_size=3,
                            weight_filler={"type": "gaussian", "std": 0.3})  # fmt: skip
    n.pool1 = L.Pooling(n.conv1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    if convolutional:
        n["fc-conv"] = L.Convolution(n.pool1, num_output=5, kernel_size=3)
        n.prob = L.Softmax(n["fc-conv"])
    else:
        n.fc = L.InnerProduct(n.pool1, num_output=5, weight_filler={"type": "xavier"})
        n.prob = L.Softmax(n.fc)
    return n.to_proto()


def test_a_classifier_becomes_convolutional(tmp_path, rng):
    weights = str(tmp_path / "w.caffemodel")
    net = caffe.Net(write(tmp_path / "fc.prototxt", classifier_net(False, 8)), caffe.TEST)
    net.save(weights)
    path = write(tmp_path / "conv.prototxt", classifier_net(True, 14))
    net_full_conv = caffe.Net(path, weights, caffe.TEST)
    net_full_conv.params["fc-conv"][0].data.flat = net.params["fc"][0].data.flat
    net_full_conv.params["fc-conv"][1].data[...] = net.params["fc"][1].data
    net_full_conv.save(str(tmp_path / "full_conv.caffemodel"))

    image = rng.random((1, 3, 14, 14))
    out = caffe.Net(path, str(tmp_path / "full_conv.caffemodel"), caffe.TEST).forward_all(
        data=image
    )
    assert out["prob"].shape == (1, 5, 4, 4)
    for row, column in ((0, 0), (1, 3)):
        part = image[:, :, 2 * row : 2 * row + 8, 2 * column : 2 * column + 8]
        np.testing.assert_allclose(
            out["prob"][0, :, row, column], net.forward(data=part)["prob"][0], rtol=1e-4
        )


# -- 00-classification and classify.py ------------------------------------------------------------


def test_classification(tmp_path, rng):
    model = write(tmp_path / "deploy.prototxt", classifier_net(False, 8))
    weights, mean_file = str(tmp_path / "w.caffemodel"), str(tmp_path / "mean.npy")
    net = caffe.Net(model, caffe.TEST)
    net.save(weights)
    np.save(mean_file, rng.random((3, 8, 8)))

    mu = np.load(mean_file).mean(1).mean(1)
    transformer = caffe.io.Transformer({"data": net.blobs["data"].data.shape})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_mean("data", mu)
    transformer.set_raw_scale("data", 3)
    transformer.set_channel_swap("data", (2, 1, 0))
    net.blobs["data"].reshape(6, 3, 8, 8)
    image = rng.random((8, 8, 3)).astype(np.float32)
    net.blobs["data"].data[...] = transformer.preprocess("data", image)
    output_prob = net.forward()["prob"]
    assert output_prob.shape == (6, 5)
    assert output_prob[0].argsort()[::-1][:5].tolist() == output_prob[5].argsort()[::-1].tolist()
    shown = transformer.deprocess("data", net.blobs["data"].data[0])
    np.testing.assert_allclose(shown, image, atol=1e-5)

    classifier = caffe.Classifier(model, weights, mean=mu, raw_scale=3, channel_swap=(2, 1, 0))
    np.testing.assert_allclose(
        classifier.predict([image], oversample=False)[0], output_prob[0], rtol=1e-5
    )
    large = caffe.Classifier(model, weights, image_dims=(12, 10), raw_scale=3)
    predictions = large.predict([rng.random((12, 10, 3))] * 2)
    assert predictions.shape == (2, 5)
    np.testing.assert_array_equal(predictions[0], predictions[1])


# -- 02-fine-tuning and brewing-logreg ------------------------------------------------------------


def test_fine_tuning_takes_the_layers_of_the_same_name(tmp_path):
    old = caffe.Net(write(tmp_path / "old.prototxt", classifier_net(False, 8)), caffe.TEST)
    old.save(str(tmp_path / "old.caffemodel"))
    proto = classifier_net(False, 8)
    proto.layer[3].name = "fc-style"
    proto.layer[3].inner_product_param.num_output = 2
    new = caffe.Net(write(tmp_path / "new.prototxt", proto), caffe.TRAIN)
    new.copy_from(str(tmp_path / "old.caffemodel"))
    np.testing.assert_array_equal(new.params["conv1"][0].data, old.params["conv1"][0].data)
    assert new.params["fc-style"][0].data.shape == (2, 36)


def test_brewing_logistic_regression(tmp_path, rng):
    x = rng.normal(size=(400, 4)).astype(np.float32)
    y = (x @ [1, -2, 0.5, 1] > 0).astype(np.float32)
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["data"], file["label"] = x, y
    (tmp_path / "train.txt").write_text(f"{tmp_path}/train.h5\n")

    n = caffe.NetSpec()
    n.data, n.label = L.HDF5Data(batch_size=10, source=str(tmp_path / "train.txt"), ntop=2)
    n.ip1 = L.InnerProduct(n.data, num_output=2, weight_filler={"type": "xavier"})
    n.accuracy = L.Accuracy(n.ip1, n.label)
    n.loss = L.SoftmaxWithLoss(n.ip1, n.label)
    net = write(tmp_path / "net.prototxt", n.to_proto())
    solver = caffe.get_solver(write(
        tmp_path / "solver.prototxt",
        f'train_net: "{net}" test_net: "{net}" test_iter: 40 test_interval: 1000 base_lr: 0.2 '
        f'lr_policy: "step" gamma: 0.1 stepsize: 5000 max_iter: 120 snapshot_prefix: '
        f'"{tmp_path}/logreg" random_seed: 1',
    ))  # fmt: skip
    solver.solve()
    accuracy = 0
    for _ in range(40):
        solver.test_nets[0].forward()
        accuracy += solver.test_nets[0].blobs["accuracy"].data / 40
    assert accuracy > 0.95
    assert (tmp_path / "logreg_iter_120.caffemodel").exists()


# -- layers/pyloss.py and linreg.prototxt ---------------------------------------------------------

PYLOSS = """
import caffe
import numpy as np


class EuclideanLossLayer(caffe.Layer):
    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("Need two inputs to compute distance.")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("Inputs must have the same dimension.")
        self.diff = np.zeros_like(bottom[0].data, dtype=np.float32)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.

    def backward(self, top, propagate_down, bottom):
        for i in range(2):
            if not propagate_down[i]:
                continue
            sign = 1 if i == 0 else -1
            bottom[i].diff[...] = sign * self.diff / bottom[i].num
"""


@pytest.mark.parametrize("loss", ["Python", "EuclideanLoss"])
def test_a_loss_written_in_python_trains_as_the_built_in_one(tmp_path, monkeypatch, rng, loss):
    (tmp_path / "pyloss.py").write_text(PYLOSS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pyloss", raising=False)
    n = caffe.NetSpec()
    n.x, n.y = L.Input(shape=[{"dim": [10, 3]}, {"dim": [10, 1]}], ntop=2)
    n.ipx = L.InnerProduct(n.x, num_output=1, weight_filler={"type": "constant", "value": 0.5})
    if loss == "Python":
        n.loss = L.Python(n.ipx, n.y, module="pyloss", layer="EuclideanLossLayer", loss_weight=1)
    else:
        n.loss = L.EuclideanLoss(n.ipx, n.y)
    net = write(tmp_path / "linreg.prototxt", n.to_proto())
    solver = caffe.SGDSolver(write(
        tmp_path / "solver.prototxt", f'net: "{net}" base_lr: 0.1 lr_policy: "fixed" max_iter: 60'
    ))  # fmt: skip
    for _ in range(200):
        x = solver.net.blobs["x"].data
        x[...] = rng.normal(size=x.shape)
        solver.net.blobs["y"].data[...] = x @ [[1], [-2], [3]] + 4
        solver.step(1)
    np.testing.assert_allclose(solver.net.params["ipx"][0].data, [[1, -2, 3]], atol=1e-3)
    np.testing.assert_allclose(solver.net.params["ipx"][1].data, [4], atol=1e-3)
    assert solver.net.blobs["loss"].data < 1e-5
    monkeypatch.delitem(sys.modules, "pyloss", raising=False)


# -- draw_net.py ----------------------------------------------------------------------------------


def test_a_net_is_drawn(tmp_path):
    pytest.importorskip("pydot", reason="pydot is not installed")
    net = caffe.proto.caffe_pb2.NetParameter()
    path = write(tmp_path / "net.prototxt", lenet(4))
    text_format.Merge(Path(path).read_text(), net)
    caffe.draw.draw_net_to_file(net, str(tmp_path / "net.raw"), "BT", caffe.TEST)
    assert "conv1 (Convolution) kernel size: 3" in (tmp_path / "net.raw").read_text()
