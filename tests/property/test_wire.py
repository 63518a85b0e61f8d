"""Whatever is encoded decodes to itself; whatever else arrives is refused in one way."""

import dataclasses
import io
import math

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from param_server import wire
from param_server.errors import BadRequest
from param_server.wire import Counters, Layout, Model, Push, PushAnswer

counts = st.integers(0, 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
counters = st.builds(Counters, counts, counts, counts)
layouts = st.lists(
    st.tuples(texts, st.lists(st.integers(1, 4), min_size=1, max_size=3)), min_size=1, max_size=4
).map(Layout.from_entries)
pushes = st.builds(
    Push,
    run=texts, worker=texts, incarnation=texts, sequence=st.integers(1, 2**63 - 1), epoch=counts,
    version=counts, layout=texts, round=counts, partition=counts, quota=counts, loss=finite,
    steps=st.integers(0, wire.STEPS_LIMIT), episodes=st.lists(finite, max_size=5).map(tuple),
    episode_lengths=st.lists(counts, max_size=5).map(tuple),
    stats=st.dictionaries(texts, finite, max_size=3), want_model=st.booleans(),
    model_dtype=st.sampled_from([*wire.DTYPES]),
)  # fmt: skip
answers = st.builds(
    PushAnswer,
    status=texts, reason=texts, epoch=counts, version=counts, durable_version=counts,
    target_version=counts, counters=counters, round_over=st.booleans(), staleness=counts,
)  # fmt: skip
payloads = arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32))


def read(head, payload=b""):
    content = head + payload
    source = io.BytesIO(content)
    header, length = wire.read_header(source, len(content))
    out = np.empty(length // 4, np.float32)
    wire.read_payload(source, length, out)
    return header, out


@given(pushes, payloads)
def test_push_and_gradient(push, gradient):
    header, out = read(wire.encode_push(push), bytes(wire.payload_bytes(gradient)))
    assert wire.decode_push(header) == push
    assert out.tobytes() == gradient.tobytes()


@given(pushes, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_loss_that_is_not_finite_arrives_as_nan(push, loss):
    header, _ = read(wire.encode_push(dataclasses.replace(push, loss=loss)))
    assert math.isnan(wire.decode_push(header).loss)


@given(answers, st.tuples(counts, counts, counts), counters, payloads)
def test_answer_and_model(answer, versions, totals, weights):
    model = Model(*versions, "digest", totals, weights)
    payload = bytes(wire.payload_bytes(weights))
    header, out = read(wire.encode_answer(answer, model), payload)
    assert wire.decode_answer(header) == answer
    decoded = wire.decode_model(header, out)
    assert dataclasses.replace(decoded, weights=weights).__dict__ == model.__dict__
    assert out.tobytes() == weights.tobytes()


@given(layouts)
def test_layout_slices_cover_the_arena_in_order(layout):
    stop = 0
    for (_, part), entry in zip(layout.slices(), layout.entries, strict=True):
        assert part.start == stop
        assert part.stop - part.start == math.prod(entry.shape)
        stop = part.stop
    assert stop == layout.size


@given(pushes, layouts)
def test_push_that_says_its_entries(push, layout):
    push = dataclasses.replace(push, layout=layout.digest, entries=layout.entries)
    assert wire.decode_push(read(wire.encode_push(push))[0]) == push


any_floats = arrays(np.uint32, st.integers(1, 50), elements=st.integers(0, 2**32 - 1)).map(
    lambda bits: bits.view(np.float32)
)


@settings(max_examples=500)
@given(any_floats)
def test_bfloat16_is_rounded_as_torch_rounds_and_only_once(values):
    """Torch's conversion is another's; of NaN only the kind is compared, not its bits."""
    content = bytes(wire.payload_bytes(values, "bfloat16"))
    out = np.empty_like(values)
    wire.read_payload(io.BytesIO(content), len(content), out, "bfloat16")
    expected = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(out, expected)
    numbers = ~np.isnan(values)
    assert np.array_equal(np.signbit(out[numbers]), np.signbit(values[numbers]))
    assert np.array_equal(np.isnan(out), np.isnan(values))
    assert bytes(wire.payload_bytes(out, "bfloat16")) == content


@given(layouts, layouts)
def test_layouts_differ_somewhere_or_are_equal(one, other):
    assert bool(one.difference(other)) == (one != other)


@given(layouts, layouts)
def test_layout_digests_differ_where_layouts_do(one, other):
    assert (one.digest == other.digest) == (one == other)


@given(st.binary(max_size=64), st.integers(0, 100))
def test_bytes_from_anywhere_are_a_frame_or_are_refused(content, length):
    try:
        header, rest = wire.read_header(io.BytesIO(content), length)
    except BadRequest:
        return
    assert content[:4] == wire.MAGIC
    assert 0 <= rest < length
    assert isinstance(header, dict)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(max_examples=300)
@given(pushes, st.sampled_from([*vars(Push)["__dataclass_fields__"], "kind"]), json_values)
def test_push_with_any_one_field_replaced_decodes_or_is_refused(push, name, value):
    header, _ = read(wire.encode_push(push))
    try:
        decoded = wire.decode_push({**header, name: value})
    except BadRequest:
        return
    wire.encode_push(decoded)


@given(st.dictionaries(st.sampled_from(["status", "counters", "model", "kind"]), json_values))
def test_answers_from_anywhere_decode_or_are_refused(header):
    for decode in (wire.decode_answer, lambda h: wire.decode_model(h, np.empty(0, np.float32))):
        try:
            decode(header)
        except BadRequest:
            continue
