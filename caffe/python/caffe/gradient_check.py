"""Checking a layer's backward against differences of its forward, as Caffe's GradientChecker.

For whoever writes a layer:

    with double_precision():
        net = net_from_text('layer { name: "l" type: "TanH" bottom: "x" top: "y" }', x=(2, 3))
        assert max(gradient_errors(net).values()) < 1e-6
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from caffe.precision import computes_bf16, set_precision
from caffe.proto import caffe_pb2
from caffe.prototxt import parse_text
from caffe.pycaffe import Net
from caffe.upgrade import upgrade_net

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


@contextmanager
def double_precision() -> Iterator[None]:
    """Give nets float64 in place of float32 and bfloat16, if they are made and run inside.

    A switch for tests: steps may then be so small that errors are those of the formulas, not of
    the arithmetic.  It holds for the whole process; not thread-safe.
    """
    dtype, is_half = torch.get_default_dtype(), computes_bf16()
    torch.set_default_dtype(torch.float64)
    set_precision("float32")
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        set_precision("bf16" if is_half else "float32")


def net_from_text(
    text: str,
    *,
    phase: int = caffe_pb2.TRAIN,
    force_backward: bool = True,
    **inputs: tuple[int, ...],
) -> Net:
    """Return a net of these layers, after an Input layer for every input."""
    param = caffe_pb2.NetParameter(force_backward=force_backward)
    for name, shape in inputs.items():
        layer = param.layer.add(name=f"in_{name}", type="Input", top=[name])
        layer.input_param.shape.add(dim=shape)
    given = parse_text(text, caffe_pb2.NetParameter())
    upgrade_net(given)
    param.MergeFrom(given)
    return Net(param, phase)


def gradient_errors(
    net: Net, *, inputs: Sequence[str] | None = None, step: float | None = None, seed: int = 0
) -> dict[str, float]:
    """Return, for every input and parameter, how far its gradient is from the differences.

    The objective is a random weighting of the net's outputs (loss weights are kept).  An error is
    the largest one among the values, relative to the largest difference or to 1.

    Args:
        net: The net, its inputs filled with what to differentiate at.
        inputs: The inputs to check, by default all.
        step: How far to step from every value, to both sides; by default 1e-2, or 1e-6 where
            the net is of float64.
        seed: Of the weighting.
    """
    if step is None:
        step = 1e-6 if torch.get_default_dtype() == torch.float64 else 1e-2
    generator = np.random.default_rng(seed)
    net.forward()
    weights = {}
    for name in net.outputs:
        weight = net.blob_loss_weights[name]
        shape = net.blobs[name].shape
        weights[name] = np.full(shape, weight) if weight else generator.normal(size=shape)
        net.blobs[name].diff[...] = weights[name]
    net.clear_param_diffs()
    net.backward()
    names = net.inputs if inputs is None else inputs
    places = {name: net.blobs[name] for name in names}
    for layer, blobs in net.params.items():
        places.update({f"{layer}/{index}": blob for index, blob in enumerate(blobs)})
    analytic = {name: blob.diff.copy() for name, blob in places.items()}
    errors = {}
    for name, blob in places.items():
        numeric = _differences(net, blob.data, weights, step)
        scale = max(1.0, float(np.abs(numeric).max(initial=0.0)))
        errors[name] = float(np.abs(numeric - analytic[name]).max(initial=0.0)) / scale
    return errors


def _differences(
    net: Net, values: NDArray[np.float32], weights: dict[str, NDArray[np.float64]], step: float
) -> NDArray[np.float64]:
    result = np.zeros(values.shape)
    for place in np.ndindex(values.shape):
        kept = values[place]
        objectives = []
        for sign in (1, -1):
            values[place] = kept + sign * step
            outputs = net.forward()
            objectives.append(sum(np.vdot(weights[n], outputs[n]) for n in weights))
        values[place] = kept
        result[place] = (objectives[0] - objectives[1]) / (2 * step)
    net.forward()
    return result
