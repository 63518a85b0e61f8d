"""From a minibatch to a gradient: the networks around `dqn`'s formulas.

The loss is not a layer of the network.  Target and error are computed from `Q_out` in NumPy, and
`backward` starts at `Q_out` with their gradient: any network from `state` to `Q_out` can learn,
and any form of the target is a few lines of Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from param_server.network import parameters_of
from param_server.rehearsal import rehearse

import caffe
from barista import dqn
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


class LearnStats(NamedTuple):
    """What one gradient was computed from."""

    loss: float  # mean Huber loss
    td_error_mean: float  # mean |δ|
    q_mean: float  # mean over the batch of Q(s, a) of the actions taken
    q_max: float  # largest Q of any action


def load_nets(model: str, *, batch_size: int, num_envs: int) -> Nets:
    """Return the three networks of a prototxt file, at their own random weights.

    Raises:
        barista.model.ModelError: If the file does not describe a network from `state` to `Q_out`.
    """
    try:
        rehearse(net=model)
        online = caffe.Net(model, caffe.TRAIN)
        target, select, act = (caffe.Net(model, caffe.TEST) for _ in range(3))
        for net in (select, act):
            net.share_with(online)
    except (ValueError, RuntimeError) as error:  # what our engine raises, and a plain pycaffe
        raise ModelError(str(error)) from error
    for blob in (INPUT, OUTPUT):
        if blob not in online.blobs:
            raise ModelError(f"{model}: a Q-network has a blob {blob!r}, this one has none")
    for net in (online, target, select, act):
        size = num_envs if net is act else batch_size
        _fit(net, (size, *tuple(net.blobs[INPUT].shape)[1:]))
    return Nets(online, target, select, act)


def q_values(net: caffe.Net, states: NDArray[np.uint8]) -> Float32:
    """Return Q of all actions: float32 [B, A], a copy.

    Args:
        net: Reshaped where its batch size is another.
        states: uint8 [B, C, H, W].
    """
    _fit(net, states.shape)
    net.forward(state=states)  # INPUT
    copy: Float32 = net.blobs[OUTPUT].data.copy()
    return copy


class Learner:
    """Computes gradients with an online network θ and a target network θ⁻.

    Not thread-safe.
    """

    def __init__(self, nets: Nets, config: AgentConfig) -> None:
        self._nets, self._double = nets, config.double
        self._parameters, self._target = parameters_of(nets.online), parameters_of(nets.target)
        #: The learnable parameters, in the order of all flat arrays here.
        self.layout: Layout = self._parameters.layout
        if self._target.layout != self.layout:
            raise ModelError("the network has other parameters in its TEST phase than in TRAIN")

    def gradient(self, batch: Batch) -> LearnStats:
        """Leave the gradient of the mean Huber loss of `batch` in the network's diffs.

        Mnih et al. (2015), Algorithm 1, with the target of van Hasselt et al. (2016) where the
        configuration says double.
        """
        next_q_target = q_values(self._nets.target, batch.next_states)  # [B, A]
        next_q_online = q_values(self._nets.select, batch.next_states) if self._double else None
        q = q_values(self._nets.online, batch.states)  # [B, A]
        result = dqn.td_result(
            q,
            batch.actions,
            batch.rewards,
            batch.discounts,
            next_q_target,
            next_q_online=next_q_online,
        )
        self._nets.online.clear_param_diffs()
        self._nets.online.backward(Q_out=result.q_diff)
        return LearnStats(
            loss=result.loss,
            td_error_mean=float(np.abs(result.td_errors).mean()),
            q_mean=float(q[np.arange(len(q)), batch.actions].mean()),
            q_max=float(q.max()),
        )

    @property
    def flat_gradient(self) -> Float32:
        """The gradient, flat float32 [P]: not a copy, overwritten by the next `gradient`."""
        return self._parameters.gradient()

    def set_weights(self, weights: Float32) -> None:
        """Copy flat float32 [P] into the online network, and so into all that share with it."""
        self._parameters.set_weights(weights)

    def set_target_weights(self, weights: Float32) -> None:
        """Copy flat float32 [P] into the target network."""
        self._target.set_weights(weights)


def _fit(net: caffe.Net, shape: tuple[int, ...]) -> None:
    """Reshape a network whose input has another shape."""
    blob = net.blobs[INPUT]
    if tuple(blob.shape) != shape:
        blob.reshape(*shape)
        net.reshape()
