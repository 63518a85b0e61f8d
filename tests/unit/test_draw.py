"""The pictures of networks: every layer is shown, and nothing lies on something else."""

import itertools
import re
from xml.etree.ElementTree import fromstring

import pytest

from barista.games.models import mlp_network, one_net, q_network
from models import draw

SVG = "{http://www.w3.org/2000/svg}"
BRANCHES = """
layer { name: "a<b" type: "Input" top: "a" input_param { shape { dim: 2 dim: 6 } } }
layer { name: "left" type: "Slice" bottom: "a" top: "l1" top: "l2" top: "l3" }
layer { name: "wide" type: "Concat" bottom: "l1" bottom: "l3" top: "wide" }
layer { name: "sharp" type: "TanH" bottom: "l2" top: "l2" }
layer { name: "late" type: "Input" top: "late" input_param { shape { dim: 2 dim: 6 } } }
layer { name: "all" type: "Concat" bottom: "wide" bottom: "l2" bottom: "a" bottom: "late"
        top: "all" }
layer { name: "test" type: "Accuracy" bottom: "none" top: "t" include { phase: TEST } }
"""
NETS = {
    "plain": q_network("snake", 4, 2, 16, 16),
    "dueling": mlp_network(3, 4, dueling=True, quantiles=5),
    "one net": one_net("mlp", 3, (1, 4)),
    "branches": BRANCHES,
}


@pytest.fixture(params=NETS)
def picture(request):
    return fromstring(draw.svg_of_text(NETS[request.param]))


def boxes(picture):
    """The boxes' left upper corners by their names."""
    found = {}
    for group in picture.iter(f"{SVG}g"):
        x, y = map(int, re.findall(r"-?\d+", group.get("transform")))
        found[group.find(f"{SVG}text").text] = (x, y)
    return found


def ends(picture):
    """Where each arrow begins and ends: (x, y) twice."""
    for path in picture.iter(f"{SVG}path"):
        if path.get("class") == "arrow":
            numbers = [float(each) for each in re.findall(r"-?\d+", path.get("d"))]
            yield numbers[:2], numbers[-2:]


def test_boxes_do_not_touch_and_lie_within_the_picture(picture):
    width, height = int(picture.get("width")), int(picture.get("height"))
    places = boxes(picture).values()
    for x, y in places:
        assert 0 <= x <= width - draw.BOX
        assert 0 <= y <= height - draw.HEIGHT
    for (x1, y1), (x2, y2) in itertools.combinations(places, 2):
        assert abs(x1 - x2) >= draw.BOX + draw.GAP - 1 or abs(y1 - y2) >= draw.ROW


def test_arrows_begin_below_a_box_and_end_on_one(picture):
    places = boxes(picture).values()
    for (x1, y1), (x2, y2) in ends(picture):
        assert any(x < x1 < x + draw.BOX and y + draw.HEIGHT == y1 for x, y in places)
        assert any(x < x2 < x + draw.BOX and y - 2 == y2 for x, y in places)
        assert y1 < y2


def test_arrows_go_around_boxes():
    picture = fromstring(draw.svg_of_text(BRANCHES))
    places = boxes(picture).values()
    passes = 0
    for path in picture.iter(f"{SVG}path"):
        for x, y in re.findall(r"(\d+) (\d+)L", path.get("d")):
            passes += 1
            assert not any(a - 1 < int(x) < a + draw.BOX + 1 and b == int(y) for a, b in places)
    assert passes == 3  # two rows from the input, one from the middle part of `left`


def test_every_layer_is_shown_with_its_type_and_shape():
    picture = fromstring(draw.svg_of_text(NETS["dueling"]))
    texts = [[each.text for each in group.iter(f"{SVG}text")] for group in picture.iter(f"{SVG}g")]
    assert ["state", "[32, 1, 4]", "Input"] in texts
    assert ["fc1", "[32, 256]", "InnerProduct + ReLU"] in texts
    assert ["value_less_mean", "[32, 5]", "Eltwise SUM +1 -1"] in texts
    assert ["mean_advantage", "[32, 5]", "Reduction MEAN"] in texts
    assert ["Q_out", "[32, 15]", "Flatten"] in texts
    assert len(texts) == 11


def test_branches_lie_side_by_side_and_a_chain_is_straight():
    places = boxes(fromstring(draw.svg_of_text(NETS["dueling"])))
    assert places["fc2_value"][1] == places["fc2_advantage"][1]
    assert places["fc1"][0] == places["state"][0]


def test_an_input_lies_just_above_its_reader():
    places = boxes(fromstring(draw.svg_of_text(BRANCHES)))
    assert places["late"][1] == places["all"][1] - draw.ROW
    assert "test" not in places  # of another phase
    assert "sharp" not in places  # in place: named in the box before it


def test_roles_have_colours():
    picture = fromstring(draw.svg_of_text(NETS["one net"]))
    roles = {g.find(f"{SVG}text").text: g.get("class") for g in picture.iter(f"{SVG}g")}
    assert roles["state"] == "input"
    assert roles["Qfc1"] == "weights"
    assert roles["Pfc1"] == "frozen"
    assert roles["loss"] == "loss"
    assert roles["target"] == "plain"
    assert "@media (prefers-color-scheme: dark)" in picture.find(f"{SVG}style").text
    plain = draw.svg_of_text(NETS["plain"])
    assert plain.count('class="output"') == 1


def test_command_prints_the_picture(tmp_path, capsys):
    file = tmp_path / "net.prototxt"
    file.write_text(NETS["plain"])
    assert draw.main([str(file)]) == 0
    assert capsys.readouterr().out == draw.svg_of_text(NETS["plain"])


@pytest.mark.parametrize("text", [None, "layer {", 'layer { name: "a" type: "None" top: "b" }'])
def test_mistakes_are_one_line_and_exit_code_two(text, tmp_path, capsys):
    file = tmp_path / "net.prototxt"
    if text is not None:
        file.write_text(text)
    assert draw.main([str(file)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
