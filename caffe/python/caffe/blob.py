"""Blobs: named float32 arrays with a gradient.

Their memory is replaced only by `reshape`, `share_data` and `bind`, so a view taken from NumPy
stays live from one pass to the next.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from caffe.errors import CaffeCallError, CaffeError
from caffe.memory import Memory, Storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


# Caffe's own limits.
_MAX_AXES, _MAX_COUNT = 32, 2**31 - 1


class IntVec(tuple[int, ...]):
    """The shape of a blob; a tuple that has pycaffe's type name."""

    __slots__ = ()


class Blob:
    """An array of float32 with its gradient.  Not thread-safe."""

    __slots__ = ("_dims", "_gradient", "_on_reshape", "values")

    def __init__(self, *dims: int, on_reshape: Callable[[], None] | None = None) -> None:
        self._on_reshape: Callable[[], None] | None = None
        self._dims = IntVec((0,))
        self.values = Memory(Storage(0), self._dims)
        self._gradient: Memory | None = None
        self.resize(dims)
        self._on_reshape = on_reshape

    @property
    def gradient(self) -> Memory:
        """The memory of the diff, which is made, of zeros, when it is first asked for.

        So a net that never runs backward pays nothing for it.
        """
        if self._gradient is None:
            self._gradient = Memory(Storage(self.count), self._dims)
        return self._gradient

    @property
    def data(self) -> NDArray[np.float32]:
        """The values: a live, writable, C-contiguous view."""
        return self.values.numpy()

    @property
    def diff(self) -> NDArray[np.float32]:
        """The gradient: a live, writable, C-contiguous view."""
        return self.gradient.numpy()

    @property
    def data_tensor(self) -> torch.Tensor:
        """The values as a tensor of the blob's shape, in Caffe's layout."""
        return self.values.tensor

    @property
    def diff_tensor(self) -> torch.Tensor:
        """The gradient as a tensor of the blob's shape, in Caffe's layout."""
        return self.gradient.tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first; () is a scalar."""
        return self._dims

    @property
    def count(self) -> int:
        """The number of values."""
        return math.prod(self._dims)

    def reshape(self, *dims: int, **unexpected: Any) -> None:
        """Give the blob other dimensions; values beyond its old size are zero.

        Raises:
            CaffeError: If a dimension is negative, or the blob too large; it is unchanged.
            TypeError: If the dimensions are not plain integers.
        """
        if unexpected:
            raise CaffeCallError("Blob.reshape takes no kwargs")
        for dim in dims:
            if not hasattr(dim, "__index__"):
                raise TypeError(f"Blob.reshape takes integers, got {type(dim).__name__}")
        self.resize(tuple(int(dim) for dim in dims))

    def resize(self, dims: tuple[int, ...]) -> None:
        """Do what `reshape` does, for a tuple that holds integers; cheap if nothing changes."""
        if dims == self._dims:
            return
        if any(dim < 0 for dim in dims):
            raise CaffeError(f"a blob cannot have the shape {list(dims)}: a dimension is negative")
        count = math.prod(dims)
        if len(dims) > _MAX_AXES or count > _MAX_COUNT:
            raise CaffeError(
                f"a blob cannot have the shape {list(dims)}: at most {_MAX_AXES} axes and "
                f"{_MAX_COUNT} values"
            )
        memory = self.values
        memory.settle()
        if count <= memory.room:
            memory.lie_in(memory.storage, dims, memory.start)
        else:
            memory.lie_in(Storage(count), dims)
        self._dims = IntVec(dims)
        # The old values of a gradient are of no use in another shape.
        self._gradient = None
        if self._on_reshape is not None:
            self._on_reshape()

    def take_bytes(self, values: object) -> bool:
        """Set the data to an array of the blob's shape if that is of bytes and nobody looks.

        Frames travel faster as bytes, and a first convolution can take them so.
        """
        if not self.values.takes_bytes or getattr(values, "dtype", None) != np.uint8:
            return False
        if getattr(values, "shape", None) != self._dims:
            return False
        self.values.put(torch.from_numpy(np.array(values)))
        return True

    def share_data(self, owner: Blob) -> None:
        """Let the data lie in another blob's memory; the shape stays."""
        self.values.share(owner.values, self._dims)

    def bind(self, values: Storage, gradients: Storage, start: int) -> None:
        """Move the blob into given memory, from `start` on; the values are the memory's."""
        self.values.lie_in(values, self._dims, start)
        self.gradient.lie_in(gradients, self._dims, start)

    def _legacy_dim(self, axis: int) -> int:
        if len(self._dims) > 4:
            raise CaffeError("num, channels, height and width need a blob of at most 4 axes")
        return self._dims[axis] if axis < len(self._dims) else 1

    @property
    def num(self) -> int:
        """The first of four dimensions; 1 where a blob has fewer."""
        return self._legacy_dim(0)

    @property
    def channels(self) -> int:
        """The second of four dimensions."""
        return self._legacy_dim(1)

    @property
    def height(self) -> int:
        """The third of four dimensions."""
        return self._legacy_dim(2)

    @property
    def width(self) -> int:
        """The last of four dimensions."""
        return self._legacy_dim(3)


class BlobVec(list[Blob]):
    """The parameters of a layer."""

    def add_blob(self, *dims: int, **unexpected: Any) -> None:
        """Append a blob of zeros (for layers written in Python)."""
        if unexpected:
            raise CaffeCallError("BlobVec.add_blob takes no kwargs")
        blob = Blob()
        blob.reshape(*dims)
        self.append(blob)

    def __getitem__(self, index: Any) -> Any:
        try:
            return super().__getitem__(index)
        except IndexError:
            raise IndexError("Index out of range") from None


def canonical_axis(axis: int, num_axes: int, what: str) -> int:
    """Return the axis counted from 0; negative ones count from the end.

    Raises:
        CaffeError: If the blob has no such axis.
    """
    if not -num_axes <= axis < num_axes:
        raise CaffeError(f"{what}: axis {axis} out of range for a blob of {num_axes} axes")
    return axis % num_axes
