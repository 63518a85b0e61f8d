"""Heads of requests: what is read, and that nothing ambiguous is."""

import http.client
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from param_server.request_head import NotHttp, parse_head

HOST = b"\r\nHost: x"


def test_head_is_read_with_its_fields_under_the_names_of_wsgi():
    head = parse_head(
        b"POST /a%20b?c=d HTTP/1.1\r\nHost: x:1\r\nContent-Length: 12\r\nContent-Type: t/u\r\n"
        b"X-One:\t1 \r\nempty:"
    )
    assert (head.method, head.target, head.version) == ("POST", "/a%20b?c=d", "HTTP/1.1")
    assert head.fields == {
        "HTTP_HOST": "x:1", "CONTENT_LENGTH": "12", "CONTENT_TYPE": "t/u", "HTTP_X_ONE": "1",
        "HTTP_EMPTY": "",
    }  # fmt: skip
    assert head.body_length == 12


def test_repeated_field_is_joined_and_one_that_would_pass_for_another_is_dropped():
    head = parse_head(b"GET / HTTP/1.1\r\nHost: x\r\nA-B: 1\r\nA_B: 2\r\na-b: 3")
    assert head.fields == {"HTTP_HOST": "x", "HTTP_A_B": "1,3"}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"", 400),
        (b"nonsense", 400),
        (b"GET /", 400),
        (b"GET  / HTTP/1.1" + HOST, 400),
        (b"GET / HTTP/1.1 " + HOST, 400),
        (b"GET /a b HTTP/1.1" + HOST, 400),
        (b"GET /\xff HTTP/1.1" + HOST, 400),
        (b"GET / http/1.1" + HOST, 400),
        (b"G(T / HTTP/1.1" + HOST, 400),
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/2.0" + HOST, 505),
        (b"GET / HTTP/1.1\r\nHost : x", 400),
        (b"GET / HTTP/1.1\r\nHost", 400),
        (b"GET / HTTP/1.1\r\n: x", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded", 400),
        (b"GET / HTTP/1.1\r\nHost: x\nA: 1", 400),
        (b"GET / HTTP/1.1\r\nHost: x\rA: 1", 400),
        (b"GET / HTTP/1.1\r\nHost: x\0", 400),
        (b"GET / HTTP/1.1\r\nHost: x" + b"\r\nA: 1" * 100, 431),
    ],
)
def test_what_is_no_head_of_http_1_is_refused(text, status):
    with pytest.raises(NotHttp) as caught:
        parse_head(text)
    assert caught.value.status == status


@pytest.mark.parametrize("value", ["x", "-1", "+1", "1, 2", "1_0", "0x1", "", "9" * 20, "²"])
def test_length_that_is_no_number_is_refused(value):
    head = parse_head(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {value}".encode("latin-1"))
    with pytest.raises(NotHttp, match="not one number"):
        head.body_length  # noqa: B018


def test_length_that_is_said_twice_is_refused():
    head = parse_head(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1")
    with pytest.raises(NotHttp):
        head.body_length  # noqa: B018


@pytest.mark.parametrize(
    ("version", "fields", "expected"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: keep-alive", True),
        ("1.1", "Connection: close", False),
        ("1.1", "Connection: TE , Close", False),
        ("1.1", "Connection: disclosed", True),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive", False),
    ],
)
def test_connection_is_kept_as_http_says(version, fields, expected):
    text = f"GET / HTTP/{version}\r\nHost: x\r\n{fields}".removesuffix("\r\n")
    assert parse_head(text.encode()).keeps_alive is expected


def test_chunked_body_and_expectation_are_seen():
    head = parse_head(
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-Continue"
    )
    assert head.is_chunked
    assert head.awaits_continue


token = st.text("abcXYZ019-!#~", min_size=1, max_size=8)
value = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)


@given(st.dictionaries(token, value, max_size=8))
def test_good_fields_are_read_as_the_standard_library_reads_them(fields):
    lines = "".join(f"{name}: {text}\r\n" for name, text in fields.items())
    theirs = http.client.parse_headers(io.BytesIO(f"{lines}\r\n".encode()))
    ours = parse_head(f"GET / HTTP/1.0\r\n{lines}".removesuffix("\r\n").encode()).fields
    expected = {}
    for name, text in theirs.items():
        key = "HTTP_" + name.upper().replace("-", "_")
        expected[key] = f"{expected[key]},{text}" if key in expected else text
    assert ours == expected


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused_or_read_and_never_fail(text):
    for begin in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n"):
        try:
            head = parse_head(begin + text)
        except NotHttp:
            continue
        assert all("\r" not in line and "\n" not in line for line in head.fields.values())
