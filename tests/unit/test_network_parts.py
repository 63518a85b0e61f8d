"""The one net: the loss of Mnih et al., 2015, inside a net, as in Ong et al., 2015."""

import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

import caffe
from barista.games.architectures import architecture
from barista.games.models import one_net
from barista.games.network_parts import squared_error, trunk

BATCH, ACTIONS, GAMMA = 4, 3, 0.9


@pytest.fixture(scope="module")
def nets():
    """A small net of the form, filled with a batch; its Q-network alone."""
    text = one_net("snake", ACTIONS, (2, 9, 9), batch=BATCH, gamma=GAMMA)
    whole = caffe.Net(text_format.Parse(text, caffe_pb2.NetParameter()), caffe.TRAIN)
    rng = np.random.default_rng(3)
    for name in ("state", "next_state"):
        whole.blobs[name].data[...] = rng.integers(0, 256, whole.blobs[name].shape)
    whole.blobs["action"].data[...] = np.eye(ACTIONS)[[2, 0, 1, 1]]
    whole.blobs["reward"].data[...] = [[1], [-1], [0], [0.5]]
    whole.blobs["non_terminal"].data[...] = [[1], [0], [1], [1]]
    return whole


def _expected(net):
    """The loss, and its gradient at Q_out, by the formula."""
    q, p = net.blobs["Q_out"].data, net.blobs["P_out"].data
    loss, gradient = 0.0, np.zeros_like(q)
    for b, action in enumerate(net.blobs["action"].data.argmax(axis=1)):
        best = max(float(value) for value in p[b])
        target = net.blobs["reward"].data[b, 0]
        target += GAMMA * net.blobs["non_terminal"].data[b, 0] * best
        loss += (q[b, action] - target) ** 2 / (2 * BATCH)
        gradient[b, action] = (q[b, action] - target) / BATCH
    return loss, gradient


def test_loss_is_the_squared_error_over_twice_the_batch(nets):
    loss = nets.forward()["loss"].item()
    assert loss == pytest.approx(_expected(nets)[0], rel=1e-5)


def test_gradient_is_that_of_the_error_and_reaches_the_online_network_alone(nets):
    nets.forward()
    nets.clear_param_diffs()
    nets.backward()
    np.testing.assert_allclose(nets.blobs["Q_out"].diff, _expected(nets)[1], rtol=1e-4, atol=1e-7)
    for layer, blobs in nets.params.items():
        for blob in blobs:
            assert blob.diff.any() == layer.startswith("Q"), layer


def test_only_the_online_network_travels(nets):
    layers = {layer for layer, _, _ in nets.arena_layout}
    assert layers == {"Qconv1", "Qconv2", "Qfc3", "Q_out"}
    for layer in layers:
        twin = nets.params["P" + layer[1:]]
        assert [tuple(b.shape) for b in twin] == [tuple(b.shape) for b in nets.params[layer]]


def test_a_pass_to_the_output_needs_the_state_alone(nets):
    q = nets.forward(end="Q_out")["Q_out"].copy()
    nets.blobs["next_state"].data[...] = 0
    np.testing.assert_array_equal(nets.forward(end="Q_out")["Q_out"], q)


def test_gamma_is_a_layer_of_the_net():
    net = text_format.Parse(squared_error(0.5), caffe_pb2.NetParameter())
    scales = {layer.name: layer.power_param.scale for layer in net.layer if layer.type == "Power"}
    assert scales == {"P_discounted": 0.5}


def test_trunk_tells_what_comes_out_of_it():
    part = trunk(architecture("nature"), "state", (4, 84, 84), num_hidden=0)
    assert (part.top, part.shape, part.size) == ("conv3", (64, 7, 7), 3136)
    whole = trunk(architecture("nature"), "state", (4, 84, 84), num_hidden=1, prefix="P")
    assert (whole.top, whole.shape) == ("Pfc4", (512,))
