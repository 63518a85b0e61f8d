import sys
import types

import numpy as np
import pytest
from caffe.gradient_check import net_from_text

import caffe


class Scaled(caffe.Layer):
    def setup(self, bottom, top):
        assert len(bottom) == len(top) == 1
        self.factor = float(self.param_str)
        self.blobs.add_blob(2)
        self.blobs[0].data[...] = 1

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.factor * bottom[0].data * self.blobs[0].data

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = self.factor * top[0].diff * self.blobs[0].data
        self.blobs[0].diff[...] += self.factor * (top[0].diff * bottom[0].data).sum(0)


@pytest.fixture(autouse=True)
def _users_module(monkeypatch):
    module = types.ModuleType("users_layers")
    module.Scaled = Scaled
    module.Other = dict
    monkeypatch.setitem(sys.modules, "users_layers", module)


def make(module, layer):
    return net_from_text(
        f'layer {{ name: "p" type: "Python" bottom: "x" top: "y" '
        f'python_param {{ module: "{module}" layer: "{layer}" param_str: "3" }} }}',
        x=(2, 2),
    )


def test_a_layer_written_in_python_runs_both_ways():
    net = make("users_layers", "Scaled")
    net.blobs["x"].data[...] = [[1, 2], [3, 4]]
    assert net.forward()["y"].tolist() == [[3, 6], [9, 12]]
    net.backward(y=np.ones((2, 2), np.float32))
    assert (net.blobs["x"].diff == 3).all()
    assert net.diff_arena.tolist() == [12, 18]
    assert net.layers[1].type == "Python"


@pytest.mark.parametrize(
    ("module", "layer", "message"),
    [
        ("nope", "Nope", "nope"),
        ("users_layers", "Nope", "Nope"),
        ("users_layers", "Other", "no subclass"),
    ],
)
def test_what_is_no_layer_is_refused(module, layer, message):
    with pytest.raises(caffe.CaffeError, match=message):
        make(module, layer)
