import json
import math

import numpy as np
import pytest
from caffe.gradient_check import net_from_text

import caffe
from caffe import tuning

NET = """
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 32 kernel_size: 5 weight_filler { type: "msra" } } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "d" type: "Convolution" bottom: "c" top: "d"
  convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "msra" } } }
"""


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """Keep the times in a folder of the test's own."""
    monkeypatch.setattr(tuning.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(tuning._Settings, "times", None)
    yield tmp_path
    caffe.set_lowering("auto")


def names(net):
    return [
        (layer.forward_lowering, layer.backward_lowering)
        for layer in net.layers
        if layer.type == "Convolution"
    ]


def run(net, passes):
    for _ in range(passes):
        net.forward()
        net.backward()


def pretend(monkeypatch, milliseconds):
    """Let `milliseconds` (what, name) be the measured times."""

    def remembered(key, candidates):
        return {name: milliseconds(key.split()[0], name) for name in candidates}

    monkeypatch.setattr(tuning, "_remembered", remembered)


@pytest.mark.usefixtures("memory")
def test_the_fastest_layout_wins_as_a_whole(monkeypatch):
    # channels-last is faster forward, but slower in both directions together
    times = {
        "forward": {"contiguous": 3, "channels_last": 2, "gemm": 9},
        "backward": {"contiguous": 3, "channels_last": 9, "gemm": 8},
        "turning": {"channels_last": 0},
    }
    pretend(monkeypatch, lambda what, name: times[what][name])
    net = net_from_text(NET, x=(4, 3, 24, 24))
    net.forward()
    net.forward()
    assert names(net) == [("contiguous", "contiguous")] * 2
    net.forward()
    assert names(net) == [("channels_last", "contiguous")] * 2
    run(net, 3)
    assert names(net) == [("contiguous", "contiguous")] * 2
    times["backward"]["gemm"] = 1
    net.reshape()
    run(net, 3)
    assert names(net) == [("channels_last", "gemm")] * 2


@pytest.mark.usefixtures("memory")
def test_turning_counts(monkeypatch):
    times = {
        "forward": {"contiguous": 3, "channels_last": 2, "gemm": 9},
        "turning": {"channels_last": 1.5},
    }
    pretend(monkeypatch, lambda what, name: times[what][name])
    net = net_from_text(NET, x=(4, 3, 24, 24))
    for _ in range(3):
        net.forward()
    assert names(net) == [("contiguous", "contiguous")] * 2


def test_times_are_measured_and_remembered(memory):
    net = net_from_text(NET, x=(4, 3, 24, 24))
    run(net, 3)
    (file,) = memory.glob("caffe-*/*.json")
    assert file.parent.stat().st_mode & 0o777 == 0o700
    written = json.loads(file.read_text())
    assert len(written) == 6  # two layers in two directions, in and out
    assert all(0 < ms < math.inf for times in written.values() for ms in times.values())
    # The next process takes what is written, here that gemm is fastest.
    fast = {"gemm": 0.001, "contiguous": 1000.0, "channels_last": 1000.0}
    for key, times in written.items():
        times.update({} if key.startswith("turning") else fast)
    file.write_text(json.dumps(written))
    tuning._Settings.times = None
    other = net_from_text(NET, x=(4, 3, 24, 24))
    run(other, 3)
    assert names(other) == [("gemm", "gemm")] * 2


@pytest.mark.parametrize("spoil", ["folder", "text", "mode"])
def test_a_spoilt_memory_does_no_harm(memory, spoil):
    folder = memory / f"caffe-{tuning.os.getuid()}"
    if spoil == "folder":
        folder.write_text("no folder")
    else:
        folder.mkdir(mode=0o700)
        if spoil == "mode":
            folder.chmod(0o777)
        else:
            tuning._memory_file().write_text("{ not json")
    net = net_from_text(NET, x=(4, 3, 24, 24))
    run(net, 3)
    assert np.isfinite(net.blobs["d"].data).all()
    if spoil == "mode":  # anybody could have written there
        assert not list(folder.iterdir())


def test_the_nets_random_numbers_stay_as_they_were(memory):
    values = []
    for passes in (1, 4):
        caffe.set_random_seed(1)
        run(net_from_text(NET, x=(4, 3, 24, 24)), passes)
        values.append(net_from_text(NET, x=(4, 3, 24, 24)).params["c"][0].data.copy())
    assert list(memory.glob("caffe-*/*.json"))
    np.testing.assert_array_equal(*values)


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("name", ["contiguous", "channels_last", "gemm"])
def test_a_lowering_can_be_chosen(name):
    caffe.set_lowering(name)
    net = net_from_text(NET, x=(4, 3, 24, 24))
    run(net, 4)
    assert names(net) == [(name, name)] * 2


@pytest.mark.usefixtures("memory")
def test_what_cannot_be_computed_so_stays():
    caffe.set_lowering("gemm")
    net = net_from_text(
        """layer { name: "c" type: "Convolution" bottom: "x" top: "y"
        convolution_param { num_output: 2 kernel_size: 2 } }""", x=(1, 2, 5, 5, 5),
    )  # fmt: skip
    run(net, 1)
    assert names(net) == [("contiguous", "contiguous")]


def test_small_nets_are_not_timed(memory):
    run(net_from_text(NET, x=(1, 3, 8, 8)), 5)
    assert not list(memory.iterdir())


def test_an_unknown_lowering_is_refused():
    with pytest.raises(caffe.CaffeError, match="winograd"):
        caffe.set_lowering("winograd")
