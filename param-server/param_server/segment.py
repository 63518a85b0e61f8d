"""Memory that the server shares with one worker of its host: a gradient and weights.

The design.  A memfd: memory with a file descriptor and no name.  Nothing appears in /dev/shm, so
its size does not matter, and a kill leaves nothing behind.  The server makes it and seals its size
before anybody else holds it: a peer that could shrink it could end the server with SIGBUS.  Its
pages are taken at once: what the system does not grant is an error here, and no signal later.

The gradient begins at byte 0, the weights at the first page after it.  Who writes when is the
protocol's affair: docs/same-host.md.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from param_server.payload import Float32

_SEALS = 0x1 | 0x2 | 0x4  # F_SEAL_SEAL, _SHRINK, _GROW: names that fcntl has on Linux only


class Segment:
    """One shared memory, mapped into this process for as long as one of its arrays lives.

    ``gradient`` is written by the worker, ``weights`` by the server: float32 [P] each.  Not
    thread-safe: the messages say whose turn it is.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        """Map the memory; the descriptor stays its owner's.

        Raises:
            ValueError: If it is too small for ``size`` floats, or could become so.
            OSError: If it is no memfd, or there is no address space.
        """
        length = _length(size)
        if os.fstat(descriptor).st_size < length:
            raise ValueError(f"a shared memory of less than {length} bytes")
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ValueError("a shared memory whose size is not sealed")
        # Populated: else the first exchange would pay for thousands of page faults.
        memory = mmap.mmap(descriptor, length, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self.gradient: Float32 = np.frombuffer(memory, np.float32, size)  # [P]
        self.weights: Float32 = np.frombuffer(memory, np.float32, size, weights_offset(size))


def create(size: int) -> tuple[Segment, int]:
    """Make a memory for gradient and weights of ``size`` floats, all zero.

    Returns:
        The memory, mapped, and its descriptor, which the caller closes.

    Raises:
        OSError: If the system does not grant the memory or a descriptor; nothing is left.
    """
    descriptor = os.memfd_create("ddq", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, _length(size))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return Segment(descriptor, size), descriptor
    except BaseException:
        os.close(descriptor)
        raise


def is_available() -> bool:
    """Whether this system has sealed anonymous memory; Linux does."""
    return hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")


def weights_offset(size: int) -> int:
    """Return the byte at which the weights begin: the first page after the gradient."""
    return -(-4 * size // mmap.PAGESIZE) * mmap.PAGESIZE


def _length(size: int) -> int:
    return weights_offset(size) + 4 * size
