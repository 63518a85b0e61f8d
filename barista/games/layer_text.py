"""Layers as prototxt text, each as its type wants it written.

This file knows how a layer is spelled and how its weights start; which layers make a network is
`models`' affair.  All of these layers exist in BVLC's Caffe.

Weights start as Torch 7 drew them, uniform in ±1/√fan-in, biases too: the initialisation of
Mnih et al., 2015, and of the Pong curves that our defaults were taken from.
"""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Without a loss weight somewhere in the net, Caffe's backward pass is empty and silently leaves
# every gradient at zero.
LOSS_WEIGHT = (
    "loss_weight: 1  # opens the way for net.backward(Q_out=diff); forward's loss means nothing"
)
_FROZEN = ("param { lr_mult: 0 }", "param { lr_mult: 0 }")  # of the weights and of the biases


def layer(
    name: str,
    kind: str,
    bottoms: Sequence[str],
    *settings: str,
    top: str | None = None,
    note: str = "",
) -> str:
    """Return any layer with one top.

    Args:
        name: of the layer.
        kind: its type.
        bottoms: names of the blobs it reads.
        settings: further lines, or blocks of them.
        top: name of the blob it makes, by default the layer's.
        note: a comment beside its name.
    """
    lines = [
        f'name: "{name}"' + (f"  # {note}" if note else ""),
        f'type: "{kind}"',
        *(f'bottom: "{bottom}"' for bottom in bottoms),
        f'top: "{top or name}"',
        *settings,
    ]
    return "layer {\n" + indent("\n".join(lines), "  ") + "\n}\n"


def input_layer(name: str, shape: Sequence[int]) -> str:
    """Return an input of this shape, the batch first."""
    return layer(name, "Input", (), f"input_param {{ {shape_text(shape)} }}")


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as a message: `shape { dim: 32 dim: 4 }`."""
    return f"shape {{ {' '.join(f'dim: {size}' for size in shape)} }}"


def relu(name: str) -> str:
    """Return the rectifier of a layer that makes the blob of its own name; works in place."""
    return layer(f"{name}_relu", "ReLU", (name,), top=name)


def power(name: str, bottom: str, top: str, *, scale: float, note: str = "") -> str:
    """Return a layer that multiplies by a constant."""
    settings = f"power_param {{ scale: {scale!r} }}"
    return layer(name, "Power", (bottom,), settings, top=top, note=note)


def convolution(
    name: str,
    bottom: str,
    *,
    filters: int,
    kernel: int,
    stride: int,
    channels: int,
    frozen: bool = False,
) -> str:
    """Return a convolution of `channels` channels: square kernels, no padding.

    A frozen one has no gradient and does not learn.
    """
    block = _block(
        "convolution_param",
        f"num_output: {filters}",
        f"kernel_size: {kernel}",
        f"stride: {stride}",
        *_fillers(channels * kernel**2),
    )
    return layer(name, "Convolution", (bottom,), *(_FROZEN if frozen else ()), block)


def inner_product(
    name: str,
    bottom: str,
    *,
    outputs: int,
    inputs: int,
    frozen: bool = False,
    loss_weight: bool = False,
) -> str:
    """Return a fully connected layer from `inputs` values to `outputs`.

    A frozen one has no gradient and does not learn; one with a loss weight is where a caller's
    backward pass may start.
    """
    block = _block("inner_product_param", f"num_output: {outputs}", *_fillers(inputs))
    above = (LOSS_WEIGHT,) if loss_weight else _FROZEN if frozen else ()
    return layer(name, "InnerProduct", (bottom,), *above, block)


def _fillers(fan_in: int) -> list[str]:
    """Return how weights and biases start: uniform in ±1/√fan-in."""
    bound = f"{fan_in**-0.5:.6g}"
    return [
        f'{kind}_filler {{ type: "uniform" min: -{bound} max: {bound} }}'
        for kind in ("weight", "bias")
    ]


def _block(name: str, *lines: str) -> str:
    return f"{name} {{\n" + indent("\n".join(lines), "  ") + "\n}"
