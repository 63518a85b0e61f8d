"""A network as a player: its best actions, its fit to a game, its actions under a protocol."""

import numpy as np
import pytest

import caffe
from barista.games.actions import minimal_set
from barista.games.models import one_net
from barista.playing.episodes import PlayError, Terms, play
from barista.playing.players import load_net, moves_of, net_of, network_player, play_here
from tests import tiny

ECHO, PONG = "tests.coin_env:Echo-v0", "ALE/Pong-v5"


@pytest.fixture
def make_net(tmp_path):
    """A network whose outputs are `biases`, whatever it sees."""

    def make(*biases, state=(1, 5, 5)):
        text = tiny.MODEL.replace("num_output: 3", f"num_output: {len(biases)}")
        channels, height, width = state
        text = text.replace("dim: 1 dim: 5 dim: 5", f"dim: {channels} dim: {height} dim: {width}")
        file = tmp_path / "train_val.prototxt"
        file.write_text(text)
        net = caffe.Net(str(file), caffe.TEST)
        net.params["Q_out"][0].data[...] = 0
        net.params["Q_out"][1].data[...] = biases
        return net

    return make


def echo(episodes=3, **changes):
    return Terms(ECHO, episodes, **{"epsilon": 0.0, **changes})


def test_a_greedy_network_takes_its_best_action(make_net):
    for biases, score in (((0, 1, 0), 10.0), ((0, 1, 2), 0.0)):
        result = play(network_player(make_net(*biases), echo()), echo())
        assert (result.returns, result.lengths) == ((score,) * 3, (10,) * 3)


def test_epsilon_is_the_share_of_random_actions(make_net):
    terms = echo(200, epsilon=0.6)
    result = play(network_player(make_net(0, 1, 0), terms), terms)
    assert result.mean == pytest.approx(4 + 6 / 3, abs=0.4)


def test_a_distributional_head_is_played_by_its_means(make_net):
    """Quantile-major: the best single quantile is action 0's, the best mean action 1's."""
    biases = (9, 2, 0, -9, 2, 0)  # two quantiles of three actions
    for num_actions in (None, 3):
        terms = echo(num_actions=num_actions)
        assert play(network_player(make_net(*biases), terms), terms).mean == 10.0


def test_a_network_that_sees_numbers_is_played(make_net, tmp_path):
    make_net(0, 1, 0)
    file = tmp_path / "train_val.prototxt"
    file.write_text(file.read_text().replace("dim: 1 dim: 5 dim: 5", "dim: 1 dim: 3"))
    net = caffe.Net(str(file), caffe.TEST)
    net.params["Q_out"][0].data[...] = 0
    net.params["Q_out"][1].data[...] = (0, 1, 0)
    terms = echo()._replace(game="tests.coin_env:Numbers-v0")
    assert play(network_player(net, terms), terms).mean == 10.0


def test_a_network_with_the_loss_inside_is_played(tmp_path):
    file = tmp_path / "train_val.prototxt"
    file.write_text(one_net("mlp", 3, (1, 5, 5), batch=16, gamma=0.9))
    net = caffe.Net(str(file), caffe.TEST)
    net.params["Q_out"][0].data[...] = 0
    net.params["Q_out"][1].data[...] = (0, 1, 0)
    assert play(network_player(net, echo()), echo()).mean == 10.0


@pytest.mark.parametrize(
    ("biases", "state", "reason"),
    [
        ((0, 1, 0), (1, 6, 6), r"takes states of \(1, 6, 6\), but tests\.coin_env:Echo-v0 shows"),
        ((0, 1), (1, 5, 5), "the network has 2 outputs, but tests.coin_env:Echo-v0 has 3 actions"),
    ],
)
def test_a_network_of_another_game_is_refused(make_net, biases, state, reason):
    with pytest.raises(PlayError, match=reason):
        network_player(make_net(*biases, state=state), echo())


def test_a_network_without_an_output_is_refused(make_net, tmp_path):
    make_net(0, 1, 0)
    file = tmp_path / "train_val.prototxt"
    file.write_text(file.read_text().replace("Q_out", "other"))
    with pytest.raises(PlayError, match="no blob Q_out, so it is no Q-network"):
        moves_of(caffe.Net(str(file), caffe.TEST), echo())


@pytest.mark.parametrize(
    ("outputs", "num_actions", "protocol", "moves"),
    [
        (6, None, "ddq", range(6)),
        (6, 6, "nature", range(6)),
        (6, None, "ale", minimal_set(PONG)),
        (12, None, "ale", minimal_set(PONG)),
        (18, None, "ale", range(18)),
        (18, 6, "ale", minimal_set(PONG)),  # three quantiles of six
        (18, 18, "ale", range(18)),
    ],
)
def test_a_network_of_the_minimal_set_keeps_to_it_among_all_actions(
    make_net, outputs, num_actions, protocol, moves
):
    net = make_net(*range(outputs), state=(4, 84, 84))
    terms = Terms(PONG, 1, protocol=protocol, num_actions=num_actions)
    assert moves_of(net, terms).tolist() == list(moves)


def test_a_network_of_all_actions_cannot_play_with_fewer(make_net):
    net = make_net(*range(18), state=(4, 84, 84))
    with pytest.raises(PlayError, match="play it under the protocol that it was trained under"):
        moves_of(net, Terms(PONG, 1, protocol="nature", num_actions=18))


def test_the_network_of_a_text_and_its_weights(make_net):
    net = make_net(0, 1, 0)
    copy = net_of(tiny.MODEL, net.param_arena)
    np.testing.assert_array_equal(copy.param_arena, net.param_arena)
    players = play_here(echo(), tiny.MODEL, net.param_arena)
    assert players.greedy.mean == 10.0
    assert 0 < players.random.mean < 10


def test_damaged_weights_are_one_line(make_net, tmp_path):
    make_net(0, 1, 0)
    (tmp_path / "model.caffemodel").write_bytes(b"junk")
    with pytest.raises(PlayError, match=r"model\.caffemodel"):
        load_net(tmp_path)
