"""A net's whole passes on a GPU as CUDA graphs: the kernels are launched in one go.

A graph repeats what was recorded: the same kernels on the same addresses.  So only nets are
recorded whose layers are functions of their blobs alone, after a few passes that let cuDNN choose
its kernels; blobs keep their memory on a GPU, and a reshape, another precision or other
parameters' memory ends a recording.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from caffe.precision import arithmetic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from caffe.blob import Blob
    from caffe.layer import Layer

logger = logging.getLogger(__name__)

_PASSES = 3  # as they are, before the recording
#: Types of layers that are functions of their blobs alone.
_FUNCTIONS = {
    "AbsVal", "BNLL", "Bias", "Clip", "Concat", "Convolution",
    "Deconvolution", "ELU", "Eltwise", "Flatten", "InnerProduct", "Input",
    "PReLU", "Pooling", "Power", "ReLU", "Reduction", "Reshape", "Scale",
    "Sigmoid", "Silence", "Slice", "Softmax", "Split", "Swish",
    "TanH", "Tile",
}  # fmt: skip


def is_recordable(layers: Iterable[Layer]) -> bool:
    """Return whether passes through these layers can be recorded."""
    return all(layer.type in _FUNCTIONS for layer in layers)


class Recording:
    """One pass, run as it is at first and then from its graph.

    Args:
        call: The pass, kernel by kernel.
        blobs: All blobs that it reads or writes.
    """

    def __init__(self, call: Callable[[], None], blobs: Sequence[Blob]) -> None:
        self._call, self._blobs = call, blobs
        self._passes = 0
        self._made_for: object = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self) -> None:
        """Run the pass."""
        memories = [m for blob in self._blobs for m in (blob.values, blob.gradient)]
        made_for = (arithmetic(), *(memory.tensor.data_ptr() for memory in memories))
        if made_for != self._made_for:
            self._passes, self._made_for, self._graph = 0, made_for, None
        self._passes += 1
        if self._passes == _PASSES:
            self._graph = _record(self._call)
        if self._graph is None:
            self._call()
        else:
            self._graph.replay()


def _record(call: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
    """Return the graph of a call; None, and a line in the log, if it cannot be recorded."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        logger.warning("no CUDA graph, kernels are launched one by one: %s", error)
        torch.cuda.synchronize()
        return None
    return graph
