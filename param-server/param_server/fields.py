"""The fields of a decoded JSON object, each checked by type and range where it is taken.

What JSON allows and a program does not expect is refused here: true where a number belongs,
integers beyond 64 bits, half a surrogate pair.  Numbers have the range of a float32.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from param_server.errors import BadRequest

_INT64_MAX = 2**63 - 1
_FLOAT32_MAX = (2 - 2**-23) * 2.0**127
_TEXT_LIMIT = 256
_SHAPE_LIMIT = 32  # dimensions


def decode_object(text: bytes | bytearray) -> dict[str, Any]:
    """Return the JSON object that bytes hold.

    Raises:
        BadRequest: If they are not UTF-8, not JSON (Python's NaN is not), or no object.
    """
    try:
        document = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"expected JSON in UTF-8: {error}") from None
    if not isinstance(document, dict):
        raise BadRequest(f"expected a JSON object, not {type(document).__name__}")
    return document


class Fields:
    """The fields of a JSON object, each checked as it is taken."""

    def __init__(self, fields: object) -> None:
        if not isinstance(fields, Mapping):
            raise BadRequest(f"expected a JSON object, not {type(fields).__name__}")
        self.fields: Mapping[str, Any] = fields

    def expect(self, name: str, value: str) -> None:
        """Refuse the object unless a field has just this value."""
        if self.fields.get(name) != value:
            raise self._wrong(name, repr(value))

    def _wrong(self, name: str, expected: str) -> BadRequest:
        shown = repr(self.fields[name])[:40] if name in self.fields else "missing"
        return BadRequest(f"field {name!r} is {shown}, expected {expected}")

    def text(self, name: str, *, at_least: int = 0, limit: int = _TEXT_LIMIT) -> str:
        """Take a text."""
        value = self.fields.get(name)
        if (
            not isinstance(value, str)
            or not at_least <= len(value) <= limit
            or not _is_encodable(value)
        ):
            raise self._wrong(name, f"a text of {at_least} to {limit} characters")
        return value

    def one_of(self, name: str, choices: Collection[str], *, default: str | None = None) -> str:
        """Take one of a few texts; one that has a default may be missing."""
        value = self.fields.get(name, default)
        if not isinstance(value, str) or value not in choices:
            raise self._wrong(name, f"one of {', '.join(choices)}")
        return value

    def flag(self, name: str) -> bool:
        """Take true or false."""
        value = self.fields.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def integer(self, name: str, *, at_least: int = 0, at_most: int = _INT64_MAX) -> int:
        """Take a count."""
        value = self.fields.get(name)
        if not _is_count(value, at_least) or value > at_most:
            bound = "2^63 - 1" if at_most == _INT64_MAX else at_most
            raise self._wrong(name, f"an integer from {at_least} to {bound}")
        return value

    def number(self, name: str) -> float:
        """Take a number; null is NaN."""
        value = self.fields.get(name, "")
        if not (value is None or _is_number(value)):
            raise self._wrong(name, "a number or null")
        return _float(value)

    def finite_number(self, name: str, *, at_least: float = -math.inf) -> float:
        """Take a number that is neither infinite nor missing."""
        value = self.fields.get(name)
        number = _float(value) if _is_number(value) else math.nan
        if not (math.isfinite(number) and number >= at_least):
            bound = "" if at_least == -math.inf else f" from {at_least:g}"
            raise self._wrong(name, f"a finite number{bound}")
        return number

    def _list(self, name: str, expected: str) -> list[Any]:
        value = self.fields.get(name)
        if not isinstance(value, list):
            raise self._wrong(name, expected)
        return value

    def integers(self, name: str) -> list[int]:
        """Take a list of counts."""
        values = self._list(name, "a list of counts")
        if not all(_is_count(value, 0) for value in values):
            raise self._wrong(name, "a list of counts")
        return values

    def finite_numbers(self, name: str) -> list[float]:
        """Take a list of finite numbers."""
        values = self._list(name, "a list of finite numbers")
        if not all(_is_number(value) and math.isfinite(_float(value)) for value in values):
            raise self._wrong(name, "a list of finite numbers")
        return [float(value) for value in values]

    def numbers_by_name(self, name: str) -> dict[str, float]:
        """Take an object of numbers; null is NaN."""
        value = self.fields.get(name)
        if not isinstance(value, Mapping) or not all(
            (number is None or _is_number(number)) and len(key) <= _TEXT_LIMIT
            for key, number in value.items()
        ):
            raise self._wrong(name, "an object of numbers")
        return {key: _float(number) for key, number in value.items()}

    def shapes(self, name: str) -> list[tuple[str, list[int]]]:
        """Take names with shapes, ``[["conv1/0", [32, 4, 8, 8]], …]``; none if it is missing."""
        expected = "a list of names with shapes"
        pairs = self._list(name, expected) if name in self.fields else []
        if not all(_is_named_shape(pair) for pair in pairs):
            raise self._wrong(name, expected)
        return [(pair[0], pair[1]) for pair in pairs]

    def nested(self, name: str) -> Fields:
        """Take an object."""
        return Fields(self.fields.get(name))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_count(value: object, at_least: int) -> TypeGuard[int]:
    return (
        isinstance(value, int) and not isinstance(value, bool) and at_least <= value <= _INT64_MAX
    )


def _is_named_shape(value: object) -> bool:
    match value:
        case [str(name), list(shape)]:
            return (
                len(name) <= _TEXT_LIMIT
                and _is_encodable(name)
                and len(shape) <= _SHAPE_LIMIT
                and all(_is_count(length, 1) for length in shape)
            )
    return False


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_encodable(value: str) -> bool:
    """Half a surrogate pair is JSON, and no file, log or answer can hold it."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _float(value: float | None) -> float:
    """Return a number of JSON, infinite beyond the range of a float32: then sums stay finite."""
    if value is None:
        return math.nan
    if abs(value) > _FLOAT32_MAX:
        return math.inf
    return float(value)
