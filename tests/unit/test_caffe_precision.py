import numpy as np
import pytest
import torch
from caffe.gradient_check import net_from_text

import caffe

TEXT = """
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "rc" type: "ReLU" bottom: "c" top: "c" }
layer { name: "f" type: "InnerProduct" bottom: "c" top: "f"
  inner_product_param { num_output: 16 weight_filler { type: "msra" } } }
layer { name: "rf" type: "ReLU" bottom: "f" top: "f" }
layer { name: "q" type: "InnerProduct" bottom: "f" top: "q"
  inner_product_param { num_output: 3 weight_filler { type: "msra" } } }
"""


@pytest.fixture
def bf16():
    caffe.set_precision("bf16")
    yield
    caffe.set_precision("float32")


def run(net, precision):
    caffe.set_precision(precision)
    net.clear_param_diffs()
    q = net.forward()["q"].copy()
    net.backward(q=np.ones(q.shape, np.float32))
    return q, net.diff_arena.copy()


@pytest.mark.usefixtures("bf16")
def test_bf16_is_near_float32_and_not_the_same():
    caffe.set_random_seed(0)
    net = net_from_text(TEXT, x=(4, 2, 8, 8))
    net.blobs["x"].data[...] = np.random.default_rng(0).normal(size=(4, 2, 8, 8))
    exact, half = run(net, "float32"), run(net, "bf16")
    for want, got in zip(exact, half, strict=True):
        assert not np.array_equal(want, got)
        assert np.linalg.norm(want - got) < 0.05 * np.linalg.norm(want)
    assert net.param_arena.dtype == np.float32


@pytest.mark.usefixtures("bf16")
def test_the_output_layer_stays_float32():
    net = net_from_text(TEXT, x=(2, 2, 8, 8))
    net.forward()
    f, weight = net.blobs["f"].data, net.params["q"][0].data
    np.testing.assert_allclose(net.blobs["q"].data, f @ weight.T, rtol=1e-5, atol=1e-6)
    assert [layer.is_output for layer in net.layers if layer.type == "InnerProduct"] == [
        False,
        True,
    ]


def test_an_unknown_precision_is_refused():
    with pytest.raises(caffe.CaffeError, match="float16"):
        caffe.set_precision("float16")


def test_the_seed_repeats_fillers():
    nets = []
    for _ in range(2):
        caffe.set_random_seed(3)
        nets.append(net_from_text(TEXT, x=(1, 2, 8, 8)))
    np.testing.assert_array_equal(nets[0].param_arena, nets[1].param_arena)


def test_threads_are_pytorchs():
    before = torch.get_num_threads()
    caffe.set_num_threads(1)
    assert torch.get_num_threads() == 1
    caffe.set_num_threads(before)


@pytest.mark.parametrize(
    ("precision", "phase", "is_exact"),
    [
        ("bf16", caffe.TRAIN, True),  # the signs decide the gradient
        ("bf16", caffe.TEST, False),
        ("bf16-all", caffe.TRAIN, False),
        ("tf32", caffe.TRAIN, True),
    ],
)
def test_convolutions_of_a_net_that_learns_run_forward_in_float32(precision, phase, is_exact):
    net = net_from_text(TEXT, phase=phase, x=(2, 2, 8, 8))
    net.blobs["x"].data[...] = np.random.default_rng(0).normal(size=(2, 2, 8, 8))
    net.forward()
    exact = net.blobs["c"].data.copy()
    try:
        caffe.set_precision(precision)
        net.forward()
        assert np.array_equal(net.blobs["c"].data, exact) is is_exact
    finally:
        caffe.set_precision("float32")
