import resource
import time

import h5py
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


def file_of(path, *layers, field="layer"):
    """Write a .caffemodel of layers {name: ..., blobs: ...}; return its path."""
    net = NetParameter()
    for layer in layers:
        getattr(net, field).add(**layer)
    path.write_bytes(net.SerializeToString())
    return str(path)


BIAS = BlobProto(data=[1, 2, 3], shape={"dim": [3]})
WEIGHTS = BlobProto(data=range(12), shape={"dim": [3, 4]})
OLD = {
    "four old dimensions": BlobProto(data=range(12), num=1, channels=1, height=3, width=4),
    "doubles": BlobProto(double_data=range(12), shape={"dim": [3, 4]}),
    "today's": WEIGHTS,
}


@pytest.mark.parametrize("form", OLD)
@pytest.mark.parametrize("field", ["layer", "layers", "layers of V0"])
def test_files_of_any_age_load(tmp_path, form, field):
    layer = {"name": "fc", "blobs": [OLD[form], BIAS]}
    if field == "layers of V0":
        layer = {"layer": layer, "bottom": ["x"]}
    target = make()
    target.copy_from(file_of(tmp_path / "w", layer, field=field.partition(" ")[0]))
    assert target.params["fc"][0].data.ravel().tolist() == list(range(12))
    assert target.params["fc"][1].data.tolist() == [1, 2, 3]


def test_floats_that_are_not_packed_load(tmp_path):
    unpacked = b"".join(b"\x2d" + np.float32(value).tobytes() for value in range(12))
    blob = unpacked + BlobProto(shape={"dim": [3, 4]}).SerializeToString()
    parts = [b"\x0a\x02fc", b"\x3a" + bytes([len(blob)]) + blob]
    parts += [b"\x3a" + bytes([BIAS.ByteSize()]) + BIAS.SerializeToString()]
    layer = b"".join(parts)
    (tmp_path / "w").write_bytes(b"\xa2\x06" + bytes([len(layer)]) + layer)
    target = make()
    target.copy_from(str(tmp_path / "w"))
    assert target.params["fc"][0].data.ravel().tolist() == list(range(12))


@pytest.mark.parametrize("with_diff", [False, True])
def test_diffs_travel_when_asked(tmp_path, with_diff):
    source, target = make(), make()
    source.params["fc"][1].diff[...] = 5
    path = str(tmp_path / "w")
    weights.save(source, path, with_diff=with_diff)
    target.copy_from(path)
    assert target.params["fc"][1].diff.tolist() == [5 * with_diff] * 3


def test_what_protobuf_writes_number_by_number_is_what_we_write():
    blob = Blob(2, 3)
    blob.data[...] = np.arange(6).reshape(2, 3)
    assert weights.blob_to_proto(blob, with_diff=True) == BlobProto(
        shape={"dim": [2, 3]}, data=range(6), diff=[0] * 6
    )


# -- what is refused leaves the net as it was ---------------------------------------------------


def refused(path, match, net=None):
    net = net or make()
    net.params[next(iter(net.params))][0].diff[...] = 3
    before = [(b.data.copy(), b.diff.copy()) for blobs in net.params.values() for b in blobs]
    started = time.process_time()
    with pytest.raises(caffe.CaffeError, match=match) as error:
        net.copy_from(str(path))
    assert time.process_time() - started < 2
    assert "\n" not in str(error.value)
    after = [(b.data, b.diff) for blobs in net.params.values() for b in blobs]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def fc(*blobs):
    return {"name": "fc", "blobs": blobs}


GOOD_FIRST = """layer { name: "second" type: "InnerProduct" bottom: "x" top: "z"
  inner_product_param { num_output: 3 } }"""


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        ([WEIGHTS], r"layer 'fc' has 1 parameters in the file, but 2 in the net"),
        ([WEIGHTS, BlobProto(data=[1] * 4, shape={"dim": [4]})], r"1 of .*\[4\] .*but \[3\]"),
        ([WEIGHTS, BlobProto(data=[1, 2, 3])], r"1 of layer 'fc' has the shape \[\] in"),
        ([WEIGHTS, BlobProto(shape={"dim": [3]}, data=[1, 2])], "holds 2 values .* makes 3"),
        ([WEIGHTS, BlobProto(shape={"dim": [1 << 62, 1 << 62]})], r"has the shape \[4611686"),
        ([WEIGHTS, BlobProto(shape={"dim": [-3]})], r"has the shape \[-3\]"),
        ([WEIGHTS, BlobProto(shape={"dim": [1] * 33})], "claims 33 axes"),
        ([WEIGHTS, BlobProto(num=1, channels=1, height=1, width=1 << 30)], "1073741824"),
        ([WEIGHTS, BlobProto(shape={"dim": [3]}, data=[1, 2, np.nan])], "1 of 3 values are NaN"),
        ([WEIGHTS, BlobProto(shape={"dim": [3]}, data=[np.inf] * 3)], "fc': 3 of 3 values"),
        ([WEIGHTS, BlobProto(shape={"dim": [3]}, double_data=[1, 2, 1e300])], "infinite"),
        ([WEIGHTS, BlobProto(shape={"dim": [3]}, data=[1] * 3, diff=[np.nan] * 3)], "NaN"),
        ([WEIGHTS, BlobProto(shape={"dim": [3]}, data=[1] * 3, diff=[1])], "holds 1 values"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(tmp_path, blobs, message):
    good = {"name": "second", "blobs": [WEIGHTS, BIAS]}
    path = file_of(tmp_path / "w.caffemodel", good, fc(*blobs))
    refused(path, f"w.caffemodel: .*{message}", make(extra=GOOD_FIRST))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones(4), r"1 of layer 'fc' has the shape \[4\] in the file, but \[3\] in the net"),
        (np.float32([1, np.nan, 3]), "1 of layer 'fc': 1 of 3 values are NaN or infinite"),
        (np.float64([1, 2, 1e300]), "1 of 3 values are NaN or infinite"),
        (np.bytes_(b"abc"), r"shape \[\]"),
        (np.array([b"a", b"b", b"c"]), "is no dataset of numbers"),
        (None, "is no dataset of numbers"),
        (h5py.SoftLink("/data/fc/0"), "is a link"),
        ("absent", "1 of layer 'fc' is not in the file, which holds 1"),
    ],
)
def test_hdf5_parameters_that_do_not_fit_are_refused(tmp_path, value, message):
    path = tmp_path / "w.caffemodel.h5"
    with h5py.File(path, "w") as file:
        file["data/fc/0"] = np.ones((3, 4))
        if value is None:
            file.create_group("data/fc/1")
        elif not isinstance(value, str):
            file["data/fc/1"] = value
    refused(path, f"w.caffemodel.h5: .*{message}")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["iter"], "no group 'data'"),
        (["data"], "no group 'data'"),
        (["data/fc"], "'data/fc' is no group"),
        (["data/fc/0", "data/fc/1", "data/fc/2"], "has 3 parameters in the file, but 2"),
        (["data/fc/one", "data/fc/two"], "0 of layer 'fc' is not in the file"),
    ],
)
def test_hdf5_files_of_something_else_are_refused(tmp_path, names, message):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name in names:
            file[name] = np.ones(3)
    refused(tmp_path / "w.h5", message)


def test_layers_of_an_hdf5_file_are_not_links(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["data/fc"] = h5py.ExternalLink("/etc/passwd", "/")
        file["data/unknown"] = h5py.ExternalLink("/etc/passwd", "/")
    refused(tmp_path / "w.h5", "'fc' in '/data' is a link")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xff\xff", b"not a model at all, but long enough", b"\x0a\x01n"]
)
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "w.caffemodel").write_bytes(content)
    refused(tmp_path / "w.caffemodel", rf"w.caffemodel is damaged .*\({len(content)} bytes\)")


@pytest.mark.parametrize("cut", [1, 10, 30, 60, 75])
@pytest.mark.parametrize("save", ["save", "save_hdf5"])
def test_a_truncated_model_is_refused(tmp_path, save, cut):
    path = tmp_path / "w"
    getattr(make(), save)(str(path))
    path.write_bytes(path.read_bytes()[:-cut])
    refused(path, "w is damaged|w: parameter")


def nested(field, content):
    return field + varint(len(content)) + content


def varint(value):
    head = b""
    while value > 127:
        head, value = head + bytes([value & 127 | 128]), value >> 7
    return head + bytes([value])


BOMBS = {
    "a layer of 2 GiB": b"\xa2\x06\xff\xff\xff\xff\x07",
    "a blob of 2 GiB": nested(b"\xa2\x06", b"\x0a\x02fc\x3a\xff\xff\xff\xff\x07"),
    "values of 2 GiB": nested(
        b"\xa2\x06", b"\x0a\x02fc" + nested(b"\x3a", b"\x2a\xff\xff\xff\xff\x07")
    ),
    "layers without end": b"\xa2\x06\0" * 3_000_000,
    "blobs without end": nested(b"\xa2\x06", b"\x0a\x02fc" + b"\x3a\0" * 3_000_000),
    "axes without end": nested(
        b"\xa2\x06",
        b"\x0a\x02fc" + nested(b"\x3a", nested(b"\x3a", nested(b"\x0a", b"\1" * 3_000_000))) * 2,
    ),
    "groups without end": b"\x0b" * 3_000_000,
    "old layers without end": b"\x12\x02\x0a\0" * 3_000_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_do_not_go_off(tmp_path, bomb):
    net = make()
    path = tmp_path / "w.caffemodel"
    path.write_bytes(BOMBS[bomb])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "w.caffemodel", net)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 << 10  # KiB; protobuf itself: gigabytes


def test_more_than_protobuf_holds_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.files, "MAX_MESSAGE", 1 << 24)
    with pytest.raises(caffe.CaffeError, match=r"would have 60 bytes.*HDF5"):
        make().save(str(tmp_path / "w"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a/b", "."])
def test_hdf5_refuses_names_that_it_cannot_hold(tmp_path, name):
    with pytest.raises(caffe.CaffeError, match=rf"w.h5.*'{name}'"):
        make(name=name).save_hdf5(str(tmp_path / "w.h5"))


def test_hdf5_refuses_two_layers_of_one_name(tmp_path):
    same = 'layer { name: "fc" type: "ReLU" bottom: "x" top: "z" }'
    with pytest.raises(caffe.CaffeError, match="'fc'"):
        make(extra=same).save_hdf5(str(tmp_path / "w.h5"))


def test_hdf5_keeps_all_diffs(tmp_path):
    shared = """layer { name: "b" type: "InnerProduct" bottom: "x" top: "z" param { name: "w" }
      inner_product_param { num_output: 3 bias_term: false } }"""
    net = make(extra=shared + shared.replace('"b"', '"c"').replace('"z"', '"v"'))
    weights.save_hdf5(net, tmp_path / "w.h5", with_diff=True)
    with h5py.File(tmp_path / "w.h5") as file:
        assert [list(file[f"{kind}/c"]) for kind in ("data", "diff")] == [[], ["0"]]


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
    for save in (make().save, make().save_hdf5):
        with pytest.raises(RuntimeError, match="Could not write file /nope/w: No such file"):
            save("/nope/w")


def test_sharing_with_other_shapes_is_refused():
    with pytest.raises(caffe.CaffeError, match="'fc'"):
        make().share_with(make(num_output=5))
