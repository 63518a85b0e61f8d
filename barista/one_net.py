"""A network with the loss inside: the form of the 2015 project (Ong, Chavez and Hong, section 4).

One file holds everything.  Layers whose names begin with `Q` are the online network, with `P` the
target network, which learns nothing there (`lr_mult: 0`).  Inputs are `state`, `action` (one-hot),
`reward`, `next_state` and `non_terminal`; the online network's output is `Q_out`, and `loss` is
what backward starts from.  γ and the loss's form are the file's own, so this is plain one-step
Q-learning, and what else an agent may be asked for has no place in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from param_server.network import parameters_of

import caffe
from barista.config import ConfigError
from barista.learner import DeadUnits, LearnStats, backward, build, fit
from barista.model import INPUT, LOSS, OUTPUT, ModelError

if TYPE_CHECKING:
    from param_server.wire import Layout

    from barista.config import AgentConfig
    from barista.learner import Float32
    from replay import Batch


class OneNets(NamedTuple):
    """The networks of one worker, both of one file."""

    online: caffe.Net  # θ and θ⁻, [batch_size, …]: its diffs are the gradient
    act: caffe.Net  # the same memory, [num_envs, …]
    look: caffe.Net  # and for a look inside now and then


def load(model: str, *, batch_size: int, num_envs: int) -> OneNets:
    """Return the networks of a prototxt file, at their own random weights.

    Raises:
        barista.model.ModelError: If they cannot be built.
    """
    nets = OneNets(*build(model, caffe.TRAIN, caffe.TEST, caffe.TEST))
    for net in nets:
        if net is not nets.online:
            net.share_with(nets.online)
        size = num_envs if net is nets.act else batch_size
        fit(net, (size, *tuple(net.blobs[INPUT].shape)[1:]))
    return nets


def check(config: AgentConfig) -> None:
    """See that an agent can learn with such a network.

    Raises:
        ConfigError: If it is more than plain one-step Q-learning; says what to change.
    """
    changes = [
        change
        for is_asked, change in (
            (config.double, "--no-double"),
            (config.n_step > 1, "--n-step 1"),
            (config.prioritised, "--no-prioritised"),
            (config.quantiles > 1, "--quantiles 1"),
            (config.value_rescaling, "--no-value-rescaling"),
            (config.loss != "huber", "no --loss"),
        )
        if is_asked
    ]
    if changes:
        raise ConfigError(
            "a model with its loss (and γ) inside learns by plain one-step Q-learning: "
            f"{' '.join(changes)}"
        )


class OneNetLearner:
    """Computes gradients as `barista.learner.Learner` does.  Not thread-safe.

    Raises:
        ConfigError: See `check`.
        ModelError: If layers of the target network are missing.
    """

    def __init__(self, nets: OneNets, config: AgentConfig, num_actions: int) -> None:
        check(config)
        self._net, self._num_actions = nets.online, num_actions
        self._parameters = parameters_of(nets.online)
        #: The learnable parameters, in the order of all flat arrays here.
        self.layout: Layout = self._parameters.layout
        self._target = _target_parameters(nets.online)
        if sum(blob.data.size for blob in self._target) != self.layout.size:
            raise ModelError(
                "only layers whose names begin with Q may learn: give others lr_mult 0"
            )
        self._dead_units = DeadUnits(nets.look)
        #: float32 [B], δ of each transition of the newest gradient.
        self.td_errors: Float32 = np.zeros(0, np.float32)

    def gradient(self, batch: Batch) -> LearnStats:
        """Leave the gradient of the network's loss of `batch` in its diffs.

        Errors are those of Caffe's Euclidean loss, Σ δ² / 2B: its slope at Q(s, a) is −δ / B.
        """
        net, rows = self._net, np.arange(len(batch.actions))
        fit(net, batch.states.shape)
        one_hot = np.zeros((len(rows), self._num_actions), np.float32)
        one_hot[rows, batch.actions] = 1.0
        for name, values in (
            (INPUT, batch.states),
            ("action", one_hot),
            ("reward", batch.rewards),
            ("next_state", batch.next_states),
            ("non_terminal", (batch.discounts > 0).astype(np.float32)),
        ):
            data = net.blobs[name].data
            data[...] = values.reshape(data.shape)
        net.forward()
        backward(net)
        loss = float(net.blobs[LOSS].data.reshape(-1)[0])
        q = net.blobs[OUTPUT].data
        self.td_errors = -len(rows) * net.blobs[OUTPUT].diff.sum(axis=1)
        return LearnStats(
            loss=loss,
            td_error_mean=float(np.abs(self.td_errors).mean()),
            q_mean=float(q[rows, batch.actions].mean()),
            q_max=float(q.max()),
            dead_units=self._dead_units.share(batch.states),
        )

    @property
    def flat_gradient(self) -> Float32:
        """The gradient, flat float32 [P]: not a copy, overwritten by the next `gradient`."""
        return self._parameters.gradient()

    def set_weights(self, weights: Float32) -> None:
        """Copy flat float32 [P] into the online network, and so into the one that acts."""
        self._parameters.set_weights(weights)

    def set_target_weights(self, weights: Float32) -> None:
        """Copy flat float32 [P] into the target network's layers."""
        start = 0
        for blob in self._target:
            end = start + blob.data.size
            blob.data[...] = weights[start:end].reshape(blob.data.shape)
            start = end


def _target_parameters(net: caffe.Net) -> list[caffe.Blob]:
    """Return the target network's parameters, in the order of those of the online network."""
    blobs = []
    for name, parameters in net.params.items():
        if not name.startswith("Q"):
            continue
        twin = "P" + name[1:]
        if twin not in net.params:
            raise ModelError(f"layer {name} has no twin {twin} in the target network")
        if [tuple(blob.shape) for blob in net.params[twin]] != [
            tuple(blob.shape) for blob in parameters
        ]:
            raise ModelError(f"layers {name} and {twin} have parameters of other shapes")
        blobs += list(net.params[twin])
    return blobs
