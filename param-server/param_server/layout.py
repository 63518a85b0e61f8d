"""Which parameters a network has, in which order: what a flat arena's floats mean."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from param_server.errors import LayoutMismatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Entry(NamedTuple):
    """One learnable parameter: its name, such as ``conv1/0``, and its shape."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The learnable parameters of a network, in the order of its flat arena."""

    entries: tuple[Entry, ...]

    @classmethod
    def from_entries(cls, entries: Iterable[tuple[str, Sequence[int]]]) -> Layout:
        """Return the layout of (name, shape) pairs in arena order."""
        return cls(tuple(Entry(str(name), tuple(map(int, shape))) for name, shape in entries))

    @classmethod
    def from_arena(cls, arena_layout: Iterable[tuple[str, int, Sequence[int]]]) -> Layout:
        """Return the layout of a Caffe net's ``arena_layout``: (layer, index, shape) triples."""
        return cls.from_entries((f"{layer}/{index}", shape) for layer, index, shape in arena_layout)

    @cached_property
    def size(self) -> int:
        """Number of floats."""
        return sum(math.prod(entry.shape) for entry in self.entries)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that differ when a name, shape or the order differs."""
        text = json.dumps(self.listing(), separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def listing(self) -> list[tuple[str, list[int]]]:
        """Return the entries as JSON has them: ``[["conv1/0", [32, 4, 8, 8]], …]``."""
        return [(name, list(shape)) for name, shape in self.entries]

    def slices(self) -> Iterator[tuple[str, slice]]:
        """Yield each parameter's name and its place in the flat arena."""
        start = 0
        for name, shape in self.entries:
            stop = start + math.prod(shape)
            yield name, slice(start, stop)
            start = stop

    def difference(self, other: Layout) -> str:
        """Say where another layout first differs from this one, which is "here"; else nothing."""
        for here, there in zip_longest(self.entries, other.entries):
            if here == there:
                continue
            if here and there and here.name == there.name:
                return f"{here.name} is {here.shape} here, {there.shape} there"
            if here and all(here.name != entry.name for entry in other.entries):
                return f"{here.name} {here.shape} is missing there"
            if there and all(there.name != entry.name for entry in self.entries):
                return f"{there.name} {there.shape} is not in the network here"
            names = [entry.name if entry else "no more" for entry in (here, there)]
            return "{} is here where there is {} there: the order differs".format(*names)
        return ""

    def mismatch(self, digest: str, entries: tuple[Entry, ...] = ()) -> LayoutMismatch:
        """Return the refusal of a gradient with another layout; it lists this one's entries.

        Args:
            digest: The other layout's.
            entries: The other layout's, if they are known: the refusal then names the first
                parameter that differs.
        """
        hint = self.difference(Layout(entries)) if entries else "entries lists what is here"
        return LayoutMismatch(
            f"the gradient has layout {digest!r}, the server {self.digest!r}: {hint}",
            layout=self.digest,
            entries=self.listing(),
        )
