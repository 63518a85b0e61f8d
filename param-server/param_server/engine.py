"""The Caffe solver behind the store: its files, its flat weights, its snapshots.

Only what a plain pycaffe offers is used.  A solver's prototxt is rewritten before Caffe reads it:
the net's path made absolute, snapshots sent to a work folder, test nets dropped, for which a
server has no use.  Workers get the texts as they were written.

Bad files raise: CaffeError (a ValueError) in our own engine, RuntimeError in a plain one, which
ends the process where it has no exception; `rehearse` finds that out beforehand.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from google.protobuf.message import DecodeError

import caffe
from param_server.errors import BadRequest, SnapshotFailed, UserMistake
from param_server.network import essence, learnable, parameters_of
from param_server.payload import payload_bytes, read_payload
from param_server.rehearsal import rehearse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from param_server.wire import Float32

_log = logging.getLogger(__name__)

MODEL, TARGET, STATE = "model.caffemodel", "target.caffemodel", "solver.solverstate"
INITIAL, GATHERED = "initial.caffemodel", "gathered.f32"
NET, SOLVER = "train_val.prototxt", "solver.prototxt"
_TEST_FIELDS = ("test_net", "test_net_param", "test_iter", "test_interval", "test_state")
_REFUSALS = (ValueError, RuntimeError)
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


class Engine:
    """A solver whose gradients come from elsewhere.  Not thread-safe: the store locks.

    Args:
        solver_file: A solver's prototxt.
        roots: Folders that the net's path may be relative to, in the order they are tried.
        work: An empty folder for Caffe's own files, on the file system of the snapshots.
        seed: Of the fillers; None leaves it to Caffe.
        weights: A weights file to begin with.

    Raises:
        UserMistake: If a file is missing, malformed or does not fit.
    """

    def __init__(
        self,
        solver_file: Path,
        *,
        roots: Sequence[Path],
        work: Path,
        seed: int | None = None,
        weights: Path | None = None,
    ) -> None:
        self._work = work
        self.solver_text = _read_text(solver_file)
        param = _parse(self.solver_text, caffe_pb2.SolverParameter(), solver_file)
        net_file = _resolve_net(param, solver_file, [*roots, solver_file.parent])
        self.net_text = _read_text(net_file)
        _parse(self.net_text, caffe_pb2.NetParameter(), net_file)
        _log.info("the engine is %s", caffe.__file__)
        if seed is not None:
            caffe.set_random_seed(seed % 2**32)  # Caffe's are 32 bits
        self._solver_file = str(self._write_solver(param, net_file))
        try:
            rehearse(solver=self._solver_file)
            self._solver = caffe.get_solver(self._solver_file)
        except _REFUSALS as error:
            raise UserMistake(f"{solver_file}: {error}") from error
        self.solver_type = param.type
        self.iter_size = param.iter_size  # gradients in an update
        self._parameters = parameters_of(self._solver.net)
        self.layout = self._parameters.layout
        if not self.layout.size:
            raise UserMistake(f"{net_file}: the net has no learnable parameters")
        if weights is not None:
            self._load_weights(weights)
        #: float32 [P], always the same array, up to date after each method
        self.weights: Float32 = self._parameters.weights()
        self.save(work)
        self._finish_state(work)

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        # The shortest number that is this float32: 0.0001, not 9.999999747378752e-05.
        return float(str(np.float32(self._solver.lr)))

    def apply(self, gradient: Float32, scale: float = 1.0) -> None:
        """Apply one gradient, float32 [P], to the weights, the step multiplied by ``scale``.

        With ``iter_size`` n the gradient is the sum of n: Caffe divides it.
        """
        before = self.weights.copy() if scale != 1 else None
        if hasattr(self._solver, "apply_gradient"):  # our own engine's: fewer passes
            self._solver.apply_gradient(gradient)
        else:
            self._parameters.set_gradient(gradient)
            self._solver.apply_update()
        self.weights = self._parameters.weights()
        if before is not None:  # θ ← θ_old + scale (θ_new - θ_old)
            step = self.weights - before
            step *= np.float32(scale)
            step += before
            self._parameters.set_weights(step)
            self.weights = self._parameters.weights()

    def reset(self) -> None:
        """Go back to the weights and the state of version 0."""
        with self._state(self._work) as state:
            self._solver.restore(state)
        self.weights = self._parameters.weights()

    def save(self, folder: Path) -> None:
        """Write weights and solver state; a moment of the store, so it runs under its lock.

        Raises:
            SnapshotFailed: If they cannot be written.
        """
        prefix = self._work / "solver"
        try:
            self._solver.snapshot()
            for suffix, name in ((".caffemodel", MODEL), (".solverstate", STATE)):
                written = f"{prefix}_iter_{self._solver.iter}{suffix}"
                Path(written).replace(folder / name)
        except (*_REFUSALS, OSError) as error:
            for part in self._work.glob(f"{Path(prefix).name}_iter_*"):
                part.unlink()  # the disk may be full
            raise SnapshotFailed(f"no snapshot written to {folder.parent}: {error}") from error

    def finish(self, folder: Path, target: Float32, gathered: Float32 | None = None) -> None:
        """Complete what ``save`` wrote, with no need of the lock: the rest, and relative names.

        Args:
            folder: What was given to ``save``.
            target: The target weights, float32 [P].
            gathered: The part of the next update that is there already, float32 [P].
        """
        self._finish_state(folder)
        _link(self._work / MODEL, folder / INITIAL)
        if gathered is not None:
            (folder / GATHERED).write_bytes(payload_bytes(gathered))
        message = _read_weights(folder / MODEL)
        for parameter, (_, part) in zip(learnable(message), self.layout.slices(), strict=True):
            for layer, blob in parameter.places:  # the last one that shares it is loaded last
                proto = message.layer[layer].blobs[blob]
                values = target[part].reshape(tuple(proto.shape.dim))
                proto.CopyFrom(caffe.io.array_to_blobproto(values))
        (folder / TARGET).write_bytes(message.SerializeToString())
        (folder / NET).write_text(self.net_text)
        param = _parse(self.solver_text, caffe_pb2.SolverParameter(), folder / SOLVER)
        for field in ("train_net", "net_param", "train_net_param"):
            param.ClearField(field)
        param.net = NET
        (folder / SOLVER).write_text(text_format.MessageToString(param))

    def restore(self, folder: Path) -> None:
        """Take up weights and solver state of a snapshot, and its version 0 for ``reset``.

        Raises:
            SnapshotFailed: If they are not of this net and solver type.
        """
        try:
            with self._state(folder) as state:
                rehearse(solver=self._solver_file, state=state)
                self._solver.restore(state)
            if (folder / INITIAL).exists():  # else this server's own beginning stays version 0
                begun = self._work / INITIAL
                shutil.copyfile(folder / INITIAL, begun)
                begun.replace(self._work / MODEL)
        except (*_REFUSALS, OSError, DecodeError) as error:
            raise SnapshotFailed(f"snapshot {folder} does not fit: {error}") from error
        self.weights = self._parameters.weights()

    def read_target(self, folder: Path) -> Float32:
        """Return the target weights of a snapshot, float32 [P].

        Raises:
            SnapshotFailed: If they are not of this net.
        """
        target = np.empty(self.layout.size, np.float32)
        try:
            message = _read_weights(folder / TARGET)
            for parameter, (_, part) in zip(learnable(message), self.layout.slices(), strict=True):
                layer, blob = parameter.places[0]
                target[part] = np.asarray(message.layer[layer].blobs[blob].data, np.float32)
        except (ValueError, OSError, DecodeError) as error:
            raise SnapshotFailed(f"snapshot {folder} does not fit: {error}") from error
        return target

    def read_gathered(self, folder: Path) -> Float32 | None:
        """Return the part of an update that a snapshot holds, float32 [P], None if it has none.

        Raises:
            SnapshotFailed: If it is not of this net.
        """
        gathered = np.empty(self.layout.size, np.float32)
        try:
            with (folder / GATHERED).open("rb") as file:
                read_payload(file, (folder / GATHERED).stat().st_size, gathered)
        except FileNotFoundError:
            return None
        except (OSError, BadRequest) as error:
            raise SnapshotFailed(f"snapshot {folder} does not fit: {error}") from error
        return gathered

    def has_net_of(self, folder: Path) -> bool:
        """Whether a snapshot's net is this one, but for comments, name and batch size."""
        try:
            message = _parse(_read_text(folder / NET), caffe_pb2.NetParameter(), folder / NET)
        except UserMistake:
            return False
        mine = _parse(self.net_text, caffe_pb2.NetParameter(), folder)
        return essence(message) == essence(mine)

    @contextmanager
    def _state(self, folder: Path) -> Iterator[str]:
        """Make a copy of a snapshot's state, for Caffe to read."""
        # Caffe looks for the weights where the state says; that may be another machine's path.
        state = caffe_pb2.SolverState.FromString((folder / STATE).read_bytes())
        state.learned_net = str((folder / MODEL).resolve(strict=True))
        copy = self._work / "restore.solverstate"
        copy.write_bytes(state.SerializeToString())
        try:
            yield str(copy)
        finally:
            copy.unlink()

    def _write_solver(self, param: Any, net_file: Path) -> Path:
        resolved = caffe_pb2.SolverParameter()
        resolved.CopyFrom(param)
        for field in (*_TEST_FIELDS, "train_net", "snapshot", "snapshot_diff"):
            resolved.ClearField(field)
        resolved.net = str(net_file.resolve())
        resolved.snapshot_prefix = str(self._work / "solver")
        resolved.snapshot_format = caffe_pb2.SolverParameter.BINARYPROTO
        path = self._work / SOLVER
        path.write_text(text_format.MessageToString(resolved))
        return path

    def _finish_state(self, folder: Path) -> None:
        state = caffe_pb2.SolverState.FromString((folder / STATE).read_bytes())
        state.learned_net = MODEL
        (folder / STATE).write_bytes(state.SerializeToString())

    def _load_weights(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                is_hdf5 = file.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC
            if not is_hdf5:
                names = _names(_read_weights(path))
                mine = [entry.name for entry in self.layout.entries]
                if not set(mine) & set(names):
                    raise UserMistake(
                        f"--weights {path}: nothing in it matches the net: "
                        f"the file has {_some(names)}, the net {_some(mine)}"
                    )
            rehearse(solver=self._solver_file, weights=str(path))
            self._solver.net.copy_from(str(path))
        except (OSError, DecodeError) as error:
            raise UserMistake(f"--weights {path}: {error}") from error
        except _REFUSALS as error:
            raise UserMistake(f"--weights {error}") from error


def _link(source: Path, target: Path) -> None:
    """Give a file another name, or copy it where files have but one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserMistake(f"{path}: {reason}") from error


def _parse(text: str, message: Any, source: Path) -> Any:
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise UserMistake(f"{source}: {error}") from error


def _resolve_net(param: Any, solver_file: Path, roots: Sequence[Path]) -> Path:
    name: str = param.net or param.train_net
    if not name:
        raise UserMistake(f"{solver_file}: give the network's file as net or train_net")
    for root in roots:
        if (root / name).is_file():
            return root / name
    tried = ", ".join(dict.fromkeys(str(root) for root in roots))
    raise UserMistake(f"{solver_file}: net {name!r} is in none of {tried}")


def _read_weights(path: Path) -> Any:
    return caffe_pb2.NetParameter.FromString(path.read_bytes())


def _names(message: Any) -> list[str]:
    """Return the names of the parameters in a weights file, of old formats too."""
    layers = [*message.layer, *message.layers, *(old.layer for old in message.layers)]
    return [f"{layer.name}/{index}" for layer in layers for index in range(len(layer.blobs))]


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "") if names else "nothing"
