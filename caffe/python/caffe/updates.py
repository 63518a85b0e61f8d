"""The solvers' update rules, as Caffe computes them; PyTorch tensors in, nothing imported.

A rule turns the gradient g into the value that will be subtracted from the parameters, in place,
and brings its history up to date.  All arguments are flat tensors of one length, any piece of
the arena: the rules work element by element.  Scalars are float32 values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


class Settings(NamedTuple):
    """What the rules take from a solver's prototxt."""

    momentum: float
    momentum2: float
    rms_decay: float
    delta: float


class Rule(NamedTuple):
    """A rule and the number of histories, each as long as the parameters, that it keeps."""

    num_histories: int
    apply: Callable[[Tensor, Sequence[Tensor], float, Settings], None]


def sgd(g: Tensor, history: Sequence[Tensor], rate: float, settings: Settings) -> None:
    """Momentum: v ← μ v + α g; subtract v."""
    (v,) = history
    v.mul_(settings.momentum).add_(g, alpha=rate)
    g.copy_(v)


def nesterov(g: Tensor, history: Sequence[Tensor], rate: float, settings: Settings) -> None:
    """Nesterov, 1983: v′ ← μ v + α g; subtract (1 + μ) v′ - μ v."""
    (v,) = history
    momentum = settings.momentum
    old = v.clone()
    v.mul_(momentum).add_(g, alpha=rate)
    g.copy_(v).mul_(1 + momentum).sub_(old, alpha=momentum)


def adagrad(g: Tensor, history: Sequence[Tensor], rate: float, settings: Settings) -> None:
    """Duchi et al., 2011: h ← h + g²; subtract α g / (√h + δ)."""
    (h,) = history
    h.addcmul_(g, g)
    g.div_(h.sqrt().add_(settings.delta)).mul_(rate)


def rmsprop(g: Tensor, history: Sequence[Tensor], rate: float, settings: Settings) -> None:
    """Tieleman and Hinton, 2012: h ← ρ h + (1 - ρ) g²; subtract α g / (√h + δ)."""
    (h,) = history
    h.mul_(settings.rms_decay).addcmul_(g, g, value=1 - settings.rms_decay)
    g.div_(h.sqrt().add_(settings.delta)).mul_(rate)


def adadelta(g: Tensor, history: Sequence[Tensor], rate: float, settings: Settings) -> None:
    """Zeiler, 2012: h ← μ h + (1 - μ) g²; u = g √((s + δ) / (h + δ)); subtract α u.

    Then s ← μ s + (1 - μ) u².
    """
    h, s = history
    momentum = settings.momentum
    h.mul_(momentum).addcmul_(g, g, value=1 - momentum)
    g.mul_(s.add(settings.delta).div_(h.add(settings.delta)).sqrt_())
    s.mul_(momentum).addcmul_(g, g, value=1 - momentum)
    g.mul_(rate)


def adam(g: Tensor, history: Sequence[Tensor], rate: float, settings: Settings) -> None:
    """Kingma and Ba, 2014: m ← β₁ m + (1 - β₁) g; v ← β₂ v + (1 - β₂) g²; subtract α m / (√v + δ).

    The rate α holds the correction √(1 - β₂ᵗ) / (1 - β₁ᵗ) already.
    """
    m, v = history
    m.mul_(settings.momentum).add_(g, alpha=1 - settings.momentum)
    v.mul_(settings.momentum2).addcmul_(g, g, value=1 - settings.momentum2)
    g.copy_(v).sqrt_().add_(settings.delta).reciprocal_().mul_(m).mul_(rate)


RULES: dict[str, Rule] = {
    "SGD": Rule(1, sgd),
    "Nesterov": Rule(1, nesterov),
    "AdaGrad": Rule(1, adagrad),
    "RMSProp": Rule(1, rmsprop),
    "AdaDelta": Rule(2, adadelta),
    "Adam": Rule(2, adam),
}
