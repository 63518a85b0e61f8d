"""Payloads: an array's values as bytes, in full and in half the length."""

import io

import numpy as np
import pytest
from param_server import payload
from param_server.errors import BadRequest


def test_payload_is_a_view_of_the_array():
    array = np.zeros(4, np.float32)
    view = payload.payload_bytes(array)
    array[0] = 1.0
    assert bytes(view[:4]) == np.float32(1.0).tobytes()


def test_payload_of_a_strided_array_is_its_values():
    array = np.arange(8, dtype=np.float32)[::2]
    assert bytes(payload.payload_bytes(array)) == array.tobytes()


def test_payload_of_another_length_is_refused_before_it_is_read():
    out = np.full(8, 5.0, np.float32)
    with pytest.raises(BadRequest, match="64 bytes, expected 32"):
        payload.read_payload(io.BytesIO(b"\0" * 64), 64, out)
    assert np.all(out == 5.0)


def test_payload_that_ends_early_is_refused():
    with pytest.raises(BadRequest, match="ends 4 bytes early"):
        payload.read_payload(io.BytesIO(b"\0" * 28), 32, np.empty(8, np.float32))


def bfloat16(values):
    """Return values after a journey as bfloat16, and the bytes they travelled as."""
    array = np.array(values, np.float32)
    content = bytes(payload.payload_bytes(array, "bfloat16"))
    out = np.empty_like(array)
    payload.read_payload(io.BytesIO(content), len(content), out, "bfloat16")
    return out, content


def test_bfloat16_is_the_upper_half_of_a_float32_little_endian():
    assert bfloat16([1.0, -2.5])[1] == bytes.fromhex("803f 20c0")


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1 + 2**-8, 1.0),  # halfway, to even: down
        (1 + 3 * 2**-8, 1 + 2**-6),  # halfway, to even: up
        (1 + 2**-8 + 2**-20, 1 + 2**-7),  # above the middle
        (-(1 + 2**-8), -1.0),
        (2.0**-133, 2.0**-133),  # the smallest bfloat16, a denormal
        (3.3961776e38, np.inf),  # beyond the largest
        (np.inf, np.inf),
        (-np.inf, -np.inf),
    ],
)
def test_bfloat16_is_rounded_to_the_nearest_even(value, rounded):
    assert bfloat16([value])[0][0] == rounded


def test_no_nan_becomes_a_number():
    """Rounding the bits of these as if they were a number's would make them infinite, or zero."""
    bits = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000], np.uint32)
    assert np.all(np.isnan(bfloat16(bits.view(np.float32))[0]))


def test_payload_longer_than_a_piece_is_decoded_whole():
    values = np.random.default_rng(0).standard_normal(300_001).astype(np.float32)
    out, content = bfloat16(values)
    assert len(content) == payload.payload_size(values.size, "bfloat16") == 600_002
    assert np.array_equal(out, bfloat16(out)[0])
    assert np.allclose(out, values, rtol=2**-8, atol=0)


def test_length_must_be_that_of_the_dtype():
    out = np.full(8, 5.0, np.float32)
    with pytest.raises(BadRequest, match="32 bytes, expected 16: 8 values of bfloat16"):
        payload.read_payload(io.BytesIO(b"\0" * 32), 32, out, "bfloat16")
    assert np.all(out == 5.0)


@pytest.mark.parametrize("dtype", payload.DTYPES)
def test_nothing_is_a_payload_too(dtype):
    empty = np.empty(0, np.float32)
    assert bytes(payload.payload_bytes(empty, dtype)) == b""
    payload.read_payload(io.BytesIO(), 0, empty, dtype)
