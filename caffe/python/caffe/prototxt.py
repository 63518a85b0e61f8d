"""Reading prototxt and binary protobuf files; no PyTorch.

protobuf's own text parser does the work.  Where Caffe's C++ parser accepts what the Python one
refuses, the text is rewritten first; errors name the file and the line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from google.protobuf import text_format
from google.protobuf.message import DecodeError, Message

from caffe.errors import CaffeError, CaffeFileError
from caffe.proto import caffe_pb2
from caffe.upgrade import upgrade_net, upgrade_solver

if TYPE_CHECKING:
    import os

M = TypeVar("M", bound=Message)

# A string, a comment, or a minus sign that stands apart from its number.
_TOKEN = re.compile(
    r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|#[^\n]*|-[ \t\r\n]+(?=[\d.a-zA-Z])"""
)


def _join_signs(text: str) -> str:
    return _TOKEN.sub(lambda match: "-" if match[0].startswith("-") else match[0], text)


def parse_text(text: str, message: M, source: str = "the text") -> M:
    """Parse prototxt into the message and return it.

    Raises:
        CaffeError: If the text is not such a message; names source, line and column.
    """
    try:
        text_format.Parse(_join_signs(text), message)
    except (text_format.ParseError, UnicodeError) as error:
        name = message.DESCRIPTOR.name
        raise CaffeError(f"{source} is not a {name} in text format: {error}") from None
    return message


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file.

    Raises:
        CaffeFileError: If it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError:
        raise CaffeFileError(path) from None


def read_text(path: str | os.PathLike[str], message: M) -> M:
    """Parse a prototxt file into the message and return it.

    Raises:
        CaffeFileError: If the file cannot be read.
        CaffeError: If it is not such a message.
    """
    content = read_bytes(path)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise CaffeError(f"{path} is not UTF-8 text: {error}") from None
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
    return message


def read_net(path: str | os.PathLike[str]) -> caffe_pb2.NetParameter:
    """Return the net of a prototxt file, of any age, in today's form."""
    net = read_text(path, caffe_pb2.NetParameter())
    upgrade_net(net, str(path))
    return net


def read_weights(path: str | os.PathLike[str]) -> caffe_pb2.NetParameter:
    """Return the net of a .caffemodel file, of any age, in today's form."""
    net = read_binary(path, caffe_pb2.NetParameter())
    upgrade_net(net, str(path))
    return net


def read_solver(path: str | os.PathLike[str]) -> caffe_pb2.SolverParameter:
    """Return the solver of a prototxt file, of any age, in today's form."""
    solver = read_text(path, caffe_pb2.SolverParameter())
    upgrade_solver(solver, str(path))
    return solver
