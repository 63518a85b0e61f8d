"""What is recorded, and when; the graph itself is a stand-in where there is no GPU."""

import numpy as np
import pytest
import torch
from caffe.gradient_check import net_from_text

import caffe
from caffe import cuda_graph, memory

NET = """
layer { name: "s" type: "Power" bottom: "x" top: "s" power_param { scale: 0.5 } }
layer { name: "c" type: "Convolution" bottom: "s" top: "c"
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "q" type: "InnerProduct" bottom: "c" top: "q" loss_weight: 1
  inner_product_param { num_output: 2 weight_filler { type: "msra" } } }
"""


class FakeGraph:
    """Repeats the call: what a graph does, as long as it is a function of fixed memory."""

    def __init__(self, call):
        self.call, self.replays = call, 0

    def replay(self):
        self.replays += 1
        self.call()


@pytest.fixture
def graphs(monkeypatch):
    made = []

    def record(call):
        made.append(FakeGraph(call))
        return made[-1]

    monkeypatch.setattr(cuda_graph, "_record", record)
    return made


def make(monkeypatch, *, as_on_a_gpu):
    """Return a net; it may go the way of one on a GPU, but for where its memory is."""
    monkeypatch.setattr(memory, "is_mirrored", lambda _: as_on_a_gpu)
    caffe.set_random_seed(0)
    net = net_from_text(NET, x=(2, 2, 5, 5))
    if as_on_a_gpu:
        record_passes_of(net)
    return net


def record_passes_of(net):
    blobs = [*net._blobs, *(blob for layer in net.layers for blob in layer.blobs)]
    net._whole_forward = cuda_graph.Recording(net._joined_forward, blobs).run
    net._whole_backward = cuda_graph.Recording(net._joined_backward, blobs).run


def run(net, generator):
    x = generator.integers(0, 256, (2, 2, 5, 5), dtype=np.uint8)
    q = net.forward(x=x)["q"].copy()
    net.clear_param_diffs()
    net.backward(q=q)
    net.param_arena[...] -= 0.01 * net.diff_arena
    return q, net.diff_arena.copy(), net.blobs["x"].diff.copy()


def test_recorded_passes_are_the_passes(monkeypatch, graphs):
    plain = make(monkeypatch, as_on_a_gpu=False)
    recorded = make(monkeypatch, as_on_a_gpu=True)
    generators = [np.random.default_rng(0) for _ in range(2)]
    for _ in range(6):
        expected, got = (run(net, g) for net, g in zip((plain, recorded), generators, strict=True))
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert [graph.replays for graph in graphs] == [4, 4]
    recorded.blobs["q"].diff[...] = 2  # the weight of the loss
    assert recorded.run_forward(0, 4) == pytest.approx(2 * float(recorded.blobs["q"].data.sum()))


def test_memory_stays_where_it_was_recorded(monkeypatch, graphs):
    net = make(monkeypatch, as_on_a_gpu=True)
    generator = np.random.default_rng(0)
    run(net, generator)
    places = [b.values.tensor.data_ptr() for b in net._blobs]
    for _ in range(5):
        run(net, generator)
    assert [b.values.tensor.data_ptr() for b in net._blobs] == places
    assert len(graphs) == 2


@pytest.mark.parametrize("change", ["reshape", "precision", "weights"])
def test_what_changes_ends_a_recording(monkeypatch, graphs, change):
    net = make(monkeypatch, as_on_a_gpu=True)
    for _ in range(4):
        net.forward()
    assert len(graphs) == 1
    try:
        if change == "reshape":
            net.blobs["x"].reshape(1, 2, 5, 5)
            net.reshape()
            record_passes_of(net)
        elif change == "precision":
            caffe.set_precision("bf16")
        else:
            net.share_with(make(monkeypatch, as_on_a_gpu=True))
        for _ in range(2):
            net.forward()
        assert len(graphs) == 1
        net.forward()
        assert len(graphs) == 2
    finally:
        caffe.set_precision("float32")


@pytest.mark.usefixtures("graphs")
def test_callbacks_and_partial_passes_are_not_recorded(monkeypatch, graphs):
    net = make(monkeypatch, as_on_a_gpu=True)
    for _ in range(5):
        net.forward(end="c")
        net.backward(start="c")
    seen = []
    net.before_forward(seen.append)
    net.after_backward(seen.append)
    for _ in range(5):
        net.forward()
        net.backward()
    assert not graphs
    assert len(seen) == 5 * 2 * len(net.layers)


def test_only_functions_of_their_blobs_are_recorded():
    assert cuda_graph.is_recordable(net_from_text(NET, x=(1, 2, 5, 5)).layers)
    dropout = 'layer { name: "d" type: "Dropout" bottom: "x" top: "y" }'
    assert not cuda_graph.is_recordable(net_from_text(dropout, x=(1, 2)).layers)


def test_a_failed_recording_leaves_the_pass_as_it_is(monkeypatch, caplog):
    def refuse(*_, **__):
        raise RuntimeError("no capture here")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", refuse)
    calls = []
    recording = cuda_graph.Recording(lambda: calls.append(1), [])
    for _ in range(5):
        recording.run()
    assert len(calls) == 5
    assert "no capture here" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_computes_what_the_processor_does():
    plain = net_from_text(NET, x=(2, 2, 5, 5))
    caffe.set_mode_gpu()
    try:
        on_gpu = net_from_text(NET, x=(2, 2, 5, 5))
    finally:
        caffe.set_mode_cpu()
    on_gpu.param_arena[...] = plain.param_arena
    generators = [np.random.default_rng(0) for _ in range(2)]
    for _ in range(6):
        expected, got = (run(net, g) for net, g in zip((plain, on_gpu), generators, strict=True))
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
