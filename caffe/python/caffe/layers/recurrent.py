"""RNN and LSTM over time: bottoms x [T, N, …] and cont [T, N], which is 0 where a sequence starts.

Then may follow an input that is the same at every time, [N, …], and with `expose_hidden` the
first hidden states [1, N, D]; the last ones are then tops.  Without it they are kept, and the
next forward goes on from them.  As in Caffe, gradients flow from the first top only, and to no
hidden state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch

from caffe.layer import TorchLayer, register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


class _Recurrent(TorchLayer):
    bottoms: ClassVar[tuple[int, int | None]] = (2, None)
    tops: ClassVar[tuple[int, int | None]] = (1, None)
    constants: ClassVar[tuple[int, ...]] = (1,)
    num_states: ClassVar[int] = 1

    def allows_force_backward(self, bottom_index: int) -> bool:
        """Return True but for cont."""
        return bottom_index != 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read recurrent_param and create the parameters."""
        param = self.param.recurrent_param
        self.size = param.num_output
        self.require(self.size > 0, "num_output must be positive")
        self.exposed = self.num_states if param.expose_hidden else 0
        extra = len(bottom) - 2 - self.exposed
        self.require(
            extra in (0, 1) and len(top) == 1 + self.exposed,
            f"takes {2 + self.exposed} or {3 + self.exposed} bottoms and {1 + self.exposed} tops",
        )
        self.has_static = extra == 1
        self.states: list[Tensor] = []
        self._check_shapes(bottom)
        inputs = math.prod(bottom[0].shape[2:])
        static = math.prod(bottom[2].shape[1:]) if self.has_static else 0
        for shape, is_bias in self.parameter_shapes(inputs, static):
            self.add_parameter(shape, param.bias_filler if is_bias else param.weight_filler)

    def _check_shapes(self, bottom: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        self.require(
            len(shape) >= 3 and shape[0] > 0,
            f"the first bottom must be [time, batch, …], but is {list(shape)}",
        )
        steps, batch = shape[:2]
        wanted: list[tuple[str, Blob, tuple[int, ...]]] = [("cont", bottom[1], (steps, batch))]
        if self.has_static:
            static = bottom[2].shape
            self.require(
                len(static) >= 2, f"the static input must have axes, but is {list(static)}"
            )
            wanted.append(("the static input", bottom[2], (batch, *static[1:])))
        hidden = bottom[len(bottom) - self.exposed :]
        wanted += [("a hidden state", blob, (1, batch, self.size)) for blob in hidden]
        for name, blob, expected in wanted:
            self.require(
                blob.shape == expected,
                f"{name} must have the shape {list(expected)}, got {list(blob.shape)}",
            )

    def parameter_shapes(self, inputs: int, static: int) -> list[tuple[tuple[int, ...], bool]]:
        """Return shape and being a bias of every parameter."""
        raise NotImplementedError

    def wants_gradient(self, _index: int) -> bool:
        """Return True: as in Caffe, frozen parameters get their gradients too."""
        return True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their shapes."""
        self._check_shapes(bottom)
        steps, batch = bottom[0].shape[:2]
        top[0].resize((steps, batch, self.size))
        for blob in top[1:]:
            blob.resize((1, batch, self.size))
        if not self.states or self.states[0].shape[0] != batch:
            self.states = [torch.zeros(batch, self.size) for _ in range(self.num_states)]
        self.first_states = self.states

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the tops' data, going on from the last forward unless the states are bottoms."""
        self.first_states = self.states
        super().forward(bottom, top)
        self.states = self.last_states

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the inputs' diffs, marked or not as in Caffe; add to the parameters' diffs."""
        down = list(propagate_down)
        down[0] = True
        if self.has_static:
            down[2] = True
        super().backward(top, down, bottom)

    def compute(self, *bottom: Tensor) -> Sequence[Tensor]:
        """Return the tops' values."""
        x, cont = bottom[0].flatten(2), bottom[1].detach()
        static = bottom[2].flatten(1) if self.has_static else None
        states = self.first_states
        if self.exposed:
            states = [state[0].detach() for state in bottom[-self.exposed :]]
        outputs = []
        for step, gates in enumerate(self.project(x, static)):
            y, states = self.advance(gates, states, cont[step][:, None])
            outputs.append(y)
        self.last_states = [state.detach() for state in states]
        return [torch.stack(outputs), *(s.detach()[None] for s in states[: self.exposed])]

    def project(self, x: Tensor, static: Tensor | None) -> Tensor:
        """Return what the inputs [T, N, I] add to the gates, for all times at once."""
        gates = x @ self.weights[0].t() + self.weights[1]
        return gates if static is None else gates + static @ self.weights[2].t()

    def advance(
        self, gates: Tensor, states: Sequence[Tensor], cont: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Return a step's output and the states after it."""
        raise NotImplementedError


@register("RNN")
class RNN(_Recurrent):
    """h = tanh(W_xh x + b_h + W_hh cont h′); y = tanh(W_ho h + b_o)."""

    def parameter_shapes(self, inputs: int, static: int) -> list[tuple[tuple[int, ...], bool]]:
        """Return shape and being a bias of every parameter."""
        size = self.size
        shapes: list[tuple[tuple[int, ...], bool]] = [((size, inputs), False), ((size,), True)]
        shapes += [((size, static), False)] if self.has_static else []
        return [*shapes, ((size, size), False), ((size, size), False), ((size,), True)]

    def advance(
        self, gates: Tensor, states: Sequence[Tensor], cont: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Return a step's output and the state after it."""
        w_hh, w_ho, b_o = self.weights[-3:]
        h = torch.tanh(gates + (cont * states[0]) @ w_hh.t())
        return torch.tanh(h @ w_ho.t() + b_o), [h]


@register("LSTM")
class LSTM(_Recurrent):
    """Hochreiter and Schmidhuber, 1997, with forget gates; gates in the order i, f, o, g."""

    num_states: ClassVar[int] = 2

    def parameter_shapes(self, inputs: int, static: int) -> list[tuple[tuple[int, ...], bool]]:
        """Return shape and being a bias of every parameter."""
        size = self.size
        shapes: list[tuple[tuple[int, ...], bool]] = [
            ((4 * size, inputs), False),
            ((4 * size,), True),
        ]
        shapes += [((4 * size, static), False)] if self.has_static else []
        return [*shapes, ((4 * size, size), False)]

    def advance(
        self, gates: Tensor, states: Sequence[Tensor], cont: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Return a step's output and the states after it."""
        h, c = states
        i, f, o, g = (gates + (cont * h) @ self.weights[-1].t()).chunk(4, 1)
        c = cont * torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, [h, c]
