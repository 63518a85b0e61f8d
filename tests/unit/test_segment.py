"""Shared memory: two arrays, sealed, and nothing left when it is gone."""

import fcntl
import os
import resource
from pathlib import Path

import numpy as np
import psutil
import pytest
from param_server import segment
from param_server.segment import Segment

from tests.same_host_rig import no_descriptors


def descriptors():
    """Return how many this process has open."""
    return psutil.Process().num_fds()


@pytest.fixture
def shared():
    """A memory as its maker has it, and as a peer maps it."""
    made, descriptor = segment.create(1025)
    yield made, Segment(descriptor, 1025), descriptor
    os.close(descriptor)


def test_what_one_side_writes_the_other_reads(shared):
    made, peer, _ = shared
    peer.gradient[:] = np.arange(1025)
    made.weights[:] = -np.arange(1025)
    assert np.array_equal(made.gradient, np.arange(1025))
    assert np.array_equal(peer.weights, -np.arange(1025))
    assert made.gradient.dtype == made.weights.dtype == np.float32


@pytest.mark.parametrize(("size", "offset"), [(1, 4096), (1024, 4096), (1025, 8192)])
def test_weights_begin_at_the_first_page_after_the_gradient(size, offset):
    assert segment.weights_offset(size) == offset


def test_no_peer_can_change_its_size(shared):
    *_, descriptor = shared
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_memory_that_is_too_small_is_not_mapped(shared):
    *_, descriptor = shared
    with pytest.raises(ValueError, match="less than"):
        Segment(descriptor, 1026)


def test_memory_that_could_shrink_is_not_mapped():
    descriptor = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 1 << 20)
    with pytest.raises(ValueError, match="not sealed"):
        Segment(descriptor, 8)
    os.close(descriptor)


def test_its_pages_are_there_before_they_are_used(shared):
    *_, descriptor = shared
    assert os.fstat(descriptor).st_blocks * 512 >= 8192 + 4 * 1025


def test_nothing_is_left_when_its_arrays_are_gone():
    def held():
        maps = Path("/proc/self/maps").read_text().count("memfd:ddq")
        return maps, descriptors()

    before = held()
    made, descriptor = segment.create(100_000)
    os.close(descriptor)
    weights = made.weights
    del made
    assert held()[0] == before[0] + 1
    weights[:] = 1  # an array keeps the memory
    del weights
    assert held() == before


def test_memory_that_is_not_granted_is_an_error_at_once_and_leaves_nothing():
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            segment.create(8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert descriptors() == before


def test_no_descriptor_is_an_error_at_once():
    with no_descriptors(), pytest.raises(OSError, match="Too many open"):
        segment.create(8)


def test_this_system_has_it():
    assert segment.is_available()
