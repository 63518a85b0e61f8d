"""Parameters in and out of .caffemodel files, binary protobuf or HDF5.

Parameters are matched by the layers' names; layers that the other side does not have are passed
over, and a layer of the same name with other parameters is an error that leaves those before it
copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe.errors import CaffeError, CaffeFileError, require
from caffe.proto import caffe_pb2
from caffe.prototxt import read_weights

if TYPE_CHECKING:
    import os

    from caffe.blob import Blob
    from caffe.net import Network

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_LEGACY = ("num", "channels", "height", "width")


def blob_to_proto(blob: Blob, *, with_diff: bool = False) -> caffe_pb2.BlobProto:
    """Return the blob as a message."""
    proto = caffe_pb2.BlobProto()
    proto.shape.dim.extend(blob.shape)
    proto.data.extend(blob.data.ravel())
    if with_diff:
        proto.diff.extend(blob.diff.ravel())
    return proto


def proto_shape(proto: caffe_pb2.BlobProto, num_axes: int) -> tuple[int, ...]:
    """Return a message's shape; one of four old-style dimensions loses leading 1s to num_axes."""
    if not any(proto.HasField(name) for name in _LEGACY):
        return tuple(proto.shape.dim)
    dims = [getattr(proto, name) for name in _LEGACY]
    while len(dims) > num_axes and dims[0] == 1:
        dims.pop(0)
    return tuple(dims)


def blob_from_proto(blob: Blob, proto: caffe_pb2.BlobProto, where: str) -> None:
    """Copy the values of a message into a blob of that shape.

    Raises:
        CaffeError: If the shape or the number of values is another; the blob is unchanged.
    """
    shape = proto_shape(proto, len(blob.shape))
    require(
        shape == blob.shape,
        f"{where} has the shape {list(shape)} in the file, but {list(blob.shape)} in the net",
    )
    for values, double, target in (
        (proto.data, proto.double_data, "data"),
        (proto.diff, proto.double_diff, "diff"),
    ):
        given = double or values
        if target == "diff" and not given:
            continue
        require(
            len(given) == blob.count,
            f"{where} holds {len(given)} values in the file, but {blob.count} in the net",
        )
        array = np.fromiter(given, np.float64 if double else np.float32, len(given))
        getattr(blob, target)[...] = array.reshape(blob.shape)


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Return whether the file is HDF5.

    Raises:
        CaffeFileError: If it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC
    except OSError:
        raise CaffeFileError(path) from None


def open_hdf5(path: str | os.PathLike[str], mode: str) -> Any:
    """Open an HDF5 file; h5py is imported only here.

    Raises:
        CaffeFileError: If it cannot be opened.
    """
    import h5py  # noqa: PLC0415  # only those who use the format pay for it

    try:
        return h5py.File(path, mode)
    except OSError as error:
        raise CaffeFileError(f"{path} ({error})") from None


def load(net: Network, path: str | os.PathLike[str]) -> None:
    """Copy the parameters of a file of either format into the net.

    Raises:
        CaffeFileError: If the file cannot be read.
        CaffeError: If it is no weights file, or does not fit.
    """
    if is_hdf5(path):
        load_hdf5(net, path)
        return
    for layer in read_weights(path).layer:
        target = net.layer_named(layer.name)
        if target is None:
            continue
        blobs = target.blobs
        require(
            len(blobs) == len(layer.blobs),
            f"{path}: layer '{layer.name}' has {len(layer.blobs)} parameters in the file, "
            f"but {len(blobs)} in the net",
        )
        for index, (blob, proto) in enumerate(zip(blobs, layer.blobs, strict=True)):
            blob_from_proto(blob, proto, f"{path}: parameter {index} of layer '{layer.name}'")


def save(net: Network, path: str | os.PathLike[str], *, with_diff: bool = False) -> None:
    """Write the net and its parameters as binary protobuf.

    Raises:
        CaffeFileError: If the file cannot be written.
    """
    message = caffe_pb2.NetParameter(name=net.name)
    for layer in net.layers:
        entry = message.layer.add()
        entry.CopyFrom(layer.param)
        del entry.blobs[:]
        entry.blobs.extend(blob_to_proto(blob, with_diff=with_diff) for blob in layer.blobs)
    write_bytes(path, message.SerializeToString())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file.

    Raises:
        CaffeFileError: If that fails.
    """
    try:
        Path(path).write_bytes(content)
    except OSError:
        raise CaffeFileError(path) from None


def load_hdf5(net: Network, path: str | os.PathLike[str]) -> None:
    """Copy the parameters of an HDF5 file into the net; raises what `load` raises."""
    with open_hdf5(path, "r") as file:
        require("data" in file, f"{path} has no group 'data' and so is not a weights file")
        for name, group in file["data"].items():
            target = net.layer_named(name)
            if target is None:
                continue
            blobs = target.blobs
            require(
                len(group) <= len(blobs),
                f"{path}: layer '{name}' has {len(group)} parameters in the file, "
                f"but {len(blobs)} in the net",
            )
            for index, blob in enumerate(blobs):
                if str(index) not in group:
                    # The owner of a shared parameter is saved, under its own layer.
                    if any(blob is shared for shared, _ in net.shared):
                        continue
                    raise CaffeError(f"{path} lacks parameter {index} of layer '{name}'")
                array = group[str(index)]
                require(
                    tuple(array.shape) == blob.shape,
                    f"{path}: parameter {index} of layer '{name}' has the shape "
                    f"{list(array.shape)} in the file, but {list(blob.shape)} in the net",
                )
                blob.data[...] = array[...]


def save_hdf5(net: Network, path: str | os.PathLike[str], *, with_diff: bool = False) -> None:
    """Write the net's parameters as HDF5, shared ones once.

    Raises:
        CaffeFileError: If the file cannot be written.
    """
    with open_hdf5(path, "w") as file:
        for kind in ("data", "diff") if with_diff else ("data",):
            top = file.create_group(kind)
            for layer in net.layers:
                group = top.create_group(layer.name)
                for index, blob in enumerate(layer.blobs):
                    if not any(blob is shared for shared, _ in net.shared):
                        group[str(index)] = getattr(blob, kind)


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
