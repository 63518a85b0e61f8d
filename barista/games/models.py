"""Q-networks and solvers as prototxt text, for any number of actions and any size of frame.

This file decides which architecture plays which game, and writes it; it builds no network.  The
text of the committed files under models/ comes from here (models/generate_prototxt.py writes them,
a test compares).  Nothing is read from disk, so that it works from a zip on a Spark executor too.

Weights start as Torch 7 drew them, uniform in ±1/√fan-in, biases too: the initialisation of
Mnih et al., 2015, and of the Pong curves that our defaults were taken from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from barista.games.errors import UnsupportedGameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from barista.games.vector import GameSpec

BATCH = 32

HEADER = """\
# {title}.
# Input `state` [batch, stack, height, width], grey values of 0 to 255;
# output `Q_out` [batch, actions].
# Written by models/generate_prototxt.py from barista/games/models.py: change it there.
name: "{name}"
layer {{
  name: "state"
  type: "Input"
  top: "state"
  input_param {{ shape {{ dim: {batch} dim: {stack} dim: {height} dim: {width} }} }}
}}
layer {{
  name: "scale"  # to [0, 1]: frames travel and are stored as bytes
  type: "Power"
  bottom: "state"
  top: "scaled"
  power_param {{ scale: 0.00392156862745098 }}
}}
"""

CONVOLUTION = """\
layer {{
  name: "{name}"
  type: "Convolution"
  bottom: "{bottom}"
  top: "{name}"
  convolution_param {{
    num_output: {filters}
    kernel_size: {kernel}
    stride: {stride}
    weight_filler {{ type: "uniform" min: -{bound} max: {bound} }}
    bias_filler {{ type: "uniform" min: -{bound} max: {bound} }}
  }}
}}
"""

INNER_PRODUCT = """\
layer {{
  name: "{name}"
  type: "InnerProduct"
  bottom: "{bottom}"
  top: "{name}"{extra}
  inner_product_param {{
    num_output: {outputs}
    weight_filler {{ type: "uniform" min: -{bound} max: {bound} }}
    bias_filler {{ type: "uniform" min: -{bound} max: {bound} }}
  }}
}}
"""

RELU = """\
layer {{
  name: "{name}_relu"
  type: "ReLU"
  bottom: "{name}"
  top: "{name}"
}}
"""

# Without a loss weight somewhere in the net, Caffe's backward pass is empty and silently leaves
# every gradient at zero.
LOSS_WEIGHT = """
  loss_weight: 1  # opens the way for net.backward(Q_out=diff); forward's loss means nothing"""


class Convolution(NamedTuple):
    """One convolution with its rectifier; square kernels, no padding."""

    filters: int
    kernel: int
    stride: int


class Architecture(NamedTuple):
    """A Q-network between its input and its output, and the solver that suits it."""

    folder: str  # of models/, where the default files lie
    title: str
    convolutions: tuple[Convolution, ...]
    hidden: tuple[int, ...]  # units of the fully connected layers before Q_out
    base_lr: float  # Adam's


class ModelFiles(NamedTuple):
    """The two texts that make a model."""

    net: str  # train_val.prototxt
    solver: str  # solver.prototxt; its `net:` names the default folder's file


ARCHITECTURES = {
    "nature": Architecture(
        "deepq",
        "The deep Q-network of Mnih et al., 2015",
        (Convolution(32, 8, 4), Convolution(64, 4, 2), Convolution(64, 3, 1)),
        (512,),
        base_lr=1e-4,
    ),
    "snake": Architecture(
        "snake",
        "A small network for boards of about 16x16",
        (Convolution(16, 3, 1), Convolution(32, 3, 2)),
        (128,),
        base_lr=1e-3,
    ),
    "mlp": Architecture("mlp", "A network without convolutions", (), (256, 256), base_lr=5e-4),
}


def architecture_for(height: int, width: int) -> str:
    """Return the name of the architecture that suits frames of this size in pixels."""
    smallest = min(height, width)
    if smallest >= 36:
        return "nature"
    return "snake" if smallest >= 5 else "mlp"


def q_network(
    arch: str, num_actions: int, stack: int, height: int, width: int, *, batch: int = BATCH
) -> str:
    """Return the prototxt of a Q-network.

    Args:
        arch: a key of `ARCHITECTURES`.
        num_actions: outputs of `Q_out`.
        stack: channels of the input, frames in a state.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        batch: first dimension of the input; Caffe reshapes it at will.

    Raises:
        UnsupportedGameError: If there is no such architecture, a number is not positive, or the
            frames are too small for its convolutions.
    """
    architecture = _architecture(arch)
    if min(num_actions, stack, height, width, batch) < 1:
        raise UnsupportedGameError(
            f"a Q-network needs positive sizes, got {num_actions} actions, a stack of {stack}, "
            f"frames of {height}x{width} and a batch of {batch}"
        )
    text = HEADER.format(
        title=architecture.title,
        name=architecture.folder,
        batch=batch,
        stack=stack,
        height=height,
        width=width,
    )
    bottom, channels, rows, columns = "scaled", stack, height, width
    for number, convolution in enumerate(architecture.convolutions, start=1):
        name = f"conv{number}"
        bound = _bound(channels * convolution.kernel**2)
        text += CONVOLUTION.format(name=name, bottom=bottom, bound=bound, **convolution._asdict())
        text += RELU.format(name=name)
        bottom, channels = name, convolution.filters
        rows, columns = (
            (size - convolution.kernel) // convolution.stride + 1 for size in (rows, columns)
        )
        if min(rows, columns) < 1:
            raise UnsupportedGameError(
                f"frames of {height}x{width} are too small for {arch}'s {name}"
            )
    inputs = channels * rows * columns
    for number, units in enumerate(architecture.hidden, start=len(architecture.convolutions) + 1):
        name = f"fc{number}"
        text += INNER_PRODUCT.format(
            name=name, bottom=bottom, extra="", outputs=units, bound=_bound(inputs)
        )
        text += RELU.format(name=name)
        bottom, inputs = name, units
    return text + INNER_PRODUCT.format(
        name="Q_out", bottom=bottom, extra=LOSS_WEIGHT, outputs=num_actions, bound=_bound(inputs)
    )


def adam_solver(arch: str, net: str | None = None) -> str:
    """Return the default solver: Adam at the architecture's learning rate.

    Args:
        arch: a key of `ARCHITECTURES`.
        net: path of the network's file, as seen from where the solver will run; by default the
            committed file's, from the repository's root.

    Raises:
        UnsupportedGameError: If there is no such architecture.
    """
    architecture = _architecture(arch)
    return f"""\
# Adam (Kingma and Ba, 2015).  The gradients come from the workers: a batch's mean, of Huber's loss.
net: "{net or _default_net(architecture)}"
type: "Adam"
base_lr: {architecture.base_lr:g}
lr_policy: "fixed"
momentum: 0.9
momentum2: 0.999
delta: 1e-08
"""


def rmsprop_solver(arch: str, net: str | None = None) -> str:
    """Return the rule nearest to the RMSProp of Mnih et al., 2015, that Caffe can express.

    Args:
        arch: a key of `ARCHITECTURES`.
        net: as in `adam_solver`.

    Raises:
        UnsupportedGameError: If there is no such architecture.
    """
    architecture = _architecture(arch)
    return f"""\
# RMSProp, as near to Mnih et al., 2015, as Caffe comes.  It is not the same rule:
#   theirs   w -= lr g / sqrt(mean(g^2) - mean(g)^2 + 0.01)    g: sum over a batch of 32
#   Caffe's  w -= lr g / (sqrt(mean(g^2)) + delta)             g: mean over the batch
# Caffe's is not centred, and its delta lies outside the root.  Where gradients are small, as they
# are in training, delta decides the size of a step: sqrt(0.01) / 32 gives theirs.
net: "{net or _default_net(architecture)}"
type: "RMSProp"
base_lr: 0.00025
lr_policy: "fixed"
rms_decay: 0.95
delta: 0.003125
"""


def model_for(spec: GameSpec) -> ModelFiles:
    """Return the default model of a game: network and solver with its actions and frame size.

    The solver's `net:` names the default folder's file, which holds another number of actions
    unless the game is that folder's own (Pong, Snake): whoever runs it gives it this network.

    Raises:
        UnsupportedGameError: If the game's frames are not images.
    """
    if len(spec.frame_shape) != 2:
        raise UnsupportedGameError(
            f"{spec.game}: no default model for frames of shape {spec.frame_shape}; give --model"
        )
    height, width = spec.frame_shape
    arch = architecture_for(height, width)
    return ModelFiles(
        q_network(arch, spec.num_actions, spec.stack, height, width), adam_solver(arch)
    )


def _architecture(arch: str) -> Architecture:
    if arch not in ARCHITECTURES:
        raise UnsupportedGameError(f"no architecture {arch}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[arch]


def _default_net(architecture: Architecture) -> str:
    return f"models/{architecture.folder}/train_val.prototxt"


def _bound(fan_in: int) -> str:
    """Return 1/√fan-in as a prototxt writes it."""
    return f"{fan_in**-0.5:.6g}"


SOLVERS: dict[str, Callable[[str, str | None], str]] = {
    "solver.prototxt": adam_solver,
    "solver_rmsprop.prototxt": rmsprop_solver,
}
