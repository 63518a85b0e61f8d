"""From a minibatch to a gradient: the networks around `dqn`'s formulas.

The loss is not a layer of the network.  Target and error are computed from `Q_out` in NumPy, and
`backward` starts at `Q_out` with their gradient: any network from `state` to `Q_out` can learn,
and any form of the target is a few lines of Python.  A network with the loss inside, as the project
of 2015 had it, is for `one_net`.

A network with N · A outputs for A actions tells N quantiles of each action's return, quantile by
quantile: `Q_out` is [B, N, A] in memory.  With N = 1 it tells the mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from param_server.network import parameters_of
from param_server.rehearsal import rehearse

import caffe
from barista import dqn, quantiles
from barista.model import INPUT, OUTPUT, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from param_server.wire import Layout

    from barista.config import AgentConfig
    from replay import Batch

    Float32 = NDArray[np.float32]


class Nets(NamedTuple):
    """The networks of one worker, all of one file."""

    online: caffe.Net  # θ, [batch_size, …]: its diffs are the gradient
    target: caffe.Net  # θ⁻, [batch_size, …]
    select: caffe.Net  # θ again, the very same memory, [batch_size, …]: forward only
    act: caffe.Net  # and once more, [num_envs, …]
    look: caffe.Net  # and for a look inside now and then, which would slow the others down


class LearnStats(NamedTuple):
    """What one gradient was computed from."""

    loss: float  # weighted mean
    td_error_mean: float  # mean |δ|
    q_mean: float  # mean over the batch of Q(s, a) of the actions taken
    q_max: float  # largest Q of any action
    dead_units: float  # share of rectified units that were 0 throughout a minibatch looked at


def load_nets(model: str, *, batch_size: int, num_envs: int) -> Nets:
    """Return the networks of a prototxt file, at their own random weights.

    Raises:
        barista.model.ModelError: If the file does not describe a network from `state` to `Q_out`.
    """
    nets = Nets(*build(model, caffe.TRAIN, *4 * [caffe.TEST]))
    for net in (nets.select, nets.act, nets.look):
        net.share_with(nets.online)
    for net in nets:
        size = num_envs if net is nets.act else batch_size
        fit(net, (size, *tuple(net.blobs[INPUT].shape)[1:]))
    return nets


def build(model: str, *phases: int) -> list[caffe.Net]:
    """Return a network of a prototxt file for each phase.

    Raises:
        barista.model.ModelError: If the file does not describe networks from `state` to `Q_out`.
    """
    try:
        rehearse(net=model)
        nets = [caffe.Net(model, phase) for phase in phases]
    except (ValueError, RuntimeError) as error:  # what our engine raises, and a plain pycaffe
        raise ModelError(str(error)) from error
    for blob in (INPUT, OUTPUT):
        if blob not in nets[0].blobs:
            raise ModelError(f"{model}: a Q-network has a blob {blob!r}, this one has none")
    return nets


def forward(net: caffe.Net, states: NDArray[Any]) -> None:
    """Run a network from `state` to `Q_out`, reshaped where its batch size is another."""
    fit(net, states.shape)
    if len(net.inputs) == 1:
        net.forward(state=states)  # INPUT
    else:  # the loss is inside, and nobody has asked for it
        net.blobs[INPUT].data[...] = states
        net.forward(end=next(name for name, tops in net.top_names.items() if OUTPUT in tops))


def backward(net: caffe.Net, **topdiffs: Any) -> None:
    """Leave the gradient of a network's last forward pass in its diffs."""
    if hasattr(net, "backward_afresh"):
        net.backward_afresh(**topdiffs)
    else:
        net.clear_param_diffs()
        net.backward(**topdiffs)


def quantile_values(net: caffe.Net, states: NDArray[Any], num_actions: int) -> Float32:
    """Return the quantiles of all actions: float32 [B, N, A], a copy.

    Args:
        net: Reshaped where its batch size is another.
        states: uint8 [B, C, H, W], or float32 [B, 1, D].
        num_actions: A.
    """
    forward(net, states)
    copy: Float32 = net.blobs[OUTPUT].data.copy()
    return copy.reshape(len(states), -1, num_actions)


def q_values(net: caffe.Net, states: NDArray[Any], num_actions: int) -> Float32:
    """Return Q of all actions, the mean of their quantiles: float32 [B, A], a copy.

    Takes what `quantile_values` does.
    """
    values = quantile_values(net, states, num_actions)
    return values[:, 0] if values.shape[1] == 1 else values.mean(axis=1)


class Learner:
    """Computes gradients with an online network θ and a target network θ⁻.

    Not thread-safe.

    Raises:
        barista.model.ModelError: If the network has other parameters to learn than to act, or its
            outputs are no multiple of the actions.
    """

    def __init__(self, nets: Nets, config: AgentConfig, num_actions: int) -> None:
        self._nets, self._num_actions = nets, num_actions
        self._double, self._rescales = config.double, config.value_rescaling
        self._clips = config.loss == "huber"
        self._parameters, self._target = parameters_of(nets.online), parameters_of(nets.target)
        #: The learnable parameters, in the order of all flat arrays here.
        self.layout: Layout = self._parameters.layout
        if self._target.layout != self.layout:
            raise ModelError("the network has other parameters in its TEST phase than in TRAIN")
        outputs = tuple(nets.online.blobs[OUTPUT].shape)[1]
        if outputs != config.quantiles * num_actions:
            raise ModelError(
                f"the network has {outputs} outputs, but {num_actions} actions of "
                f"{config.quantiles} quantiles each need {config.quantiles * num_actions}"
            )
        self._dead_units = DeadUnits(nets.look)
        #: float32 [B], δ of each transition of the newest gradient.
        self.td_errors: Float32 = np.zeros(0, np.float32)

    def gradient(self, batch: Batch) -> LearnStats:
        """Leave the gradient of the weighted mean loss of `batch` in the network's diffs.

        Mnih et al. (2015), Algorithm 1, with what the configuration adds to it.
        """
        num_actions = self._num_actions
        next_target = quantile_values(self._nets.target, batch.next_states, num_actions)
        next_online = (
            quantile_values(self._nets.select, batch.next_states, num_actions)
            if self._double
            else None
        )
        theta = quantile_values(self._nets.online, batch.states, num_actions)  # [B, N, A]
        result = self._td_result(batch, theta, next_target, next_online)
        backward(self._nets.online, Q_out=result.q_diff.reshape(len(theta), -1))
        self.td_errors = result.td_errors
        q = theta.mean(axis=1)  # [B, A]
        return LearnStats(
            loss=result.loss,
            td_error_mean=float(np.abs(result.td_errors).mean()),
            q_mean=float(q[np.arange(len(q)), batch.actions].mean()),
            q_max=float(q.max()),
            dead_units=self._dead_units.share(batch.states),
        )

    def _td_result(
        self, batch: Batch, theta: Float32, next_target: Float32, next_online: Float32 | None
    ) -> dqn.TdResult:
        """Return errors, loss and gradient, from quantiles [B, N, A]."""
        if theta.shape[1] > 1:
            return quantiles.td_result(
                theta,
                batch.actions,
                batch.rewards,
                batch.discounts,
                next_target,
                next_online=next_online,
                weights=batch.weights,
                rescales=self._rescales,
            )
        return dqn.td_result(
            theta[:, 0],
            batch.actions,
            batch.rewards,
            batch.discounts,
            next_target[:, 0],
            next_q_online=None if next_online is None else next_online[:, 0],
            weights=batch.weights,
            clips=self._clips,
            rescales=self._rescales,
        )

    @property
    def flat_gradient(self) -> Float32:
        """The gradient, flat float32 [P]: not a copy, overwritten by the next `gradient`."""
        return self._parameters.gradient()

    def set_weights(self, weights: Float32) -> None:
        """Copy flat float32 [P] into the online network, and so into all that share with it."""
        self._parameters.set_weights(weights)

    def move(self, weights: Float32, gradient: Float32) -> bool:
        """Compute with weights and gradient, float32 [P] each, that lie there from now on.

        What is in them is replaced.  Weights that change there count once `set_weights` is called.

        Returns:
            Whether it can.
        """
        moves = self._parameters.move(weights, gradient)
        if moves:
            for net in (self._nets.select, self._nets.act, self._nets.look):
                net.share_with(self._nets.online)
        return moves

    def set_target_weights(self, weights: Float32) -> None:
        """Copy flat float32 [P] into the target network."""
        self._target.set_weights(weights)


class DeadUnits:
    """Looks now and then at how many rectified units never fire.

    A unit is a channel of a convolution or an output of a layer; it is dead in a minibatch where it
    is 0 in each of its states and at each position.

    Args:
        net: Nobody else's: an engine may have to lay out differently what is looked at.
    """

    def __init__(self, net: caffe.Net) -> None:
        self._net = net
        self._blobs = [
            net.top_names[name][0] for name, layer in net.layer_dict.items() if layer.type == "ReLU"
        ]
        self._passes, self._share = 0, 0.0

    def share(self, states: NDArray[Any]) -> float:
        """Count a minibatch's states; return the share of dead units in the last one looked at."""
        if self._passes % _LOOK_EVERY == 0:
            forward(self._net, states)
            dead = [self._of(blob) for blob in self._blobs]
            self._share = float(np.concatenate(dead).mean()) if dead else 0.0
        self._passes += 1
        return self._share

    def _of(self, blob: str) -> NDArray[np.bool_]:
        data = self._net.blobs[blob].data
        highest: NDArray[np.float32] = data.reshape(*data.shape[:2], -1).max(axis=(0, 2))
        return highest <= 0


_LOOK_EVERY = 100  # gradients: a look is a pass over all activations


def fit(net: caffe.Net, shape: tuple[int, ...]) -> None:
    """Reshape a network whose `state` has another shape; its other inputs follow in batch size."""
    if tuple(net.blobs[INPUT].shape) == shape:
        return
    for name in net.inputs:
        blob = net.blobs[name]
        blob.reshape(*(shape if name == INPUT else (shape[0], *tuple(blob.shape)[1:])))
    net.reshape()
