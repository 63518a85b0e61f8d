"""Parts of Q-networks as prototxt text: the trunk, the dueling streams, the squared error.

B is the batch size, A the number of actions, N the number of quantiles.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from barista.games.errors import UnsupportedGameError
from barista.games.layer_text import (
    LOSS_WEIGHT,
    convolution,
    inner_product,
    layer,
    power,
    relu,
    shape_text,
)

if TYPE_CHECKING:
    from barista.games.architectures import Architecture


class Part(NamedTuple):
    """Layers one after another, and what comes out of them."""

    text: str
    top: str  # the last blob
    shape: tuple[int, ...]  # of that, without the batch

    @property
    def size(self) -> int:
        """Values for each state."""
        return math.prod(self.shape)


def trunk(
    kind: Architecture,
    bottom: str,
    shape: tuple[int, ...],
    *,
    num_hidden: int,
    prefix: str = "",
    frozen: bool = False,
) -> Part:
    """Return the layers from an input to the last rectifier that everything after it shares.

    Args:
        kind: the architecture.
        bottom: the input's blob.
        shape: of a state: (stack, height, width), scaled to [0, 1] first, or (1, values).
        num_hidden: how many of its fully connected layers to write, from the first on.
        prefix: of all names.
        frozen: whether the layers do not learn.

    Raises:
        UnsupportedGameError: If the states are no images, or too small, for the convolutions.
    """
    part = Part("", bottom, shape)
    if len(shape) == 3:
        part = _scaled(part, prefix)
    elif kind.convolutions:
        raise UnsupportedGameError(
            f"{kind.name} has convolutions, which need images, not vectors of {shape[-1]} values"
        )
    for number, each in enumerate(kind.convolutions, start=1):
        channels, *sizes = part.shape
        sizes = [(size - each.kernel) // each.stride + 1 for size in sizes]
        if min(sizes) < 1:
            raise UnsupportedGameError(
                f"frames of {shape[1]}x{shape[2]} are too small for {kind.name}'s conv{number}"
            )
        name = f"{prefix}conv{number}"
        text = convolution(name, part.top, channels=channels, frozen=frozen, **each._asdict())
        part = Part(part.text + text + relu(name), name, (each.filters, *sizes))
    first = len(kind.convolutions) + 1
    for number, units in enumerate(kind.hidden[:num_hidden], start=first):
        part = _with_hidden(part, f"{prefix}fc{number}", units, frozen=frozen)
    return part


def _scaled(part: Part, prefix: str) -> Part:
    """Return a part whose bytes are scaled to [0, 1]."""
    top, note = f"{prefix}scaled", "to [0, 1]: frames travel and are stored as bytes"
    text = power(f"{prefix}scale", part.top, top, scale=1 / 255, note=note)
    return Part(part.text + text, top, part.shape)


def _with_hidden(part: Part, name: str, units: int, *, frozen: bool = False) -> Part:
    """Return a part with one more fully connected layer and its rectifier."""
    text = inner_product(name, part.top, outputs=units, inputs=part.size, frozen=frozen)
    return Part(part.text + text + relu(name), name, (units,))


def dueling_streams(kind: Architecture, shared: Part, num_actions: int, quantiles: int) -> str:
    """Return two streams on what they share, each with a hidden layer, and how they make Q_out.

    Q(s, a) = V(s) + A(s, a) − mean over a′ of A(s, a′)       (Wang et al., 2016, equation 9)

    For each of N quantiles, as Hessel et al. (2018) do for each of their atoms.  A Bias layer adds
    its second bottom to all actions of a state.
    """
    units = kind.hidden[-1]
    number = len(kind.convolutions) + len(kind.hidden)
    value, advantage = (
        _with_hidden(shared._replace(text=""), f"fc{number}_{stream}", units)
        for stream in ("value", "advantage")
    )
    parts = (
        value.text,
        inner_product("value", value.top, outputs=quantiles, inputs=units),  # [B, N]
        advantage.text,
        inner_product("advantage", advantage.top, outputs=quantiles * num_actions, inputs=units),
        layer(
            "advantages",  # [B, N, A]
            "Reshape",
            ("advantage",),
            f"reshape_param {{ {shape_text((0, quantiles, num_actions))} }}",
        ),
        layer(
            "mean_advantage",  # [B, N]
            "Reduction",
            ("advantages",),
            "reduction_param { operation: MEAN axis: 2 }",
        ),
        layer(
            "value_less_mean",
            "Eltwise",
            ("value", "mean_advantage"),
            "eltwise_param { operation: SUM coeff: 1 coeff: -1 }",
        ),
        layer(
            "Q",
            "Bias",
            ("advantages", "value_less_mean"),
            "bias_param { axis: 0 }",
            note="[batch, quantiles, actions]: V + A - mean A",
        ),
        layer("Q_out", "Flatten", ("Q",), LOSS_WEIGHT),
    )
    return "".join(parts)


def squared_error(gamma: float) -> str:
    """Return the layers from Q_out and P_out, both [B, A], and the inputs to `loss`.

    Σ (r + γ · non_terminal · maxₐ P(s′, a) − Q(s, action))² / 2B, whose gradient reaches Q alone.
    """
    parts = (
        layer("Q_taken", "Eltwise", ("Q_out", "action"), "eltwise_param { operation: PROD }"),
        layer(
            "Q_sa",  # [B]
            "Reduction",
            ("Q_taken",),
            "reduction_param { operation: SUM axis: 1 }",
        ),
        layer(
            "P_max",  # [B, 1]
            "ArgMax",
            ("P_out",),
            "argmax_param { axis: 1 out_max_val: true }",
        ),
        layer("P_next", "Eltwise", ("P_max", "non_terminal"), "eltwise_param { operation: PROD }"),
        power("P_discounted", "P_next", "P_discounted", scale=gamma, note="gamma"),
        layer("target", "Eltwise", ("reward", "P_discounted"), "eltwise_param { operation: SUM }"),
        layer(
            "loss",
            "EuclideanLoss",
            ("Q_sa", "target"),
            "propagate_down: true",
            "propagate_down: false  # the target is a constant",
            note="sum of squares / (2 batch)",
        ),
    )
    return "".join(parts)
