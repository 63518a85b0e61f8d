"""Which architecture plays which game, and whether gradients through each are right."""

import numpy as np
import pytest
from caffe.gradient_check import double_precision
from caffe.proto import caffe_pb2
from google.protobuf import text_format

import caffe
from barista.games.architectures import ARCHITECTURES, architecture, architecture_for
from barista.games.models import network, q_network

STATES = {"nature": (4, 36, 36), "snake": (2, 9, 9), "mlp": (1, 6)}
VARIANTS = [
    {},
    {"dueling": True},
    {"quantiles": 3},
    {"dueling": True, "quantiles": 3},
]


@pytest.mark.parametrize(
    ("size", "arch"),
    [
        ((84, 84), "nature"),
        ((36, 200), "nature"),
        ((35, 84), "snake"),
        ((5, 5), "snake"),
        ((5, 4), "mlp"),
        ((1, 1), "mlp"),
    ],
)
def test_every_frame_size_has_an_architecture_that_fits(size, arch):
    assert architecture_for(*size) == arch
    assert q_network(arch, 2, 4, *size)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_has_its_name(name):
    assert architecture(name).name == name


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("arch", [*STATES, "mlp of pixels"])
def test_backward_from_the_output_gives_the_gradient(arch, variant):
    # Along a random direction of each blob, by central differences in float64; the step is so
    # small that no rectifier turns within it.
    text = network(arch.split()[0], 3, STATES.get(arch, (2, 5, 5)), batch=2, **variant)
    rng, step = np.random.default_rng(7), 1e-7
    with double_precision():
        net = caffe.Net(text_format.Parse(text, caffe_pb2.NetParameter()), caffe.TRAIN)
        blobs = {f"{name}/{i}": b for name, each in net.params.items() for i, b in enumerate(each)}
        for blob in blobs.values():
            blob.data[...] = rng.normal(scale=0.1, size=blob.shape)
        net.blobs["state"].data[...] = rng.integers(0, 256, net.blobs["state"].shape)
        diff = rng.normal(size=net.blobs["Q_out"].shape)
        net.forward()
        net.clear_param_diffs()
        net.backward(Q_out=diff)
        for name, blob in blobs.items():
            kept, direction = blob.data.copy(), rng.normal(size=blob.shape)
            values = []
            for sign in (1, -1):
                blob.data[...] = kept + sign * step * direction
                values.append(np.vdot(diff, net.forward()["Q_out"]))
            blob.data[...] = kept
            expected = (values[0] - values[1]) / (2 * step)
            found = np.vdot(direction, blob.diff)
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-6), name
