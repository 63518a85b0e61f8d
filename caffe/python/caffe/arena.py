"""All parameters of a net in one piece of memory, their gradients in another.

The learnable ones (`lr_mult` not 0) come first, in the order of the prototxt, the frozen ones
after them.  Each parameter's blob is a view, so an update, a pull or a push is one operation on
one buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from caffe.memory import Storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from caffe.blob import Blob


class Parameter(NamedTuple):
    """A parameter that a layer owns (a layer that shares it is not listed)."""

    layer: str
    place: int  # among the layer's parameters
    blob: Blob
    lr_mult: float
    decay_mult: float


class Arena:
    """The memory of a net's parameters.

    `values` and `gradients` are flat and hold every parameter; the first `num_learnable` values
    are those of the learnable ones.  `spans` says where each parameter of `parameters` (in the
    order of the prototxt) lies.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = list(parameters)
        learnable = [p for p in parameters if p.lr_mult]
        frozen = [p for p in parameters if not p.lr_mult]
        self.num_learnable = sum(p.blob.count for p in learnable)
        size = sum(p.blob.count for p in parameters)
        self.values, self.gradients = Storage(size), Storage(size)
        self.layout = [(p.layer, p.place, p.blob.shape) for p in learnable]
        places: dict[int, slice] = {}
        start = 0
        for parameter in (*learnable, *frozen):
            place = slice(start, start + parameter.blob.count)
            self.data[place] = parameter.blob.data_tensor.reshape(-1)
            parameter.blob.bind(self.values, self.gradients, start)
            places[id(parameter.blob)] = place
            start = place.stop
        self.spans = [places[id(p.blob)] for p in self.parameters]

    @property
    def data(self) -> torch.Tensor:
        """All values, flat, where the engine computes: to be read or written."""
        self.values.release()
        return self.values.flat

    @property
    def diff(self) -> torch.Tensor:
        """All gradients, flat, where the engine computes."""
        return self.gradients.flat

    def share(self, blob: Blob, owner: Blob) -> None:
        """Let a blob of equal size be the same parameter as its owner."""
        span = self.spans[[p.blob is owner for p in self.parameters].index(True)]
        blob.bind(self.values, self.gradients, span.start)

    def matches(self, other: Arena) -> bool:
        """Return whether the other arena holds the same parameters in the same places."""
        mine = [parameter[:2] for parameter in self.parameters]
        return mine == [p[:2] for p in other.parameters] and self.spans == other.spans

    def adopt(self, other: Arena) -> None:
        """Lay the values, not the gradients, into the memory of an arena of the same layout."""
        self._lie_in(other.values, self.gradients)

    def move(self, values: Storage, gradients: Storage) -> None:
        """Move values and gradients into other memory of the same size."""
        values.flat.copy_(self.data)
        gradients.flat.copy_(self.diff)
        self._lie_in(values, gradients)

    def _lie_in(self, values: Storage, gradients: Storage) -> None:
        self.values, self.gradients = values, gradients
        for parameter, span in zip(self.parameters, self.spans, strict=True):
            parameter.blob.bind(values, gradients, span.start)
