"""Solvers: a training net, perhaps test nets, and an update rule over the net's arena.

`apply_update` works on the flat arena, piece by piece: pieces are cut where lr_mult or the decay
changes, and small enough that the several passes of a rule find them in the processor's cache.
Frozen parameters are not touched; their histories exist, as zeros, only in snapshots.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from caffe import fused, solver_state
from caffe.errors import CaffeError, require
from caffe.memory import Storage
from caffe.precision import set_random_seed
from caffe.prototxt import read_solver
from caffe.schedules import learning_rate
from caffe.solver_nets import test_nets, train_net
from caffe.updates import RULES, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from caffe.proto import caffe_pb2
    from caffe.pycaffe import Net

logger = logging.getLogger(__name__)

_PIECE = 1 << 16  # floats: with gradient and two histories 1 MiB, about a core's own cache


class _Piece(NamedTuple):
    """A stretch of the arena in which one learning rate and one decay hold."""

    lr_mult: float
    decay: float
    data: Tensor
    diff: Tensor
    histories: list[Tensor]


class SolverSettings:
    """What pycaffe shows of a solver's prototxt as `solver.param`; base_lr may be set."""

    def __init__(self, param: caffe_pb2.SolverParameter) -> None:
        self._param = param

    @property
    def max_iter(self) -> int:
        """The number of updates at which `solve` ends."""
        return self._param.max_iter

    @property
    def display(self) -> int:
        """Updates between two lines of the log; 0 is never."""
        return self._param.display

    @property
    def layer_wise_reduce(self) -> bool:
        """Of no use here: for many GPUs."""
        return self._param.layer_wise_reduce

    @property
    def base_lr(self) -> float:
        """The learning rate that lr_policy starts from."""
        return self._param.base_lr

    @base_lr.setter
    def base_lr(self, value: float) -> None:
        self._param.base_lr = value


class Solver:
    """A solver made from a prototxt file; a subclass names its rule.  Not thread-safe.

    Attributes:
        net: The training net.
        test_nets: The test nets, whose parameters lie in the training net's memory while testing.
        param: The settings that may be read.
    """

    rule_name = ""

    # Named here for dir(), as in pycaffe.
    __slots__ = ("__dict__", "__weakref__", "net", "param", "test_nets")

    def __init__(self, solver_file: str | os.PathLike[str]) -> None:
        self.message = read_solver(solver_file)
        self._source = str(solver_file)
        self._iter = 0
        self.current_step = 0
        self._callbacks: list[tuple[Callable[[], object], Callable[[], object]]] = []
        self.param = SolverSettings(self.message)
        self._check()
        if self.message.random_seed >= 0:
            set_random_seed(self.message.random_seed)
        self.net = train_net(self.message, self._source)
        self.test_nets = test_nets(self.message, self._source)
        for path in [p.strip() for paths in self.message.weights for p in paths.split(",")]:
            for net in (self.net, *self.test_nets):
                net.copy_from(path)
        self._rule = RULES[self.rule_name]
        size = len(self.net.arena.values)
        self.histories = [Storage(size) for _ in range(self._rule.num_histories)]
        self._pieces: list[_Piece] = []
        self._pieces_of: Tensor | None = None

    # -- setting up -------------------------------------------------------------------------

    def _check(self) -> None:
        param = self.message
        for name in ("average_loss", "iter_size"):
            value = getattr(param, name)
            require(value >= 1, f"{self._source}: {name} must be at least 1, got {value}")
        folder = os.path.dirname(param.snapshot_prefix) or "."  # noqa: PTH120  # any string
        require(
            not param.snapshot or (os.path.isdir(folder) and os.access(folder, os.W_OK)),  # noqa: PTH112
            f"{self._source}: snapshot_prefix '{param.snapshot_prefix}' is not in a folder that "
            "exists and may be written to",
        )
        if self.rule_name in ("AdaGrad", "RMSProp"):
            require(
                param.momentum == 0,
                f"{self._source}: momentum cannot be used with {self.rule_name}",
            )
        if self.rule_name == "RMSProp":
            require(
                0 <= param.rms_decay < 1,
                f"{self._source}: rms_decay must lie in [0, 1), got {param.rms_decay}",
            )

    # -- updating ---------------------------------------------------------------------------

    @property
    def iter(self) -> int:
        """The number of updates applied so far."""
        return self._iter

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        rate, self.current_step = learning_rate(self.message, self._iter, self.current_step)
        return rate

    def _cut(self) -> list[_Piece]:
        """Return the pieces of the net's arena as it is laid out now."""
        arena = self.net.arena
        flat = [arena.data, arena.diff, *(history.flat for history in self.histories)]
        if self._pieces_of is arena.data:
            return self._pieces
        self._pieces = []
        for lr_mult, decay, start, stop in self._stretches():
            columns = [torch.split(tensor[start:stop], _PIECE) for tensor in flat]
            self._pieces += [
                _Piece(lr_mult, decay, data, diff, list(histories))
                for data, diff, *histories in zip(*columns, strict=True)
            ]
        self._pieces_of = arena.data
        return self._pieces

    def _stretches(self) -> list[tuple[float, float, int, int]]:
        """Return (lr_mult, decay, start, stop) of the arena's parts that learn alike."""
        arena, weight_decay = self.net.arena, np.float32(self.message.weight_decay)
        stretches: list[tuple[float, float, int, int]] = []
        for parameter, span in sorted(
            zip(arena.parameters, arena.spans, strict=True), key=lambda pair: pair[1].start
        ):
            if not parameter.lr_mult:
                continue
            with np.errstate(all="ignore"):  # as in Caffe, a decay may become infinite or NaN
                decay = float(weight_decay * np.float32(parameter.decay_mult))
            rates = (parameter.lr_mult, decay)
            if stretches and stretches[-1][:2] == rates:
                stretches[-1] = (*rates, stretches[-1][2], span.stop)
            else:
                stretches.append((*rates, span.start, span.stop))
        return stretches

    def _gradient_scale(self, diff: Tensor) -> float:
        """Return the factor by which clipping and iter_size shrink the gradients."""
        scale = 1.0 / self.message.iter_size
        limit = self.message.clip_gradients
        if limit >= 0:
            norm = float(diff.dot(diff).sqrt())
            if norm > limit:
                scale *= limit / norm
        return scale

    def apply_update(self) -> None:
        """Apply the gradients in `net.params[…].diff`, and count one update.

        Afterwards the diffs hold the values that were subtracted, as in Caffe.
        """
        param, lr = self.message, self.lr
        rate = np.float32(lr * self._correction())
        if param.display and self._iter % param.display == 0:
            logger.info("Iteration %d, lr = %g", self._iter, lr)
        scale = self._gradient_scale(self.net.arena.diff)
        l1 = param.regularization_type == "L1"
        settings = Settings(param.momentum, param.momentum2, param.rms_decay, param.delta)
        with torch.no_grad():
            for lr_mult, decay, data, diff, histories in self._cut():
                if scale != 1:
                    diff.mul_(scale)
                if decay:
                    require(
                        l1 or param.regularization_type == "L2",
                        f"{self._source}: unknown regularization_type "
                        f"'{param.regularization_type}'; known are L1, L2",
                    )
                    diff.add_(data.sign() if l1 else data, alpha=decay)
                self._rule.apply(diff, histories, float(rate * np.float32(lr_mult)), settings)
                data.sub_(diff)
            self.net.arena.diff[self.net.arena.num_learnable :].zero_()
        self._iter += 1

    def apply_gradient(self, gradient: NDArray[np.float32]) -> None:
        """Apply a gradient that lies elsewhere, flat float32 as `net.diff_arena`, and count it.

        An extension.  The net's diffs are of no use afterwards, which can make it much faster
        than copying the gradient there for `apply_update`.
        """
        np.copyto(self.net.diff_arena, gradient)
        self.apply_update()

    def _correction(self) -> float:
        """Return the factor of the learning rate that belongs to the rule: 1 but for Adam."""
        return 1.0

    def resume_at(self, iteration: int, current_step: int) -> None:
        """Go on as if so many updates had been applied."""
        self._iter, self.current_step = iteration, current_step

    # -- the loop ---------------------------------------------------------------------------

    def step(self, iterations: int) -> None:
        """Run forward, backward and update so many times, with tests and snapshots when due."""
        param = self.message
        losses: list[float] = []
        stop = self._iter + iterations
        while self._iter < stop:
            self.net.clear_param_diffs()
            due = param.test_interval and self._iter % param.test_interval == 0
            if due and (self._iter > 0 or param.test_initialization):
                self._test_all()
            for on_start, _ in self._callbacks:
                on_start()
            loss = sum(self._forward_backward() for _ in range(param.iter_size)) / param.iter_size
            losses = [*losses, loss][-param.average_loss :]
            if param.display and self._iter % param.display == 0:
                logger.info("Iteration %d, loss = %g", self._iter, sum(losses) / len(losses))
            for _, on_gradients_ready in self._callbacks:
                on_gradients_ready()
            self.apply_update()
            if param.snapshot and self._iter % param.snapshot == 0:
                self.snapshot()

    def _forward_backward(self) -> float:
        last = len(self.net.layers) - 1
        loss = self.net.run_forward(0, last)
        self.net.run_backward(last, 0)
        return loss

    def _test_all(self) -> None:
        for index, (net, count) in enumerate(
            zip(self.test_nets, self.message.test_iter, strict=True)
        ):
            net.share_with(self.net)
            totals: dict[str, float] = {}
            for _ in range(count):
                for name, value in net.forward().items():
                    totals[name] = totals.get(name, 0.0) + float(value.mean())
            for name, total in totals.items():
                logger.info("Test net %d: %s = %g", index, name, total / max(1, count))

    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Train until max_iter, from a snapshot if one is given, and take a last snapshot."""
        param = self.message
        if resume_file:
            self.restore(resume_file)
        self.step(param.max_iter - self._iter)
        if param.snapshot_after_train and (not param.snapshot or self._iter % param.snapshot != 0):
            self.snapshot()
        if param.display and self._iter % param.display == 0:
            loss = self.net.run_forward(0, len(self.net.layers) - 1)
            logger.info("Iteration %d, loss = %g", self._iter, loss)
        if param.test_interval and self._iter % param.test_interval == 0:
            self._test_all()

    # -- the rest of pycaffe's interface ------------------------------------------------------

    def snapshot(self) -> None:
        """Write `<snapshot_prefix>_iter_<n>` .caffemodel and .solverstate, or their .h5 forms."""
        solver_state.save(self)

    def restore(self, state_file: str | os.PathLike[str]) -> None:
        """Go on from a .solverstate or .solverstate.h5 file and the weights it names."""
        solver_state.restore(self, state_file)

    def share_weights(self, net: Net) -> None:
        """Let a net's parameters lie in the training net's memory."""
        net.share_with(self.net)

    def add_callback(
        self, on_start: Callable[[], object], on_gradients_ready: Callable[[], object]
    ) -> None:
        """Call back in every step: before forward, and when the gradients are complete."""
        self._callbacks.append((on_start, on_gradients_ready))


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum."""

    rule_name = "SGD"


class NesterovSolver(Solver):
    """Nesterov's accelerated gradient."""

    rule_name = "Nesterov"


class AdaGradSolver(Solver):
    """Duchi et al., 2011."""

    rule_name = "AdaGrad"


class RMSPropSolver(Solver):
    """Tieleman and Hinton, 2012: not centred, delta outside the root."""

    rule_name = "RMSProp"


class AdaDeltaSolver(Solver):
    """Zeiler, 2012; `momentum` is its decay."""

    rule_name = "AdaDelta"


class AdamSolver(Solver):
    """Kingma and Ba, 2014."""

    rule_name = "Adam"

    def apply_gradient(self, gradient: NDArray[np.float32]) -> None:
        """See `Solver.apply_gradient`: in one pass where that can be."""
        param = self.message
        settings = Settings(param.momentum, param.momentum2, param.rms_decay, param.delta)
        given = torch.from_numpy(gradient)
        whole = param.regularization_type == "L2" or not param.weight_decay
        if not (whole and fused.is_possible(settings, self.net.arena.data)):
            super().apply_gradient(gradient)
            return
        lr, scale = self.lr, self._gradient_scale(given)
        if scale != 1:
            given = torch.mul(given, scale, out=self.net.arena.diff[: len(given)])
        with torch.no_grad():
            for lr_mult, decay, start, stop in self._stretches():
                fused.adam(
                    self.net.arena.data[start:stop],
                    given[start:stop],
                    [history.flat[start:stop] for history in self.histories],
                    updates=self._iter,
                    rate=lr * lr_mult,
                    decay=decay,
                    settings=settings,
                )
        self._iter += 1

    def _correction(self) -> float:
        t, one = np.float32(self._iter + 1), np.float32(1)
        first, second = np.float32(self.message.momentum), np.float32(self.message.momentum2)
        with np.errstate(all="ignore"):  # as in Caffe, a momentum of 1 divides by zero
            return float(np.sqrt(one - second**t) / (one - first**t))


_SOLVERS = {
    cls.rule_name: cls
    for cls in (
        SGDSolver,
        NesterovSolver,
        AdaGradSolver,
        RMSPropSolver,
        AdaDeltaSolver,
        AdamSolver,
    )
}


def get_solver(solver_file: str | os.PathLike[str]) -> Solver:
    """Make the solver of the type that the file names.

    Raises:
        CaffeError: If the type is unknown, or the file is no solver.
    """
    name = read_solver(solver_file).type
    if name not in _SOLVERS:
        known = ", ".join(_SOLVERS)
        raise CaffeError(f"{solver_file}: unknown solver type '{name}'; known are {known}")
    return _SOLVERS[name](solver_file)
