"""The fields of a decoded JSON object, each checked by type and range where it is taken.

What JSON allows and a program does not expect is refused here: true where a number belongs,
integers beyond 64 bits, half a surrogate pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from param_server.errors import BadRequest

_INT64_MAX = 2**63 - 1
_TEXT_LIMIT = 256


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

    def text(self, name: str, *, limit: int = _TEXT_LIMIT) -> str:
        """Take a text."""
        value = self.fields.get(name)
        if not isinstance(value, str) or len(value) > limit or not _is_encodable(value):
            raise self._wrong(name, f"a text of at most {limit} characters")
        return value

    def flag(self, name: str) -> bool:
        """Take true or false."""
        value = self.fields.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def integer(self, name: str, *, at_least: int = 0) -> int:
        """Take a count."""
        value = self.fields.get(name)
        if not _is_count(value, at_least):
            raise self._wrong(name, f"an integer from {at_least} to 2^63 - 1")
        return value

    def number(self, name: str) -> float:
        """Take a number; null is NaN."""
        value = self.fields.get(name, "")
        if not (value is None or _is_number(value)):
            raise self._wrong(name, "a number or null")
        return _float(value)

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

    def nested(self, name: str) -> Fields:
        """Take an object."""
        return Fields(self.fields.get(name))


def _is_count(value: object, at_least: int) -> TypeGuard[int]:
    return (
        isinstance(value, int) and not isinstance(value, bool) and at_least <= value <= _INT64_MAX
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_encodable(value: str) -> bool:
    """Half a surrogate pair is JSON, and no file, log or answer can hold it."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _float(value: float | None) -> float:
    """Integers of JSON have no bound; one that is no float counts as infinite."""
    if value is None:
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
