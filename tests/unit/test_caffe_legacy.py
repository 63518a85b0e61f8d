import pytest
from caffe.errors import CaffeError
from caffe.proto.caffe_pb2 import LayerParameter, NetParameter, PoolingParameter
from caffe.prototxt import parse_text
from caffe.upgrade import upgrade_net


def upgraded(text):
    net = parse_text(text, NetParameter())
    upgrade_net(net, "old.prototxt")
    return net.layer


def test_v1_lists_become_param_messages():
    (layer,) = upgraded(
        """layers { name: "c" type: CONVOLUTION bottom: "x" top: "y" blobs_lr: 1 blobs_lr: 2
        weight_decay: 1 weight_decay: 0 param: "w" convolution_param { num_output: 4 } }"""
    )
    assert (layer.type, layer.convolution_param.num_output) == ("Convolution", 4)
    assert [(p.name, p.lr_mult, p.decay_mult) for p in layer.param] == [("w", 1, 1), ("", 2, 0)]


def test_v1_data_settings_move_to_the_transformation():
    (layer,) = upgraded('layers { type: DATA data_param { source: "s" scale: 0.5 crop_size: 3 } }')
    assert layer.data_param.source == "s"
    assert not layer.data_param.HasField("scale")
    assert (layer.transform_param.scale, layer.transform_param.crop_size) == (0.5, 3)


def test_v0_fields_find_their_messages():
    conv, pool = upgraded(
        """layers { layer { name: "c" type: "conv" num_output: 4 kernelsize: 5 biasterm: false }
          bottom: "x" top: "y" }
        layers { layer { name: "p" type: "pool" pool: AVE kernelsize: 2 stride: 2 }
          bottom: "y" top: "z" }"""
    )
    assert list(conv.convolution_param.kernel_size) == [5]
    assert not conv.convolution_param.bias_term
    assert pool.pooling_param.pool == PoolingParameter.AVE
    assert (pool.pooling_param.kernel_size, pool.pooling_param.stride) == (2, 2)


PADDING = 'layers { layer { name: "p" type: "padding" pad: 2 } bottom: "x" top: "p" }'


def test_v0_padding_layers_become_their_readers_pad():
    layers = upgraded(PADDING + 'layers { layer { name: "c" type: "conv" } bottom: "p" top: "y" }')
    assert [layer.name for layer in layers] == ["c"]
    assert list(layers[0].convolution_param.pad) == [2]
    assert list(layers[0].bottom) == ["x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PADDING + 'layers { layer { name: "c" type: "relu" } bottom: "p" top: "y" }', "padding"),
        ('layers { layer { name: "c" type: "nope" } }', "'nope'"),
        ('layers { name: "a" } layer { name: "b" }', "both"),
    ],
)
def test_what_caffe_does_not_upgrade_is_refused(text, message):
    with pytest.raises(CaffeError, match=message):
        upgraded(text)


def test_v0_fields_that_a_type_does_not_have_are_passed_over(caplog):
    (layer,) = upgraded('layers { layer { name: "c" type: "relu" num_output: 3 new_num: 2 } }')
    assert layer == LayerParameter(name="c", type="ReLU")
    assert [record.args[-1] for record in caplog.records] == ["num_output", "new_num"]


def test_a_v0_net_keeps_no_newer_fields():
    net = parse_text(
        """name: "n" input: "x" input_dim: [1, 2, 3, 4] input_shape { dim: 9 } state { level: 1 }
        layers { layer { name: "a" type: "relu" } bottom: "x" top: "y" } layer { name: "b" }""",
        NetParameter(),
    )
    upgrade_net(net)
    assert [layer.name for layer in net.layer] == ["input", "a"]
    assert list(net.layer[0].input_param.shape[0].dim) == [1, 2, 3, 4]
    assert not net.HasField("state")
