"""A network as server and workers see it, whichever engine holds it.

Both speak of a net's learnable parameters as one flat array.  Our own engine keeps them so, in an
arena, and their gradients in another: nothing is copied.  A plain pycaffe has a blob for each, and
the array is gathered from the blobs and laid back into them.

Which parameters learn, and which are one, a plain net is asked by `Net.save`: what it writes has
every layer as the engine understood it, old formats upgraded, phases decided, BatchNorm's
statistics frozen.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from param_server.wire import Layout

if TYPE_CHECKING:
    import caffe
    from param_server.wire import Float32


class Parameter(NamedTuple):
    """A learnable parameter of a saved net."""

    name: str  # such as conv1/0
    shape: tuple[int, ...]
    places: list[tuple[int, int]]  # indices of layer and blob: its own, then those that share it


def learnable(saved: caffe_pb2.NetParameter) -> list[Parameter]:
    """Return the parameters with an `lr_mult` other than 0, in the order of a net that was saved.

    As in Caffe, blobs whose `param` has the same name are one parameter, of the first such layer,
    and whichever of them gives an `lr_mult` gives it for all.
    """
    parameters: list[Parameter] = []
    lr_mults: list[float] = []
    owners: dict[str, int] = {}
    for i, layer in enumerate(saved.layer):
        for j, blob in enumerate(layer.blobs):
            spec = layer.param[j] if j < len(layer.param) else caffe_pb2.ParamSpec()
            if spec.name in owners:
                owner = owners[spec.name]
                parameters[owner].places.append((i, j))
                if spec.HasField("lr_mult"):
                    lr_mults[owner] = spec.lr_mult
                continue
            if spec.name:
                owners[spec.name] = len(parameters)
            parameters.append(Parameter(f"{layer.name}/{j}", tuple(blob.shape.dim), [(i, j)]))
            lr_mults.append(spec.lr_mult)
    return [p for p, lr_mult in zip(parameters, lr_mults, strict=True) if lr_mult]


class Parameters(ABC):
    """The learnable parameters of a net and their gradients, flat float32 [P].  Not thread-safe."""

    layout: Layout

    @abstractmethod
    def weights(self) -> Float32:
        """Return the weights as they are now: always the same array, not to be written to."""

    @abstractmethod
    def set_weights(self, values: Float32) -> None:
        """Copy float32 [P] into the net, and so into all that share its parameters."""

    def move(self, weights: Float32, gradient: Float32) -> bool:  # noqa: ARG002
        """Move weights and gradient into other float32 [P]; return whether they are there now."""
        return False

    @abstractmethod
    def gradient(self) -> Float32:
        """Return the gradient as it is now: always the same array, not to be written to."""

    @abstractmethod
    def set_gradient(self, values: Float32) -> None:
        """Copy float32 [P] into the net's gradients."""


def parameters_of(net: caffe.Net) -> Parameters:
    """Return the learnable parameters of a net, in its arenas where it has such."""
    return _InArenas(net) if hasattr(net, "param_arena") else _InBlobs(net)


class _InArenas(Parameters):
    """Of a net of our own engine: live views, nothing is copied but what is set."""

    def __init__(self, net: caffe.Net) -> None:
        self._net = net
        self.layout = Layout.from_arena(net.arena_layout)

    def weights(self) -> Float32:
        view: Float32 = self._net.param_arena
        return view

    def set_weights(self, values: Float32) -> None:
        self._net.set_params(values)

    def move(self, weights: Float32, gradient: Float32) -> bool:
        moved: bool = self._net.move_params(weights, gradient)
        return moved

    def gradient(self) -> Float32:
        view: Float32 = self._net.diff_arena
        return view

    def set_gradient(self, values: Float32) -> None:
        np.copyto(self._net.diff_arena, values)


class _InBlobs(Parameters):
    """Of a plain pycaffe's net: each call copies between the blobs and a flat array."""

    def __init__(self, net: caffe.Net) -> None:
        parameters = learnable(_saved(net))
        self.layout = Layout.from_entries((p.name, p.shape) for p in parameters)
        places = [p.places[0] for p in parameters]
        # Blobs, not their arrays: in GPU mode asking for an array is what brings it up to date.
        self._blobs = [net.layers[layer].blobs[blob] for layer, blob in places]
        self._parts = [part for _, part in self.layout.slices()]
        self._weights, self._gradient = np.empty((2, self.layout.size), np.float32)

    def weights(self) -> Float32:
        for blob, part in zip(self._blobs, self._parts, strict=True):
            self._weights[part] = blob.data.reshape(-1)
        return self._weights

    def set_weights(self, values: Float32) -> None:
        for blob, part in zip(self._blobs, self._parts, strict=True):
            blob.data.reshape(-1)[...] = values[part]

    def gradient(self) -> Float32:
        for blob, part in zip(self._blobs, self._parts, strict=True):
            self._gradient[part] = blob.diff.reshape(-1)
        return self._gradient

    def set_gradient(self, values: Float32) -> None:
        for blob, part in zip(self._blobs, self._parts, strict=True):
            blob.diff.reshape(-1)[...] = values[part]


def _saved(net: caffe.Net) -> caffe_pb2.NetParameter:
    with tempfile.TemporaryDirectory(prefix="ddq-") as folder:
        file = Path(folder) / "net.caffemodel"
        net.save(str(file))
        return caffe_pb2.NetParameter.FromString(file.read_bytes())


def essence(net: caffe_pb2.NetParameter) -> bytes:
    """Return what of a net decides its function: all but its name and its batch size."""
    copy = caffe_pb2.NetParameter()
    copy.CopyFrom(net)
    copy.ClearField("name")
    for layer in copy.layer:
        for shape in layer.input_param.shape:
            if shape.dim:
                shape.dim[0] = 0
    content: bytes = copy.SerializeToString()
    return content


def same_net(text: str, other: str) -> bool:
    """Say whether two prototxts are one net, but for comments, name and batch size.

    Raises:
        google.protobuf.text_format.ParseError: If one of them is no net.
    """
    mine, theirs = (text_format.Parse(t, caffe_pb2.NetParameter()) for t in (text, other))
    return essence(mine) == essence(theirs)
