"""Frames and messages: what they look like on the wire, and what is refused."""

import io
import json
import math

import numpy as np
import pytest
from param_server import wire
from param_server.errors import BadRequest
from param_server.wire import Counters, Layout, Model, Push, PushAnswer

LAYOUT = Layout.from_entries([("conv1/0", (2, 3)), ("conv1/1", (2,))])
PUSH = Push(
    run="r1",
    worker="w0",
    incarnation="i0",
    sequence=1,
    epoch=7,
    version=3,
    layout=LAYOUT.digest,
    round=2,
    partition=1,
    quota=8,
    loss=0.5,
    steps=16,
    episodes=(1.0, -21.0),
    episode_lengths=(10, 900),
    stats={"q_mean": 0.25},
    want_model=True,
)
ANSWER = PushAnswer("applied", "", 7, 4, 2, 0, Counters(16, 2, 4), round_over=False, staleness=1)


def frame(header: bytes, payload: bytes = b"") -> tuple[io.BytesIO, int]:
    return io.BytesIO(header + payload), len(header) + len(payload)


def raw_frame(text: bytes, payload: bytes = b"") -> tuple[io.BytesIO, int]:
    return frame(wire.PREFIX.pack(wire.MAGIC, len(text)) + text, payload)


def test_frame_begins_as_documented():
    head = wire.encode_push(PUSH)
    assert head[:4] == b"DDQ1"
    assert int.from_bytes(head[4:8], "little") == len(head) - 8
    assert json.loads(head[8:])["kind"] == "push"


def test_push_survives_the_wire():
    gradient = np.arange(8, dtype=np.float32)
    source, length = frame(wire.encode_push(PUSH), bytes(wire.payload_bytes(gradient)))
    header, payload_length = wire.read_header(source, length)
    out = np.empty(8, np.float32)
    wire.read_payload(source, payload_length, out)
    assert wire.decode_push(header) == PUSH
    assert np.array_equal(out, gradient)


def test_loss_and_stats_that_are_not_finite_arrive_as_nan():
    push = Push(**{**vars(PUSH), "loss": math.inf, "stats": {"q_mean": math.nan}})
    decoded = wire.decode_push(wire.read_header(*frame(wire.encode_push(push)))[0])
    assert math.isnan(decoded.loss)
    assert math.isnan(decoded.stats["q_mean"])


def test_answer_without_model_survives_the_wire():
    header, length = wire.read_header(*frame(wire.encode_answer(ANSWER)))
    assert wire.decode_answer(header) == ANSWER
    assert wire.decode_model(header, np.empty(0, np.float32)) is None
    assert length == 0


@pytest.mark.parametrize("in_answer", [False, True])
def test_model_survives_the_wire(in_answer):
    weights = np.linspace(-1, 1, 8, dtype=np.float32)
    model = Model(7, 4, 2, LAYOUT.digest, Counters(16, 2, 4), weights)
    head = wire.encode_answer(ANSWER, model) if in_answer else wire.encode_model(model)
    source, length = frame(head, bytes(wire.payload_bytes(weights)))
    header, payload_length = wire.read_header(source, length)
    out = np.empty(8, np.float32)
    wire.read_payload(source, payload_length, out)
    decoded = wire.decode_model(header, out)
    assert vars(decoded) | {"weights": None} == vars(model) | {"weights": None}
    assert np.array_equal(decoded.weights, weights)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least 8 bytes"),
        (b"DDQ1", "at least 8 bytes"),
        (b"DDQ2\x02\0\0\0{}", "begins with"),
        (b"DDQ1\xff\xff\xff\xff{}", "length 4294967295"),
        (b"DDQ1\x05\0\0\0{}", "length 5"),
        (b"DDQ1\x02\0\0\0\xff\xff", "expected JSON"),
        (b"DDQ1\x02\0\0\0{]", "expected JSON"),
        (b"DDQ1\x03\0\0\0NaN", "expected JSON"),
        (b"DDQ1\x02\0\0\0[]", "expected a JSON object"),
        (b"DDQ1\x88\x13\0\0" + b"[" * 5000, "expected JSON"),
    ],
)
def test_header_that_is_none_is_refused(content, message):
    with pytest.raises(BadRequest, match=message):
        wire.read_header(io.BytesIO(content), len(content))


def test_header_of_an_impossible_number_is_refused():
    with pytest.raises(BadRequest, match="expected JSON"):
        wire.read_header(*raw_frame(b'{"a":' + b"9" * 5000 + b"}"))


def test_frame_that_ends_early_is_refused():
    source, length = frame(wire.encode_push(PUSH))
    with pytest.raises(BadRequest, match="ends 10 bytes early"):
        wire.read_header(io.BytesIO(source.getvalue()[:-10]), length)


def test_header_beyond_its_limit_is_not_sent():
    push = Push(**{**vars(PUSH), "episodes": (1.5,) * 300_000})
    with pytest.raises(ValueError, match="exceeds"):
        wire.encode_push(push)


def header_of_push(**changes):
    header, _ = wire.read_header(*frame(wire.encode_push(PUSH)))
    return {**header, **changes}


OPTIONAL = {"model_dtype", "entries"}


@pytest.mark.parametrize("name", sorted(set(vars(PUSH)) - OPTIONAL))
def test_push_without_one_of_its_fields_is_refused(name):
    header = header_of_push()
    del header[name]
    with pytest.raises(BadRequest, match=f"'{name}' is missing"):
        wire.decode_push(header)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "model"),
        ("dtype", "float64"),
        ("run", 5),
        ("worker", "x" * 300),
        ("incarnation", "\ud800"),
        ("sequence", 0),
        ("sequence", True),
        ("epoch", -1),
        ("version", 2**63),
        ("version", 1.5),
        ("layout", None),
        ("loss", "low"),
        ("steps", "4"),
        ("steps", 2**32),
        ("episodes", [None]),
        ("episodes", 3),
        ("episodes", [10**400]),
        ("episodes", [1e39]),
        ("episode_lengths", [-1]),
        ("stats", []),
        ("stats", {"q": "x"}),
        ("want_model", 1),
        ("model_dtype", "float16"),
        ("model_dtype", None),
    ],
)
def test_push_with_a_field_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(BadRequest, match=f"'{name}'"):
        wire.decode_push(header_of_push(**{name: value}))


def test_push_may_leave_out_what_has_a_default():
    header = header_of_push()
    del header["model_dtype"]
    assert "entries" not in header
    assert wire.decode_push(header) == PUSH


def test_push_may_say_what_its_layout_is_the_digest_of():
    push = Push(**{**vars(PUSH), "entries": LAYOUT.entries})
    assert wire.decode_push(json.loads(wire.encode_push(push)[8:])) == push


@pytest.mark.parametrize(
    "entries",
    [
        [["conv1/0", [2, 3]]],
        [["conv1/0", [2, 3]], ["conv1/1", [2, 0]]],
        [["conv1/0", [1] * 1000]],
        [["conv1/0"]],
        [[7, [2]]],
        ["ab"],
        {"conv1/0": [2, 3]},
        None,
        3,
    ],
)
def test_entries_that_are_not_those_of_the_layout_are_refused(entries):
    with pytest.raises(BadRequest, match="'entries'"):
        wire.decode_push(header_of_push(entries=entries))


@pytest.mark.parametrize("dtype", wire.DTYPES)
def test_frames_say_the_dtype_of_their_payload(dtype):
    model = Model(7, 4, 2, LAYOUT.digest, Counters(16, 2, 4), np.ones(8, np.float32))
    for head in (
        wire.encode_push(PUSH, dtype),
        wire.encode_answer(ANSWER, model, dtype),
        wire.encode_model(model, dtype),
    ):
        assert wire.payload_dtype(wire.read_header(*frame(head))[0]) == dtype


@pytest.mark.parametrize("dtype", ["float16", "", None, 4, ["float32"], {}])
def test_dtype_that_nobody_knows_is_refused(dtype):
    with pytest.raises(BadRequest, match=r"'dtype'.*expected one of float32, bfloat16"):
        wire.payload_dtype({"dtype": dtype})


def test_fields_nobody_knows_are_passed_over():
    assert wire.decode_push(header_of_push(of_a_later_version=1)) == PUSH
