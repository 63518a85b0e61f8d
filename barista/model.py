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


class ModelError(ValueError):
    """The model cannot be used for this game; the message is one line for the user."""


def choose(spec: GameSpec, model: str | None, solver: str | None) -> ModelFiles:
    """Return the texts of net and solver: the files named, else the game's defaults.

    Raises:
        ModelError: If a file is missing or malformed, or does not fit the game.
        barista.games.GameError: If the game has no default model.
    """
    default = model_for(spec) if model is None or solver is None else None
    net_text = _read(model, "--model") if model is not None else _of(default).net
    solver_text = _read(solver, "--solver") if solver is not None else _of(default).solver
    check(net_text, spec, model or "the default model")
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


def check(net_text: str, spec: GameSpec, name: str) -> None:
    """Compare input and output of a net with what the game needs.

    Raises:
        ModelError: If they differ; says both.
    """
    net = _parse(net_text, caffe_pb2.NetParameter(), name)
    makers = [layer for layer in net.layer if OUTPUT in layer.top]
    if not makers:
        raise ModelError(f"{name} has no layer with the top `{OUTPUT}`: a Q-network's output")
    outputs = makers[-1].inner_product_param.num_output
    if makers[-1].type == "InnerProduct" and outputs != spec.num_actions:
        raise ModelError(
            f"{name} has {outputs} outputs, but {spec.game} has {spec.num_actions} actions: "
            f"set num_output of {OUTPUT}, or leave --model out"
        )
    shape = _input_shape(net)
    if shape is None:
        raise ModelError(f"{name} has no input `{INPUT}`")
    wanted = (spec.stack, *spec.frame_shape)
    if tuple(shape[1:]) != wanted:
        raise ModelError(
            f"{name}: input `{INPUT}` has shape {list(shape)}, but {spec.game} gives "
            f"{['batch', *wanted]}"
        )
    if not any(weight for layer in net.layer for weight in layer.loss_weight):
        raise ModelError(
            f"{name}: give the layer that makes `{OUTPUT}` a `loss_weight: 1`; without one Caffe "
            "leaves every gradient at zero"
        )


def solver_line(files: ModelFiles) -> str:
    """Return the update rule as a word and a number: `Adam 0.0001`."""
    parameter = _parse(files.solver, caffe_pb2.SolverParameter(), "the solver")
    return f"{parameter.type} {parameter.base_lr:g}"


def _input_shape(net: caffe_pb2.NetParameter) -> tuple[int, ...] | None:
    for layer in net.layer:
        if layer.type == "Input" and INPUT in layer.top:
            index = min(list(layer.top).index(INPUT), len(layer.input_param.shape) - 1)
            return tuple(layer.input_param.shape[index].dim) if index >= 0 else None
    if INPUT in net.input:
        index = list(net.input).index(INPUT)
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
