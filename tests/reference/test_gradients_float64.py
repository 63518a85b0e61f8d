"""Every differentiable layer against differences of its forward, in float64.

Steps are of 1e-6 and values keep away from kinks, so that an error of 1e-6 is a wrong formula.
"""

import sys
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from caffe.gradient_check import double_precision, gradient_errors, net_from_text

import caffe
from caffe import layer, tuning

STEP = TOLERANCE = 1e-6

# Why a layer type is not checked here.
NOT_DIFFERENTIABLE = {
    "Accuracy": "counts",
    "ArgMax": "gives indices, and has no backward for values either",
    "DummyData": "has no bottoms",
    "HDF5Data": "has no bottoms",
    "Input": "has no bottoms",
    "MemoryData": "has no bottoms",
    "Threshold": "is a step",
}


class Fixed(NamedTuple):
    """The values of a bottom that takes no gradient: labels, indices."""

    values: list


class Case(NamedTuple):
    text: str
    bottoms: dict
    phase: int = caffe.TRAIN
    force_backward: bool = True  # some layers refuse it, as in Caffe


def spread(shape, low=-1.93, high=2.07):
    """Return values that all differ, by more than steps, and are in no order."""
    values = np.linspace(low, high, int(np.prod(shape)))
    return np.random.default_rng(0).permutation(values).reshape(shape)


def case(kind, settings="", *bottoms, tops=1, phase=caffe.TRAIN, in_place=False, after=""):
    """Return a net of one layer, whose bottoms are shapes, values or Fixed."""
    values = {
        name: bottom if isinstance(bottom, Fixed | np.ndarray) else spread(bottom)
        for name, bottom in zip("abcde", bottoms or [(2, 3)], strict=False)
    }
    below, above, before = list(values), [f"y{i}" for i in range(tops)], ""
    if in_place:
        before = 'layer { name: "p" type: "Power" bottom: "a" top: "y0" power_param { scale: 2 } }'
        below[0] = "y0"
    names = [f'bottom: "{name}"' for name in below] + [f'top: "{name}"' for name in above]
    text = f'{before} layer {{ name: "l" type: "{kind}" {" ".join(names)} {settings} }} {after}'
    place = " in place" if in_place else ""
    return pytest.param(Case(text, values, phase), id=f"{kind} {settings}{place}".strip())


def chain(name, text, force_backward=True, **bottoms):
    """Return a net of several layers, of which "l" is the one to check."""
    return pytest.param(Case(text, bottoms, caffe.TRAIN, force_backward), id=name)


IMAGES = (2, 2, 5, 4)
NEURONS = [
    ("ELU", "elu_param { alpha: 0.7 }"),
    ("Exp", ""),
    ("PReLU", ""),
    ("ReLU", ""),
    ("ReLU", "relu_param { negative_slope: 0.2 }"),
    ("Sigmoid", ""),
    ("Softmax", ""),
    ("Swish", "swish_param { beta: 1.5 }"),
    ("TanH", ""),
    ("Dropout", "dropout_param { dropout_ratio: 0.4 }"),
    ("Scale", "scale_param { bias_term: true }"),
    ("Bias", ""),
    ("BatchNorm", ""),
]
ELEMENTWISE = [
    *(case(*neuron, (4, 3), in_place=place) for neuron in NEURONS for place in (False, True)),
    case("AbsVal"),
    case("BNLL"),
    case("Clip", "clip_param { min: -0.5 max: 1 }"),
    case("Dropout", "", (2, 3), phase=caffe.TEST),
    case("Exp", "exp_param { base: 2 scale: 0.5 shift: -1 }"),
    case("Log", "", spread((2, 3), 0.2, 3)),
    case("Log", "log_param { base: 10 scale: -2 shift: 5 }"),
    case("PReLU", "prelu_param { channel_shared: true }", (2, 3, 2)),
    *(
        case("Power", f"power_param {{ power: {power} scale: 0.5 shift: {shift} }}")
        for power in (1, 2, 3, -1.5, 0)
        for shift in (0, 3)
        if shift or power != -1.5
    ),
    case("Power", "power_param { power: 0.5 }", spread((2, 3), 0.2, 3)),
]
CONVOLUTIONS = [
    case(kind, f"convolution_param {{ num_output: 4 {settings} }}", shape)
    for kind in ("Convolution", "Deconvolution")
    for settings, shape in (
        ("kernel_size: 3 stride: 2 pad: 1", IMAGES),
        ("kernel_size: 2 group: 2 bias_term: false", (1, 2, 3, 3)),
        ("kernel_size: 2 dilation: 2 pad: 1", (1, 2, 4, 3)),
        ("kernel_h: 3 kernel_w: 1 stride_h: 1 stride_w: 2 pad_h: 1 pad_w: 0", (1, 2, 3, 4)),
        ("kernel_size: 2", (2, 2, 4)),
        ("kernel_size: 2 stride: 1 stride: 2 stride: 1", (1, 1, 2, 3, 2)),
        ("kernel_size: 2 axis: 2", (2, 1, 2, 3, 3)),
        ("axis: 2", (2, 1, 3)),
    )
] + [
    case("Convolution", "convolution_param { num_output: 2 kernel_size: 2 }", *[(1, 1, 3, 3)] * 2,
         tops=2),
    case("Im2col", "convolution_param { kernel_size: 2 stride: 2 pad: 1 }", IMAGES),
    case("Im2col", "convolution_param { kernel_size: 2 dilation: 2 }", (1, 1, 3, 3, 4)),
    case("Im2col", "convolution_param { kernel_size: 2 axis: 2 }", (1, 2, 2, 4)),
]  # fmt: skip
POOLING = [
    case("Pooling", f"pooling_param {{ pool: {method} {settings} }}", IMAGES)
    for method in ("MAX", "AVE")
    for settings in (
        "kernel_size: 3 stride: 2",
        "kernel_size: 3 stride: 2 pad: 1",
        "kernel_size: 2 stride: 3 round_mode: FLOOR",
        "kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 2",
        "global_pooling: true",
    )
] + [
    case("SPP", f"spp_param {{ pyramid_height: {height} pool: {method} }}", IMAGES)
    for method in ("MAX", "AVE")
    for height in (1, 2)
] + [
    case("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", IMAGES, tops=2,
         after='layer { name: "s" type: "Silence" bottom: "y1" }'),
]  # fmt: skip
NORMALIZATION = [
    case("LRN", "", (2, 7, 2, 1)),
    case("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }", (1, 4, 2, 2)),
    case("LRN", "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }", IMAGES),
    case("BatchNorm", "", (3, 2, 2, 2)),
    case("BatchNorm", "batch_norm_param { use_global_stats: true }", (3, 2, 2)),
    case("BatchNorm", "batch_norm_param { eps: 0.1 }", (3, 2), phase=caffe.TEST),
    case("MVN", "", (2, 2, 3, 2)),
    case("MVN", "mvn_param { across_channels: true }", (2, 3, 4)),
    case("MVN", "mvn_param { normalize_variance: false }", (2, 2, 3)),
    case("Softmax", "softmax_param { axis: -1 }", (2, 2, 3)),
]
ARITHMETIC = [
    *(
        case("Eltwise", f"eltwise_param {{ {settings} }}", *[(2, 3)] * 3)
        for settings in (
            "operation: PROD",
            "operation: PROD stable_prod_grad: false",
            "operation: SUM",
            "coeff: 1 coeff: -2 coeff: 0.5",
        )
    ),
    case("Eltwise", "eltwise_param { operation: MAX }", (2, 3), -spread((2, 3)),
         spread((2, 3), -1.1, 1.2)),
    *(
        case("Reduction", f"reduction_param {{ operation: {operation} axis: {axis} coeff: 1.5 }}",
             (2, 3, 2))
        for operation in ("SUM", "ASUM", "SUMSQ", "MEAN")
        for axis in (0, 1, -1)
    ),
    case("Scale", "scale_param { axis: 0 num_axes: -1 }"),
    case("Scale", "scale_param { num_axes: 0 }"),
    case("Scale", "scale_param { axis: 1 bias_term: true }", (2, 3, 2), (3, 2)),
    case("Scale", "", (2, 3), ()),
    case("Bias", "bias_param { axis: 0 }", (2, 3, 2), (2, 3)),
    case("InnerProduct", "inner_product_param { num_output: 3 }", (2, 2, 2)),
    case("InnerProduct", "inner_product_param { num_output: 3 axis: -1 transpose: true }",
         (2, 2, 2)),
    case("InnerProduct", "inner_product_param { num_output: 3 bias_term: false }"),
]  # fmt: skip
SHAPES = [
    case("Split", "", (2, 3), tops=3),
    case("Concat", "", (2, 1, 2), (2, 3, 2)),
    case("Concat", "concat_param { axis: -1 }", (2, 1), (2, 2), (2, 3)),
    case("Concat", ""),
    case("Slice", "slice_param { slice_point: 1 slice_point: 3 }", (2, 4), tops=3),
    case("Slice", "slice_param { axis: 0 }", (4, 2), tops=2),
    case("Slice", ""),
    case("Reshape", "reshape_param { shape { dim: -1 dim: 2 } }"),
    case("Flatten", "", (2, 3, 2)),
    case("Tile", "tile_param { tiles: 3 axis: 0 }"),
    case("Crop", "crop_param { axis: 1 offset: 1 }", (2, 3, 4), Fixed(np.zeros((2, 2, 2)))),
    chain("Filter",
        """layer { name: "a" type: "Bias" bottom: "a" top: "x" bias_param { axis: 0 num_axes: -1 } }
        layer { name: "b" type: "Bias" bottom: "b" top: "z" bias_param { axis: 0 num_axes: -1 } }
        layer { name: "l" type: "Filter" bottom: "x" bottom: "z" bottom: "i" top: "y" top: "w" }
        layer { name: "t" type: "TanH" bottom: "y" top: "t" loss_weight: 1 }
        layer { name: "u" type: "TanH" bottom: "w" top: "u" loss_weight: 1 }""",
        force_backward=False, a=spread((3, 2)), b=spread((3,)), i=Fixed([1, 0, 1])),
    chain("BatchReindex",
        """layer { name: "b" type: "Bias" bottom: "a" top: "x" bias_param { axis: 0 num_axes: -1 } }
        layer { name: "l" type: "BatchReindex" bottom: "x" bottom: "i" top: "y" }
        layer { name: "t" type: "TanH" bottom: "y" top: "z" loss_weight: 1 }""",
        force_backward=False, a=spread((3, 2)), i=Fixed([2, 0, 2, 2])),
    *(
        chain(f"Embed {bias}",
            f"""layer {{ name: "l" type: "Embed" bottom: "i" top: "y"
              embed_param {{ input_dim: 4 num_output: 2 bias_term: {bias} }} }}
            layer {{ name: "t" type: "TanH" bottom: "y" top: "z" loss_weight: 1 }}""",
            force_backward=False, i=Fixed([[3, 0], [1, 3]]))
        for bias in ("true", "false")
    ),
    chain("Parameter",
        'layer { name: "l" type: "Parameter" top: "y" parameter_param { shape { dim: 2 } } }'),
    chain("Silence",
        """layer { name: "t" type: "TanH" bottom: "a" top: "y" }
        layer { name: "l" type: "Silence" bottom: "a" }""", a=spread((2, 3))),
    case("Python", 'python_param { module: "gradient_layers" layer: "Cube" param_str: "1.5" }'),
]  # fmt: skip
RNN = "recurrent_param { num_output: 2 }"
HIDDEN = "recurrent_param { num_output: 2 expose_hidden: true }"
CONT = Fixed([[0, 0], [1, 1], [1, 0]])  # a new sequence at time 0, and one at time 2
STATE = Fixed(np.full((1, 2, 2), 0.3))
UNSEEN = ['layer { name: "s1" type: "Silence" bottom: "y1" }',
          'layer { name: "s2" type: "Silence" bottom: "y2" }']  # fmt: skip
RECURRENT = [
    case(kind, settings, (3, 2, 2), CONT, *more, tops=1 + tops, after="".join(UNSEEN[:tops]))
    for kind, states in (("RNN", 1), ("LSTM", 2))
    for settings, more, tops in (
        (RNN, [], 0),
        (RNN, [(2, 3)], 0),
        (HIDDEN, [STATE] * states, states),
        (HIDDEN, [(2, 3), *[STATE] * states], states),
    )
]
SCORES, LABELS = (4, 3), Fixed([0, 2, 1, 2])
TARGETS = Fixed([[0, 1, 0.3], [0.8, 1, 0], [0.5, 0, 1], [1, 0.1, 0.9]])
PAIRS = [spread((3, 2), -1000, 1100), -spread((3, 2), -700, 800), Fixed([1, 0, 0])]
MODES = ["", *(f"normalization: {mode}" for mode in ("FULL", "VALID", "BATCH_SIZE", "NONE"))]
OLD_MODES = ["normalize: false", "normalize: true"]
LOSSES = [
    case(kind, f"loss_param {{ {mode} {ignored} }}", SCORES, *more)
    for kind, modes, more in (
        ("SoftmaxWithLoss", MODES + OLD_MODES, [LABELS]),
        ("SigmoidCrossEntropyLoss", MODES + OLD_MODES, [TARGETS]),
        ("InfogainLoss", MODES, [LABELS, Fixed([[1, 0.2, 0], [0.1, 2, 0.3], [0, 0.4, 1]])]),
    )
    for mode in modes
    for ignored in ("", "ignore_label: 1")
] + [
    case("SoftmaxWithLoss", "loss_weight: 2.5", (2, 3, 2), Fixed([[0, 2], [1, 1]])),
    case("SoftmaxWithLoss", "softmax_param { axis: 2 }", (2, 2, 3), Fixed([[0, 2], [1, 1]])),
    case("InfogainLoss", "infogain_loss_param { axis: -1 }", (2, 2, 3), Fixed([[0, 2], [1, 1]]),
         Fixed(np.eye(3) + 0.1)),
    case("MultinomialLogisticLoss", "", spread(SCORES, 0.1, 0.9), LABELS),
    case("HingeLoss", "", SCORES, LABELS),
    case("HingeLoss", "hinge_loss_param { norm: L2 }", SCORES, LABELS),
    case("EuclideanLoss", "", (2, 3), -spread((2, 3))),
    # Caffe divides by the distance + 1e-4, which is no part of the gradient: pairs are far apart.
    case("ContrastiveLoss", "contrastive_loss_param { margin: 3000 }", *PAIRS),
    case("ContrastiveLoss", "contrastive_loss_param { margin: 2 legacy_version: true }",
         spread((3, 2), -0.3, 0.4), -spread((3, 2), -0.2, 0.3), Fixed([1, 0, 0])),
    case("TanH", "loss_weight: 0.5"),
    case("Reduction", "loss_weight: 2 reduction_param { operation: SUMSQ axis: 1 }"),
]  # fmt: skip
CASES = [
    *ELEMENTWISE, *CONVOLUTIONS, *POOLING, *NORMALIZATION, *ARITHMETIC, *SHAPES, *RECURRENT, *LOSSES
]  # fmt: skip


class Cube(caffe.Layer):
    """A layer of the user's, with a parameter; `param_str` is a factor."""

    def setup(self, bottom, top):
        self.blobs.add_blob(bottom[0].shape[1])

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = float(self.param_str) * self.blobs[0].data * bottom[0].data ** 3

    def backward(self, top, propagate_down, bottom):
        x, dy, factor = bottom[0].data, top[0].diff, float(self.param_str)
        if propagate_down[0]:
            bottom[0].diff[...] = dy * factor * self.blobs[0].data * 3 * x**2
        self.blobs[0].diff[...] += (dy * factor * x**3).sum(0)


@pytest.fixture(autouse=True)
def _in_double_precision(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradient_layers", SimpleNamespace(Cube=Cube))
    with double_precision():
        yield


def build(given):
    """Return the case's net, its inputs and parameters filled."""
    arrays = {
        name: np.asarray(bottom.values if isinstance(bottom, Fixed) else bottom, float)
        for name, bottom in given.bottoms.items()
    }
    net = net_from_text(
        given.text,
        phase=given.phase,
        force_backward=given.force_backward,
        **{name: array.shape for name, array in arrays.items()},
    )
    for name, array in arrays.items():
        net.blobs[name].data[...] = array
    generator = np.random.default_rng(1)
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] = generator.uniform(0.3, 0.9, blob.data.shape)
    # Dropout's mask is always the same.  (`torch.manual_seed` takes milliseconds.)
    net.before_forward(lambda _: torch.default_generator.manual_seed(2))
    return net


def check(given):
    """Compare gradients of the inputs and parameters with differences; return the net."""
    net = build(given)
    inputs = [n for n, bottom in given.bottoms.items() if not isinstance(bottom, Fixed)]
    errors = gradient_errors(net, inputs=inputs if given.force_backward else [], step=STEP)
    if net.layer_dict["l"].type == "BatchNorm":  # its parameters are statistics
        errors = {name: error for name, error in errors.items() if "/" not in name}
    assert errors
    assert max(errors.values()) < TOLERANCE, errors
    return net


@pytest.mark.parametrize("given", CASES)
def test_backward_is_the_derivative_of_forward(given):
    net = check(given)
    assert all(blob.data.dtype == blob.diff.dtype == np.float64 for blob in net.blobs.values())


# As in Caffe, these do not look.
UNASKED = ("BatchNorm", "LSTM", "MVN", "Parameter", "Python", "RNN")


@pytest.mark.parametrize("given", [c for c in CASES if not c.id.startswith(UNASKED)])
def test_a_gradient_that_is_not_asked_for_is_left_alone(given):
    net = build(given)
    net.forward()
    checked, names = net.layer_dict["l"], (net.bottom_names["l"], net.top_names["l"])
    bottom, top = ([net.blobs[name] for name in row] for row in names)
    for blob in top:
        blob.diff[...] = 5
    checked.param_propagate_down = [False] * len(checked.blobs)
    for blob in (*bottom, *checked.blobs):
        blob.diff[...] = 7
    checked.backward(top, [False] * len(bottom), bottom)
    assert all((blob.diff == 7).all() for blob in (*bottom, *checked.blobs))


@pytest.mark.parametrize("lowering", ["contiguous", "channels_last", "gemm"])
@pytest.mark.parametrize("given", [c for c in CONVOLUTIONS if "Im2col" not in c.id])
def test_every_way_to_convolve_has_the_same_derivative(given, lowering):
    tuning.set_lowering(lowering)
    try:
        check(given)
    finally:
        tuning.set_lowering("auto")


def test_a_rectified_net_is_differentiated_as_a_whole():
    text = """
    layer { name: "s" type: "Power" bottom: "a" top: "s" power_param { scale: 0.5 } }
    layer { name: "c" type: "Convolution" bottom: "s" top: "c"
      convolution_param { num_output: 2 kernel_size: 2 } }
    layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
    layer { name: "f" type: "InnerProduct" bottom: "c" top: "f"
      inner_product_param { num_output: 3 } }
    layer { name: "q" type: "ReLU" bottom: "f" top: "f" relu_param { negative_slope: 0.1 } }
    layer { name: "l" type: "EuclideanLoss" bottom: "f" bottom: "b" top: "l" }"""
    check(Case(text, {"a": spread((2, 1, 3, 3)), "b": spread((2, 3))}))


def test_the_switch_is_put_back():
    with pytest.raises(ZeroDivisionError), double_precision():
        raise ZeroDivisionError
    assert net_from_text("", a=(2,)).blobs["a"].data.dtype == np.float64


def test_no_layer_type_is_forgotten():
    types = {kind for kind, cls in layer._REGISTRY.items() if cls.__module__.startswith("caffe.")}
    nets = [param.values[0].text for param in CASES]
    checked = {text.split('name: "l" type: "')[1].split('"')[0] for text in nets}
    assert checked | NOT_DIFFERENTIABLE.keys() == types
    assert not checked & NOT_DIFFERENTIABLE.keys()
