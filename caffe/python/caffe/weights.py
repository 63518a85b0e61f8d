"""Parameters in and out of .caffemodel files, binary protobuf or HDF5.

Parameters are matched by the layers' names; layers that the other side does not have are passed
over.  A file is read and checked whole before the first value is copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from caffe import files
from caffe.errors import CaffeError, require
from caffe.proto import caffe_pb2
from caffe.wire import Reader, set_floats

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from caffe.blob import Blob
    from caffe.net import Network

    Floats = NDArray[np.float32]

_LEGACY = ("num", "channels", "height", "width")
_MAX_AXES = 32
_HEADROOM = 1 << 24  # bytes for all but the values
# Where names and parameters are in the layers of today, of V1 and of V0.
_LAYER, _V1, _V0 = {"name": 1, "blobs": 7}, {"name": 4, "blobs": 6}, {"name": 1, "blobs": 50}


class Staged(NamedTuple):
    """Values that are to be copied."""

    blob: Blob
    kind: str  # data or diff
    values: Floats


# -- messages --------------------------------------------------------------------------------


def blob_to_proto(blob: Blob, *, with_diff: bool = False) -> caffe_pb2.BlobProto:
    """Return the blob as a message."""
    proto = caffe_pb2.BlobProto()
    proto.shape.dim.extend(blob.shape)
    set_floats(proto, "data", blob.data)
    if with_diff:
        set_floats(proto, "diff", blob.diff)
    return proto


def parse_blob(content: memoryview, where: str) -> caffe_pb2.BlobProto:
    """Return the message that these bytes are.

    Raises:
        CaffeError: If they are none.
    """
    proto = caffe_pb2.BlobProto()
    try:
        proto.ParseFromString(bytes(content))
    except DecodeError as error:
        raise CaffeError(f"{where} is damaged: {error}") from None
    require(
        len(proto.shape.dim) <= _MAX_AXES,
        f"{where} claims {len(proto.shape.dim)} axes; a blob has {_MAX_AXES} at most",
    )
    return proto


def proto_shape(proto: caffe_pb2.BlobProto, num_axes: int) -> tuple[int, ...]:
    """Return a message's shape; one of four old-style dimensions loses leading 1s to num_axes."""
    if not any(proto.HasField(name) for name in _LEGACY):
        return tuple(proto.shape.dim)
    dims = [getattr(proto, name) for name in _LEGACY]
    while len(dims) > num_axes and dims[0] == 1:
        dims.pop(0)
    return tuple(dims)


def proto_values(proto: caffe_pb2.BlobProto, kind: str, count: int, where: str) -> Floats:
    """Return the data, or the diff, of a message, flat.

    Raises:
        CaffeError: If they are not count values, or not all finite.
    """
    double = getattr(proto, f"double_{kind}")
    given = double or getattr(proto, kind)
    require(
        len(given) == count,
        f"{where} holds {len(given)} values in the file, but its shape makes {count}",
    )
    array = np.array(given, np.float64 if double else np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # too large: infinite
        return check_finite(array.astype(np.float32, copy=False), where)


def check_finite(values: Floats, where: str) -> Floats:
    """Return the values.

    Raises:
        CaffeError: If not all of them are finite numbers of float32.
    """
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    require(
        not bad,
        f"{where}: {bad} of {values.size} values are NaN or infinite, so whatever wrote the file "
        "had diverged, or the file is damaged",
    )
    return values


def _check_shape(found: tuple[int, ...], blob: Blob, where: str) -> None:
    require(
        found == blob.shape,
        f"{where} has the shape {list(found)} in the file, but {list(blob.shape)} in the net; "
        "change the layer in the prototxt, or rename it to do without these weights",
    )


# -- reading ---------------------------------------------------------------------------------


def stored_layers(path: str | os.PathLike[str]) -> list[tuple[str, list[memoryview]]]:
    """Return name and parameters of every layer of a .caffemodel file, of any age.

    Raises:
        CaffeFileError: If the file cannot be read.
        CaffeError: If it is no such file.
    """
    reader = Reader(files.read_bytes(path), str(path))
    today, old = [], []
    for number, value in reader.fields(reader.content):
        if isinstance(value, int) or number not in (100, 2):
            continue
        if number == 100:
            today.append(_stored_layer(reader, value, _LAYER))
        else:
            inner = [v for n, v in reader.fields(value) if n == 1 and not isinstance(v, int)]
            old.append(_stored_layer(reader, inner[-1] if inner else value, _V0 if inner else _V1))
    if not today and not old:
        raise reader.error("it holds no layers, so it is no .caffemodel")
    return old or today  # as Caffe does where a file has both forms


def _stored_layer(
    reader: Reader, layer: memoryview, places: dict[str, int]
) -> tuple[str, list[memoryview]]:
    name, blobs = "", []
    for number, value in reader.fields(layer):
        if number == places["name"] and not isinstance(value, int):
            name = bytes(value).decode(errors="replace")
        elif number == places["blobs"] and not isinstance(value, int):
            blobs.append(value)
    return name, blobs


def _from_protobuf(net: Network, path: str | os.PathLike[str]) -> Iterator[Staged]:
    for name, blobs in stored_layers(path):
        layer = net.layer_named(name)
        if layer is None:
            continue
        _check_number(len(blobs), len(layer.blobs), name, path)
        for index, (blob, content) in enumerate(zip(layer.blobs, blobs, strict=True)):
            where = f"{path}: parameter {index} of layer '{name}'"
            proto = parse_blob(content, where)
            _check_shape(proto_shape(proto, len(blob.shape)), blob, where)
            for kind in ("data", "diff"):
                if kind == "data" or proto.diff or proto.double_diff:
                    values = proto_values(proto, kind, blob.count, where)
                    yield Staged(blob, kind, values.reshape(blob.shape))


def _check_number(found: int, wanted: int, name: str, path: str | os.PathLike[str]) -> None:
    require(
        found == wanted,
        f"{path}: layer '{name}' has {found} parameters in the file, but {wanted} in the net; "
        "change its type or bias_term in the prototxt, or rename it to do without these weights",
    )


def _from_hdf5(net: Network, path: str | os.PathLike[str]) -> Iterator[Staged]:
    with files.reading_hdf5(path) as file:
        data = files.hdf5_member(file, "data")
        require(hasattr(data, "keys"), f"{path} has no group 'data' and so is no weights file")
        for name in data:
            layer = net.layer_named(name)
            if layer is None:
                continue
            group = files.hdf5_member(data, name)
            require(hasattr(group, "keys"), f"{path}: 'data/{name}' is no group")
            if len(group) > len(layer.blobs):
                _check_number(len(group), len(layer.blobs), name, path)
            for index, blob in enumerate(layer.blobs):
                where = f"{path}: parameter {index} of layer '{name}'"
                dataset = files.hdf5_member(group, str(index))
                if dataset is None:
                    # The owner of a shared parameter is saved, under its own layer.
                    require(
                        any(blob is shared for shared, _ in net.shared),
                        f"{where} is not in the file, which holds {len(group)} for this layer",
                    )
                    continue
                if hasattr(dataset, "shape"):
                    _check_shape(dataset.shape, blob, where)
                values = files.hdf5_array(dataset, where, blob.count)
                yield Staged(blob, "data", check_finite(values, where))


def stage(net: Network, path: str | os.PathLike[str], *, hdf5: bool | None = None) -> list[Staged]:
    """Return all that a file of either format would change in the net.

    Raises:
        CaffeFileError: If the file cannot be read.
        CaffeError: If it is no weights file, or does not fit.
    """
    is_hdf5 = files.is_hdf5(path) if hdf5 is None else hdf5
    return list(_from_hdf5(net, path) if is_hdf5 else _from_protobuf(net, path))


def copy(staged: list[Staged]) -> None:
    """Copy what `stage` returned into the net."""
    for blob, kind, values in staged:
        getattr(blob, kind)[...] = values


def load(net: Network, path: str | os.PathLike[str]) -> None:
    """Copy the parameters of a file of either format into the net; raises what `stage` raises."""
    copy(stage(net, path))


def load_hdf5(net: Network, path: str | os.PathLike[str]) -> None:
    """Copy the parameters of an HDF5 file into the net; raises what `stage` raises."""
    copy(stage(net, path, hdf5=True))


# -- writing ---------------------------------------------------------------------------------


def save(net: Network, path: str | os.PathLike[str], *, with_diff: bool = False) -> None:
    """Write the net and its parameters as binary protobuf.

    Raises:
        CaffeFileError: If the file cannot be written.
        CaffeError: If the parameters are too many for the format.
    """
    count = sum(blob.count for layer in net.layers for blob in layer.blobs) * (1 + with_diff)
    check_size(4 * count, path)
    message = caffe_pb2.NetParameter(name=net.name)
    for layer in net.layers:
        entry = message.layer.add()
        entry.CopyFrom(layer.param)
        del entry.blobs[:]
        entry.blobs.extend(blob_to_proto(blob, with_diff=with_diff) for blob in layer.blobs)
    files.write_bytes(path, message.SerializeToString())


def check_size(size: int, path: str | os.PathLike[str]) -> None:
    """Check that so many bytes of values go into a binary protobuf file.

    Raises:
        CaffeError: If they do not.
    """
    require(
        size <= files.MAX_MESSAGE - _HEADROOM,
        f"{path} would have {size} bytes, but protobuf files end at 2 GiB; write the HDF5 form",
    )


def save_hdf5(net: Network, path: str | os.PathLike[str], *, with_diff: bool = False) -> None:
    """Write the net's parameters as HDF5, shared ones once.

    Raises:
        CaffeFileError: If the file cannot be written.
        CaffeError: If a layer's name cannot be stored.
    """
    shared = {id(blob) for blob, _ in net.shared}
    values: dict[str, Floats | None] = {}
    for kind in ("data", "diff") if with_diff else ("data",):
        values[kind] = None
        for layer in net.layers:
            name = f"{kind}/{layer.name}"
            require(
                layer.name not in ("", ".") and "/" not in layer.name and name not in values,
                f"{path}: the HDF5 form needs layer names that differ and have no '/', which "
                f"'{layer.name}' does not fulfil; write a .caffemodel",
            )
            values[name] = None
            for index, blob in enumerate(layer.blobs):
                # As in Caffe: parameters once, under their owner, but all diffs.
                if kind == "diff" or id(blob) not in shared:
                    values[f"{name}/{index}"] = getattr(blob, kind)
    files.write_hdf5(path, values)


def share(net: Network, other: Network) -> None:
    """Let the net's parameters lie in the memory of another net's, matched by layer name.

    Raises:
        CaffeError: If a layer of the same name has other parameters.
    """
    pairs = [(net.layer_named(layer.name), layer) for layer in other.layers]
    for mine, theirs in pairs:
        require(
            mine is None or [b.shape for b in mine.blobs] == [b.shape for b in theirs.blobs],
            f"layer '{theirs.name}' has other parameters in the net to share with",
        )
    if net.arena.matches(other.arena):
        net.arena.adopt(other.arena)
        for blob, owner in net.shared:
            net.arena.share(blob, owner)
        return
    for mine, theirs in pairs:
        for blob, owner in zip(mine.blobs, theirs.blobs, strict=True) if mine else ():
            blob.share_data(owner)
