import math

import numpy as np
import pytest
import torch
from caffe.gradient_check import gradient_errors, net_from_text
from caffe.layers.losses import normalizer, straight_through
from caffe.proto.caffe_pb2 import LossParameter
from torch.nn import functional

import caffe

GENERATOR = np.random.default_rng(0)
A = GENERATOR.normal(size=(4, 3)).astype(np.float32)
B = GENERATOR.normal(size=(4, 3)).astype(np.float32)


PAIRS = ("EuclideanLoss", "SigmoidCrossEntropyLoss", "HingeLoss", "SoftmaxWithLoss")


def make(kind, param="", **values):
    bottoms = "".join(f'bottom: "{name}" ' for name in values)
    net = net_from_text(
        f'layer {{ name: "l" type: "{kind}" {bottoms} top: "y" {param} }}',
        **{name: value.shape for name, value in values.items()},
    )
    for name, value in values.items():
        net.blobs[name].data[...] = value
    return net


def test_euclidean_loss_is_half_the_mean_square():
    net = make("EuclideanLoss", a=A, b=B)
    assert float(net.forward()["y"]) == pytest.approx(((A - B) ** 2).sum() / 8, rel=1e-5)
    assert max(gradient_errors(net).values()) < 1e-3


def test_a_loss_without_a_named_top_still_counts():
    net = net_from_text(
        'layer { name: "l" type: "EuclideanLoss" bottom: "a" bottom: "b" }', a=(1, 1), b=(1, 1)
    )
    net.blobs["a"].data[...] = 2
    assert net._forward(0, len(net.layers) - 1) == pytest.approx(2)
    assert net.outputs == []


TARGETS = (B > 0).astype(np.float32)


@pytest.mark.parametrize(
    ("param", "size"),
    [
        ("", 4),
        ("loss_param { normalize: true }", 12),
        ("loss_param { normalization: FULL }", 12),
        ("loss_param { normalization: NONE }", 1),
    ],
)
def test_sigmoid_cross_entropy(param, size):
    net = make("SigmoidCrossEntropyLoss", param, a=A, t=TARGETS)
    expected = functional.binary_cross_entropy_with_logits(
        torch.from_numpy(A), torch.from_numpy(TARGETS), reduction="sum"
    )
    assert float(net.forward()["y"]) == pytest.approx(float(expected) / size, rel=1e-5)
    assert gradient_errors(net, inputs=("a",))["a"] < 1e-3


def test_ignored_targets_do_not_count():
    targets = TARGETS.copy()
    targets[0] = -1
    param = "loss_param { ignore_label: -1 normalization: VALID }"
    net = make("SigmoidCrossEntropyLoss", param, a=A, t=targets)
    net.forward()
    net.backward()
    assert not net.blobs["a"].diff[0].any()
    assert float(net.blobs["y"].data) > 0
    assert gradient_errors(net, inputs=("a",))["a"] < 1e-3


@pytest.mark.parametrize("legacy", ["true", "false"])
def test_contrastive_loss(legacy):
    similar = np.array([1, 0, 1, 0], np.float32)
    param = f"contrastive_loss_param {{ margin: 9 legacy_version: {legacy} }}"
    net = make("ContrastiveLoss", param, a=A, b=B, s=similar)
    squares = ((A - B) ** 2).sum(1)
    apart = np.maximum(9 - squares, 0)
    if legacy == "false":
        apart = np.maximum(9 - np.sqrt(squares), 0) ** 2
    expected = np.where(similar == 1, squares, apart).sum() / 8
    assert float(net.forward()["y"]) == pytest.approx(expected, rel=1e-5)
    assert max(gradient_errors(net, inputs=("a", "b")).values()) < 2e-3


def test_contrastive_loss_reads_whole_numbers_and_gives_them_no_gradient():
    net = make("ContrastiveLoss", "propagate_down: [true, true, true]", a=A, b=B, s=B[:, :1])
    net.blobs["s"].data[:, 0] = [0.9, -0.9, 1.1, -1]
    value = float(net.forward()["y"])
    net.backward()
    assert not net.blobs["s"].diff.any()
    net.blobs["s"].data[:, 0] = [0, 0, 1, 1]
    assert float(net.forward()["y"]) == value


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("EuclideanLoss", {"a": A, "b": B[:2]}, "rows"),
        ("EuclideanLoss", {"a": A, "b": B[:, :2]}, "columns"),
        ("SigmoidCrossEntropyLoss", {"a": A, "b": B[:, :2]}, "12 and 8 values"),
        ("ContrastiveLoss", {"a": A, "b": B, "s": A}, "bottom 2 must have 1 col"),
        ("ContrastiveLoss", {"a": A, "b": B[:, :2], "s": A[:, 0]}, "bottom 1 must have 3 col"),
        ("ContrastiveLoss", {"a": A[:, :, None] + [1, 1], "b": B, "s": B[:, 0]}, "bottom 0"),
        ("ContrastiveLoss", {"a": A, "b": B, "s": A[:2, 0]}, "4 values"),
        *((kind, {"a": A.sum(), "b": B.sum()}, "axis 0") for kind in PAIRS),
    ],
)
def test_what_does_not_fit_is_refused(kind, values, message):
    with pytest.raises(caffe.CaffeError, match=message):
        make(kind, **values)


def test_a_sum_is_divided_by_at_least_one():
    assert normalizer(LossParameter.VALID, 4, 0, 2) == 1
    assert normalizer(LossParameter.BATCH_SIZE, 4, 0, 2) == 2


def test_straight_through_has_one_value_and_anothers_gradient():
    x = torch.tensor(2.0, requires_grad=True)
    y = straight_through(3 * x, torch.tensor(1e-20))
    y.backward()
    assert (y.item(), x.grad.item()) == (pytest.approx(1e-20), 3)
    assert straight_through(x - math.inf, x).item() == 2
