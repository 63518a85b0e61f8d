"""As much of protobuf's wire format as large messages need; no PyTorch.

protobuf itself sets repeated fields number by number, a hundred times slower than the copy it
could be; and it makes of three bytes that announce an empty layer an object of hundreds, so that a
small file can fill the memory.  What parameters come in and go out by is therefore done here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from caffe.errors import CaffeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message
    from numpy.typing import ArrayLike

_VARINT, _LENGTH = 0, 2
_SIZES = {_VARINT: 0, 1: 8, _LENGTH: 0, 5: 4}  # bytes by wire type, where the type says it
_MAX_FIELDS = 1 << 17  # of a message and those in it; nets of a thousand layers have some 10 000


def set_floats(message: Message, field: str, values: ArrayLike) -> None:
    """Set a packed `repeated float` field, by its bytes."""
    number = message.DESCRIPTOR.fields_by_name[field].number
    payload = np.ascontiguousarray(values, "<f4").tobytes()
    message.ClearField(field)
    message.MergeFromString(_varint(number << 3 | _LENGTH) + _varint(len(payload)) + payload)


def _varint(value: int) -> bytes:
    content = bytearray()
    while value >= 0x80:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    content.append(value)
    return bytes(content)


class Reader:
    """Takes one message, and those in it, apart.

    Args:
        content: The outermost message.
        source: Where it comes from, for errors.
    """

    def __init__(self, content: bytes, source: str) -> None:
        self.content = memoryview(content)
        self._source = source
        self._left = _MAX_FIELDS

    def fields(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Yield number and value of every field: an integer, or the bytes of anything else.

        Raises:
            CaffeError: If the message is cut short, has no meaning, or too many fields.
        """
        position, end = 0, len(message)
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise self.error(f"it has more than {_MAX_FIELDS} fields")
            key, position = self._read_varint(message, position)
            number, kind = key >> 3, key & 7
            if not number or kind not in _SIZES:
                raise self.error(f"it has a field of number {number} and wire type {kind}")
            if kind == _VARINT:
                value, position = self._read_varint(message, position)
                yield number, value
                continue
            size = _SIZES[kind]
            if kind == _LENGTH:
                size, position = self._read_varint(message, position)
            if size > end - position:
                raise self.error(
                    f"field {number} claims {size} bytes where {end - position} are left"
                )
            yield number, message[position : position + size]
            position += size

    def _read_varint(self, message: memoryview, position: int) -> tuple[int, int]:
        if position < len(message) and message[position] < 0x80:  # as most are
            return message[position], position + 1
        value = 0
        for shift, byte in enumerate(message[position : position + 10]):
            value |= (byte & 0x7F) << 7 * shift
            if byte < 0x80:
                return value, position + shift + 1
        raise self.error("it ends within an integer")

    def error(self, what: str) -> CaffeError:
        """Return the error that this is wrong with the message."""
        return CaffeError(
            f"{self._source} is damaged or something else ({len(self.content)} bytes): {what}"
        )
