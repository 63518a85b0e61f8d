"""Q-networks as prototxt text, for any number of actions and any size of observation.

This file decides which layers make a network, and writes them; it builds none.  The text of the
committed files under models/ comes from here (models/generate_prototxt.py writes them, a test
compares).  Nothing is read from disk, so that it works from a zip on a Spark executor too.

B is the batch size, A the number of actions, N the number of quantiles.  References:
    Mnih et al., 2015, *Human-level control through deep reinforcement learning*.
    Wang et al., 2016, *Dueling network architectures for deep reinforcement learning*.
    Dabney et al., 2018, *Distributional reinforcement learning with quantile regression*.
    Hessel et al., 2018, *Rainbow: combining improvements in deep reinforcement learning*.
    Ong, Chavez and Hong, 2015, *Distributed deep Q-learning*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from barista.games.architectures import architecture, architecture_for
from barista.games.errors import UnsupportedGameError
from barista.games.layer_text import inner_product, input_layer
from barista.games.network_parts import dueling_streams, squared_error, trunk
from barista.games.solvers import adam_solver

if TYPE_CHECKING:
    from barista.games.architectures import Architecture
    from barista.games.vector import GameSpec

BATCH = 32

_WRITTEN_BY = (
    "# Written by models/generate_prototxt.py from barista/games/models.py: change it there.\n"
)


class ModelFiles(NamedTuple):
    """The two texts that make a model."""

    net: str  # train_val.prototxt
    solver: str  # solver.prototxt; its `net:` names the default folder's file


def model_for(spec: GameSpec, *, dueling: bool = False, quantiles: int = 1) -> ModelFiles:
    """Return the default model of a game: network and solver with its actions and frame size.

    The solver's `net:` names the default folder's file, which holds another network unless the
    game is that folder's own (Pong, Snake, CartPole): whoever runs it gives it this one.

    Args:
        spec: the game's.
        dueling: whether value and advantages are told apart.
        quantiles: N, of the return's distribution for each action; 1 is the mean alone.

    Raises:
        UnsupportedGameError: If the game's observations are neither images nor vectors.
    """
    arch = architecture_of(spec)
    shape = (spec.stack, *spec.frame_shape)
    net = network(arch, spec.num_actions, shape, dueling=dueling, quantiles=quantiles)
    return ModelFiles(net, adam_solver(arch))


def architecture_of(spec: GameSpec) -> str:
    """Return the name of the architecture that suits a game's observations.

    Raises:
        UnsupportedGameError: If these are neither images nor vectors.
    """
    if len(spec.frame_shape) not in (1, 2):
        raise UnsupportedGameError(
            f"{spec.game}: no default model for frames of shape {spec.frame_shape}; give --model"
        )
    return "mlp" if len(spec.frame_shape) == 1 else architecture_for(*spec.frame_shape)


def q_network(
    arch: str,
    num_actions: int,
    stack: int,
    height: int,
    width: int,
    *,
    batch: int = BATCH,
    dueling: bool = False,
    quantiles: int = 1,
) -> str:
    """Return `network` for images: `stack` frames of this many pixels."""
    shape = (stack, height, width)
    return network(arch, num_actions, shape, batch=batch, dueling=dueling, quantiles=quantiles)


def mlp_network(
    num_actions: int, inputs: int, *, batch: int = BATCH, dueling: bool = False, quantiles: int = 1
) -> str:
    """Return `network` for vectors: `state` is float [B, 1, inputs]."""
    shape = (1, inputs)
    return network("mlp", num_actions, shape, batch=batch, dueling=dueling, quantiles=quantiles)


def network(
    arch: str,
    num_actions: int,
    shape: tuple[int, ...],
    *,
    batch: int = BATCH,
    dueling: bool = False,
    quantiles: int = 1,
) -> str:
    """Return the prototxt of a Q-network.

    Its output `Q_out` is [B, N·A], quantile by quantile: `reshape(B, N, A)`.  The two streams of a
    dueling network have a hidden layer each, of the size of the architecture's last one.

    Args:
        arch: a key of `ARCHITECTURES`.
        num_actions: A.
        shape: of a state: (stack, height, width) of grey values, which the network scales to
            [0, 1]; or (1, values), taken as they are.
        batch: B, as Caffe starts with; it reshapes at will.
        dueling: Q = V + A − mean A (Wang et al., 2016, equation 9), for each quantile.
        quantiles: N (Dabney et al., 2018); 1 is the ordinary Q-network.

    Raises:
        UnsupportedGameError: If there is no such architecture, a number is not positive, or the
            states are no images, or too small, for its convolutions.
    """
    kind = architecture(arch)
    _check_sizes(num_actions, batch, shape, quantiles)
    streams = 1 if dueling else 0  # a hidden layer in each of these, not in the trunk
    shared = trunk(kind, "state", shape, num_hidden=len(kind.hidden) - streams)
    if dueling:
        head = dueling_streams(kind, shared, num_actions, quantiles)
    else:
        head = inner_product(
            "Q_out",
            shared.top,
            outputs=quantiles * num_actions,
            inputs=shared.size,
            loss_weight=True,
        )
    return (
        _heading(kind, shape, dueling=dueling, quantiles=quantiles)
        + input_layer("state", (batch, *shape))
        + shared.text
        + head
    )


def one_net(
    arch: str,
    num_actions: int,
    shape: tuple[int, ...],
    *,
    batch: int = BATCH,
    gamma: float = 0.99,
) -> str:
    """Return the prototxt of a net that holds both networks and the loss (Ong et al., 2015).

    Layers whose names begin with Q are the online network; those with P the target network, the
    same layers, which do not learn.  What comes out is

        loss = Σ (r + γ · non_terminal · maxₐ P_out(s′, a) − Q_out(s, action))² / 2B

    (Mnih et al., 2015, Algorithm 1, without clipped errors or n steps).  Inputs are `state` and
    `next_state`, `action` [B, A], one-hot, `reward` [B, 1] and `non_terminal` [B, 1], 0 or 1.  A
    forward pass that ends at the layer Q_out reads `state` alone.

    Args:
        arch: a key of `ARCHITECTURES`.
        num_actions: A.
        shape: of a state, as in `network`.
        batch: B.
        gamma: γ.

    Raises:
        UnsupportedGameError: As `network`.
    """
    kind = architecture(arch)
    _check_sizes(num_actions, batch, shape)
    hidden = len(kind.hidden)
    online = trunk(kind, "state", shape, num_hidden=hidden, prefix="Q")
    target = trunk(kind, "next_state", shape, num_hidden=hidden, prefix="P", frozen=True)
    size = online.size
    parts = (
        f"# {kind.title}, twice, and the loss: as in Ong, Chavez and Hong, 2015.\n",
        f"# Inputs `state` and `next_state` {_axes(shape)};\n",
        "# `action` [batch, actions], one-hot; `reward` and `non_terminal` [batch, 1].\n",
        "# Q... is the online network, P... the target network, which does not learn here.\n",
        f"# Plain one-step Q-learning: gamma, {gamma:g}, and the squared error lie inside.\n",
        _WRITTEN_BY,
        f'name: "{kind.folder}_one_net"\n',
        input_layer("state", (batch, *shape)),
        input_layer("action", (batch, num_actions)),
        input_layer("reward", (batch, 1)),
        input_layer("next_state", (batch, *shape)),
        input_layer("non_terminal", (batch, 1)),
        online.text,
        inner_product("Q_out", online.top, outputs=num_actions, inputs=size),
        target.text,
        inner_product("P_out", target.top, outputs=num_actions, inputs=size, frozen=True),
        squared_error(gamma),
    )
    return "".join(parts)


def _heading(kind: Architecture, shape: tuple[int, ...], *, dueling: bool, quantiles: int) -> str:
    """Return the comment and the name at a Q-network's head."""
    extras, name, outputs = "", kind.folder, "[batch, actions]"
    if dueling:
        extras += "# Dueling: value and advantages apart, as in Wang et al., 2016.\n"
        name += "_dueling"
    if quantiles > 1:
        extras += f"# {quantiles} quantiles for each action, as in Dabney et al., 2018.\n"
        name += f"_{quantiles}_quantiles"
        outputs = "[batch, quantiles * actions], quantile by quantile"
    return (
        f"# {kind.title}.\n{extras}"
        f"# Input `state` {_axes(shape)};\n"
        f"# output `Q_out` {outputs}.\n"
        f'{_WRITTEN_BY}name: "{name}"\n'
    )


def _axes(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "[batch, stack, height, width], grey values of 0 to 255"
    return "[batch, 1, values], as the game gives them"


def _check_sizes(num_actions: int, batch: int, shape: tuple[int, ...], quantiles: int = 1) -> None:
    """Check that all numbers are positive.

    Raises:
        UnsupportedGameError: If one is not.
    """
    if min(num_actions, batch, quantiles, *shape) < 1:
        raise UnsupportedGameError(
            f"a Q-network needs positive sizes, got {num_actions} actions, {quantiles} quantiles, "
            f"states of {'x'.join(map(str, shape))} and a batch of {batch}"
        )
