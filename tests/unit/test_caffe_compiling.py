import numpy as np
import pytest
import torch
from caffe.gradient_check import net_from_text

import caffe
from caffe import compiling

NET = """
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
"""


@pytest.fixture
def compiling_on(monkeypatch):
    """Switch it on, with a stand-in for the compiler, which takes half a minute."""
    calls = []

    def compile_(call):
        def counted(*args):
            calls.append(call)
            return call(*args)

        return counted

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(compiling.shutil, "which", lambda _: "/usr/bin/g++")
    caffe.set_compile(True)
    yield calls
    caffe.set_compile(False)


def test_whole_passes_of_new_nets_are_compiled(compiling_on):
    net = net_from_text(NET, x=(1, 2, 5, 5))
    expected = net.forward()["c"].copy()
    net.backward()
    assert len(compiling_on) == 2
    net.forward(end="c")
    np.testing.assert_array_equal(np.maximum(net.blobs["c"].data, 0), expected)
    assert len(compiling_on) == 2
    caffe.set_compile(False)
    net_from_text(NET, x=(1, 2, 5, 5)).forward()
    assert len(compiling_on) == 2


def test_without_a_compiler_it_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(caffe.CaffeError, match="no no-such-compiler on PATH"):
        caffe.set_compile(True)
    net_from_text(NET, x=(1, 2, 5, 5)).forward()
