"""Adam's whole update in one pass over memory, as PyTorch has it for the processor.

The rule in `updates` is Caffe's, operation by operation, and leaves in the diffs what was
subtracted.  That takes eleven passes.  Who does not look at the diffs can have the same rule in
one; its results differ from Caffe's in the last bits.  With `DDQ_FUSED=0` nobody gets it.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import torch
from torch.optim.adam import adam as torch_adam

if TYPE_CHECKING:
    from torch import Tensor

    from caffe.updates import Settings


def is_possible(settings: Settings, *tensors: Tensor) -> bool:
    """Say whether `adam` can do an update with these settings, on tensors where these are."""
    if os.environ.get("DDQ_FUSED") == "0":
        return False
    moments_decay = 0 <= settings.momentum < 1 and 0 <= settings.momentum2 < 1
    return moments_decay and all(tensor.device.type == "cpu" for tensor in tensors)


def adam(
    data: Tensor,
    gradient: Tensor,
    histories: list[Tensor],
    *,
    updates: int,
    rate: float,
    decay: float,
    settings: Settings,
) -> None:
    """Kingma and Ba, 2014, as Caffe has it: subtract α √(1 - β₂ᵗ) / (1 - β₁ᵗ) m / (√v + δ).

    PyTorch divides √v by √(1 - β₂ᵗ) first, so its ε is δ over that.

    Args:
        data: The parameters, flat float32; changed in place.
        gradient: Of the same length; only read.
        histories: m and v, changed in place.
        updates: Applied before this one: t - 1.
        rate: α, without the correction.
        decay: Of the weights (L2).
        settings: Of the solver.
    """
    first, second = histories
    delta = settings.delta / math.sqrt(1 - settings.momentum2 ** (updates + 1))
    torch_adam(
        [data],
        [gradient],
        [first],
        [second],
        [],
        [torch.tensor(float(updates))],
        fused=True,
        amsgrad=False,
        beta1=settings.momentum,
        beta2=settings.momentum2,
        lr=rate,
        weight_decay=decay,
        eps=delta,
        maximize=False,
    )
