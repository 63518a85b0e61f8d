import pytest
from caffe.gradient_check import gradient_errors, net_from_text
from caffe.layer import Layer, TorchLayer, create_layer, layer_types, register
from caffe.proto.caffe_pb2 import LayerParameter

import caffe


def test_the_known_types_are_caffes():
    names = caffe.layer_type_list()
    assert names == sorted(names)
    assert {"Convolution", "LSTM", "Python", "SPP", "Softmax"} <= set(names)
    assert len(names) >= 55


def test_an_unknown_type_is_named_with_the_known_ones():
    with pytest.raises(caffe.CaffeError, match=r"'a'.*'Foo'.*AbsVal, "):
        create_layer(LayerParameter(name="a", type="Foo"))


def test_a_layer_is_its_forward_alone():
    @register("Cube")
    class Cube(TorchLayer):
        def reshape(self, bottom, top):
            top[0].resize(bottom[0].shape)

        def compute(self, *bottom):
            return bottom[0] ** 3

    assert "Cube" in layer_types()
    net = net_from_text('layer { name: "c" type: "Cube" bottom: "x" top: "y" }', x=(2, 3))
    net.blobs["x"].data[...] = 1.5
    assert max(gradient_errors(net).values()) < 1e-2


def test_a_layer_in_place_differentiates_what_it_overwrote():
    net = net_from_text(
        'layer { name: "p" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }'
        'layer { name: "s" type: "Scale" bottom: "y" top: "y" '
        'scale_param { filler { type: "gaussian" std: 1 } } }',
        x=(1, 4),
    )
    net.blobs["x"].data[...] = [[-1, -0.2, 0.3, 2]]
    assert max(gradient_errors(net).values()) < 1e-2


PRODUCT = """layer { name: "f" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {
    num_output: 2 bias_term: false weight_filler { type: "xavier" } } %s }"""


@pytest.mark.parametrize("field", ["data", "double_data"])
def test_parameters_take_the_values_that_stand_in_the_net(field):
    values = " ".join(f"{field}: {value}" for value in (1, 2, 3, 4))
    net = net_from_text(PRODUCT % f"blobs {{ shape {{ dim: 2 dim: 2 }} {values} }}", x=(1, 2))
    assert net.params["f"][0].data.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("blobs", "message"),
    [("blobs { data: 1 }", "4 values, but the net gives 1"), ("blobs {} blobs {}", "gives it 2")],
)
def test_values_in_the_net_that_do_not_fit_are_refused(blobs, message):
    with pytest.raises(caffe.CaffeError, match=message):
        net_from_text(PRODUCT % blobs, x=(1, 2))


def test_forward_records_no_graph():
    net = net_from_text('layer { name: "t" type: "TanH" bottom: "x" top: "y" }', x=(1, 2))
    net.forward()
    assert not net.blobs["y"].data_tensor.requires_grad


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('type: "TanH" bottom: "x" bottom: "z" top: "y"', "has 2 bottoms, but takes 1"),
        ('type: "Eltwise" bottom: "x" top: "y"', "has 1 bottoms, but takes 2 to any number"),
        ('type: "TanH" bottom: "x"', "has 0 tops"),
    ],
)
def test_numbers_of_bottoms_and_tops_are_checked(text, message):
    with pytest.raises(caffe.CaffeError, match=message):
        net_from_text(f'layer {{ name: "a" {text} }}', x=(1, 2), z=(1, 2))


def test_a_constant_bottom_takes_no_gradient():
    net = net_from_text(
        """layer { name: "i" type: "TanH" bottom: "x" top: "r" }
        layer { name: "b" type: "BatchReindex" bottom: "z" bottom: "r" top: "y" }""",
        x=(2,), z=(3, 2),
    )  # fmt: skip
    net.forward()
    with pytest.raises(caffe.CaffeError, match="bottom 1"):
        net.backward()


def test_a_layer_without_backward_says_so():
    layer = Layer(LayerParameter(name="a"))
    layer.backward([], [False], [])  # nothing is asked for
    with pytest.raises(caffe.CaffeError, match="no backward"):
        layer.backward([], [False, True], [])
