"""Building nets.

It follows Caffe step by step, because names, order and which gradients exist are part of its
interface: layers are made in the order of the prototxt, each connected and shaped before the
next; then one pass back from the losses finds the layers whose backward is needed.  At last the
parameters move into one arena.
"""

from __future__ import annotations

from caffe import device
from caffe import layers as layer_families
from caffe.arena import Arena, Parameter
from caffe.blob import Blob
from caffe.errors import CaffeError, require
from caffe.graph import included, with_splits
from caffe.layer import Layer, check_counts, create_layer
from caffe.proto import caffe_pb2

layer_families.load()

_DEFAULT_SPEC = caffe_pb2.ParamSpec()


class Construction:
    """A net as it was built, with its blobs and its arena; `Network` runs it.

    Indices: a blob's and a layer's are their places in `_blob_names` and `_layer_names`.
    """

    def __init__(self, param: caffe_pb2.NetParameter) -> None:
        self._phase = param.state.phase
        self._device = device.current()
        self._on_device = device.tensors_on(self._device)
        self.name = param.name
        self._layer_names: list[str] = []
        self._blob_names: list[str] = []
        self.layers: list[Layer] = []
        self._blobs: list[Blob] = []
        self._bottom_indices: list[list[int]] = []
        self._top_indices: list[list[int]] = []
        self._inputs: list[int] = []
        self._layer_needs_backward: list[bool] = []
        self._bottom_needs_backward: list[list[bool]] = []
        self._loss_weights: list[float] = []
        self._layer_losses: list[list[tuple[int, float]]] = []
        self._stale = False
        self._available: set[str] = set()
        self._blob_index: dict[str, int] = {}
        self._blob_needs_backward: list[bool] = []
        with self._on_device:
            for layer_param in with_splits(included(param.layer, param.state)):
                self._add_layer(layer_param)
        self._find_backward()
        if param.force_backward:
            self._force_backward()
        self._outputs = [self._blob_index[name] for name in sorted(self._available)]
        self.arena, self.shared = self._collect_parameters()

    def _add_layer(self, param: caffe_pb2.LayerParameter) -> None:
        """Make, connect and set up the next layer."""
        if not param.HasField("phase"):
            param.phase = self._phase
        require(
            len(param.propagate_down) in (0, len(param.bottom)),
            f"layer '{param.name}': propagate_down must be given never or {len(param.bottom)} "
            f"times, once for each bottom, not {len(param.propagate_down)} times",
        )
        layer = create_layer(param)
        bottoms = [self._connect_bottom(param, index) for index in range(len(param.bottom))]
        tops = [self._connect_top(param, index) for index in range(len(param.top))]
        if param.type == "Input":
            self._inputs.extend(tops)
        while layer.auto_tops and len(tops) < layer.tops[0]:
            tops.append(self._new_blob("(automatic)"))
        self.layers.append(layer)
        self._layer_names.append(param.name)
        self._bottom_indices.append(bottoms)
        self._top_indices.append(tops)
        self._bottom_needs_backward.append(
            list(param.propagate_down) or [self._blob_needs_backward[i] for i in bottoms]
        )
        specs = list(param.param)  # before `setup`, as BatchNorm adds to them
        self._set_up(layer, [self._blobs[i] for i in bottoms], [self._blobs[i] for i in tops])
        weights = layer.param.loss_weight or [0.0] * len(tops)
        for index, weight in zip(tops, weights, strict=True):
            self._loss_weights[index] = weight
        losses = [(index, weight) for index, weight in zip(tops, weights, strict=True) if weight]
        self._layer_losses.append(losses)
        self._fill_loss_diffs(losses)
        require(
            len(specs) <= len(layer.blobs),
            f"{layer.label} has {len(layer.blobs)} parameters, but {len(specs)} param messages",
        )
        padded = [*specs, *[_DEFAULT_SPEC] * (len(layer.blobs) - len(specs))]
        layer.param_propagate_down = [spec.lr_mult != 0 for spec in padded]
        needs = any(self._blob_needs_backward[i] for i in bottoms)
        needs = needs or any(layer.param_propagate_down)
        self._layer_needs_backward.append(needs)
        for index in tops if needs else ():
            self._blob_needs_backward[index] = True

    def _connect_bottom(self, param: caffe_pb2.LayerParameter, index: int) -> int:
        name = param.bottom[index]
        if name not in self._available:
            raise CaffeError(f"layer '{param.name}': no layer before it makes bottom '{name}'")
        self._available.remove(name)
        return self._blob_index[name]

    def _connect_top(self, param: caffe_pb2.LayerParameter, index: int) -> int:
        name = param.top[index]
        self._available.add(name)
        if index < len(param.bottom) and param.bottom[index] == name:
            return self._blob_index[name]
        if name in self._blob_index:
            raise CaffeError(f"layer '{param.name}': another layer already makes top '{name}'")
        self._blob_index[name] = self._new_blob(name)
        return self._blob_index[name]

    def _new_blob(self, name: str) -> int:
        self._blobs.append(Blob(on_reshape=self._mark_stale))
        self._blob_names.append(name)
        self._blob_needs_backward.append(False)
        self._loss_weights.append(0.0)
        return len(self._blobs) - 1

    def _mark_stale(self) -> None:
        self._stale = True

    def _fill_loss_diffs(self, losses: list[tuple[int, float]]) -> None:
        for index, weight in losses:
            self._blobs[index].diff_tensor.fill_(weight)

    def _set_up(self, layer: Layer, bottom: list[Blob], top: list[Blob]) -> None:
        check_counts(layer, len(bottom), len(top))
        if layer.is_loss and not layer.param.loss_weight:
            layer.param.loss_weight.append(1.0)
        shapes = [blob.shape for blob in bottom]
        try:
            layer.setup(bottom, top)
            layer.reshape(bottom, top)
        except CaffeError as error:
            if type(error) is not CaffeError or layer.label in str(error):
                raise
            raise CaffeError(f"{layer.label}: {error}") from error
        except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            if layer.type == "Python":
                raise  # the user's own
            given = ", ".join(str(list(shape)) for shape in shapes) or "none"
            raise CaffeError(f"{layer.label} cannot take the bottoms {given}: {error}") from error
        require(
            shapes == [blob.shape for blob in bottom],
            f"{layer.label} cannot work in place: its top has another shape than its bottom",
        )
        layer.take_values()
        weights = len(layer.param.loss_weight)
        require(
            weights in (0, len(top)),
            f"{layer.label}: loss_weight must be given never or {len(top)} times, "
            f"once for each top, not {weights} times",
        )

    def _find_backward(self) -> None:
        """Go back from the losses and drop what does not contribute to them."""
        under_loss: set[int] = set()
        skipped: set[int] = set()
        for i in reversed(range(len(self.layers))):
            tops, bottoms = self._top_indices[i], self._bottom_indices[i]
            contributes = bool(self._layer_losses[i]) or not under_loss.isdisjoint(tops)
            if not contributes or all(t in skipped for t in tops):
                if self._layer_needs_backward[i] or not contributes:
                    self._bottom_needs_backward[i] = [False] * len(bottoms)
                self._layer_needs_backward[i] = False
            if contributes:
                under_loss.update(bottoms)
            skipped.update(
                b
                for b, needs in zip(bottoms, self._bottom_needs_backward[i], strict=True)
                if not needs
            )

    def _force_backward(self) -> None:
        for i, layer in enumerate(self.layers):
            self._layer_needs_backward[i] = True
            self._bottom_needs_backward[i] = [
                needs or layer.allows_force_backward(index)
                for index, needs in enumerate(self._bottom_needs_backward[i])
            ]
            layer.param_propagate_down = [True] * len(layer.blobs)

    def _collect_parameters(self) -> tuple[Arena, list[tuple[Blob, Blob]]]:
        """Return the arena of the parameters, and pairs of shared ones with their owners."""
        owners: dict[str, int] = {}
        parameters: list[Parameter] = []
        given: list[caffe_pb2.ParamSpec] = []
        shared: list[tuple[Blob, Blob]] = []
        for layer in self.layers:
            for index, blob in enumerate(layer.blobs):
                specs = layer.param.param
                spec = specs[index] if index < len(specs) else _DEFAULT_SPEC
                if not spec.name or spec.name not in owners:
                    if spec.name:
                        owners[spec.name] = len(parameters)
                    parameters.append(
                        Parameter(layer.name, index, blob, spec.lr_mult, spec.decay_mult)
                    )
                    given.append(caffe_pb2.ParamSpec(**{k.name: v for k, v in spec.ListFields()}))
                    continue
                place = owners[spec.name]
                owner = parameters[place]
                _check_shapes(layer, spec, blob, owner)
                for field in ("lr_mult", "decay_mult"):
                    if spec.HasField(field):
                        value = getattr(spec, field)
                        require(
                            not given[place].HasField(field)
                            or getattr(given[place], field) == value,
                            f"{layer.label}: shared parameter '{spec.name}' has another {field} "
                            f"in layer '{owner.layer}'",
                        )
                        setattr(given[place], field, value)
                        parameters[place] = parameters[place]._replace(**{field: value})
                shared.append((blob, owner.blob))
        arena = Arena(parameters)
        for blob, owner_blob in shared:
            arena.share(blob, owner_blob)
        return arena, shared


def _check_shapes(layer: Layer, spec: caffe_pb2.ParamSpec, blob: Blob, owner: Parameter) -> None:
    """Check that a parameter can share its owner's memory."""
    if spec.share_mode == caffe_pb2.ParamSpec.PERMISSIVE:
        fits = blob.count == owner.blob.count
    else:
        fits = blob.shape == owner.blob.shape
    require(
        fits,
        f"{layer.label}: shared parameter '{spec.name}' has the shape {list(blob.shape)}, but "
        f"{list(owner.blob.shape)} in layer '{owner.layer}'",
    )
