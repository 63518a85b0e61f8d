"""Bodies that a hostile or broken client could send, as hypothesis strategies, and their judge."""

import io
import json
import struct

import hypothesis.strategies as st
import jsonschema
import numpy as np
from param_server import wire
from param_server.openapi import DOCUMENT, PROBLEMS

from tests.store_rig import LAYOUT, make_push

PUSH_PATH = "/api/v1/update_model"
JSON_PATHS = ("/api/v1/leave", "/api/v1/evaluation", "/api/v1/incident", "/api/v1/run")

_DEEP = "@deep@"  # stands in a header for what json.dumps cannot nest
_PROBLEM, _PUSH = (
    jsonschema.Draft202012Validator({**DOCUMENT, "$ref": f"#/components/schemas/{name}"})
    for name in ("Problem", "Push")
)

_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
_nasty_values = st.sampled_from([
    -1, 0, 1.5, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, -(10**400), 1e308, -1e308, 5e-324,
    True, True, None, "", "x" * 257, "\ud800", "\0", "../..", "<script>", "bfloat16",
    [], {}, [None] * 1000, [[]], _DEEP,
])  # fmt: skip
_values = st.one_of(_nasty_values, _nasty_values, _nasty_values, _json_values)
_numbers = st.sampled_from([0.5, -21.0, 7, 0, 1e38, 1e39, 1e308, -1e308, 10**400, 5e-324, None])
_no_json = st.sampled_from(
    [b"[" * 4000, b'{"a":' * 700, b'{"run": "\xff"}', b"\xef\xbb\xbf{}", b"NaN"]
)


@st.composite
def _headers(draw):
    """Draw a push's header, its numbers and names large and strange at times."""
    push = make_push(
        draw(st.integers(1, 9)),
        worker=draw(st.sampled_from(["w0", "w1"])),
        incarnation=str(draw(st.uuids())),  # most of them new
        version=draw(st.integers(0, 3)),
        want_model=draw(st.booleans()),
        episodes=[1.0],
        episode_lengths=(3,),
        stats={"epsilon": 0.5},
    )
    header = {**wire.push_fields(push), "dtype": draw(st.sampled_from([*wire.DTYPES]))}
    if draw(st.booleans()):
        header["loss"], header["stats"]["epsilon"], header["episodes"][0] = draw(
            st.tuples(_numbers, _numbers, _numbers)
        )
    return header


def _as_json(header, depth):
    deep = "[" * depth + "]" * depth
    return json.dumps(header).replace(f'"{_DEEP}"', deep).encode()


def _flip(content, places):
    changed = bytearray(content)
    for place, bits in places:
        changed[place % len(changed)] ^= bits
    return bytes(changed)


_places = st.lists(st.tuples(st.integers(0, 10**4), st.integers(1, 255)), min_size=1, max_size=4)
_damages = ["none", "field", "field", "field", "fields", "text", "payload", "length", "bits", "cut"]


@st.composite
def _frames(draw):
    """Draw a frame with one kind of damage, or none."""
    damage = draw(st.sampled_from(_damages))
    header = draw(_headers())
    size = wire.payload_size(LAYOUT.size, header["dtype"])
    for _ in range({"field": 1, "fields": 4}.get(damage, 0)):
        name = draw(st.sampled_from([*header, "entries", "other"]))
        if draw(st.integers(0, 3)):
            header[name] = draw(_values)
        else:
            header.pop(name, None)
    text = draw(_no_json) if damage == "text" else _as_json(header, draw(st.integers(0, 3000)))
    small, nan = (np.full(size // 4, x, np.float32).tobytes() for x in (0.25, np.nan))
    payload = draw(
        st.sampled_from([small, small, small, nan]) | st.binary(min_size=size, max_size=size)
    )
    if damage == "payload":
        payload = draw(
            st.sampled_from([b"", payload[:-1], payload + b"\0", payload * 2, payload[::2]])
        )
    length = draw(st.integers(0, 2**32 - 1)) if damage == "length" else len(text)
    frame = struct.pack("<4sI", b"DDQ1", length) + text + payload
    if damage == "bits":
        frame = _flip(frame, draw(_places))
    return frame[: draw(st.integers(0, len(frame)))] if damage == "cut" else frame


_objects = st.dictionaries(
    st.sampled_from(
        ["worker", "incarnation", "version", "return_mean", "return_se", "episodes", "run"]
    ),
    _values,
).map(lambda document: json.dumps(document).encode())

#: (path, body) of POSTs: frames and what is none for pushes, objects and what is none for the rest
posts = st.one_of(
    st.tuples(st.just(PUSH_PATH), _frames()),
    st.tuples(st.just(PUSH_PATH), _frames()),
    st.tuples(st.just(PUSH_PATH), st.binary(max_size=300)),
    st.tuples(st.sampled_from(JSON_PATHS), _objects | st.binary(max_size=300) | _no_json),
)


def gradient_of(body):
    """Return the gradient of a frame that was accepted, read by other means than the product's."""
    header, payload = _parts(body)
    if header["dtype"] == "bfloat16":
        payload = (np.frombuffer(payload, "<u2").astype(np.uint32) << 16).tobytes()
    gradient = np.frombuffer(payload, "<f4")
    assert gradient.shape == (LAYOUT.size,)
    return gradient


def judge(path, body, response):
    """Assert that an answer (status, content type, content) is documented, and deserved.

    Returns:
        The verdict on a push that has one, else nothing.
    """
    status, content_type, content = response
    assert str(status) in DOCUMENT["paths"][path]["post"]["responses"], status
    assert status < 500, content
    if path == PUSH_PATH and status in {200, 409, 422}:  # understood, whatever became of it
        header, _ = _parts(body)
        _PUSH.validate(header)
        "".join(header[name] for name in ("run", "worker", "incarnation", "layout")).encode()
    if status == 200:
        if path != PUSH_PATH:
            return ""
        header, _ = wire.read_header(io.BytesIO(content), len(content))
        return wire.decode_answer(header).status
    assert content_type == "application/problem+json"
    document = json.loads(content)
    _PROBLEM.validate(document)
    assert document["status"] == status
    assert PROBLEMS[document["type"].removeprefix("urn:ddq:problem:")][0] == status
    assert document["detail"]
    return ""


def _parts(frame):
    length = int.from_bytes(frame[4:8], "little")
    return json.loads(frame[8 : 8 + length]), frame[8 + length :]
