import numpy as np
import pytest
from caffe.gradient_check import net_from_text

import caffe

TEXT = """
name: "w"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "extra" type: "InnerProduct" bottom: "fc1" top: "extra" loss_weight: 1
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def net(path):
    return caffe.Net(path, caffe.TRAIN)


def test_introspection(net):
    assert list(net.blobs) == ["data", "fc1", "extra"]
    assert list(net.params) == ["fc1", "extra"]
    assert list(net.layer_dict) == net._layer_names
    assert (net.inputs, net.outputs) == (["data"], ["extra"])
    assert net.top_names["fc1"] == ["fc1"]
    assert net.bottom_names["extra"] == ["fc1"]
    assert net.blob_loss_weights == {"data": 0, "fc1": 0, "extra": 1}
    assert [layer.type for layer in net.layers] == ["Input", "InnerProduct", "InnerProduct"]
    assert (net._bottom_ids(1), net._top_ids(1)) == ([0], [1])


def test_forward_takes_inputs_and_returns_outputs(net):
    x = np.ones((2, 3), np.uint8)
    result = net.forward(blobs=["fc1"], data=x)
    assert list(result) == ["extra", "fc1"]
    expected = x @ net.params["fc1"][0].data.T + net.params["fc1"][1].data
    np.testing.assert_allclose(result["fc1"], expected, rtol=1e-5)


def test_forward_and_backward_over_a_part(net):
    assert list(net.forward(end="fc1")) == ["fc1"]
    net.blobs["fc1"].data[...] = 1
    net.forward(start="extra")
    assert net.blobs["fc1"].data.sum() == 10
    assert list(net.backward(end="extra", extra=np.ones((2, 2)))) == ["fc1"]
    assert not net.params["fc1"][0].diff.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net.forward(nope=np.ones(2)), "Input blob arguments do not match net inputs."),
        (lambda net: net.forward(data=np.ones((3, 3))), "Input is not batch sized"),
        (lambda net: net.backward(nope=1), "Top diff arguments do not match net outputs."),
        (lambda net: net.backward(extra=np.ones((1, 2))), "Diff is not batch sized"),
        (lambda net: net.forward(start="zz"), "'zz' is not in list"),
        (lambda net: net.set_input_arrays(np.ones(2), np.ones(2)), "MemoryDataLayer"),
    ],
)
def test_errors_are_pycaffes(net, call, message):
    with pytest.raises(ValueError, match=message):
        call(net)


def test_callbacks_hear_of_every_layer(net):
    heard = []
    for name in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(net, name)(lambda index, name=name: heard.append((name, index)))
    net.forward(end="fc1")
    net.backward(start="fc1", end="fc1")
    assert heard == [
        ("before_forward", 0), ("after_forward", 0), ("before_forward", 1), ("after_forward", 1),
        ("before_backward", 1), ("after_backward", 1),
    ]  # fmt: skip


def test_forward_all_cuts_the_last_batch(net):
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    result = net.forward_all(data=x)
    assert result["extra"].shape == (7, 2)
    np.testing.assert_allclose(net.forward(data=x[:2])["extra"], result["extra"][:2], rtol=1e-6)


def test_forward_backward_all_returns_diffs_of_all_rows():
    net = net_from_text('layer { name: "t" type: "TanH" bottom: "x" top: "y" }', x=(2, 1))
    x = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    values, diffs = net.forward_backward_all(x=x, y=np.ones((5, 1), np.float32))
    np.testing.assert_allclose(values["y"], np.tanh(x), rtol=1e-5)
    np.testing.assert_allclose(diffs["x"], 1 - np.tanh(x) ** 2, rtol=1e-4)


def test_the_old_order_of_arguments(path, net, tmp_path):
    weights = str(tmp_path / "w.caffemodel")
    net.save(weights)
    for other in (
        caffe.Net(path, weights, caffe.TEST),
        caffe.Net(path, caffe.TEST, weights=weights),
    ):
        np.testing.assert_array_equal(other.param_arena, net.param_arena)


@pytest.mark.parametrize("arguments", [(), ("w", 1, 2, 3, 4, 5)])
def test_other_arguments_are_refused(path, arguments):
    with pytest.raises(TypeError):
        caffe.Net(path, *arguments)


def test_stages_and_level_choose_layers(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(TEXT + 'layer { name: "s" type: "TanH" bottom: "data" top: "s"'
                    ' include { stage: "deploy" min_level: 1 } }')  # fmt: skip
    assert "s" not in caffe.Net(str(path), caffe.TEST).blobs
    assert "s" in caffe.Net(str(path), caffe.TEST, level=1, stages=["deploy"]).blobs


def test_the_error_of_a_net_names_its_file(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text('layer { name: "a" type: "Foo" }')
    with pytest.raises(caffe.CaffeError, match=r"net.prototxt: layer 'a'.*'Foo'"):
        caffe.Net(str(path), caffe.TEST)


def test_every_public_name_exists():
    from caffe import _exports

    assert set(caffe.__all__) - {"__dir__", "__getattr__"} == set(dir(caffe))
    for name in caffe.__all__:
        assert getattr(caffe, name) is not None
    with pytest.raises(AttributeError, match="nope"):
        _ = caffe.nope
    assert _exports.__dir__() == sorted(_exports.__dir__())
