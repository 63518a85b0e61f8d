"""The head of an HTTP/1.1 request: its first line and its fields, read strictly.

RFC 9112.  What two readers could understand differently is refused: a line feed without its
carriage return, a folded line, a space before a colon, two lengths.  The fields come out under
the names that WSGI has for them (PEP 3333), for that is what they are for.  The standard library
reads heads with its parser for mail, which accepts all of these and takes four times as long.

Knows no socket.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_FIRST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/(\d)\.(\d)")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_LENGTH = re.compile(r"[0-9]{1,19}")
_MOST_FIELDS = 100
_WITHOUT_PREFIX = {"CONTENT-TYPE": "CONTENT_TYPE", "CONTENT-LENGTH": "CONTENT_LENGTH"}


class NotHttp(Exception):  # noqa: N818 - named for what came
    """Bytes that are no request; ``status`` is what HTTP has for it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Head(NamedTuple):
    """A request's first line and fields."""

    method: str
    target: str  # path and query, as they came
    version: str
    fields: dict[str, str]  # by their names in WSGI; repeated ones are joined by commas

    @property
    def body_length(self) -> int:
        """Number of bytes of the body, 0 if nothing is said of one.

        Raises:
            NotHttp: If it is said twice, or is no number.
        """
        text = self.fields.get("CONTENT_LENGTH", "0")
        if not _LENGTH.fullmatch(text):
            raise NotHttp(400, "Content-Length is not one number")
        return int(text)

    @property
    def is_chunked(self) -> bool:
        """Whether the body is encoded for the transfer, so that its length says nothing."""
        return "HTTP_TRANSFER_ENCODING" in self.fields

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow on the connection."""
        options = self.fields.get("HTTP_CONNECTION", "").lower()
        return self.version != "HTTP/1.0" and "close" not in re.split(r"[\s,]+", options)

    @property
    def awaits_continue(self) -> bool:
        """Whether the client sends its body only when told to go on."""
        return self.fields.get("HTTP_EXPECT", "").lower() == "100-continue"


def parse_head(text: bytes) -> Head:
    """Read a head, without the empty line that ends it.

    Raises:
        NotHttp: If it is none of HTTP/1.
    """
    first, *lines = text.decode("latin-1").split("\r\n")
    match = _FIRST_LINE.fullmatch(first)
    if match is None:
        raise NotHttp(400, "the request does not begin with METHOD PATH HTTP/1.1")
    method, target, major, minor = match.groups()
    if major != "1":
        raise NotHttp(505, f"HTTP/{major}.{minor} is not spoken here, HTTP/1.1 is")
    if len(lines) > _MOST_FIELDS:
        raise NotHttp(431, f"the request has {len(lines)} header fields, at most {_MOST_FIELDS}")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not (colon and _VALUE.fullmatch(value)):
            raise NotHttp(400, "a header field is not NAME: VALUE on one line")
        key = _key(name)
        if key:
            value = value.strip(" \t")
            fields[key] = f"{fields[key]},{value}" if key in fields else value
    if minor != "0" and "HTTP_HOST" not in fields:
        raise NotHttp(400, "a request of HTTP/1.1 names its Host")
    return Head(method, target, "HTTP/1.0" if minor == "0" else "HTTP/1.1", fields)


@lru_cache(maxsize=256)
def _key(name: str) -> str:
    """Return a field's name in WSGI, empty if it would pass for that of another field."""
    if not _NAME.fullmatch(name):
        raise NotHttp(400, "a header field's name is not one word")
    if "_" in name:
        return ""
    name = name.upper()
    return _WITHOUT_PREFIX.get(name) or "HTTP_" + name.replace("-", "_")
