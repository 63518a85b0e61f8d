import numpy as np
from caffe.gradient_check import net_from_text

TEXT = """
layer { name: "a" type: "InnerProduct" bottom: "x" top: "y"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "f" type: "InnerProduct" bottom: "y" top: "z"
  param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "z" top: "w"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""


def make():
    return net_from_text(TEXT, x=(2, 5))


def test_the_arena_holds_learnable_parameters_in_prototxt_order():
    net = make()
    assert net.arena_layout == [
        ("a", 0, (4, 5)), ("a", 1, (4,)), ("b", 0, (2, 3)), ("b", 1, (2,)),
    ]  # fmt: skip
    expected = [net.params[layer][index].data.ravel() for layer, index, _ in net.arena_layout]
    np.testing.assert_array_equal(net.param_arena, np.concatenate(expected))


def test_parameters_and_diffs_are_views_of_the_arenas():
    net = make()
    net.param_arena[:] = np.arange(net.param_arena.size)
    net.diff_arena[:] = -1
    assert net.params["b"][0].data.tolist() == [[24, 25, 26], [27, 28, 29]]
    assert (net.params["a"][1].diff == -1).all()
    net.params["a"][0].data[0, 0] = 99
    assert net.param_arena[0] == 99


def test_frozen_parameters_lie_behind_and_keep_their_values():
    net = make()
    net.param_arena[:] = 0
    assert net.params["f"][0].data.any()
    assert net.arena.data.numel() == net.param_arena.size + 3 * 4 + 3
    assert net.arena.num_learnable == net.param_arena.size


def test_gradients_accumulate_in_the_arena_until_cleared():
    net = make()
    net.blobs["x"].data[...] = 1
    net.forward()
    net.backward(w=np.ones((2, 2), np.float32))
    once = net.diff_arena.copy()
    net.backward(w=np.ones((2, 2), np.float32))
    np.testing.assert_allclose(net.diff_arena, 2 * once, rtol=1e-6)
    net.clear_param_diffs()
    assert not net.diff_arena.any()


def test_shared_parameters_are_in_the_arena_once():
    spec = 'param { name: "w" } param { name: "b" }'
    net = net_from_text(
        f"""layer {{ name: "a" type: "InnerProduct" bottom: "x" top: "y" {spec}
          inner_product_param {{ num_output: 5 weight_filler {{ type: "xavier" }} }} }}
        layer {{ name: "b" type: "InnerProduct" bottom: "y" top: "z" {spec}
          inner_product_param {{ num_output: 5 }} }}""",
        x=(1, 5),
    )
    assert [entry[:2] for entry in net.arena_layout] == [("a", 0), ("a", 1)]
    net.params["b"][0].data[...] = 3
    assert (net.params["a"][0].data == 3).all()


def test_nets_of_one_layout_share_a_whole_arena():
    online, act = make(), make()
    act.share_with(online)
    online.param_arena[:] = 0.5
    assert (act.params["a"][0].data == 0.5).all()
    assert (act.param_arena == 0.5).all()
    assert online.arena.matches(act.arena)
    act.diff_arena[:] = 1
    assert not online.diff_arena.any()


def test_nets_of_different_layout_share_layer_by_layer():
    online = make()
    other = net_from_text(
        """layer { name: "a" type: "InnerProduct" bottom: "x" top: "y"
        inner_product_param { num_output: 4 } }""",
        x=(2, 5),
    )
    other.share_with(online)
    online.params["a"][0].data[...] = 2
    assert (other.params["a"][0].data == 2).all()
