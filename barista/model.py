"""The model files of a run: which ones, and whether they fit the game.

Only prototxt is read here, with the schema's own parser, so this needs no engine and no PyTorch;
building the network and finding what else may be wrong in it is the server's affair.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from caffe.proto import caffe_pb2
from google.protobuf import text_format
from google.protobuf.message import Message

from barista.games.models import ModelFiles, model_for

if TYPE_CHECKING:
    from barista.games import GameSpec

M = TypeVar("M", bound=Message)

OUTPUT = "Q_out"
INPUT = "state"
# Of a net that holds both networks and the loss; `state` and Q_out have the names above.
TARGET_OUTPUT = "P_out"
ONE_NET_INPUTS = (INPUT, "action", "reward", "next_state", "non_terminal")
LOSS = "loss"

# Layers that make, for each state, as many values as their first bottom has.
_SAME_SIZE = {
    "BatchNorm", "Bias", "Clip", "Dropout", "ELU", "Eltwise", "Flatten", "MVN", "PReLU", "Power",
    "ReLU", "Reshape", "Scale", "Sigmoid", "Softmax", "Split", "Swish", "TanH",
}  # fmt: skip


class ModelError(ValueError):
    """The model cannot be used for this game; the message is one line for the user."""


def choose(
    spec: GameSpec,
    model: str | None,
    solver: str | None,
    *,
    dueling: bool = False,
    quantiles: int = 1,
) -> ModelFiles:
    """Return the texts of net and solver: the files named, else the game's defaults.

    Args:
        spec: the game's.
        model: path of a network; it brings its own architecture, whatever `dueling` says.
        solver: path of a solver.
        dueling: whether the default network tells value and advantages apart.
        quantiles: N, for each action, of whichever network.

    Raises:
        ModelError: If a file is missing or malformed, or does not fit the game.
        barista.games.GameError: If the game has no default model.
    """
    default = None
    if model is None or solver is None:
        default = model_for(spec, dueling=dueling, quantiles=quantiles)
    net_text = _read(model, "--model") if model is not None else _of(default).net
    solver_text = _read(solver, "--solver") if solver is not None else _of(default).solver
    name = model or "the default model"
    if is_one_net(net_text, name):
        check_one_net(net_text, spec, name)
    else:
        check(net_text, spec, name, quantiles=quantiles)
    _parse(solver_text, caffe_pb2.SolverParameter(), solver or "the default solver")
    return ModelFiles(net_text, solver_text)


def write(files: ModelFiles, folder: Path) -> Path:
    """Write both files to `folder`, the solver naming the net; return the solver's path."""
    net = folder / "train_val.prototxt"
    net.write_text(files.net)
    parameter = _parse(files.solver, caffe_pb2.SolverParameter(), "the solver")
    for field in ("train_net", "net_param", "train_net_param", "test_net", "test_net_param"):
        parameter.ClearField(field)
    parameter.net = str(net)
    solver = folder / "solver.prototxt"
    solver.write_text(text_format.MessageToString(parameter))
    return solver


def check(net_text: str, spec: GameSpec, name: str, *, quantiles: int | None = None) -> None:
    """Compare input and output of a Q-network with what the game needs.

    Where the number of outputs cannot be told from the text, it is left to whoever builds the net.

    Args:
        net_text: its prototxt.
        spec: the game's.
        name: of the network, for the message.
        quantiles: N, where it is known; any number by default.

    Raises:
        ModelError: If they differ; says both, and what to change.
    """
    net = _parse(net_text, caffe_pb2.NetParameter(), name)
    if not any(OUTPUT in layer.top for layer in net.layer):
        raise ModelError(f"{name} has no layer with the top `{OUTPUT}`: a Q-network's output")
    _check_outputs(net, OUTPUT, spec, name, quantiles)
    _check_input(net, INPUT, (spec.stack, *spec.frame_shape), spec, name)
    if not any(weight for layer in net.layer for weight in layer.loss_weight):
        raise ModelError(
            f"{name}: give the layer that makes `{OUTPUT}` a `loss_weight: 1`; without one Caffe "
            "leaves every gradient at zero"
        )


def is_one_net(net_text: str, name: str = "the model") -> bool:
    """Return whether a net holds both networks and the loss, in the form of Ong et al., 2015.

    Raises:
        ModelError: If the text is no prototxt of a net.
    """
    net = _parse(net_text, caffe_pb2.NetParameter(), name)
    inputs = {top for layer in net.layer if layer.type == "Input" for top in layer.top}
    tops = {top for layer in net.layer for top in layer.top}
    return LOSS in tops and inputs.union(net.input).issuperset(ONE_NET_INPUTS)


def check_one_net(net_text: str, spec: GameSpec, name: str = "the model") -> None:
    """Compare a net that holds both networks and the loss with what the game needs.

    Raises:
        ModelError: If an input or output has another shape, there is no target network, or a
            layer of it learns.
    """
    net = _parse(net_text, caffe_pb2.NetParameter(), name)
    state = (spec.stack, *spec.frame_shape)
    shapes = (state, (spec.num_actions,), (1,), state, (1,))
    for blob, shape in zip(ONE_NET_INPUTS, shapes, strict=True):
        _check_input(net, blob, shape, spec, name)
    for blob in (OUTPUT, TARGET_OUTPUT):
        if not any(blob in layer.top for layer in net.layer):
            raise ModelError(f"{name} has no layer with the top `{blob}`, which one net needs")
        _check_outputs(net, blob, spec, name, 1)
    for layer in net.layer:
        if layer.name.startswith(TARGET_OUTPUT[0]) and _learns(layer):
            raise ModelError(
                f"{name}: layer {layer.name} is of the target network and must not learn: give it "
                "`param { lr_mult: 0 }` twice, for weights and biases"
            )


def solver_line(files: ModelFiles) -> str:
    """Return the update rule as a word and a number: `Adam 0.0001`."""
    parameter = _parse(files.solver, caffe_pb2.SolverParameter(), "the solver")
    return f"{parameter.type} {parameter.base_lr:g}"


def _learns(layer: caffe_pb2.LayerParameter) -> bool:
    """Return whether a convolution or a fully connected layer has a learning rate."""
    if layer.type == "Convolution":
        has_bias = layer.convolution_param.bias_term
    elif layer.type == "InnerProduct":
        has_bias = layer.inner_product_param.bias_term
    else:
        return False
    rates = [param.lr_mult for param in layer.param]
    return any(rates) or len(rates) < 1 + has_bias


def _check_outputs(
    net: caffe_pb2.NetParameter, blob: str, spec: GameSpec, name: str, quantiles: int | None
) -> None:
    maker = _size_maker(net, blob)
    if maker is None:
        return
    outputs, actions = maker.inner_product_param.num_output, spec.num_actions
    number, rest = divmod(outputs, actions)
    wanted = actions * (quantiles or 1)
    if rest == 0 and number > 0 and quantiles in (None, number):
        return
    of_each = f" and {quantiles} quantiles of each" if (quantiles or 1) > 1 else ""
    fix = f"set num_output of {maker.name} to {wanted}, or leave --model out"
    if rest == 0 and number > 0 and blob == OUTPUT:
        fix += f", or say --quantiles {number} if it tells so many of each"
    raise ModelError(
        f"{name} has {outputs} outputs, but {spec.game} has {actions} actions{of_each}: {fix}"
    )


def _size_maker(net: caffe_pb2.NetParameter, blob: str) -> caffe_pb2.LayerParameter | None:
    """Return the layer whose `num_output` is what a blob holds for each state; None if unknown."""
    for layer in reversed(net.layer):
        if blob not in layer.top:
            continue
        if layer.type == "InnerProduct":
            return layer if layer.inner_product_param.axis == 1 else None
        if layer.type not in _SAME_SIZE or not layer.bottom:
            return None
        blob = layer.bottom[0]
    return None


def _check_input(
    net: caffe_pb2.NetParameter, blob: str, wanted: tuple[int, ...], spec: GameSpec, name: str
) -> None:
    shape = _input_shape(net, blob)
    if shape is None:
        raise ModelError(f"{name} has no input `{blob}`")
    if tuple(shape[1:]) != wanted:
        sizes = ", ".join(map(str, wanted))
        raise ModelError(
            f"{name}: input `{blob}` has shape {list(shape)}, but {spec.game} gives "
            f"[batch, {sizes}]: write a network for it (models/generate_prototxt.py --game "
            f"{spec.game}), or leave --model out"
        )


def _input_shape(net: caffe_pb2.NetParameter, blob: str) -> tuple[int, ...] | None:
    for layer in net.layer:
        if layer.type == "Input" and blob in layer.top:
            index = min(list(layer.top).index(blob), len(layer.input_param.shape) - 1)
            return tuple(layer.input_param.shape[index].dim) if index >= 0 else None
    if blob in net.input:
        index = list(net.input).index(blob)
        if net.input_shape:
            return tuple(net.input_shape[index].dim) if index < len(net.input_shape) else None
        return tuple(net.input_dim[4 * index : 4 * index + 4])
    return None


def _read(path: str, option: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{option} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{option} {path} is not a text file") from error


def _parse(text: str, message: M, name: str) -> M:
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise ModelError(
            f"{name} is not a {message.DESCRIPTOR.name} in prototxt: {error}"
        ) from error


def _of(default: ModelFiles | None) -> ModelFiles:
    assert default is not None
    return default
