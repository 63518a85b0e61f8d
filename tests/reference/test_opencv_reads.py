"""OpenCV reads the nets that are saved here, and computes the same: an independent opinion."""

from pathlib import Path

import numpy as np
import pytest
from caffe.proto.caffe_pb2 import NetParameter, SolverParameter, SolverState
from google.protobuf import text_format

import caffe

cv2 = pytest.importorskip("cv2")

ROOT = Path(__file__).resolve().parents[2]


def conv(name, bottom, *, more="", outputs=4, size=3):
    return f"""layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
      convolution_param {{ num_output: {outputs} kernel_size: {size} {more}
        weight_filler {{ type: "xavier" }} bias_filler {{ type: "uniform" min: -1 max: 1 }} }} }}"""


def ip(name, bottom, outputs, more=""):
    return f"""layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"
      inner_product_param {{ num_output: {outputs} {more} weight_filler {{ type: "xavier" }}
        bias_filler {{ type: "uniform" min: -1 max: 1 }} }} }}"""


def layer(kind, name, bottom, top=None, more=""):
    bottoms = "".join(f'bottom: "{b}" ' for b in bottom.split())
    tops = "".join(f'top: "{t}" ' for t in (top or name).split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms}{tops}{more} }}'


def data(*dims):
    shape = " ".join(f"dim: {dim}" for dim in dims)
    return f"""layer {{ name: "data" type: "Input" top: "data"
      input_param {{ shape {{ {shape} }} }} }}"""


NETS = {
    "lenet": [
        data(2, 1, 28, 28),
        conv("conv1", "data", outputs=6, size=5),
        layer("Pooling", "pool1", "conv1", more="pooling_param { kernel_size: 3 stride: 2 }"),
        layer("LRN", "norm1", "pool1", more="lrn_param { local_size: 5 alpha: 0.5 beta: 0.75 }"),
        conv("conv2", "norm1", outputs=8, size=5),
        layer(
            "Pooling",
            "pool2",
            "conv2",
            more="pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }",
        ),
        ip("fc1", "pool2", 20),
        layer("ReLU", "relu1", "fc1", "fc1"),
        layer("Dropout", "drop1", "fc1", "fc1", "dropout_param { dropout_ratio: 0.5 }"),
        ip("fc2", "fc1", 10),
        layer("Softmax", "prob", "fc2"),
    ],
    "residual": [
        data(2, 4, 9, 9),
        conv("conv1", "data", more="pad: 1 bias_term: false"),
        layer("BatchNorm", "bn1", "conv1", "conv1"),
        layer("Scale", "scale1", "conv1", "conv1", "scale_param { bias_term: true }"),
        layer("ReLU", "relu1", "conv1", "conv1"),
        conv("conv2", "conv1", more="pad: 1"),
        layer("BatchNorm", "bn2", "conv2", "conv2"),
        layer("Scale", "scale2", "conv2", "conv2"),
        layer("Eltwise", "sum", "data conv2"),
        layer("ReLU", "relu2", "sum", "sum"),
        layer("Eltwise", "top", "sum conv1", more="eltwise_param { operation: MAX }"),
    ],
    "concat_slice": [
        data(2, 6, 5, 5),
        layer("Slice", "slice", "data", "a b c", "slice_param { slice_point: 1 slice_point: 3 }"),
        conv("one", "a", outputs=2, size=1),
        layer("TanH", "two", "b"),
        layer("Sigmoid", "three", "c"),
        layer("Concat", "top", "two one three two"),
    ],
    "deconvolution": [
        data(2, 3, 5, 6),
        conv("down", "data", more="stride: 2", outputs=6),
        conv("up", "down", more="stride: 2 group: 3", outputs=3, size=4).replace(
            '"Convolution"', '"Deconvolution"'
        ),
        layer("PReLU", "top", "up", more="prelu_param { filler { value: 0.1 } }"),
    ],
    "grouped_dilated": [
        data(2, 4, 12, 10),
        conv("grouped", "data", more="group: 2 pad: 1 stride: 2", outputs=6),
        layer("ELU", "elu", "grouped", "grouped", "elu_param { alpha: 0.5 }"),
        conv("dilated", "grouped", more="dilation: 2 pad: 2"),
        conv(
            "top",
            "dilated",
            more="pad_h: 2 pad_w: 0 stride_h: 1 stride_w: 2",
        ).replace("kernel_size: 3", "kernel_h: 2 kernel_w: 3"),
    ],
    "shapes": [
        data(2, 4, 3, 2),
        layer("Power", "power", "data", more="power_param { power: 2 scale: 0.5 shift: 1 }"),
        layer("Flatten", "flat", "power"),
        ip("fc", "flat", 12, "bias_term: false"),
        layer(
            "Reshape", "map", "fc", more="reshape_param { shape { dim: 0 dim: 3 dim: 2 dim: -1 } }"
        ),
        layer("AbsVal", "top", "map"),
    ],
}


def randomise(net):
    """Give parameters values that a trained net might have."""
    rng = np.random.default_rng(0)
    for name, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            blob.data[...] = rng.normal(0, 0.3, blob.data.shape)
            if net.layer_dict[name].type == "BatchNorm" and index:  # variances, and their weight
                blob.data[...] = rng.uniform(1, 2, blob.data.shape)


def opencvs(prototxt, model, inputs):
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(model))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setInput(inputs)
    (output,) = net.forward(net.getUnconnectedOutLayersNames())
    return output


def check(net, prototxt, folder, low=-1.0, high=1.0):
    """Compare our output with OpenCV's, for the prototxt and for the layers as they are saved."""
    randomise(net)
    model = folder / "w.caffemodel"
    net.save(str(model))
    (name,) = net.inputs
    inputs = np.random.default_rng(1).uniform(low, high, net.blobs[name].data.shape)
    net.blobs[name].data[...] = inputs
    (ours,) = net.forward().values()
    saved = NetParameter.FromString(model.read_bytes())
    for saved_layer in saved.layer:
        del saved_layer.blobs[:]
    structure = folder / "saved.prototxt"
    structure.write_text(text_format.MessageToString(saved))
    for text in (prototxt, structure):
        theirs = opencvs(text, model, inputs.astype(np.float32))
        scale = float(np.abs(ours).max())
        assert theirs.shape == ours.shape
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", NETS)
def test_opencv_computes_the_same(tmp_path, name):
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(f'name: "{name}"\n' + "\n".join(NETS[name]))
    check(caffe.Net(str(prototxt), caffe.TEST), prototxt, tmp_path)


@pytest.mark.parametrize("game", ["deepq", "snake"])
def test_opencv_computes_the_same_q_values(tmp_path, game):
    prototxt = ROOT / "models" / game / "train_val.prototxt"
    check(caffe.Net(str(prototxt), caffe.TEST), prototxt, tmp_path, 0, 255)


V1 = """
input: "data" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 8
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" blobs_lr: 1 blobs_lr: 2
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layers { name: "relu" type: RELU bottom: "conv" top: "conv" }
layers { name: "pool" type: POOLING bottom: "conv" top: "pool"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layers { name: "fc" type: INNER_PRODUCT bottom: "pool" top: "fc"
  inner_product_param { num_output: 5 } }
"""


def test_opencv_reads_a_v1_net_that_was_upgraded(tmp_path):
    prototxt = tmp_path / "v1.prototxt"
    prototxt.write_text(V1)
    check(caffe.Net(str(prototxt), caffe.TEST), prototxt, tmp_path)


def test_saved_nets_keep_what_viewers_show(tmp_path):
    """Name, types, bottoms and tops that lead from layer to layer, shapes of all parameters."""
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text('name: "residual"\n' + "\n".join(NETS["residual"]))
    net = caffe.Net(str(prototxt), caffe.TEST)
    net.save(str(tmp_path / "w.caffemodel"))
    saved = NetParameter.FromString((tmp_path / "w.caffemodel").read_bytes())
    assert saved.name == "residual"
    assert not saved.layers  # the old form
    assert [(entry.name, entry.type) for entry in saved.layer] == [
        (name, layer.type) for name, layer in net.layer_dict.items()
    ]
    known = set()
    for saved_layer in saved.layer:
        assert set(saved_layer.bottom) <= known
        known |= set(saved_layer.top)
        shapes = [list(blob.shape.dim) for blob in saved_layer.blobs]
        assert shapes == [list(blob.data.shape) for blob in net.params.get(saved_layer.name, [])]
        for blob in saved_layer.blobs:
            assert len(blob.data) == np.prod(blob.shape.dim)
            assert not any(blob.HasField(old) for old in ("num", "channels", "height", "width"))
    splits = [saved_layer for saved_layer in saved.layer if saved_layer.type == "Split"]
    assert [(split.name, list(split.bottom), list(split.top)) for split in splits] == [
        (
            "data_data_0_split",
            ["data"],
            ["data_data_0_split_0", "data_data_0_split_1"],
        ),
        (
            "conv1_relu1_0_split",
            ["conv1"],
            ["conv1_relu1_0_split_0", "conv1_relu1_0_split_1"],
        ),
    ]


def test_weights_are_caffes_byte_for_byte(cases, tmp_path):
    """The same values in the same order and encoding as in the file that Caffe wrote."""
    folder = cases / "save_load"
    net = caffe.Net(
        str(folder / "net.prototxt"), caffe.TEST, weights=str(folder / "saved.caffemodel")
    )
    net.save(str(tmp_path / "w.caffemodel"))
    written = (tmp_path / "w.caffemodel").read_bytes()
    assert written == (folder / "saved.caffemodel").read_bytes()


@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_snapshots_are_caffes_byte_for_byte(cases, tmp_path, kind):
    folder = cases / f"solversnap_{kind}_binaryproto"
    param = SolverParameter()
    text = (folder / "solver.prototxt").read_text().replace("{CASE}", str(folder))
    text_format.Parse(text, param)
    param.snapshot_prefix = str(tmp_path / "snap")
    (tmp_path / "solver.prototxt").write_text(text_format.MessageToString(param))
    solver = caffe.get_solver(str(tmp_path / "solver.prototxt"))
    solver.restore(str(folder / "snap_iter_5.solverstate"))
    solver.snapshot()
    state = SolverState.FromString((tmp_path / "snap_iter_5.solverstate").read_bytes())
    state.learned_net = "snap_iter_5.caffemodel"  # the recording's, without its folder
    assert state.SerializeToString() == (folder / "snap_iter_5.solverstate").read_bytes()
    written = (tmp_path / "snap_iter_5.caffemodel").read_bytes()
    assert written == (folder / "snap_iter_5.caffemodel").read_bytes()
