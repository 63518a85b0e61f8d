"""What a layer is, and the register of layer types.

The life of a layer: the net makes it from its LayerParameter, calls `setup` once (which creates
its parameters in `blobs`), then `reshape` whenever a shape changed, `forward` and `backward`.
Forward writes into the tops' data.  Backward *overwrites* the bottoms' diffs, for those bottoms
that `propagate_down` marks, and *adds* to the parameters' diffs.  The net inserts Split layers, so
a blob is read by one layer only, and no gradient is lost by overwriting.

`Layer` leaves both directions to the subclass.  `TorchLayer` needs only `compute`, the forward
pass as a PyTorch function: backward runs it again, with gradients.  So nothing is recorded in a
net that never runs backward, and backward needs no particular forward before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch

from caffe.blob import Blob, BlobVec, canonical_axis
from caffe.errors import CaffeError
from caffe.fillers import fill

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from caffe.proto import caffe_pb2

L = TypeVar("L", bound="type[Layer]")

_REGISTRY: dict[str, type[Layer]] = {}
_FEED = (
    "feed the net from Python: Input and net.blobs, MemoryData and net.set_input_arrays, "
    "HDF5Data and .h5 files, or a Python layer"
)
#: Caffe's types that this engine has not: what they do, and what to use instead.
_ABSENT = {
    "Data": ("reads LMDB or LevelDB", _FEED),
    "ImageData": ("reads image files", _FEED),
    "WindowData": ("reads windows of image files", _FEED),
    "HDF5Output": ("writes HDF5", "write net.blobs[...].data with h5py after forward"),
}


class Layer:
    """One layer of a net; the base of all, also of those that users write in Python."""

    #: The type's name in prototxt.
    type: str = "Layer"
    #: The least and the greatest number of bottoms and of tops; None is no limit.
    bottoms: ClassVar[tuple[int, int | None]] = (1, 1)
    tops: ClassVar[tuple[int, int | None]] = (1, 1)
    #: Whether the net makes tops that the prototxt does not name, up to the least number.
    auto_tops: ClassVar[bool] = False
    #: Whether the first top is a loss, of weight 1 unless the prototxt says otherwise.
    is_loss: ClassVar[bool] = False
    #: Whether every forward begins with `reshape`, not only one after a shape changed.
    reshapes_always: ClassVar[bool] = False

    # Named here for dir(), as in pycaffe.
    __slots__ = ("__dict__", "__weakref__", "blobs")

    def __init__(self, param: caffe_pb2.LayerParameter) -> None:
        self.param = param
        self.name: str = param.name
        self.phase: int = param.phase
        self.blobs = BlobVec()
        #: Per parameter: whether its gradient is wanted.
        self.param_propagate_down: list[bool] = []

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read the layer's own message and create the parameters."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their shapes."""
        raise NotImplementedError

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the tops' data."""
        raise NotImplementedError

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the marked bottoms' diffs; add to the parameters' diffs."""
        self.require(not any(propagate_down), "has no backward")

    def allows_force_backward(self, _bottom_index: int) -> bool:
        """Return whether `force_backward` may ask for this bottom's gradient."""
        return True

    @property
    def label(self) -> str:
        """How messages name the layer."""
        return f"layer '{self.name}' ({self.type})"

    def require(self, condition: object, message: str) -> None:
        """Raise CaffeError, with the layer's name, unless the condition holds."""
        if not condition:
            raise CaffeError(f"{self.label}: {message}")

    def axis(self, axis: int, blob: Blob) -> int:
        """Return the axis of the blob counted from 0, or raise CaffeError."""
        return canonical_axis(axis, len(blob.shape), self.label)

    def add_parameter(self, shape: Sequence[int], filler: caffe_pb2.FillerParameter) -> None:
        """Create the next parameter and fill it.

        Raises:
            CaffeError: If the parameter would hold nothing.
        """
        blob = Blob(*shape)
        self.require(blob.count, f"parameter {len(self.blobs)} would have the shape {list(shape)}")
        fill(blob.data_tensor, filler)
        self.blobs.append(blob)

    def take_values(self) -> None:
        """Give the parameters the values of the layer's own message, if it has `blobs`.

        Raises:
            CaffeError: If it has more or fewer blobs than parameters, or values than they hold.
        """
        given = self.param.blobs
        self.require(
            len(given) in (0, len(self.blobs)),
            f"has {len(self.blobs)} parameters, but the net gives it {len(given)} blobs",
        )
        for index, (blob, proto) in enumerate(zip(self.blobs, given, strict=False)):
            values = proto.double_data or proto.data
            self.require(
                len(values) == blob.count,
                f"parameter {index} holds {blob.count} values, but the net gives {len(values)}",
            )
            blob.data_tensor.view(-1).copy_(torch.tensor(values))

    def wants_gradient(self, index: int) -> bool:
        """Return whether the gradient of this parameter is wanted."""
        return self.param_propagate_down[index] if self.param_propagate_down else True


class TorchLayer(Layer):
    """A layer given by its forward pass alone, as a function of PyTorch tensors."""

    #: Bottoms that no gradient flows to (labels, indices).
    constants: ClassVar[tuple[int, ...]] = ()

    def compute(self, *bottom: Tensor) -> Tensor | Sequence[Tensor]:
        """Return the tops' values; parameters are read through `self.weights`."""
        raise NotImplementedError

    weights: Sequence[Tensor] = ()
    _before: Tensor | None = None

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the tops' data."""
        inputs = [blob.data_tensor for blob in bottom]
        # A layer in place destroys what its backward will compute from.
        in_place = bool(bottom) and bool(top) and bottom[0] is top[0]
        self._before = inputs[0].clone() if in_place else None
        self.weights = [blob.data_tensor for blob in self.blobs]
        outputs = self.compute(*inputs)
        for blob, value in zip(
            top, [outputs] if isinstance(outputs, torch.Tensor) else outputs, strict=False
        ):
            blob.data_tensor.copy_(value.view(blob.shape))

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the marked bottoms' diffs; add to the parameters' diffs."""
        for index in self.constants:
            if index < len(bottom) and propagate_down[index]:
                raise CaffeError(f"{self.label} cannot backpropagate to its bottom {index}")
        inputs = [blob.data_tensor.detach() for blob in bottom]
        if self._before is not None:
            inputs[0] = self._before
        inputs = [
            x.detach().requires_grad_(down) for x, down in zip(inputs, propagate_down, strict=False)
        ]
        self.weights = [
            blob.data_tensor.detach().requires_grad_(self.wants_gradient(index))
            for index, blob in enumerate(self.blobs)
        ]
        targets = [b.diff_tensor for b, down in zip(bottom, propagate_down, strict=False) if down]
        sums = [b.diff_tensor for i, b in enumerate(self.blobs) if self.wants_gradient(i)]
        wanted = [x for x in (*inputs, *self.weights) if x.requires_grad]
        if not wanted:
            return
        with torch.enable_grad():
            outputs = self.compute(*inputs)
        tops = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        pairs = [
            (t, b.diff_tensor.view(t.shape))
            for t, b in zip(tops, top, strict=False)
            if t.requires_grad
        ]
        gradients: Sequence[Tensor | None] = [None] * len(wanted)
        if pairs:
            values, diffs = zip(*pairs, strict=False)
            gradients = torch.autograd.grad(values, wanted, diffs, allow_unused=True)
        for total, gradient in zip(sums, gradients[len(targets) :], strict=False):
            if gradient is not None:
                total.add_(gradient)
        # The first bottom's last: in place it is the top's diff, which a gradient may still be.
        for target, gradient in reversed(list(zip(targets, gradients, strict=False))):
            target.copy_(gradient) if gradient is not None else target.zero_()


def register(name: str) -> Callable[[L], L]:
    """Make a class the layer of this type name."""

    def add(cls: L) -> L:
        cls.type = name
        _REGISTRY[name] = cls
        return cls

    return add


def layer_types() -> list[str]:
    """Return the known type names, sorted."""
    return sorted(_REGISTRY)


def create_layer(param: caffe_pb2.LayerParameter) -> Layer:
    """Make the layer that a message describes; `setup` has yet to be called.

    Raises:
        CaffeError: If the type is unknown.
    """
    cls = _REGISTRY.get(param.type)
    if cls is None and param.type in _ABSENT:
        does, instead = _ABSENT[param.type]
        raise CaffeError(
            f"layer '{param.name}': type {param.type} {does}, which this engine does not; {instead}"
        )
    if cls is None:
        raise CaffeError(
            f"layer '{param.name}': unknown layer type '{param.type}'; known are "
            + ", ".join(layer_types())
        )
    return cls(param)


def check_counts(layer: Layer, num_bottoms: int, num_tops: int) -> None:
    """Check the numbers of bottoms and tops against what the layer's type takes.

    Raises:
        CaffeError: If one of them is too small or too large.
    """
    for what, number, (least, most) in (
        ("bottoms", num_bottoms, layer.bottoms),
        ("tops", num_tops, layer.tops),
    ):
        if number < least or (most is not None and number > most):
            limit = (
                f"{least}"
                if least == most
                else f"{least} to {'any number' if most is None else most}"
            )
            raise CaffeError(f"{layer.label} has {number} {what}, but takes {limit}")
