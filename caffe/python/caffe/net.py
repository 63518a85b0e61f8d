"""Nets: building, running forward and backward.

Building follows Caffe step by step, because names, order and which gradients exist are part of
its interface: layers are made in the order of the prototxt, each connected and shaped before the
next; then one pass back from the losses finds the layers whose backward is needed.  At last the
parameters move into one arena.

Forward reshapes layers only after some blob's shape changed: every blob of the net raises the
flag `_stale` when it is reshaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from caffe import layers as layer_families
from caffe.arena import Arena, Parameter
from caffe.blob import Blob
from caffe.errors import CaffeError, require
from caffe.fusion import convolutions, fuse
from caffe.graph import included, with_splits
from caffe.layer import Layer, check_counts, create_layer
from caffe.proto import caffe_pb2
from caffe.tuning import Tuner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

layer_families.load()

_DEFAULT_SPEC = caffe_pb2.ParamSpec()


class Network:
    """A net as Caffe's C++ has it; `caffe.Net` adds pycaffe's interface.  Not thread-safe.

    Indices: a blob's and a layer's are their places in `_blob_names` and `_layer_names`.
    """

    def __init__(self, param: caffe_pb2.NetParameter) -> None:
        self._phase = param.state.phase
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
        self._hooks: dict[str, list[Callable[[int], object]]] = {
            name: []
            for name in ("before_forward", "after_forward", "before_backward", "after_backward")
        }
        for layer_param in with_splits(included(param.layer, param.state)):
            self._add_layer(layer_param)
        self._find_backward()
        if param.force_backward:
            self._force_backward()
        self._outputs = [self._blob_index[name] for name in sorted(self._available)]
        self.arena, self.shared = self._collect_parameters()
        self._prepare()

    # -- building ---------------------------------------------------------------------------

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
        except CaffeError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            if layer.type == "Python":
                raise  # the user's own
            given = ", ".join(str(list(shape)) for shape in shapes) or "none"
            raise CaffeError(f"{layer.label} cannot take the bottoms {given}: {error}") from error
        require(
            shapes == [blob.shape for blob in bottom],
            f"{layer.label} cannot work in place: its top has another shape than its bottom",
        )
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

    def _prepare(self) -> None:
        """Gather what the loops below need of every layer, and join layers that run together."""
        self._bottoms = [[self._blobs[i] for i in indices] for indices in self._bottom_indices]
        self._tops = [[self._blobs[i] for i in indices] for indices in self._top_indices]
        self._losses = [[self._blobs[i] for i, _ in losses] for losses in self._layer_losses]
        self._reshaping = {i for i, layer in enumerate(self.layers) if layer.reshapes_always}
        self._joined = fuse(self.layers, self._bottom_indices, self._top_indices)
        self._rectify(together=True)
        self._steps = [
            (layer, self._bottoms[i], self._tops[i], self._losses[i], i + 1)
            for i, layer in enumerate(self.layers)
            if i not in self._joined
        ]
        self._tune_anew()
        self._stale = False

    def _tune_anew(self) -> None:
        """Forget how fast convolutions were: their shapes are others now."""
        self._tuner = Tuner(
            convolutions(
                self.layers, self._bottom_indices, self._top_indices, self._bottom_needs_backward
            )
        )

    def layer_named(self, name: str) -> Layer | None:
        """Return the first layer of this name, if there is one."""
        if name not in self._layer_names:
            return None
        return self.layers[self._layer_names.index(name)]

    # -- running ----------------------------------------------------------------------------

    def run_forward(self, start: int, end: int, *, with_loss: bool = True) -> float:
        """Run layers start to end, both included.

        Returns:
            The sum of their weighted losses; perhaps 0 if that is not asked for.
        """
        self._check_range(start, end)
        whole = start == 0 and end == len(self.layers) - 1
        with torch.no_grad():
            if whole and not (self._stale or self._reshaping or any(self._hooks.values())):
                loss = self._run_joined(with_loss=with_loss)
            else:
                loss = self._run_apart(start, end)
            if whole:
                if self._stale:
                    self._tune_anew()
                self._stale = False
                self._tuner.ran_forward()
        return loss

    def _run_joined(self, *, with_loss: bool) -> float:
        """Run all layers, those that can together, as fast as possible."""
        loss = 0.0
        for layer, bottom, top, losses, following in self._steps:
            layer.forward(bottom, top)
            if losses and with_loss:
                loss += _weighted(losses)
            if self._stale:  # a layer has given its top another shape, as Filter may
                return loss + self._run_apart(following, len(self.layers) - 1)
        return loss

    def _run_apart(self, start: int, end: int) -> float:
        """Run layers one by one, as Caffe does, between the callbacks."""
        before, after = self._hooks["before_forward"], self._hooks["after_forward"]
        loss = 0.0
        self._rectify(together=False)
        try:
            for i in range(start, end + 1):
                for hook in before:
                    hook(i)
                if self._stale or i in self._reshaping:
                    self._reshape_layer(i)
                self.layers[i].forward(self._bottoms[i], self._tops[i])
                loss += _weighted(self._losses[i])
                for hook in after:
                    hook(i)
        finally:
            self._rectify(together=True)
        return loss

    def _rectify(self, *, together: bool) -> None:
        for layer in self._joined.values():
            layer.rectify = together

    def run_backward(self, start: int, end: int) -> None:
        """Run the backward passes of layers start down to end, both included."""
        self._check_range(end, start)
        hooks = self._hooks
        with torch.no_grad():
            for i in range(start, end - 1, -1):
                for hook in hooks["before_backward"]:
                    hook(i)
                if self._layer_needs_backward[i]:
                    self.layers[i].backward(
                        self._tops[i], self._bottom_needs_backward[i], self._bottoms[i]
                    )
                for hook in hooks["after_backward"]:
                    hook(i)
            self._tuner.ran_backward()

    def _check_range(self, first: int, last: int) -> None:
        if not 0 <= first < len(self.layers) or not 0 <= last < len(self.layers):
            raise CaffeError(f"layers {first} to {last} asked for, the net has {len(self.layers)}")

    def reshape(self) -> None:
        """Reshape all layers, from the first to the last."""
        with torch.no_grad():
            for i in range(len(self.layers)):
                self._reshape_layer(i)
        self._tune_anew()
        self._stale = False

    def _reshape_layer(self, i: int) -> None:
        shapes = [blob.shape for blob in self._losses[i]]
        self.layers[i].reshape(self._bottoms[i], self._tops[i])
        if shapes != [blob.shape for blob in self._losses[i]]:
            self._fill_loss_diffs(self._layer_losses[i])

    def clear_param_diffs(self) -> None:
        """Set the gradients of all parameters to zero."""
        self.arena.diff.zero_()

    @property
    def param_arena(self) -> NDArray[np.float32]:
        """The learnable parameters, flat, in the order of the prototxt: a live view."""
        view: NDArray[np.float32] = self.arena.data[: self.arena.num_learnable].numpy()
        return view

    @property
    def diff_arena(self) -> NDArray[np.float32]:
        """The gradients of the learnable parameters, flat: a live view."""
        view: NDArray[np.float32] = self.arena.diff[: self.arena.num_learnable].numpy()
        return view

    @property
    def arena_layout(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """Layer, index and shape of every parameter in the arena, in its order."""
        return list(self.arena.layout)


def _weighted(losses: Sequence[Blob]) -> float:
    """Return the sum of losses; a loss's diff holds its weight."""
    return sum(float(b.data_tensor.view(-1).dot(b.diff_tensor.view(-1))) for b in losses)


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
