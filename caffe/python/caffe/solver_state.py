"""Snapshots of a solver: .solverstate files beside the weights, binary protobuf or HDF5.

A history is kept for every parameter in the order of the prototxt, frozen ones included; rules
with two histories store all the first ones, then all the second ones.  Restoring reads and checks
both files whole before it changes anything.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from caffe import files
from caffe import weights as weight_files
from caffe.errors import require
from caffe.proto import caffe_pb2
from caffe.wire import Reader, set_floats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from caffe.solver import Solver

    Floats = NDArray[np.float32]


class _State(NamedTuple):
    """What a file of either form holds."""

    iter: int
    current_step: int
    learned_net: str
    histories: list[Floats]


def _histories(solver: Solver) -> list[tuple[Floats, str]]:
    """Return a view of every history, and what to call it, in the order of the file."""
    arena = solver.net.arena
    return [
        (
            history.host[span].view(parameter.blob.shape).numpy(),
            f"history {index} of parameter {parameter.place} of layer '{parameter.layer}'",
        )
        for index, history in enumerate(solver.histories)
        for parameter, span in zip(arena.parameters, arena.spans, strict=True)
    ]


def save(solver: Solver) -> None:
    """Write weights and state under the solver's snapshot_prefix.

    Raises:
        CaffeFileError: If a file cannot be written.
        CaffeError: If the net does not fit into the format.
    """
    param = solver.message
    stem = f"{param.snapshot_prefix}_iter_{solver.iter}"
    if param.snapshot_format == caffe_pb2.SolverParameter.HDF5:
        model = f"{stem}.caffemodel.h5"
        weight_files.save_hdf5(solver.net, model, with_diff=param.snapshot_diff)
        _write_hdf5(solver, f"{stem}.solverstate.h5", model)
    else:
        model = f"{stem}.caffemodel"
        weight_files.save(solver.net, model, with_diff=param.snapshot_diff)
        _write_protobuf(solver, f"{stem}.solverstate", model)


def _write_protobuf(solver: Solver, path: str, model: str) -> None:
    histories = _histories(solver)
    weight_files.check_size(sum(values.nbytes for values, _ in histories), path)
    state = caffe_pb2.SolverState(
        iter=solver.iter, learned_net=model, current_step=solver.current_step
    )
    for values, _ in histories:
        proto = state.history.add()
        proto.shape.dim.extend(values.shape)
        set_floats(proto, "data", values)
    files.write_bytes(path, state.SerializeToString())


def _write_hdf5(solver: Solver, path: str, model: str) -> None:
    content = {
        "iter": np.array([solver.iter], np.int32),
        "current_step": np.array([solver.current_step], np.int32),
        "learned_net": np.bytes_(os.fsencode(model)),
        "history": None,
    }
    histories = {f"history/{i}": values for i, (values, _) in enumerate(_histories(solver))}
    files.write_hdf5(path, {**content, **histories})


def restore(solver: Solver, path: str | os.PathLike[str]) -> None:
    """Read state and weights of a snapshot into the solver.

    Weights that are not where the state says are looked for beside it.

    Raises:
        CaffeFileError: If a file cannot be read.
        CaffeError: If the snapshot is damaged, or of another solver or net; nothing has changed.
    """
    state = _read_hdf5(solver, path) if files.is_hdf5(path) else _read_protobuf(solver, path)
    for name in ("iter", "current_step"):
        value = getattr(state, name)
        require(0 <= value < 2**31, f"{path}: {name} is {value}, not a number of iterations")
    staged = []
    if state.learned_net:
        staged = weight_files.stage(solver.net, _find(state.learned_net, path))
    weight_files.copy(staged)
    for values, (target, _) in zip(state.histories, _histories(solver), strict=True):
        target[...] = values.reshape(target.shape)
    solver.resume_at(state.iter, state.current_step)


def _find(model: str, state_path: str | os.PathLike[str]) -> str:
    beside = Path(state_path).parent / Path(model).name
    return str(beside) if beside.exists() and not Path(model).exists() else model


def _check_number(number: int, solver: Solver, path: str | os.PathLike[str]) -> None:
    kept = len(_histories(solver))
    require(
        number == kept,
        f"{path} holds {number} histories, but {type(solver).__name__} keeps {kept} for this net; "
        "it is a state of another type of solver or of another net",
    )


def _read_protobuf(solver: Solver, path: str | os.PathLike[str]) -> _State:
    reader = Reader(files.read_bytes(path), str(path))
    integers, model, contents = {1: 0, 4: 0}, "", []
    for number, value in reader.fields(reader.content):
        if isinstance(value, int):
            integers[number] = value
        elif number == 2:
            model = os.fsdecode(bytes(value))
        elif number == 3:
            contents.append(value)
    if not reader.content:
        raise reader.error("it is empty")
    _check_number(len(contents), solver, path)
    histories = []
    for content, (target, name) in zip(contents, _histories(solver), strict=True):
        where = f"{path}: {name}"
        proto = weight_files.parse_blob(content, where)
        histories.append(weight_files.proto_values(proto, "data", target.size, where))
    return _State(integers[1], integers[4], model, histories)


def _read_hdf5(solver: Solver, path: str | os.PathLike[str]) -> _State:
    with files.reading_hdf5(path) as file:
        members = {}
        for name in ("iter", "current_step", "learned_net", "history"):
            members[name] = files.hdf5_member(file, name)
            require(
                members[name] is not None or name == "learned_net",
                f"{path} has no '{name}' and so is no solver state",
            )
        group = members["history"]
        require(hasattr(group, "keys"), f"{path}: 'history' is no group")
        _check_number(len(group), solver, path)
        histories = []
        for index, (target, name) in enumerate(_histories(solver)):
            where = f"{path}: {name}"
            dataset = files.hdf5_member(group, str(index))
            require(
                getattr(dataset, "size", None) == target.size,
                f"{where} is missing, or does not hold {target.size} values",
            )
            values = files.hdf5_array(dataset, where, target.size)
            histories.append(weight_files.check_finite(values, where))
        model = ""
        if members["learned_net"] is not None:
            model = files.hdf5_string(members["learned_net"], f"{path}: 'learned_net'")
        return _State(
            files.hdf5_int(members["iter"], f"{path}: 'iter'"),
            files.hdf5_int(members["current_step"], f"{path}: 'current_step'"),
            model,
            histories,
        )
