"""Learning rates: every `lr_policy` of a solver, in float32; no PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from caffe.errors import CaffeError, require

if TYPE_CHECKING:
    from caffe.proto import caffe_pb2

POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")


def learning_rate(
    param: caffe_pb2.SolverParameter, iteration: int, current_step: int
) -> tuple[float, int]:
    """Return the rate of an iteration, and `current_step` after it.

    - fixed: base_lr
    - step: base_lr · gamma ^ ⌊iter / stepsize⌋
    - exp: base_lr · gamma ^ iter
    - inv: base_lr · (1 + gamma · iter) ^ -power
    - multistep: like step, the steps being at the `stepvalue`s
    - poly: base_lr · (1 - iter / max_iter) ^ power
    - sigmoid: base_lr / (1 + e ^ (-gamma · (iter - stepsize)))

    Args:
        param: The solver.
        iteration: Updates applied so far.
        current_step: The number of steps taken so far, kept for multistep as Caffe keeps it.

    Raises:
        CaffeError: If the policy is unknown or lacks a setting.
    """
    policy = param.lr_policy
    if policy == "fixed":
        return param.base_lr, current_step
    _check(param)
    f = np.float32
    base, gamma, power, t = f(param.base_lr), f(param.gamma), f(param.power), f(iteration)
    with np.errstate(all="ignore"):  # as in Caffe, rates may become infinite or NaN
        if policy == "step":
            current_step = iteration // param.stepsize
            rate = base * gamma ** f(current_step)
        elif policy == "exp":
            rate = base * gamma**t
        elif policy == "inv":
            rate = base * (f(1) + gamma * t) ** -power
        elif policy == "multistep":
            if current_step < len(param.stepvalue) and iteration >= param.stepvalue[current_step]:
                current_step += 1
            rate = base * gamma ** f(current_step)
        elif policy == "poly":
            rate = base * (f(1) - t / f(param.max_iter)) ** power
        else:
            rate = base * (f(1) / (f(1) + np.exp(-gamma * (t - f(param.stepsize)))))
    return float(rate), current_step


def _check(param: caffe_pb2.SolverParameter) -> None:
    policy = param.lr_policy
    if policy not in POLICIES:
        known = ", ".join(POLICIES)
        raise CaffeError(f"unknown lr_policy '{policy}'; known are {known}")
    if policy != "poly":
        require(
            param.gamma >= 0, f"lr_policy '{policy}' needs gamma of at least 0, got {param.gamma}"
        )
    if policy in ("step", "sigmoid"):
        require(param.stepsize > 0, f"lr_policy '{policy}' needs a stepsize, got {param.stepsize}")
