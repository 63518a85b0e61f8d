import gc

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
        (lambda net: net.forward(data=7), "Input is not batch sized"),
        (lambda net: net.forward(data=np.ones((2, 4))), "Input does not fit: 'data' has the shape"),
        (lambda net: net.forward(data=[["a"] * 3] * 2), "Input does not fit"),
        (lambda net: net.forward_all(), "give an array"),
        (lambda net: net.forward_all(nope=np.ones((3, 3))), "Input blob arguments do not match"),
        (lambda net: net.forward_all(data=7), "must be of one length"),
        (lambda net: net.forward_backward_all(nope=np.ones(2)), "arrays are given for inputs"),
        (lambda net: net.forward_backward_all(), "give an array"),
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


def test_what_numpy_would_broadcast_is_broadcast_as_in_pycaffe(net):
    net.forward(data=np.array([[1], [2]]))
    assert net.blobs["data"].data.tolist() == [[1, 1, 1], [2, 2, 2]]


def test_a_loss_without_axes_is_one_value_a_batch():
    net = net_from_text('layer { name: "e" type: "Reduction" bottom: "x" top: "y" }', x=(2, 3))
    assert net.forward_all(x=np.ones((4, 3)))["y"].tolist() == [6, 6]
    assert net.forward_all(blobs=["x"], x=np.ones((3, 3)))["x"].shape == (3, 3)


def test_forward_backward_all_goes_on_without_inputs_or_top_diffs():
    net = net_from_text('layer { name: "t" type: "Power" bottom: "x" top: "y" power_param '
                        '{ scale: 3 } } force_backward: true', x=(2, 1))  # fmt: skip
    net.blobs["x"].data[...] = 2
    values, diffs = net.forward_backward_all(y=np.arange(3, dtype=np.float32)[:, None])
    assert values["y"].ravel().tolist() == [6, 6, 6]
    assert diffs["x"].ravel().tolist() == [0, 3, 6]
    net.blobs["y"].diff[...] = 1
    values, diffs = net.forward_backward_all(diffs=["y"], x=np.ones((3, 1), np.float32))
    assert values["y"].ravel().tolist() == [3, 3, 3]
    assert sorted(diffs) == ["x", "y"]


MEMORY = "".join(
    f"""layer {{ name: "{name}" type: "MemoryData" top: "{name}" top: "{name}_label"
      memory_data_param {{ batch_size: 2 channels: 1 height: 1 width: {width} }} }}
    """
    for name, width in (("first", 3), ("second", 4))
)


@pytest.mark.parametrize(
    ("layer", "name", "width"),
    [
        ((), "first", 3),
        ((0,), "first", 3),
        (("first",), "first", 3),
        ((1,), "second", 4),
        ((-1,), "second", 4),
        (("second",), "second", 4),
    ],
)
def test_any_memory_data_layer_takes_arrays(layer, name, width):
    net = net_from_text(MEMORY)
    data = np.arange(4 * width, dtype=np.float32).reshape(4, 1, 1, width)
    net.set_input_arrays(data, np.arange(4, dtype=np.float32), *layer)
    for batch in (slice(0, 2), slice(2, 4), slice(0, 2)):
        net.forward(start=name, end=name)
        np.testing.assert_array_equal(net.blobs[name].data, data[batch])
        assert net.blobs[f"{name}_label"].data.ravel().tolist() == [batch.start, batch.start + 1]


@pytest.mark.parametrize("layer", [2, -3, "nope", "tanh"])
def test_arrays_for_no_memory_data_layer_are_refused(layer):
    net = net_from_text(MEMORY)
    with pytest.raises(RuntimeError, match=r"no MemoryData layer; of this net are \['first'"):
        net.set_input_arrays(np.ones((2, 1, 1, 3)), np.ones(2), layer)


def test_labels_that_are_not_contiguous_are_copied():
    net = net_from_text(MEMORY)
    net.set_input_arrays(
        np.ones((2, 1, 1, 3), np.float32), np.arange(4, dtype=np.float32)[::2], "first"
    )
    net.forward(end="first")
    assert net.blobs["first_label"].data.ravel().tolist() == [0, 2]


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


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ((), {}),
        (("w", 1, 2, 3, 4, 5), {}),
        ((None,), {}),
        (("train",), {}),
        ((caffe.TEST, "0"), {}),
        ((caffe.TEST,), {"stages": "deploy"}),
        ((caffe.TEST,), {"stages": [1]}),
        ((caffe.TEST,), {"nope": 1}),
    ],
)
def test_other_arguments_are_refused(path, arguments, settings):
    with pytest.raises(TypeError, match="Net takes"):
        caffe.Net(path, *arguments, **settings)


def test_there_are_two_phases(path):
    with pytest.raises(caffe.CaffeError, match="phase must be"):
        caffe.Net(path, 2)


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


def test_parameters_and_blobs_outlive_their_net(path):
    net = caffe.Net(path, caffe.TRAIN)
    blobs = [*net.blobs.values(), *(blob for blobs in net.params.values() for blob in blobs)]
    views = [(blob.data, blob.diff) for blob in blobs]
    del net, blobs
    gc.collect()
    for data, diff in views:
        data[...] = diff[...] = 1
        assert data.sum() == diff.sum() == data.size


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, {"always", "least 0", "only 0"}),
        ({"level": 1}, {"always", "least 0", "least 1", "only 1"}),
        ({"level": 1, "stages": ["b"]}, {"always", "least 0", "least 1", "only 1", "b", "b at 1"}),
        ({"stages": ["a", "b"]}, {"always", "least 0", "only 0", "b", "a and b", "a"}),
    ],
)
def test_rules_of_levels_and_stages(tmp_path, settings, shown):
    rules = {
        "always": "", "least 0": "min_level: 0", "least 1": "min_level: 1",
        "only 0": "min_level: 0 max_level: 0", "only 1": "min_level: 1 max_level: 1",
        "a": 'stage: "a"', "b": 'stage: "b"', "a and b": 'stage: "a" stage: "b"',
        "b at 1": 'stage: "b" min_level: 1',
    }  # fmt: skip
    path = tmp_path / "net.prototxt"
    path.write_text("".join(
        f'layer {{ name: "{name}" type: "DummyData" top: "{name}" dummy_data_param '
        f'{{ shape {{ dim: 1 }} }} {f"include {{ {rule} }}" if rule else ""} }}'
        for name, rule in rules.items()
    ))  # fmt: skip
    assert set(caffe.Net(str(path), caffe.TEST, **settings).blobs) == shown


def test_types_have_pycaffes_names(net):
    names = [type(x).__name__ for x in (net.layers, net.params["fc1"], net.blobs["data"].shape)]
    assert names == ["LayerVec", "BlobVec", "IntVec"]
    assert net.blobs["data"].shape == (2, 3)
    assert list(net.blobs["data"].shape) == [2, 3]
    with pytest.raises(AttributeError):
        net.blobs["data"].diff = 0


def test_all_arguments_may_be_given_by_keyword(path):
    assert caffe.Net(network_file=path, phase=caffe.TEST, level=0, stages=None, weights=None).blobs


def test_every_public_name_exists():
    from caffe import _exports

    assert set(caffe.__all__) - {"__dir__", "__getattr__"} == set(dir(caffe))
    for name in caffe.__all__:
        assert getattr(caffe, name) is not None
    with pytest.raises(AttributeError, match="nope"):
        _ = caffe.nope
    assert _exports.__dir__() == sorted(_exports.__dir__())
