import numpy as np
import pytest
from caffe.blob import Blob
from caffe.gradient_check import net_from_text
from caffe.proto.caffe_pb2 import BlobProto, NetParameter

import caffe
from caffe import weights


def make(num_output=3, name="fc", extra=""):
    net = net_from_text(
        f"""layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "y"
        inner_product_param {{ num_output: {num_output} weight_filler {{ type: "xavier" }} }} }}"""
        + extra,
        x=(2, 4),
    )
    net.params[name][1].data[...] = 0.25
    return net


@pytest.mark.parametrize("save", ["save", "save_hdf5"])
def test_saved_weights_load_again(tmp_path, save):
    source, target = make(), make()
    path = str(tmp_path / "w")
    getattr(source, save)(path)
    target.param_arena[:] = 0
    target.copy_from(path)
    np.testing.assert_array_equal(target.param_arena, source.param_arena)


@pytest.mark.parametrize("save", ["save", "save_hdf5"])
def test_layers_are_matched_by_name(tmp_path, save):
    path = str(tmp_path / "w")
    getattr(make(name="other"), save)(path)
    target = make()
    before = target.param_arena.copy()
    target.copy_from(path)
    np.testing.assert_array_equal(target.param_arena, before)


@pytest.mark.parametrize("save", ["save", "save_hdf5"])
def test_another_shape_is_refused_with_file_and_layer(tmp_path, save):
    path = str(tmp_path / "w.bin")
    getattr(make(num_output=5), save)(path)
    with pytest.raises(caffe.CaffeError, match=r"w.bin.*'fc'.*\[5, 4\]"):
        make().copy_from(path)


def test_another_number_of_parameters_is_refused(tmp_path):
    path = tmp_path / "w.caffemodel"
    net = NetParameter()
    net.layer.add(name="fc").blobs.add()
    path.write_bytes(net.SerializeToString())
    with pytest.raises(caffe.CaffeError, match="1 parameters in the file, but 2"):
        make().copy_from(str(path))


@pytest.mark.parametrize(
    "proto",
    [
        BlobProto(data=[1, 2, 3], num=1, channels=1, height=1, width=3),
        BlobProto(double_data=[1, 2, 3], shape={"dim": [3]}),
    ],
)
def test_old_shapes_and_doubles_load(proto):
    blob = Blob(3)
    weights.blob_from_proto(blob, proto, "here")
    assert blob.data.tolist() == [1, 2, 3]


def test_a_wrong_number_of_values_leaves_the_blob():
    blob = Blob(3)
    with pytest.raises(caffe.CaffeError, match="here holds 2 values"):
        weights.blob_from_proto(blob, BlobProto(data=[1, 2], shape={"dim": [3]}), "here")
    assert not blob.data.any()


def test_diffs_travel_when_asked():
    blob, other = Blob(2), Blob(2)
    blob.diff[...] = 5
    weights.blob_from_proto(other, weights.blob_to_proto(blob, with_diff=True), "here")
    assert other.diff.tolist() == [5, 5]


def test_hdf5_keeps_a_shared_parameter_once(tmp_path):
    shared = """layer { name: "b" type: "InnerProduct" bottom: "x" top: "z"
      param { name: "w" } inner_product_param { num_output: 3 bias_term: false } }
    layer { name: "c" type: "InnerProduct" bottom: "x" top: "v"
      param { name: "w" } inner_product_param { num_output: 3 bias_term: false } }"""
    path = str(tmp_path / "w.h5")
    source = make(extra=shared)
    source.params["b"][0].data[...] = 7
    source.save_hdf5(path, write_diff=True)
    target = make(extra=shared)
    target.load_hdf5(path)
    assert (target.params["c"][0].data == 7).all()


def test_a_missing_file_raises_as_in_pycaffe():
    with pytest.raises(RuntimeError, match=r"Could not open file /nope\.caffemodel"):
        make().copy_from("/nope.caffemodel")
    with pytest.raises(RuntimeError, match="Could not open"):
        make().load_hdf5("/nope.h5")
    with pytest.raises(RuntimeError, match="Could not open"):
        make().save("/nope/w.caffemodel")


def test_an_hdf5_file_of_something_else_is_refused(tmp_path):
    path = str(tmp_path / "x.h5")
    with weights.open_hdf5(path, "w") as file:
        file["iter"] = 3
    assert weights.is_hdf5(path)
    with pytest.raises(caffe.CaffeError, match="not a weights file"):
        make().copy_from(path)


def test_sharing_with_other_shapes_is_refused():
    with pytest.raises(caffe.CaffeError, match="'fc'"):
        make().share_with(make(num_output=5))
