import numpy as np
import pytest
import torch
from caffe.gradient_check import gradient_errors, net_from_text

import caffe

T, N, K, D = 4, 2, 3, 2


def make(kind, extra="", tops='top: "y"', cont=None, **inputs):
    caffe.set_random_seed(0)
    filler = 'weight_filler { type: "uniform" min: -0.8 max: 0.8 }'
    bottoms = "".join(f'bottom: "{name}" ' for name in ("x", "cont", *inputs))
    net = net_from_text(
        f'layer {{ name: "r" type: "{kind}" {bottoms} {tops} recurrent_param {{ '
        f"num_output: {D} {filler} bias_filler {{ value: 0.1 }} {extra} }} }}",
        x=(T, N, K), cont=(T, N), **inputs,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    for blob in net.blobs.values():
        blob.data[...] = generator.normal(size=blob.shape)
    net.blobs["cont"].data[...] = [[0, 0], [1, 1], [1, 0], [1, 1]] if cont is None else cont
    return net


def test_lstm_is_pytorchs_with_its_gates_in_caffes_order():
    net = make("LSTM", cont=[[0, 0], [1, 1], [1, 1], [1, 1]])
    w_x, b, w_h = (blob.data_tensor for blob in net.params["r"])
    twin = torch.nn.LSTM(K, D)
    i, f, o, g = (slice(k * D, (k + 1) * D) for k in range(4))
    order = torch.cat([torch.arange(4 * D)[part] for part in (i, f, g, o)])
    with torch.no_grad():
        twin.weight_ih_l0.copy_(w_x[order])
        twin.weight_hh_l0.copy_(w_h[order])
        twin.bias_ih_l0.copy_(b[order])
        twin.bias_hh_l0.zero_()
        expected = twin(net.blobs["x"].data_tensor)[0]
    np.testing.assert_allclose(net.forward()["y"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_gradients_are_the_differences(kind):
    # The first step starts anew in every sequence, so that no state survives a forward.
    assert max(gradient_errors(make(kind), inputs=("x",)).values()) < 1e-2


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_a_static_input_is_seen_at_every_time(kind):
    net = make(kind, s=(N, 5))
    assert net.params["r"][2].shape[1] == 5
    assert max(gradient_errors(net, inputs=("x", "s")).values()) < 1e-2


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_a_sequence_goes_on_in_the_next_forward(kind):
    net = make(kind, cont=np.ones((T, N)))
    first = net.forward()["y"].copy()
    assert np.abs(net.forward()["y"] - first).max() > 1e-3
    net.blobs["cont"].data[0] = 0
    np.testing.assert_allclose(net.forward()["y"], first, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "states", "tops"),
    [("RNN", ["h"], 'top: "y" top: "hT"'), ("LSTM", ["h", "c"], 'top: "y" top: "hT" top: "cT"')],
)
def test_exposed_states_go_in_and_come_out(kind, states, tops):
    cont = np.ones((T, N))
    net = make(kind, "expose_hidden: true", tops, cont, **dict.fromkeys(states, (1, N, D)))
    first = {name: value.copy() for name, value in net.forward().items()}
    again = net.forward()
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)
    if kind == "LSTM":
        np.testing.assert_array_equal(first["hT"][0], first["y"][-1])


@pytest.mark.parametrize(
    ("inputs", "extra"), [({"s": (N, 1), "t": (N, 1)}, ""), ({}, "expose_hidden: true")]
)
def test_other_numbers_of_bottoms_are_refused(inputs, extra):
    with pytest.raises(caffe.CaffeError, match="bottoms and"):
        make("LSTM", extra, **inputs)


@pytest.mark.parametrize(
    ("extra", "inputs", "message"),
    [
        ("", {"s": (N,)}, "static input must have axes"),
        ("", {"s": (N + 1, 3)}, "static input must have the shape"),
        ("expose_hidden: true", {"h": (N, D)}, "hidden state"),
        ("expose_hidden: true", {"s": (N, 1), "h": (1, N, D + 1)}, "hidden state"),
    ],
)
def test_other_shapes_are_refused(extra, inputs, message):
    tops = 'top: "y" top: "hT"' if extra else 'top: "y"'
    with pytest.raises(caffe.CaffeError, match=message):
        make("RNN", extra, tops, **inputs)


def test_the_first_bottom_needs_values_at_every_time():
    with pytest.raises(caffe.CaffeError, match="time, batch"):
        net_from_text(
            'layer { type: "LSTM" bottom: "x" bottom: "cont" recurrent_param { num_output: 1 } '
            'top: "y" }', x=(T, N), cont=(T, N),
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_all_gradients_are_computed_whether_wanted_or_not(kind):
    text = f"""layer {{ name: "r" type: "{kind}" bottom: "x" bottom: "cont" top: "y"
      loss_weight: 1 param {{ lr_mult: 0 }} propagate_down: [false, false]
      recurrent_param {{ num_output: 2 weight_filler {{ type: "xavier" }} }} }}"""
    net = net_from_text(text, x=(T, N, K), cont=(T, N), force_backward=False)
    net.blobs["x"].data[...] = 1
    net.forward()
    net.backward(y=np.ones((T, N, D), np.float32))
    assert net.params["r"][0].diff.any()
    assert net.blobs["x"].diff.any()


def test_cont_must_fit_x():
    net = make("RNN")
    net.blobs["cont"].reshape(T, N + 1)
    with pytest.raises(caffe.CaffeError, match="cont"):
        net.forward()
