"""Blobs: named float32 arrays with a gradient, and where their memory lies.

A blob's data and diff are each a `Memory`: a flat PyTorch tensor in Caffe's layout, which NumPy
sees through `.data` and `.diff`.  The tensor is replaced only by `reshape`, `share_data` and
`bind`, so a view taken from NumPy stays live from one pass to the next.

A layer may leave its result in another layout or in bfloat16 (`put`), for a layer that takes it
as it is (`newest`).  It is turned into Caffe's layout when somebody asks (`tensor`, NumPy).  Once
NumPy has looked at a memory, a view may be held, through which values are read and written at
any time: from then on results go straight into the flat tensor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from caffe.errors import CaffeCallError, CaffeError
from caffe.layouts import to_contiguous

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


# Caffe's own limits.
_MAX_AXES, _MAX_COUNT = 32, 2**31 - 1
_LARGE = 1 << 24  # floats


def zeros(count: int) -> torch.Tensor:
    """Return flat float32 memory; much of it takes up none until it is written to.

    Raises:
        CaffeError: If there is not so much.
    """
    try:
        if count > _LARGE:
            return torch.from_numpy(np.zeros(count, np.float32))
        return torch.zeros(count)
    except (MemoryError, RuntimeError):
        raise CaffeError(f"{4 * count} bytes do not fit into the memory") from None


class Memory:
    """A blob's data, or its diff."""

    __slots__ = ("_newer", "_scale", "_tensor", "_viewed", "flat")

    def __init__(self, flat: torch.Tensor, dims: tuple[int, ...]) -> None:
        self.flat = flat
        self._viewed = False
        self.lie_in(flat, dims)

    def lie_in(self, flat: torch.Tensor, dims: tuple[int, ...]) -> None:
        """Take other memory, and the values in it; the blob's are at its beginning."""
        if flat is not self.flat:
            self._viewed = False  # views are of the memory before
        self.flat = flat
        self._tensor = flat[: math.prod(dims)].view(dims)
        self._newer: torch.Tensor | None = None
        self._scale = 1.0

    def settle(self) -> None:
        """Let the flat memory hold the newest values."""
        if self._newer is not None:
            self._write(self._newer, self._scale)
            self._newer = None

    @property
    def tensor(self) -> torch.Tensor:
        """The values in Caffe's layout."""
        if self._newer is not None:
            self.settle()
        return self._tensor

    def numpy(self) -> NDArray[np.float32]:
        """The values in Caffe's layout, as a live view."""
        self._viewed = True
        view: NDArray[np.float32] = self.tensor.numpy()
        return view

    def newest(self) -> torch.Tensor:
        """The values in the layout and the precision, float32 or less, in which they were put."""
        if self._newer is None:
            return self._tensor
        is_plain = self._scale == 1 and self._newer.is_floating_point()
        return self._newer if is_plain else self.tensor

    def newest_scaled(self) -> tuple[torch.Tensor, float]:
        """The values just as they were put, perhaps as bytes, and the factor given with them."""
        if self._newer is None:
            return self._tensor, 1.0
        return self._newer, self._scale

    def put(self, values: torch.Tensor, scale: float = 1.0) -> None:
        """Set values · scale; `values` has the blob's shape and is nobody else's memory."""
        if self._viewed:
            self._newer = None
            self._write(values, scale)
        else:
            self._newer, self._scale = values, scale

    @property
    def is_viewed(self) -> bool:
        """Whether NumPy may hold a view."""
        return self._viewed

    def _write(self, values: torch.Tensor, scale: float) -> None:
        self._tensor.copy_(to_contiguous(values))
        if scale != 1:
            self._tensor.mul_(scale)


class IntVec(tuple[int, ...]):
    """The shape of a blob; a tuple that has pycaffe's type name."""

    __slots__ = ()


class Blob:
    """An array of float32 with its gradient.  Not thread-safe."""

    __slots__ = ("_dims", "_gradient", "_on_reshape", "values")

    def __init__(self, *dims: int, on_reshape: Callable[[], None] | None = None) -> None:
        self._on_reshape: Callable[[], None] | None = None
        self._dims = IntVec((0,))
        self.values = Memory(torch.zeros(0), self._dims)
        self._gradient: Memory | None = None
        self.resize(dims)
        self._on_reshape = on_reshape

    @property
    def gradient(self) -> Memory:
        """The memory of the diff, which is made, of zeros, when it is first asked for.

        So a net that never runs backward pays nothing for it.
        """
        if self._gradient is None:
            self._gradient = Memory(zeros(self.count), self._dims)
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
        self.values.settle()
        flat = self.values.flat
        self.values.lie_in(flat if count <= flat.numel() else zeros(count), dims)
        self._dims = IntVec(dims)
        # The old values of a gradient are of no use in another shape.
        self._gradient = None
        if self._on_reshape is not None:
            self._on_reshape()

    def take_bytes(self, values: object) -> bool:
        """Set the data to an array of the blob's shape if that is of bytes and nobody looks.

        Frames travel faster as bytes, and a first convolution can take them so.
        """
        if self.values.is_viewed or getattr(values, "dtype", None) != np.uint8:
            return False
        if getattr(values, "shape", None) != self._dims:
            return False
        self.values.put(torch.from_numpy(np.array(values)))
        return True

    def share_data(self, owner: Blob) -> None:
        """Let the data lie in another blob's memory; the shape stays."""
        flat, shared = self.values.flat, owner.data_tensor.view(-1)
        if flat.data_ptr() != shared.data_ptr() or flat.numel() != shared.numel():
            flat = shared
        self.values.lie_in(flat, self._dims)

    def bind(self, data: torch.Tensor, diff: torch.Tensor) -> None:
        """Move the blob into given flat memory of exactly its size; values are the memory's."""
        self.values.lie_in(data, self._dims)
        self.gradient.lie_in(diff, self._dims)

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
