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


class Growing(caffe.Layer):
    """A source whose reshape sizes the next batch, as layers that read images do."""

    def setup(self, bottom, top):
        self.calls = 0

    def reshape(self, bottom, top):
        self.calls += 1
        top[0].reshape(self.calls, 2)

    def forward(self, bottom, top):
        top[0].data[...] = -self.calls

    def backward(self, top, propagate_down, bottom):
        pass


class Failing(caffe.Layer):
    def setup(self, bottom, top):
        raise RuntimeError("of the user's own")


class Phase(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 7

    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[()] = self.phase


@pytest.fixture(autouse=True)
def _users_module(monkeypatch):
    module = types.ModuleType("users_layers")
    for layer in (Scaled, Growing, Failing, Phase):
        setattr(module, layer.__name__, layer)
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


def test_reshape_comes_before_every_forward():
    net = net_from_text(
        """layer { name: "g" type: "Python" top: "g"
          python_param { module: "users_layers" layer: "Growing" } }
        layer { name: "c" type: "InnerProduct" bottom: "g" top: "c" inner_product_param {
          num_output: 1 bias_term: false weight_filler { type: "constant" value: 1 } } }
        layer { name: "r" type: "ReLU" bottom: "c" top: "r" relu_param { negative_slope: 0.5 } }"""
    )
    for batch in (2, 3, 4):  # 1 was the reshape of setting up
        assert net.forward()["r"].tolist() == [[-batch]] * batch


def test_errors_of_the_users_own_come_through():
    with pytest.raises(RuntimeError, match="of the user's own"):
        make("users_layers", "Failing")


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_a_layer_knows_its_phase_and_keeps_its_parameters(phase, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "p" type: "Python" top: "p" '
        'python_param { module: "users_layers" layer: "Phase" } }'
    )
    net = caffe.Net(str(path), phase)
    assert net.forward()["p"] == phase
    net.params["p"][0].data[0] = 3
    net.save(str(tmp_path / "w.caffemodel"))
    again = caffe.Net(str(path), phase, weights=str(tmp_path / "w.caffemodel"))
    assert again.params["p"][0].data == 3


@pytest.mark.parametrize(
    ("module", "layer", "message"),
    [
        ("nope", "Nope", "nope"),
        ("", "Nope", "Empty module name"),
        ("users_layers", "Nope", "Nope"),
        ("users_layers", "Other", "no subclass"),
    ],
)
def test_what_is_no_layer_is_refused(module, layer, message):
    with pytest.raises(caffe.CaffeError, match=message):
        make(module, layer)
