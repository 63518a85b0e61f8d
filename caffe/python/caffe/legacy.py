"""The two oldest forms of a layer, V0 and V1, and what became of their fields; no PyTorch."""

from __future__ import annotations

import logging

from caffe.errors import CaffeError, require
from caffe.proto import caffe_pb2

logger = logging.getLogger(__name__)

_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
}

_V0_TYPES = {
    "accuracy": "Accuracy",
    "bnll": "BNLL",
    "concat": "Concat",
    "conv": "Convolution",
    "data": "Data",
    "dropout": "Dropout",
    "euclidean_loss": "EuclideanLoss",
    "flatten": "Flatten",
    "hdf5_data": "HDF5Data",
    "hdf5_output": "HDF5Output",
    "im2col": "Im2col",
    "images": "ImageData",
    "infogain_loss": "InfogainLoss",
    "innerproduct": "InnerProduct",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MultinomialLogisticLoss",
    "pool": "Pooling",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "softmax_loss": "SoftmaxWithLoss",
    "split": "Split",
    "tanh": "TanH",
    "window_data": "WindowData",
}

# V0 field: {V0 type: where it went}; "" stands for every type.
_V0_FIELDS = {
    "num_output": {"conv": "convolution_param", "innerproduct": "inner_product_param"},
    "biasterm": {
        "conv": "convolution_param.bias_term",
        "innerproduct": "inner_product_param.bias_term",
    },
    "weight_filler": {"conv": "convolution_param", "innerproduct": "inner_product_param"},
    "bias_filler": {"conv": "convolution_param", "innerproduct": "inner_product_param"},
    "pad": {"conv": "convolution_param", "pool": "pooling_param"},
    "kernelsize": {
        "conv": "convolution_param.kernel_size",
        "pool": "pooling_param.kernel_size",
    },
    "group": {"conv": "convolution_param"},
    "stride": {"conv": "convolution_param", "pool": "pooling_param"},
    "pool": {"pool": "pooling_param"},
    "dropout_ratio": {"dropout": "dropout_param"},
    "local_size": {"lrn": "lrn_param"},
    "alpha": {"lrn": "lrn_param"},
    "beta": {"lrn": "lrn_param"},
    "k": {"lrn": "lrn_param"},
    "source": {
        "data": "data_param",
        "hdf5_data": "hdf5_data_param",
        "images": "image_data_param",
        "window_data": "window_data_param",
        "infogain_loss": "infogain_loss_param",
    },
    "batchsize": {
        "data": "data_param.batch_size",
        "hdf5_data": "hdf5_data_param.batch_size",
        "images": "image_data_param.batch_size",
        "window_data": "window_data_param.batch_size",
    },
    "scale": {"": "transform_param"},
    "meanfile": {"": "transform_param.mean_file"},
    "cropsize": {"": "transform_param.crop_size"},
    "mirror": {"": "transform_param"},
    "rand_skip": {"data": "data_param", "images": "image_data_param"},
    "shuffle_images": {"images": "image_data_param.shuffle"},
    "new_height": {"images": "image_data_param"},
    "new_width": {"images": "image_data_param"},
    "concat_dim": {"concat": "concat_param"},
    "det_fg_threshold": {"window_data": "window_data_param.fg_threshold"},
    "det_bg_threshold": {"window_data": "window_data_param.bg_threshold"},
    "det_fg_fraction": {"window_data": "window_data_param.fg_fraction"},
    "det_context_pad": {"window_data": "window_data_param.context_pad"},
    "det_crop_mode": {"window_data": "window_data_param.crop_mode"},
    "hdf5_output_param": {"hdf5_output": ""},
}
_V0_COMMON = ("name", "type", "blobs", "blobs_lr", "weight_decay")


def upgrade_layers(net: caffe_pb2.NetParameter, source: str) -> None:
    """Replace a net's old `layers` by today's `layer`, in place.

    Raises:
        CaffeError: If a layer's type is unknown, or the net has layers of today's form too.
    """
    old = list(net.layers)
    if any(layer.HasField("layer") for layer in old):
        # As in Caffe, fields that came after the form V0 are lost.
        for field in ("layer", "state", "input_shape", "debug_info"):
            net.ClearField(field)
        for layer in _without_padding(old, source):
            _upgrade_v0(layer, net.layer.add(), source)
    else:
        require(
            not net.layer,
            f"{source} has both `layer` and `layers`, which is its old form: use `layer` alone",
        )
        for layer in old:
            _upgrade_v1(layer, net.layer.add())
    del net.layers[:]


def _set_specs(
    old: caffe_pb2.V1LayerParameter | caffe_pb2.V0LayerParameter,
    target: caffe_pb2.LayerParameter,
    fields: dict[str, str],
) -> None:
    """Turn lists with an entry for every parameter into a message for every parameter."""
    for field, name in fields.items():
        for index, value in enumerate(getattr(old, field)):
            while len(target.param) <= index:
                target.param.add()
            setattr(target.param[index], name, value)


def _upgrade_v1(old: caffe_pb2.V1LayerParameter, target: caffe_pb2.LayerParameter) -> None:
    target.name = old.name
    if old.HasField("type"):
        target.type = _TYPES[caffe_pb2.V1LayerParameter.LayerType.Name(old.type)]
    specs = {
        "param": "name",
        "blob_share_mode": "share_mode",
        "blobs_lr": "lr_mult",
        "weight_decay": "decay_mult",
    }
    _set_specs(old, target, specs)
    for field, value in old.ListFields():
        if field.name in ("name", "type", *specs):
            continue
        if field.is_repeated:
            getattr(target, field.name).extend(value)
        else:
            getattr(target, field.name).CopyFrom(value)
    # Data layers used to hold the settings of their transformation themselves.
    param_name = {"Data": "data_param", "ImageData": "image_data_param"}.get(target.type)
    param_name = "window_data_param" if target.type == "WindowData" else param_name
    if param_name:
        param = getattr(target, param_name)
        for name in ("scale", "mean_file", "crop_size", "mirror"):
            if param.HasField(name):
                setattr(target.transform_param, name, getattr(param, name))
                param.ClearField(name)


def _without_padding(
    layers: list[caffe_pb2.V1LayerParameter], source: str
) -> list[caffe_pb2.V1LayerParameter]:
    """Return V0 layers without padding layers: what read one pads for itself."""
    makers: dict[str, caffe_pb2.V1LayerParameter] = {}
    kept = []
    for original in layers:
        layer = caffe_pb2.V1LayerParameter()
        layer.CopyFrom(original)
        for index, name in enumerate(layer.bottom):
            maker = makers.get(name)
            if maker is None or maker.layer.type != "padding":
                continue
            require(
                layer.layer.type in ("conv", "pool") and len(layer.bottom) == 1,
                f"{source}: layer '{layer.layer.name}' reads a padding layer, which only conv "
                "and pool may, with one bottom",
            )
            require(
                len(maker.bottom) == 1 and len(maker.top) == 1,
                f"{source}: padding layer '{maker.layer.name}' needs one bottom and one top",
            )
            layer.layer.pad = maker.layer.pad
            layer.bottom[index] = maker.bottom[0]
        if layer.layer.type != "padding":
            kept.append(layer)
        for name in layer.top:
            makers[name] = original
    return kept


def _upgrade_v0(
    connection: caffe_pb2.V1LayerParameter, target: caffe_pb2.LayerParameter, source: str
) -> None:
    old = connection.layer
    target.name = old.name
    target.bottom.extend(connection.bottom)
    target.top.extend(connection.top)
    if old.HasField("type"):
        if old.type not in _V0_TYPES:
            raise CaffeError(f"{source}: layer '{old.name}': unknown old layer type '{old.type}'")
        target.type = _V0_TYPES[old.type]
    target.blobs.extend(old.blobs)
    _set_specs(old, target, {"blobs_lr": "lr_mult", "weight_decay": "decay_mult"})
    for field, value in old.ListFields():
        if field.name in _V0_COMMON:
            continue
        places = _V0_FIELDS.get(field.name, {})
        place = places.get(old.type, places.get(""))
        if place is None:  # a field that layers of this type do not have: Caffe goes on too
            logger.warning("%s: layer '%s' has no use for %s", source, old.name, field.name)
            continue
        message_name, _, name = place.partition(".")
        name = name or field.name
        message = getattr(target, message_name) if message_name else target
        if message.DESCRIPTOR.fields_by_name[name].is_repeated:
            getattr(message, name).append(value)
        elif hasattr(value, "CopyFrom"):
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
