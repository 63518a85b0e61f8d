import pytest
from caffe.errors import CaffeError
from caffe.graph import included, with_splits
from caffe.proto.caffe_pb2 import TEST, TRAIN, NetParameter, NetState
from caffe.prototxt import parse_text


def layers(text):
    return list(parse_text(text, NetParameter()).layer)


def names(text, **state):
    return [layer.name for layer in included(layers(text), NetState(**state))]


RULES = """
layer { name: "always" }
layer { name: "train" include { phase: TRAIN } }
layer { name: "not_train" exclude { phase: TRAIN } }
layer { name: "deploy" include { stage: "deploy" not_stage: "debug" } }
layer { name: "deep" include { min_level: 2 } include { max_level: -1 } }
"""


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"phase": TRAIN}, ["always", "train"]),
        ({"phase": TEST}, ["always", "not_train"]),
        ({"phase": TRAIN, "stage": ["deploy"]}, ["always", "train", "deploy"]),
        ({"phase": TRAIN, "stage": ["deploy", "debug"]}, ["always", "train"]),
        ({"phase": TRAIN, "level": 2}, ["always", "train", "deep"]),
        ({"phase": TRAIN, "level": -1}, ["always", "train", "deep"]),
    ],
)
def test_rules_choose_layers(state, expected):
    assert names(RULES, **state) == expected


def test_rules_of_both_kinds_are_refused():
    with pytest.raises(CaffeError, match="'x'"):
        names('layer { name: "x" include { phase: TEST } exclude { phase: TRAIN } }')


def test_a_blob_read_twice_gets_a_split():
    split = with_splits(
        layers(
            """layer { name: "d" top: "x" } layer { name: "a" bottom: "x" top: "y" }
            layer { name: "b" bottom: "x" top: "z" }"""
        )
    )
    assert [layer.name for layer in split] == ["d", "x_d_0_split", "a", "b"]
    assert list(split[1].top) == ["x_d_0_split_0", "x_d_0_split_1"]
    assert [list(layer.bottom) for layer in split[2:]] == [["x_d_0_split_0"], ["x_d_0_split_1"]]


def test_a_loss_that_is_read_keeps_its_weight_on_the_splits_first_top():
    split = with_splits(
        layers('layer { name: "d" top: "x" loss_weight: 2 } layer { name: "a" bottom: "x" }')
    )
    assert list(split[0].loss_weight) == []
    assert list(split[1].loss_weight) == [2, 0]
    assert list(split[2].bottom) == ["x_d_0_split_1"]


def test_an_in_place_layer_hands_on_its_own_top():
    split = with_splits(
        layers(
            """layer { name: "d" top: "x" } layer { name: "r" bottom: "x" top: "x" }
            layer { name: "a" bottom: "x" } layer { name: "b" bottom: "x" }"""
        )
    )
    assert [layer.name for layer in split] == ["d", "r", "x_r_0_split", "a", "b"]


def test_an_unknown_bottom_is_named():
    with pytest.raises(CaffeError, match=r"'a'.*'nope'"):
        with_splits(layers('layer { name: "a" bottom: "nope" top: "y" }'))
