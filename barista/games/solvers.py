"""Update rules as prototxt text: the default, and those of the papers as near as Caffe comes.

A solver's `net:` names a committed file by default; whoever runs a game gives it that game's.
"""

from __future__ import annotations

from collections.abc import Callable

from barista.games.architectures import architecture

Solver = Callable[[str, str | None], str]  # of an architecture and the path of a network

_DELTA = """
# Caffe adds delta before it corrects the bias of the second moment, others after: the same once
# some thousand updates are done."""


def solvers_for(arch: str, *, dueling: bool = False, quantiles: int = 1) -> dict[str, Solver]:
    """Return what writes the solvers that suit a network, by the names of their files.

    The default and, for the architecture of the papers on Atari games, the paper's own.
    """
    solvers: dict[str, Solver] = {"solver.prototxt": adam_solver}
    if arch == "nature" and quantiles > 1:
        name, solver = ("rainbow", rainbow_solver) if dueling else ("quantile", quantile_solver)
        solvers[f"solver_{name}.prototxt"] = solver
    elif arch == "nature" and not dueling:
        solvers["solver_rmsprop.prototxt"] = rmsprop_solver
    return solvers


def adam_solver(arch: str, net: str | None = None) -> str:
    """Return the default solver: Adam at the architecture's learning rate.

    Args:
        arch: a key of `architectures.ARCHITECTURES`.
        net: path of the network's file, as seen from where the solver will run; by default the
            committed file's, from the repository's root.

    Raises:
        UnsupportedGameError: If there is no such architecture.
    """
    return _adam(
        "Adam (Kingma and Ba, 2015).  The gradients come from the workers: a batch's mean, of "
        "Huber's loss.",
        _net(arch, net),
        base_lr=f"{architecture(arch).base_lr:g}",
        delta="1e-08",
    )


def quantile_solver(arch: str, net: str | None = None) -> str:
    """Return the Adam of Dabney et al., 2018 (QR-DQN): 5e-5, ε = 0.01/32.

    Takes and raises what `adam_solver` does.
    """
    return _adam(
        f"Adam as Dabney et al., 2018, set it for quantile regression on Atari games.{_DELTA}",
        _net(arch, net),
        base_lr="5e-05",
        delta="0.0003125  # 0.01 / 32",
    )


def rainbow_solver(arch: str, net: str | None = None) -> str:
    """Return the Adam of Hessel et al., 2018 (Rainbow), table 1: 6.25e-5, ε = 1.5e-4.

    Takes and raises what `adam_solver` does.
    """
    return _adam(
        f"Adam as Hessel et al., 2018, set it for Rainbow on Atari games.{_DELTA}",
        _net(arch, net),
        base_lr="6.25e-05",
        delta="0.00015",
    )


def rmsprop_solver(arch: str, net: str | None = None) -> str:
    """Return the rule nearest to the RMSProp of Mnih et al., 2015, that Caffe can express.

    Takes and raises what `adam_solver` does.
    """
    return f"""\
# RMSProp, as near to Mnih et al., 2015, as Caffe comes.  It is not the same rule:
#   theirs   w -= lr g / sqrt(mean(g^2) - mean(g)^2 + 0.01)    g: sum over a batch of 32
#   Caffe's  w -= lr g / (sqrt(mean(g^2)) + delta)             g: mean over the batch
# Caffe's is not centred, and its delta lies outside the root.  Where gradients are small, as they
# are in training, delta decides the size of a step: sqrt(0.01) / 32 gives theirs.
net: "{_net(arch, net)}"
type: "RMSProp"
base_lr: 0.00025
lr_policy: "fixed"
rms_decay: 0.95
delta: 0.003125
"""


def _adam(comment: str, net: str, *, base_lr: str, delta: str) -> str:
    return f"""\
# {comment}
net: "{net}"
type: "Adam"
base_lr: {base_lr}
lr_policy: "fixed"
momentum: 0.9
momentum2: 0.999
delta: {delta}
"""


def _net(arch: str, net: str | None) -> str:
    return net or f"models/{architecture(arch).folder}/train_val.prototxt"
