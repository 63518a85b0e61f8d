"""Who plays: a network, ε-greedy, or chance.

A player gives each block of episodes a policy with a generator of its own, so that what it does in
one block does not depend on the others (see `episodes.py`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from param_server.network import parameters_of
from param_server.rehearsal import rehearse

import caffe
from barista import dqn, games
from barista.games.actions import minimal_set
from barista.games.protocol import named
from barista.learner import q_values
from barista.model import INPUT, OUTPUT
from barista.playing.episodes import PlayError, Players, play

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from barista.games.vector import Int64
    from barista.playing.episodes import Player, Policy, Terms


def load_net(folder: Path) -> caffe.Net:
    """Return the network of a snapshot's folder, with its weights.

    Raises:
        PlayError: If the files are damaged or do not fit each other.
    """
    net, weights = str(folder / "train_val.prototxt"), str(folder / "model.caffemodel")
    try:
        rehearse(net=net, weights=weights)
        return caffe.Net(net, caffe.TEST, weights=weights)
    except (ValueError, RuntimeError) as error:  # what our engine raises, and a plain pycaffe
        raise PlayError(str(error)) from error


def net_of(text: str, weights: NDArray[np.float32]) -> caffe.Net:
    """Return the network of a prototxt's text with learnable parameters, flat float32 [P]."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "train_val.prototxt")
        file.write_text(text)
        net = caffe.Net(str(file), caffe.TEST)
    parameters_of(net).set_weights(weights)
    return net


def moves_of(net: caffe.Net, terms: Terms) -> Int64:
    """Return how the network's actions are numbered under the protocol: int64 [A].

    A network that was trained with the minimal set of a game's actions keeps to it under a
    protocol with the full set: its action i is the i-th of the minimal set.

    Raises:
        PlayError: If the network does not fit the game; says both.
    """
    game = games.spec(terms.game, terms.protocol)
    for blob in (INPUT, OUTPUT):
        if blob not in net.blobs:
            raise PlayError(f"the network has no blob {blob}, so it is no Q-network")
    wanted = (game.stack, *game.frame_shape)
    taken = tuple(net.blobs[INPUT].shape)[1:]
    if taken != wanted:
        raise PlayError(f"the network takes states of {taken}, but {game.game} shows {wanted}")
    outputs = int(tuple(net.blobs[OUTPUT].shape)[1])
    minimal = minimal_set(terms.game) or ()
    for size in _sizes(outputs, terms, game.num_actions, len(minimal)):
        if size == game.num_actions:
            return np.arange(size)
        if size == len(minimal) and named(terms.protocol).full_actions:
            return np.array(minimal, np.int64)
    raise PlayError(
        f"the network has {outputs} outputs, but {game.game} has {game.num_actions} actions under "
        f"protocol {terms.protocol}: play it under the protocol that it was trained under"
    )


def _sizes(outputs: int, terms: Terms, *known: int) -> list[int]:
    """Return how many actions a network may have, the likeliest first: outputs are A, or N·A."""
    if terms.num_actions is not None:
        return [terms.num_actions]
    return [size for size in known if outputs == size] + [
        size for size in known if size and outputs % size == 0
    ]


def network_player(net: caffe.Net, terms: Terms) -> Player:
    """Return the ε-greedy player of a network, with its weights as they are.

    Args:
        net: input `state`, output `Q_out`; used alone meanwhile, and left with another batch size.
        terms: whose game it is to fit.

    Raises:
        PlayError: If it does not.
        barista.games.GameError: If the game cannot be played.
    """
    terms.check()
    moves = moves_of(net, terms)  # [A]

    def player(block: int) -> Policy:
        rng = np.random.default_rng((terms.seed, 1, block))

        def policy(states: NDArray[Any]) -> Int64:
            q = q_values(net, states, len(moves))  # [N, A]
            chosen: Int64 = moves[dqn.epsilon_greedy(q, terms.exploration, rng)]  # [N]
            return chosen

        return policy

    return player


def random_player(terms: Terms) -> Player:
    """Return the player whose actions are uniformly random among all that the protocol has.

    Raises:
        PlayError: If a number is out of range.
        barista.games.GameError: If the game cannot be played.
    """
    terms.check()
    num_actions = games.spec(terms.game, terms.protocol).num_actions

    def player(block: int) -> Policy:
        rng = np.random.default_rng((terms.seed, 2, block))
        return lambda states: rng.integers(num_actions, size=len(states))

    return player


def play_here(terms: Terms, net: str, weights: NDArray[np.float32], **limits: Any) -> Players:
    """Play a network and by chance, in this process.

    Args:
        terms: of both.
        net: text of the network's prototxt.
        weights: its learnable parameters, flat float32 [P].
        limits: see `play`.
    """
    greedy = play(network_player(net_of(net, weights), terms), terms, **limits)
    return Players(greedy, play(random_player(terms), terms, **limits))
