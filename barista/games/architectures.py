"""Which Q-network plays which game: the sizes of its layers, and a learning rate for them."""

from __future__ import annotations

from typing import NamedTuple

from barista.games.errors import UnsupportedGameError


class Convolution(NamedTuple):
    """One convolution with its rectifier; square kernels, no padding."""

    filters: int
    kernel: int
    stride: int


class Architecture(NamedTuple):
    """A Q-network between its input and its output, and the solver that suits it."""

    name: str
    folder: str  # of models/, where the default files lie
    title: str
    convolutions: tuple[Convolution, ...]
    hidden: tuple[int, ...]  # units of the fully connected layers before Q_out
    base_lr: float  # Adam's


_ALL = (
    Architecture(
        "nature",
        "deepq",
        "The deep Q-network of Mnih et al., 2015",
        (Convolution(32, 8, 4), Convolution(64, 4, 2), Convolution(64, 3, 1)),
        (512,),
        base_lr=1e-4,
    ),
    Architecture(
        "snake",
        "snake",
        "A small network for boards of about 16x16",
        (Convolution(16, 3, 1), Convolution(32, 3, 2)),
        (128,),
        base_lr=1e-3,
    ),
    Architecture("mlp", "mlp", "A network without convolutions", (), (256, 256), base_lr=5e-4),
)
ARCHITECTURES = {each.name: each for each in _ALL}


def architecture(arch: str) -> Architecture:
    """Return an architecture by its name.

    Raises:
        UnsupportedGameError: If there is none of this name.
    """
    if arch not in ARCHITECTURES:
        raise UnsupportedGameError(f"no architecture {arch}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[arch]


def architecture_for(height: int, width: int) -> str:
    """Return the name of the architecture that suits frames of this size in pixels."""
    smallest = min(height, width)
    if smallest >= 36:
        return "nature"
    return "snake" if smallest >= 5 else "mlp"
