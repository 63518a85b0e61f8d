import math

import numpy as np
import pytest
import torch
from caffe.gradient_check import gradient_errors, net_from_text
from caffe.proto.caffe_pb2 import BlobProto
from torch.nn import functional

import caffe

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 2], np.float32)


def make(kind, param="", phase=caffe.TRAIN, tops='top: "y"', **values):
    bottoms = "".join(f'bottom: "{name}" ' for name in values)
    net = net_from_text(
        f'layer {{ name: "l" type: "{kind}" {bottoms} {tops} {param} }}',
        phase=phase,
        **{name: value.shape for name, value in values.items()},
    )
    for name, value in values.items():
        net.blobs[name].data[...] = value
    return net


def loss(net):
    return float(net.forward()["y"])


def test_softmax():
    net = make("Softmax", "softmax_param { axis: 0 }", x=X)
    expected = torch.softmax(torch.from_numpy(X), 0)
    torch.testing.assert_close(torch.from_numpy(net.forward()["y"]), expected)
    assert gradient_errors(net)["x"] < 1e-3


@pytest.mark.parametrize(
    ("param", "size"),
    [
        ("", 3),
        ("loss_param { ignore_label: 0 normalization: FULL }", 4),
        ("loss_param { ignore_label: 0 normalization: NONE }", 1),
        ("loss_param { ignore_label: 0 normalize: false }", 4),
    ],
)
def test_softmax_loss_and_its_normalizers(param, size):
    param = param or "loss_param { ignore_label: 0 }"
    net = make("SoftmaxWithLoss", param, x=X, t=LABELS)
    expected = functional.cross_entropy(
        torch.from_numpy(X[1:]), torch.from_numpy(LABELS[1:]).long(), reduction="sum"
    )
    assert loss(net) == pytest.approx(float(expected) / size, rel=1e-5)
    assert gradient_errors(net, inputs=("x",))["x"] < 1e-3


def test_softmax_loss_is_bounded_where_its_gradient_is_not_zero():
    x = np.array([[200, 0]], np.float32)
    net = make("SoftmaxWithLoss", x=x, t=np.array([1], np.float32))
    assert loss(net) == pytest.approx(87.3365, rel=1e-4)
    net.backward()
    assert net.blobs["x"].diff.tolist() == [[1, -1]]


def test_multinomial_logistic_loss():
    p = np.abs(X) + 0.2
    net = make("MultinomialLogisticLoss", x=p, t=LABELS)
    expected = -np.log(p[np.arange(4), LABELS.astype(int)]).mean()
    assert loss(net) == pytest.approx(float(expected), rel=1e-5)
    assert gradient_errors(net, inputs=("x",), step=1e-3)["x"] < 1e-2


def test_multinomial_logistic_loss_takes_what_is_no_probability_as_the_least():
    net = make("MultinomialLogisticLoss", x=np.full((4, 3), -0.5, np.float32), t=LABELS)
    assert loss(net) == pytest.approx(-math.log(1e-20), rel=1e-5)


def test_softmax_loss_of_impossible_scores():
    x = np.array([[0, -np.inf]], np.float32)
    assert loss(make("SoftmaxWithLoss", x=x, t=np.ones(1, np.float32))) == pytest.approx(87.3365)


@pytest.mark.parametrize(("norm", "power"), [("L1", 1), ("L2", 2)])
def test_hinge_loss(norm, power):
    net = make("HingeLoss", f"hinge_loss_param {{ norm: {norm} }}", x=X, t=LABELS)
    signs = np.ones((4, 3))
    signs[np.arange(4), LABELS.astype(int)] = -1
    assert loss(net) == pytest.approx((np.maximum(0, 1 + signs * X) ** power).sum() / 4, rel=1e-5)
    assert gradient_errors(net, inputs=("x",), step=1e-3)["x"] < 1e-2


H = np.random.default_rng(1).random((1, 1, 3, 3)).astype(np.float32)


def infogain():
    logs = torch.log_softmax(torch.from_numpy(X), 1).numpy()
    return -(H[0, 0][LABELS.astype(int)] * logs).sum() / 4


def test_infogain_loss_with_its_matrix_in_a_file(tmp_path):
    path = tmp_path / "h.binaryproto"
    path.write_bytes(
        BlobProto(data=H.ravel(), num=1, channels=1, height=3, width=3).SerializeToString()
    )
    net = make("InfogainLoss", f'infogain_loss_param {{ source: "{path}" }}', x=X, t=LABELS)
    assert loss(net) == pytest.approx(float(infogain()), rel=1e-5)
    assert gradient_errors(net, inputs=("x",))["x"] < 1e-3


def test_infogain_loss_with_its_matrix_as_a_bottom():
    net = make("InfogainLoss", x=X, t=LABELS, h=H)
    assert loss(net) == pytest.approx(float(infogain()), rel=1e-5)


def test_infogain_loss_gives_its_probabilities_as_a_second_top():
    weights = "loss_weight: 1 loss_weight: 0"
    net = make("InfogainLoss", weights, tops='top: "y" top: "p"', x=X, t=LABELS, h=H)
    one = make("InfogainLoss", x=X, t=LABELS, h=H)
    assert loss(net) == loss(one)
    expected = torch.softmax(torch.from_numpy(X), 1).numpy()
    np.testing.assert_allclose(net.blobs["p"].data, expected, rtol=1e-6)
    net.blobs["p"].diff[...] = 1  # no gradient comes from there
    np.testing.assert_array_equal(net.backward()["x"], one.backward()["x"])


def test_infogain_loss_refuses_the_older_normalize():
    with pytest.raises(caffe.CaffeError, match="normalization"):
        make("InfogainLoss", "loss_param { normalize: true }", x=X, t=LABELS, h=H)


def test_infogain_loss_needs_its_matrix():
    with pytest.raises(caffe.CaffeError, match="needs H"):
        make("InfogainLoss", x=X, t=LABELS)
    with pytest.raises(caffe.CaffeError, match="3 × 3 values, got 4"):
        make("InfogainLoss", x=X, t=LABELS, h=H[:, :, :2, :2])


def accuracy(param="", tops='top: "y"', x=X, t=LABELS):
    net = make("Accuracy", f"accuracy_param {{ {param} }}", caffe.TEST, tops, x=x, t=t)
    return net.forward()


def test_accuracy_counts_the_best_scores():
    best = X.argmax(1)
    assert float(accuracy()["y"]) == (best == LABELS).mean()
    assert float(accuracy("top_k: 3")["y"]) == 1
    assert float(accuracy("ignore_label: 2")["y"]) == (best == LABELS)[[0, 2]].mean()


def test_accuracy_of_every_class():
    result = accuracy(tops='top: "y" top: "c"')["c"]
    best = X.argmax(1)
    assert result.tolist() == [(best == LABELS)[k == LABELS].mean() for k in range(3)]


def test_equal_scores_count_against_the_label():
    assert float(accuracy(x=np.zeros((4, 3), np.float32))["y"]) == 0


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "Accuracy", "HingeLoss"])
def test_labels_outside_the_classes_are_refused(kind):
    with pytest.raises(caffe.CaffeError, match="0 … 2"):
        make(kind, x=X, t=LABELS + 1).forward()


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "Accuracy"])
def test_numbers_of_labels_must_fit(kind):
    with pytest.raises(caffe.CaffeError, match="labels are needed"):
        make(kind, x=X, t=np.ones((4, 2), np.float32))


@pytest.mark.parametrize("kind", ["HingeLoss", "MultinomialLogisticLoss"])
def test_losses_of_whole_images_take_all_their_values_as_classes(kind):
    p = np.abs(X).reshape(2, 3, 2) + 0.1
    t = np.array([[5], [4]], np.float32)
    flat = loss(make(kind, x=p.reshape(2, 6), t=t))
    assert loss(make(kind, "loss_param { ignore_label: 5 }", x=p, t=t)) == flat


def test_hinge_loss_takes_the_first_labels_as_caffe_does():
    labels = np.stack([LABELS, LABELS]).reshape(4, 2)
    assert loss(make("HingeLoss", x=X, t=labels)) == loss(
        make("HingeLoss", x=X, t=labels.ravel()[:4])
    )


def test_multinomial_logistic_loss_takes_a_column_of_labels():
    with pytest.raises(caffe.CaffeError, match=r"label.*\[4, 1, 2\]"):
        make("MultinomialLogisticLoss", x=X[:, :, None], t=np.ones((4, 1, 2), np.float32))


def test_top_k_must_fit():
    with pytest.raises(caffe.CaffeError, match="top_k 4"):
        accuracy("top_k: 4")


def test_a_second_top_of_softmax_loss_is_refused_as_in_caffe():
    with pytest.raises(caffe.CaffeError, match="2 tops"):
        make("SoftmaxWithLoss", tops='top: "y" top: "p"', x=X, t=LABELS)
