import subprocess
import sys

import pytest
from caffe.errors import CaffeError, CaffeFileError
from caffe.proto.caffe_pb2 import FillerParameter, NetParameter
from caffe.prototxt import parse_text, read_binary, read_net, read_solver, read_weights


def test_a_minus_sign_may_stand_apart():
    assert parse_text("value: - 2 min: -  .5", FillerParameter()).value == -2


@pytest.mark.parametrize("text", ['name: "a - 2"', "name: 'a - 2' # - 3\n"])
def test_strings_and_comments_stay(text):
    assert parse_text(text, NetParameter()).name == "a - 2"


def test_an_error_names_source_and_line(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text('name: "n"\nfoo: 3\n')
    with pytest.raises(CaffeError, match=r"net.prototxt.*2:1.*foo"):
        read_net(path)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b'name: "\xff"')
    with pytest.raises(CaffeError, match="UTF-8"):
        read_net(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CaffeFileError, match="nope"):
        read_solver(tmp_path / "nope")


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b"not a model at all, but long enough"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "w.caffemodel"
    path.write_bytes(content)
    with pytest.raises(CaffeError, match=r"w.caffemodel.*bytes"):
        read_weights(path)


def test_a_truncated_model_is_refused(tmp_path):
    net = NetParameter(name="n")
    net.layer.add(name="a").blobs.add(data=[1.0] * 100)
    path = tmp_path / "w.caffemodel"
    path.write_bytes(net.SerializeToString()[:-10])
    with pytest.raises(CaffeError):
        read_binary(path, NetParameter())


def test_reading_prototxt_needs_no_torch():
    code = (
        "import sys, caffe; from caffe import prototxt, net_spec, io, schedules, updates;"
        "caffe.proto.caffe_pb2.NetParameter; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
