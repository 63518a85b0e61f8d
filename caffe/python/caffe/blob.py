"""Blobs: named float32 arrays with a gradient, and where their memory lies.

A blob's data and diff are PyTorch tensors; NumPy sees the same memory through `.data` and
`.diff`.  The tensors are replaced only by `reshape`, `share_data` and `bind`, so a view taken
from NumPy stays live from one forward pass to the next.  The diff is allocated when it is first
asked for: a net that never runs backward pays nothing for it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from caffe.errors import CaffeCallError, CaffeError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray


class Blob:
    """An array of float32 with its gradient.  Not thread-safe."""

    __slots__ = ("_data", "_diff", "_dims", "_on_reshape", "data_tensor")

    def __init__(self, *dims: int, on_reshape: Callable[[], None] | None = None) -> None:
        self._dims: tuple[int, ...] = ()
        self._data = torch.zeros(0)
        self._diff: torch.Tensor | None = None
        self._on_reshape: Callable[[], None] | None = None
        self.data_tensor = self._data
        self.resize(dims)
        self._on_reshape = on_reshape

    @property
    def data(self) -> NDArray[np.float32]:
        """The values: a live, writable, C-contiguous view."""
        view: NDArray[np.float32] = self.data_tensor.numpy()
        return view

    @property
    def diff(self) -> NDArray[np.float32]:
        """The gradient: a live, writable, C-contiguous view."""
        view: NDArray[np.float32] = self.diff_tensor.numpy()
        return view

    @property
    def diff_tensor(self) -> torch.Tensor:
        """The gradient as a tensor of the blob's shape; zeros until something is written."""
        diff = self._diff
        if diff is None:
            diff = self._diff = torch.zeros(self._dims)
        return diff

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
            CaffeError: If a dimension is negative; the blob is unchanged.
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
        if dims == self._dims and self._data.numel():
            return
        if any(dim < 0 for dim in dims):
            raise CaffeError(f"a blob cannot have the shape {list(dims)}: a dimension is negative")
        count = math.prod(dims)
        if count > self._data.numel():
            self._data = torch.zeros(count)
        self._dims = dims
        self.data_tensor = self._data[:count].view(dims)
        # The old values of a gradient are of no use in another shape.
        self._diff = None
        if self._on_reshape is not None:
            self._on_reshape()

    def share_data(self, owner: Blob) -> None:
        """Let the data lie in another blob's memory; the shape stays."""
        if self._data.data_ptr() != owner.data_tensor.data_ptr() or (
            self._data.numel() != owner.data_tensor.numel()
        ):
            self._data = owner.data_tensor.view(-1)
        self.data_tensor = self._data[: self.count].view(self._dims)

    def bind(self, data: torch.Tensor, diff: torch.Tensor) -> None:
        """Move the blob into given flat memory of exactly its size; values are the memory's."""
        self._data = data
        self.data_tensor = data.view(self._dims)
        self._diff = diff.view(self._dims)

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

    def add_blob(self, *dims: int) -> None:
        """Append a blob of zeros (for layers written in Python)."""
        self.append(Blob(*dims))

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
