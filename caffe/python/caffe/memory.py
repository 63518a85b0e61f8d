"""Memory of blobs: where the engine computes, and what NumPy sees of it.

A blob's data and diff are each a `Memory`: a part of a flat `Storage`, in Caffe's layout.  Many
may share a storage, as the parameters of a net do.

A layer may leave its result in another layout or in bfloat16 (`put`), for a layer that takes it
as it is (`newest`).  It is turned into Caffe's layout when somebody asks (`tensor`, `numpy`).
Once NumPy has looked at a memory, a view may be held, through which values are read and written
at any time: from then on results go straight into the storage.

On a GPU, NumPy sees a mirror in the processor's memory.  As in Caffe's SyncedMemory it is
brought up to date when it is asked for, and counts as written to from then until the GPU's side
is next asked for.  There results always go into the storage: CUDA graphs need fixed addresses.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from caffe import device
from caffe.errors import CaffeError
from caffe.layouts import to_contiguous

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LARGE = 1 << 24  # floats


def is_mirrored(flat: torch.Tensor) -> bool:
    """Return whether NumPy cannot see the tensor's own memory."""
    return flat.device != device.CPU


class Storage:
    """Flat float32 memory of zeros; much of it takes up none until it is written to.

    Args:
        count: How many values.
        given: So many in an array of the caller's, to lie there and keep what they are.

    Raises:
        CaffeError: If there is not so much.
    """

    __slots__ = ("_flat", "_halves", "_host", "_host_is_newer", "holds", "is_mirrored")

    def __init__(self, count: int, given: NDArray[np.float32] | None = None) -> None:
        try:
            if given is not None:
                flat = torch.from_numpy(given)
            elif count > _LARGE and device.current() == device.CPU:
                flat = torch.from_numpy(np.zeros(count, _numpy_dtype()))
            else:
                flat = torch.zeros(count, device=device.current())
        except (MemoryError, RuntimeError):
            raise CaffeError(f"{4 * count} bytes do not fit into the memory") from None
        self._flat = flat
        self._halves: dict[tuple[int, torch.Size], torch.Tensor] = {}
        self.holds = False
        self._host: torch.Tensor | None = None
        self._host_is_newer = False
        self.is_mirrored = is_mirrored(flat)

    def __len__(self) -> int:
        return self._flat.numel()

    @property
    def flat(self) -> torch.Tensor:
        """The memory where the engine computes."""
        if self._host_is_newer and self._host is not None:
            self._flat.copy_(self._host, non_blocking=True)
            self._host_is_newer = False
        return self._flat

    @property
    def host(self) -> torch.Tensor:
        """The memory that NumPy sees, the same or a mirror."""
        if not self.is_mirrored:
            return self._flat
        if self._host is None:
            pinned = self._flat.device.type == "cuda"
            self._host = torch.empty_like(self._flat, device=device.CPU, pin_memory=pinned)
        if not self._host_is_newer:
            self._host.copy_(self._flat)
            self._host_is_newer = True
        return self._host

    # -- copies in bfloat16, in memory that is kept: allocating it costs more than the conversion

    def half(self, start: int, values: torch.Tensor) -> torch.Tensor:
        """Return the copy in bfloat16 of the values here that begin at `start`, made if need be."""
        key = start, values.shape
        if key not in self._halves:
            self._halves[key] = values.bfloat16()
        return self._halves[key]

    def hold(self) -> None:
        """Take it that the values, perhaps new ones, change no more until the next call.

        Copies in bfloat16 are then made here, once for many passes of many nets.
        """
        for (start, shape), half in self._halves.items():
            half.copy_(self.flat[start : start + shape.numel()].view(shape))
        # A pass that a GPU has recorded does what it did then, held or not.
        self.holds = not self.is_mirrored

    def release(self) -> None:
        """Take it that values may change at any time, as if nobody had called `hold`."""
        self.holds = False


def _numpy_dtype() -> str:
    return str(torch.get_default_dtype()).removeprefix("torch.")


class Memory:
    """A blob's data, or its diff."""

    __slots__ = ("_dims", "_half", "_newer", "_scale", "_tensor", "_viewed", "start", "storage")

    def __init__(self, storage: Storage, dims: tuple[int, ...]) -> None:
        self.storage = storage
        self._viewed = False
        self.lie_in(storage, dims)

    def lie_in(self, storage: Storage, dims: tuple[int, ...], start: int = 0) -> None:
        """Take a part of a storage, and the values in it."""
        if storage is not self.storage:
            self._viewed = False  # views are of the memory before
        self.storage, self.start, self._dims = storage, start, dims
        self._tensor = self._part(storage.flat)
        self._newer: torch.Tensor | None = None
        self._half: torch.Tensor | None = None  # that nets which share the storage share
        self._scale = 1.0

    def share(self, owner: Memory, dims: tuple[int, ...]) -> None:
        """Lie in another's memory, through which both see what is put into either."""
        owner.settle()
        self.lie_in(owner.storage, dims, owner.start)
        self._viewed = True  # by the owner

    def _part(self, flat: torch.Tensor) -> torch.Tensor:
        return flat[self.start : self.start + math.prod(self._dims)].view(self._dims)

    @property
    def room(self) -> int:
        """How many values there is memory for."""
        return len(self.storage) - self.start

    def settle(self) -> None:
        """Let the storage hold the newest values, where the engine computes."""
        if self._newer is not None:
            self._write(self._newer, self._scale)
            self._newer = None
        if self.storage.is_mirrored:
            _ = self.storage.flat

    @property
    def tensor(self) -> torch.Tensor:
        """The values in Caffe's layout."""
        if self._newer is not None or self.storage.is_mirrored:
            self.settle()
        return self._tensor

    def half(self, *, anew: bool = True) -> torch.Tensor:
        """The values in bfloat16 and Caffe's layout: a copy, or if not `anew` that made last."""
        if torch.compiler.is_compiling():  # which has its own way with temporary values
            return self.tensor.bfloat16()
        if self._half is None:
            self._half = self.storage.half(self.start, self.tensor)
        if anew and not self.storage.holds:
            self._half.copy_(self.tensor)
        return self._half

    def numpy(self) -> NDArray[np.float32]:
        """The values in Caffe's layout, as a live view."""
        self._viewed = True
        self.storage.release()
        self.settle()
        view: NDArray[np.float32]
        view = (self._part(self.storage.host) if self.storage.is_mirrored else self._tensor).numpy()
        return view

    def newest(self) -> torch.Tensor:
        """The values in the layout and the precision, float32 or less, in which they were put."""
        if self._newer is None:
            return self.tensor
        is_plain = self._scale == 1 and self._newer.is_floating_point()
        return self._newer if is_plain else self.tensor

    def newest_scaled(self) -> tuple[torch.Tensor, float]:
        """The values just as they were put, perhaps as bytes, and the factor given with them."""
        if self._newer is None:
            return self.tensor, 1.0
        return self._newer, self._scale

    def forget(self) -> None:
        """Let go of what was put, before something else is computed to be put.

        Its memory is then at hand for the new values, still in the processor's cache.
        """
        self._newer = None

    def put(self, values: torch.Tensor, scale: float = 1.0) -> None:
        """Set values · scale; `values` has the blob's shape and is nobody else's memory."""
        if self._viewed or self.storage.is_mirrored:
            self._newer = None
            self._write(values, scale)
        else:
            self._newer, self._scale = values, scale

    @property
    def takes_bytes(self) -> bool:
        """Whether bytes may be put, because nobody sees when they become floats."""
        return self.storage.is_mirrored or not self._viewed

    def _write(self, values: torch.Tensor, scale: float) -> None:
        _ = self.storage.flat  # others' part of it may be newer on the host
        self._tensor.copy_(to_contiguous(values.to(self._tensor.device)))
        if scale != 1:
            self._tensor.mul_(scale)
