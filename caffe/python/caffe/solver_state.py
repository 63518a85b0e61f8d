"""Snapshots of a solver: .solverstate files beside the weights, binary protobuf or HDF5.

A history is kept for every parameter in the order of the prototxt, frozen ones included; rules
with two histories store all the first ones, then all the second ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from caffe import weights as weight_files
from caffe.errors import CaffeError, require
from caffe.proto import caffe_pb2
from caffe.prototxt import read_binary

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from caffe.solver import Solver


def _histories(solver: Solver) -> list[NDArray[np.float32]]:
    """Return a view of every history, in the order of the file."""
    arena = solver.net.arena
    return [
        history[span].view(parameter.blob.shape).numpy()
        for history in solver.histories
        for parameter, span in zip(arena.parameters, arena.spans, strict=True)
    ]


def save(solver: Solver) -> None:
    """Write weights and state under the solver's snapshot_prefix.

    Raises:
        CaffeFileError: If a file cannot be written.
    """
    param = solver.message
    stem = f"{param.snapshot_prefix}_iter_{solver.iter}"
    if param.snapshot_format == caffe_pb2.SolverParameter.HDF5:
        model = f"{stem}.caffemodel.h5"
        weight_files.save_hdf5(solver.net, model, with_diff=param.snapshot_diff)
        _save_hdf5(solver, f"{stem}.solverstate.h5", model)
        return
    model = f"{stem}.caffemodel"
    weight_files.save(solver.net, model, with_diff=param.snapshot_diff)
    state = caffe_pb2.SolverState(
        iter=solver.iter, learned_net=model, current_step=solver.current_step
    )
    for history in _histories(solver):
        proto = state.history.add()
        proto.shape.dim.extend(history.shape)
        proto.data.extend(history.ravel())
    weight_files.write_bytes(f"{stem}.solverstate", state.SerializeToString())


def _save_hdf5(solver: Solver, path: str, model: str) -> None:
    with weight_files.open_hdf5(path, "w") as file:
        file["iter"] = np.array([solver.iter], np.int32)
        file["current_step"] = np.array([solver.current_step], np.int32)
        file["learned_net"] = np.bytes_(model.encode())
        group = file.create_group("history")
        for index, history in enumerate(_histories(solver)):
            group[str(index)] = history


def restore(solver: Solver, path: str | os.PathLike[str]) -> None:
    """Read state and weights of a snapshot into the solver.

    Weights that are not where the state says are looked for beside it.

    Raises:
        CaffeFileError: If a file cannot be read.
        CaffeError: If the snapshot is of another solver or net; the histories are unchanged.
    """
    if str(path).endswith(".h5"):
        iteration, step, model, arrays = _read_hdf5(path)
    else:
        state = read_binary(path, caffe_pb2.SolverState())
        iteration, step, model = state.iter, state.current_step, state.learned_net
        arrays = [_array(proto) for proto in state.history]
    targets = _histories(solver)
    require(
        len(arrays) == len(targets),
        f"{path} holds {len(arrays)} histories, but {type(solver).__name__} keeps {len(targets)}",
    )
    for index, (array, target) in enumerate(zip(arrays, targets, strict=True)):
        require(
            array.size == target.size,
            f"{path}: history {index} holds {array.size} values, not {target.size}",
        )
    if model:
        solver.net.copy_from(_find(model, path))
    for array, target in zip(arrays, targets, strict=True):
        target[...] = array.reshape(target.shape)
    solver.resume_at(iteration, step)


def _array(proto: caffe_pb2.BlobProto) -> NDArray[np.float32]:
    return np.asarray(proto.double_data or proto.data, np.float32)


def _find(model: str, state_path: str | os.PathLike[str]) -> str:
    beside = Path(state_path).parent / Path(model).name
    return str(beside) if beside.exists() and not Path(model).exists() else model


def _read_hdf5(
    path: str | os.PathLike[str],
) -> tuple[int, int, str, list[NDArray[np.float32]]]:
    with weight_files.open_hdf5(path, "r") as file:
        try:
            group = file["history"]
            model = file["learned_net"][()] if "learned_net" in file else b""
            return (
                int(file["iter"][0]),
                int(file["current_step"][0]),
                model.decode() if isinstance(model, bytes) else str(model),
                [np.asarray(group[str(i)], np.float32) for i in range(len(group))],
            )
        except KeyError as error:
            raise CaffeError(f"{path} is not a solver state: {error}") from None
