"""pycaffe's Net."""

from __future__ import annotations

from collections import OrderedDict
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe import weights as weight_files
from caffe.errors import CaffeCallError, CaffeError, CaffeFileError, require
from caffe.layer import Layer
from caffe.net import Network
from caffe.proto import caffe_pb2
from caffe.prototxt import read_net

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from caffe.blob import Blob, BlobVec

TRAIN: int = caffe_pb2.TRAIN
TEST: int = caffe_pb2.TEST


_SIGNATURE = (
    "Net takes (file, phase, level=0, stages=None, weights=None): phase and level are integers, "
    "stages a list of names"
)


class LayerVec(list[Layer]):
    """The layers of a net."""


class Net(Network):
    """A net made from a prototxt file, or from a NetParameter (phase None: by its own state).

    `Net(file, phase, level=0, stages=None, weights=None)`, or in the old order
    `Net(file, weights, phase)`.
    """

    # Attributes that Network sets; as slots they are in dir(Net), as in pycaffe.
    __slots__ = ("_blob_names", "_blobs", "_inputs", "_layer_names", "_outputs", "layers")

    def __init__(self, network_file: Any, *args: Any, **kwargs: Any) -> None:
        phase, level, stages, weights = _constructor_arguments(args, kwargs)
        if isinstance(network_file, caffe_pb2.NetParameter):
            param, source = caffe_pb2.NetParameter(), network_file.name or "the net"
            param.CopyFrom(network_file)
        elif phase is None:
            raise TypeError(_SIGNATURE)
        else:
            param, source = read_net(network_file), str(network_file)
        if phase is not None:
            param.state.phase = phase  # type: ignore[assignment]  # an int, as in pycaffe
            param.state.level = level
            param.state.stage.extend(stages)
        try:
            super().__init__(param)
        except CaffeFileError:
            raise
        except CaffeError as error:
            raise CaffeError(f"{source}: {error}") from error
        self.layers = LayerVec(self.layers)
        names = self._layer_names
        self._named_blobs = OrderedDict(zip(self._blob_names, self._blobs, strict=True))
        self._named_params = OrderedDict(
            (name, layer.blobs)
            for name, layer in zip(names, self.layers, strict=True)
            if layer.blobs
        )
        if weights is not None:
            self.copy_from(weights)

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        """The blobs by name, in the order they are made."""
        return self._named_blobs

    @property
    def params(self) -> OrderedDict[str, BlobVec]:
        """The parameters by layer, of the layers that have some."""
        return self._named_params

    @property
    def layer_dict(self) -> OrderedDict[str, Layer]:
        """The layers by name."""
        return OrderedDict(zip(self._layer_names, self.layers, strict=True))

    @property
    def inputs(self) -> list[str]:
        """The names of the Input layers' blobs."""
        return [self._blob_names[i] for i in self._inputs]

    @property
    def outputs(self) -> list[str]:
        """The names of the blobs that no layer reads, sorted."""
        return [self._blob_names[i] for i in self._outputs]

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """The names of every layer's tops."""
        return self._names(self._top_indices)

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """The names of every layer's bottoms."""
        return self._names(self._bottom_indices)

    def _names(self, indices: list[list[int]]) -> OrderedDict[str, list[str]]:
        return OrderedDict(
            (name, [self._blob_names[i] for i in row])
            for name, row in zip(self._layer_names, indices, strict=True)
        )

    @property
    def _blob_loss_weights(self) -> list[float]:
        return list(self._loss_weights)

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """The loss weight of every blob, 0 for most."""
        return OrderedDict(zip(self._blob_names, self._loss_weights, strict=True))

    def _top_ids(self, layer: int) -> list[int]:
        return list(self._top_indices[layer])

    def _bottom_ids(self, layer: int) -> list[int]:
        return list(self._bottom_indices[layer])

    # -- running ----------------------------------------------------------------------------

    def _forward(self, start: int, end: int) -> float:
        return self.run_forward(start, end)

    def _backward(self, start: int, end: int) -> None:
        self.run_backward(start, end)

    def forward(
        self,
        blobs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **inputs: Any,
    ) -> dict[str, NDArray[np.float32]]:
        """Run the layers from `start` to `end`, all by default.

        Args:
            blobs: Names of blobs to return beside the outputs.
            start: The name of the first layer to run.
            end: The name of the last; its tops are returned instead of the net's outputs.
            **inputs: A value for every input, or none at all.

        Returns:
            Live views of the outputs, by name.

        Raises:
            CaffeError: If the inputs are not the net's, or not of its batch size.
        """
        first = 0 if start is None else self._layer_names.index(start)
        last = len(self.layers) - 1 if end is None else self._layer_names.index(end)
        outputs = self.outputs if end is None else self.top_names[end]
        if inputs:
            self._write(inputs, self.inputs, "data")
        self.run_forward(first, last, with_loss=False)
        return {name: self._named_blobs[name].data for name in (*outputs, *(blobs or ()))}

    def backward(
        self,
        diffs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **topdiffs: Any,
    ) -> dict[str, NDArray[np.float32]]:
        """Run the layers' backward passes from `start` down to `end`, all by default.

        Args:
            diffs: Names of blobs whose diffs to return beside those of the inputs.
            start: The name of the first layer to run.
            end: The name of the last; its bottoms' diffs are returned instead of the inputs'.
            **topdiffs: The gradient of every output, or none at all.

        Returns:
            Live views of the diffs, by name.

        Raises:
            CaffeError: If the given diffs are not those of the net's outputs.
        """
        first = len(self.layers) - 1 if start is None else self._layer_names.index(start)
        last = 0 if end is None else self._layer_names.index(end)
        names = self.inputs if end is None else self.bottom_names[end]
        if topdiffs:
            self._write(topdiffs, self.outputs, "diff")
        self._backward(first, last)
        return {name: self._named_blobs[name].diff for name in (*names, *(diffs or ()))}

    def backward_afresh(self, **topdiffs: Any) -> None:
        """Do what `clear_param_diffs` and `backward` do, of all layers; it is faster."""
        if topdiffs:
            self._write(topdiffs, self.outputs, "diff")
        self.run_backward_afresh()

    def _write(self, values: dict[str, Any], names: list[str], attribute: str) -> None:
        kind, named, all_ = ("Input", "Input blob", "inputs")
        if attribute == "diff":
            kind, named, all_ = ("Diff", "Top diff", "outputs")
        if values.keys() != set(names):
            raise CaffeError(
                f"{named} arguments do not match net {all_}. "
                f"The net has {sorted(names)}, given were {sorted(values)}."
            )
        for name, value in values.items():
            blob = self._named_blobs[name]
            if attribute == "data" and blob.take_bytes(value):
                continue
            told = f"'{name}' has the shape {list(blob.shape)}, given was {list(np.shape(value))}"
            require(np.shape(value)[:1] == blob.shape[:1], f"{kind} is not batch sized: {told}")
            try:
                getattr(blob, attribute)[...] = value
            except (ValueError, TypeError) as error:
                raise CaffeError(f"{kind} does not fit: {told} ({error})") from None

    def forward_all(
        self, blobs: Sequence[str] | None = None, **inputs: Any
    ) -> dict[str, NDArray[np.float32]]:
        """Run forward over inputs of any length, in batches; returns copies."""
        collected: dict[str, list[NDArray[np.float32]]] = {}
        for batch in self._batch(inputs):
            _collect(collected, self.forward(blobs, **batch))
        return _cut(collected, inputs)

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **arrays: Any
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
        """Run forward and backward over inputs and top diffs of any length; returns copies.

        Where no inputs or no top diffs are given, those in the blobs count for every batch.
        """
        inputs = {name: arrays[name] for name in arrays if name in self.inputs}
        topdiffs = {name: arrays[name] for name in arrays if name in self.outputs}
        require(
            len(inputs) + len(topdiffs) == len(arrays),
            f"arrays are given for inputs, {self.inputs}, and outputs, {self.outputs}, of the net, "
            f"not for {sorted(arrays)}",
        )
        values: dict[str, list[NDArray[np.float32]]] = {}
        gradients: dict[str, list[NDArray[np.float32]]] = {}
        for batch, given in zip_longest(
            self._batch(inputs), self._batch(topdiffs), fillvalue=dict[str, Any]()
        ):
            _collect(values, self.forward(blobs, **batch))
            _collect(gradients, self.backward(diffs, **given))
        return _cut(values, arrays), _cut(gradients, arrays)

    def _batch(self, arrays: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield batches of the arrays, of their blobs' size, the last filled up with zeros."""
        values = {name: np.asarray(array) for name, array in arrays.items()}
        lengths = {value.shape[:1] for value in values.values()}
        require(
            len(lengths) <= 1 and () not in lengths,
            f"the arrays must be of one length, but have the shapes "
            f"{[list(value.shape) for value in values.values()]}",
        )
        for length, *_ in lengths:
            name = next(iter(values))
            size = (*self.blobs[name].shape, 1)[0] if name in self.blobs else 1
            for start in range(0, length, size or 1):
                missing = max(0, start + size - length)
                batch = {name: value[start : start + size] for name, value in values.items()}
                yield {
                    name: np.concatenate([a, np.zeros((missing, *a.shape[1:]))]) if missing else a
                    for name, a in batch.items()
                }

    def set_input_arrays(
        self,
        data: NDArray[np.float32],
        labels: NDArray[np.float32],
        layer: str | int | None = None,
    ) -> None:
        """Give a MemoryData layer the arrays it takes its batches from (not copied).

        Args:
            data: float32 [n · batch_size, channels, height, width], C-contiguous.
            labels: float32 [n · batch_size], or with three axes of 1 behind it.
            layer: The layer's name or index; by default the net's first layer.

        Raises:
            CaffeCallError: If it is no such layer or the arrays do not suit it.
        """
        if np.ndim(labels) == 1:
            labels = np.ascontiguousarray(labels)[:, np.newaxis, np.newaxis, np.newaxis]
        self._set_input_arrays(data, labels, layer)

    def _set_input_arrays(self, data: Any, labels: Any, layer: str | int | None = None) -> None:
        if layer is None and [first.type for first in self.layers[:1]] != ["MemoryData"]:
            raise CaffeCallError(
                "set_input_arrays may only be called if the first layer is a MemoryDataLayer, or "
                "with the name of one"
            )
        index = layer or 0
        if isinstance(index, str):
            chosen = self.layer_named(index)
        else:
            chosen = self.layers[index] if -len(self.layers) <= index < len(self.layers) else None
        if chosen is None or chosen.type != "MemoryData":
            known = [other.name for other in self.layers if other.type == "MemoryData"]
            raise CaffeCallError(f"layer {layer!r} is no MemoryData layer; of this net are {known}")
        chosen.set_arrays(data, labels)  # type: ignore[attr-defined]  # MemoryData has it

    # -- parameters -------------------------------------------------------------------------

    def copy_from(self, weights: str | os.PathLike[str]) -> None:
        """Copy the parameters of a .caffemodel or .caffemodel.h5 file, by layer name."""
        weight_files.load(self, weights)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the net with its parameters as binary protobuf."""
        weight_files.save(self, path)

    def load_hdf5(self, path: str | os.PathLike[str]) -> None:
        """Copy the parameters of an HDF5 file, by layer name."""
        weight_files.load_hdf5(self, path)

    def save_hdf5(
        self,
        path: str | os.PathLike[str],
        write_diff: bool = False,  # noqa: FBT001, FBT002  # as in pycaffe
    ) -> None:
        """Write the parameters as HDF5."""
        weight_files.save_hdf5(self, path, with_diff=write_diff)

    def share_with(self, other: Net) -> None:
        """Let the parameters lie in another net's memory from now on, by layer name."""
        weight_files.share(self, other)

    # -- callbacks, called with the index of a layer ------------------------------------------

    def before_forward(self, callback: Callable[[int], object]) -> None:
        """Call back before every layer's forward."""
        self._hooks["before_forward"].append(callback)

    def after_forward(self, callback: Callable[[int], object]) -> None:
        """Call back after every layer's forward."""
        self._hooks["after_forward"].append(callback)

    def before_backward(self, callback: Callable[[int], object]) -> None:
        """Call back before every layer's backward."""
        self._hooks["before_backward"].append(callback)

    def after_backward(self, callback: Callable[[int], object]) -> None:
        """Call back after every layer's backward."""
        self._hooks["after_backward"].append(callback)


class NetVec(list[Net]):
    """The test nets of a solver."""


def _constructor_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int | None, int, list[str], Any]:
    """Return phase, level, stages and weights, given in the new or in the old order."""
    values = {"phase": None, "level": 0, "stages": None, "weights": None, **kwargs}
    if len(args) == 2 and isinstance(args[1], int) and not isinstance(args[0], int):
        values.update(weights=args[0], phase=args[1])
    else:
        values.update(zip(("phase", "level", "stages", "weights"), args, strict=False))
    phase, stages = values["phase"], values["stages"] or []
    if (
        len(values) != 4
        or len(args) > 4
        or not (isinstance(phase, int | None) and isinstance(values["level"], int))
        or isinstance(stages, str)
        or not all(isinstance(stage, str) for stage in stages)
    ):
        raise TypeError(_SIGNATURE)
    require(phase in (TRAIN, TEST, None), f"phase must be caffe.TRAIN or caffe.TEST, not {phase}")
    return phase, values["level"], list(stages), values["weights"]


def _collect(
    collected: dict[str, list[NDArray[np.float32]]], batch: dict[str, NDArray[np.float32]]
) -> None:
    """Add copies of a batch's rows; an array without axes, as of a loss, is one row."""
    for name, value in batch.items():
        collected.setdefault(name, []).extend(np.atleast_1d(value.copy()))


def _cut(
    collected: dict[str, list[NDArray[np.float32]]], arrays: dict[str, Any]
) -> dict[str, NDArray[np.float32]]:
    """Return the rows of the batches as arrays, without those that filled up the last.

    Raises:
        CaffeError: If there were no arrays.
    """
    require(arrays, "give an array for an input of the net")
    length = len(next(iter(arrays.values())))
    return {name: np.asarray(rows)[:length] for name, rows in collected.items()}
