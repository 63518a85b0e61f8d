"""The token, the cookie, and the names a loopback server answers to."""

import pytest
from param_server.access import Access, is_loopback, recognise
from param_server.errors import Unauthorized, WrongHost

HERE = Access("s3cret", host="127.0.0.1", port=5500)
OUT = Access("s3cret", host="0.0.0.0", port=5500)


@pytest.mark.parametrize("given", ["Bearer s3cret", "bearer  s3cret "])
def test_bearer_of_the_token_passes(given):
    HERE.require_token(given)


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", "Bearer S3CRET", "Basic s3cret", "s3cret", "Bearer é"]
)
def test_anybody_else_does_not(given):
    with pytest.raises(Unauthorized):
        HERE.require_token(given)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:5500", "localhost:5500", "LOCALHOST:5500", "[::1]:5500"]
)
def test_pages_are_open_on_loopback_under_its_names(host):
    assert HERE.require_page(authorization=None, cookie=None, host=host) is False


@pytest.mark.parametrize("host", [None, "", "evil.example:5500", "127.0.0.1", "127.0.0.1:80"])
def test_pages_have_no_other_name(host):
    with pytest.raises(WrongHost):
        HERE.require_page(authorization=None, cookie=None, host=host)


def test_bearer_reads_pages_under_any_name():
    assert HERE.require_page(authorization="Bearer s3cret", cookie=None, host="evil.example")


@pytest.mark.parametrize("cookie", [None, "", "s3cret", "é"])
def test_pages_beyond_loopback_need_token_or_cookie(cookie):
    with pytest.raises(Unauthorized):
        OUT.require_page(authorization=None, cookie=cookie, host="127.0.0.1:5500")


def test_cookie_opens_the_pages_and_is_not_the_token():
    assert OUT.require_page(authorization=None, cookie=OUT.cookie(), host="box:5500")
    assert HERE.require_page(authorization=None, cookie=HERE.cookie(), host="localhost:5500")
    assert "s3cret" not in OUT.cookie()
    assert OUT.cookie() != Access("other", host="0.0.0.0", port=5500).cookie()


def test_cookie_is_no_token():
    with pytest.raises(Unauthorized):
        OUT.require_token(f"Bearer {OUT.cookie()}")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("10.0.0.1", False), ("box", False)],
)  # fmt: skip
def test_loopback_is_told_from_the_network(host, expected):
    assert is_loopback(host) is expected


def test_server_that_asks_is_told_who_has_shown_the_token():
    told = []
    recognise({"ddq.recognise": lambda: told.append("known")})
    recognise({})
    assert told == ["known"]
