import time

import numpy as np
import pytest
from caffe.errors import CaffeError
from caffe.proto.caffe_pb2 import BlobProto, NetParameter
from caffe.wire import Reader, set_floats


def fields(content):
    reader = Reader(content, "here")
    return [(n, v if isinstance(v, int) else bytes(v)) for n, v in reader.fields(reader.content)]


@pytest.mark.parametrize("count", [0, 1, 31, 32, 5000])
def test_floats_are_written_as_protobuf_writes_them(count):
    values = np.random.default_rng(0).normal(size=count).astype(np.float32)
    fast = BlobProto(data=[7], num=3)
    set_floats(fast, "data", values)
    assert list(fast.data) == values.tolist()
    slow = BlobProto(data=values.tolist(), num=3)
    assert fast.SerializeToString() == slow.SerializeToString()


def test_any_array_of_numbers_will_do():
    blob = BlobProto()
    set_floats(blob, "diff", np.arange(6).reshape(2, 3).T)
    assert list(blob.diff) == [0, 3, 1, 4, 2, 5]


def test_millions_of_floats_are_no_loop():
    values, blob = np.zeros(4_000_000, np.float32), BlobProto()
    started = time.perf_counter()
    set_floats(blob, "data", values)
    assert time.perf_counter() - started < 0.5  # number by number: 0.7 s


def test_a_message_is_taken_apart():
    net = NetParameter(name="n", debug_info=True)
    net.layer.add(name="é", loss_weight=[0.5])
    assert fields(net.SerializeToString()) == [
        (1, b"n"),
        (7, 1),
        (100, net.layer[0].SerializeToString()),
    ]
    assert fields(net.layer[0].SerializeToString())[1] == (5, b"\0\0\0\x3f")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x0a\x05ab", "field 1 claims 5 bytes where 2 are left"),
        (b"\x0a\xff\xff\xff\xff\x07", "claims 2147483647 bytes where 0"),
        (b"\x0a", "ends within an integer"),
        (b"\xff" * 11, "ends within an integer"),
        (b"\x0d\0\0", "claims 4 bytes where 2"),
        (b"\x0b\x0c", "number 1 and wire type 3"),
        (b"\x02\0", "number 0"),
        (b"\0" * 10, "number 0"),
    ],
)
def test_what_is_no_message_is_refused(content, message):
    with pytest.raises(CaffeError, match=f"here is damaged.*{message}"):
        fields(content)


def test_the_number_of_fields_has_a_limit():
    reader = Reader(b"\xa2\x06\0" * 1_000_000, "here")
    started = time.perf_counter()
    with pytest.raises(CaffeError, match="more than 131072 fields"):
        for _ in reader.fields(reader.content):
            pass
    assert time.perf_counter() - started < 5
