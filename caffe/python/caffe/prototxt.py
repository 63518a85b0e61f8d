"""Reading prototxt and binary protobuf files; no PyTorch.

protobuf's own text parser does the work.  A look through the text before makes it accept and refuse
what the C++ parser does, which Caffe uses; errors name the file, the line and the column.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from google.protobuf import text_format
from google.protobuf.message import DecodeError, Message

from caffe.errors import CaffeError, require
from caffe.files import read_bytes
from caffe.proto import caffe_pb2
from caffe.upgrade import set_snapshot_prefix, upgrade_net, upgrade_solver

if TYPE_CHECKING:
    import os

M = TypeVar("M", bound=Message)

_MAX_TEXT = 1 << 22  # bytes; the largest nets in use have a tenth, and parsing takes seconds
_MAX_STRING = 65535  # characters

# What the parsers differ in, and the strings and comments in which it does not matter.
_TOKEN = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\\n]){0,65535}"?|'(?:\\.|[^'\\\n]){0,65535}'?)
    |(?P<comment>\#[^\n]*)
    |(?P<sign>-(?:[ \t\r\n\v\f]+|\#[^\n]*\n)+)
    |(?P<number>(?<!\w)\.?\d[\w.]*(?:(?<=e)[+-][\w.]*)*)
    |(?P<other>\+|(?<!\w)(?:infinity|inf|nan)f\b|[^\x00-\x7f]+)""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_NUMBER = re.compile(
    r"0x[\da-f]+|0[0-7]+|(?:0|[1-9]\d*)(?:\.\d*)?(?:e[+-]?\d+)?f?|\.\d+(?:e[+-]?\d+)?f?",
    re.IGNORECASE | re.ASCII,
)
_ESCAPES = re.compile(r"""(?:[^\\]|\\[abfnrtv\\?'"xXuU0-7])*""")


def _for_python(text: str, source: str) -> str:
    """Return the text with every minus sign at its number.

    Raises:
        CaffeError: If the C++ parser would not take the text, though the Python one might.
    """

    def translate(match: re.Match[str]) -> str:
        kind, token = match.lastgroup, match[0]
        good = {"string": _ESCAPES, "number": _NUMBER}.get(kind or "")
        # The Python parser takes quadratic time for strings like the last two.
        endless = kind == "string" and (len(token) > _MAX_STRING or "\\" * 33 in token)
        if kind == "other" or endless or (good and not good.fullmatch(token)):
            before = text[: match.start()]
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
            raise CaffeError(f"{source} is not in text format: {line}:{column}: not valid: {token}")
        return token[1:] + "-" if kind == "sign" else token

    return _TOKEN.sub(translate, text)


def _check_complete(message: Message, source: str) -> None:
    missing = message.FindInitializationErrors()  # type: ignore[attr-defined]  # not in the stubs
    require(not missing, f"{source} lacks the required {', '.join(missing)}")


def parse_text(text: str, message: M, source: str = "the text") -> M:
    """Parse prototxt into the message and return it.

    Raises:
        CaffeError: If the text is not such a message; names source, line and column.
    """
    try:
        text_format.Parse(_for_python(text, source), message)
    except (text_format.ParseError, UnicodeError) as error:
        name = message.DESCRIPTOR.name
        raise CaffeError(f"{source} is not a {name} in text format: {error}") from None
    _check_complete(message, source)
    return message


def read_text(path: str | os.PathLike[str], message: M) -> M:
    """Parse a prototxt file into the message and return it.

    Raises:
        CaffeFileError: If the file cannot be read.
        CaffeError: If it is not such a message.
    """
    text = read_bytes(path, _MAX_TEXT).decode(errors="surrogateescape")
    # Bytes that are no UTF-8, most often in comments, are taken to be Latin-1.
    text = re.sub("[\udc80-\udcff]", lambda byte: chr(ord(byte[0]) - 0xDC00), text)
    return parse_text(text, message, str(path))


def read_binary(path: str | os.PathLike[str], message: M) -> M:
    """Parse a binary protobuf file into the message and return it.

    Raises:
        CaffeFileError: If the file cannot be read.
        CaffeError: If it is truncated or something else.
    """
    content = read_bytes(path)
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        name = message.DESCRIPTOR.name
        raise CaffeError(f"{path} is not a binary {name} ({len(content)} bytes): {error}") from None
    _check_complete(message, str(path))
    return message


def read_net(path: str | os.PathLike[str]) -> caffe_pb2.NetParameter:
    """Return the net of a prototxt file, of any age, in today's form."""
    net = read_text(path, caffe_pb2.NetParameter())
    upgrade_net(net, str(path))
    return net


def read_solver(path: str | os.PathLike[str]) -> caffe_pb2.SolverParameter:
    """Return the solver of a prototxt file, of any age, in today's form."""
    solver = read_text(path, caffe_pb2.SolverParameter())
    upgrade_solver(solver, str(path))
    set_snapshot_prefix(solver, str(path))
    return solver
