"""Running nets, forward and backward.

Forward reshapes layers only after some blob's shape changed: every blob of the net raises the
flag `_stale` when it is reshaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from caffe import device
from caffe.compiling import compiled
from caffe.construction import Construction
from caffe.cuda_graph import Recording, is_recordable
from caffe.errors import CaffeError
from caffe.fusion import convolutions, fuse
from caffe.layers.inner_product import InnerProduct
from caffe.memory import Storage
from caffe.tuning import Tuner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from caffe.blob import Blob
    from caffe.layer import Layer
    from caffe.proto import caffe_pb2


class Network(Construction):
    """A net as Caffe's C++ has it; `caffe.Net` adds pycaffe's interface.  Not thread-safe."""

    def __init__(self, param: caffe_pb2.NetParameter) -> None:
        super().__init__(param)
        self._hooks: dict[str, list[Callable[[int], object]]] = {
            name: []
            for name in ("before_forward", "after_forward", "before_backward", "after_backward")
        }
        self._prepare()

    def _prepare(self) -> None:
        """Gather what the loops below need of every layer, and join layers that run together."""
        self._bottoms = [[self._blobs[i] for i in indices] for indices in self._bottom_indices]
        self._tops = [[self._blobs[i] for i in indices] for indices in self._top_indices]
        self._losses = [[self._blobs[i] for i, _ in losses] for losses in self._layer_losses]
        self._reshaping = {i for i, layer in enumerate(self.layers) if layer.reshapes_always}
        self._joined = fuse(self.layers, self._bottom_indices, self._top_indices)
        self._rectify(together=True)
        self._steps = [
            (layer, self._bottoms[i], self._tops[i], i + 1)
            for i, layer in enumerate(self.layers)
            if i not in self._joined
        ]
        self._joined_forward = compiled(self._run_joined)
        self._joined_backward = compiled(lambda: self._run_back(len(self.layers) - 1, 0))
        self._overwriting = self._can_overwrite()
        self._tune_anew()
        self._stale = False

    def _tune_anew(self) -> None:
        """Forget what was measured and recorded with other shapes."""
        self._whole_forward, self._whole_backward = self._joined_forward, self._joined_backward
        parameters = [blob for layer in self.layers for blob in layer.blobs]
        if self._device != device.CPU:
            self._tuner = Tuner([])
            if is_recordable(self.layers):
                blobs = [*self._blobs, *parameters]
                self._whole_forward = Recording(self._whole_forward, blobs).run
                self._whole_backward = Recording(self._whole_backward, blobs).run
            return
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
        with torch.no_grad(), self._on_device:
            if whole and not (self._stale or self._reshaping or any(self._hooks.values())):
                self._whole_forward()
                loss = sum(map(_weighted, self._losses)) if with_loss else 0.0
            else:
                loss = self._run_apart(start, end)
            if whole:
                if self._stale:
                    self._tune_anew()
                self._stale = False
                self._tuner.ran_forward()
        return loss

    def _run_joined(self) -> None:
        """Run all layers forward, those that can together, as fast as possible."""
        for layer, bottom, top, following in self._steps:
            layer.forward(bottom, top)
            if self._stale:  # a layer has given its top another shape, as Filter may
                self._run_apart(following, len(self.layers) - 1)
                return

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
        whole = end == 0 and start == len(self.layers) - 1
        with torch.no_grad(), self._on_device:
            if whole and not any(self._hooks.values()):
                self._whole_backward()
                self._tuner.ran_backward()
            else:
                self._run_back(start, end)

    def run_backward_afresh(self) -> None:
        """Clear the parameters' gradients, then run all layers backward.

        The large ones are not cleared, but written over.
        """
        writing = [each for each in self._overwriting if each[1].wants_gradient(0)]
        start, gradients = 0, self.arena.diff
        for span, layer in writing:
            gradients[start : span.start].zero_()
            start = span.stop
            layer.overwrites = True
        gradients[start:].zero_()
        try:
            self.run_backward(len(self.layers) - 1, 0)
        finally:
            for _, layer in writing:
                layer.overwrites = False

    def _can_overwrite(self) -> list[tuple[slice, InnerProduct]]:
        """Return the layers that alone write the gradient of their weight, and its span."""
        if self._device != device.CPU:  # recorded passes are always the same
            return []
        shared = {id(blob) for pair in self.shared for blob in pair}
        arena = self.arena
        spans = {id(p.blob): span for p, span in zip(arena.parameters, arena.spans, strict=True)}
        found = [
            (spans[id(layer.blobs[0])], layer)
            for layer, needs_backward in zip(self.layers, self._layer_needs_backward, strict=True)
            if isinstance(layer, InnerProduct) and needs_backward
            if id(layer.blobs[0]) not in shared
        ]
        return sorted(found, key=lambda each: each[0].start)

    def _run_back(self, start: int, end: int) -> None:
        before, after = self._hooks["before_backward"], self._hooks["after_backward"]
        for i in range(start, end - 1, -1):
            for hook in before:
                hook(i)
            if self._layer_needs_backward[i]:
                self.layers[i].backward(
                    self._tops[i], self._bottom_needs_backward[i], self._bottoms[i]
                )
            for hook in after:
                hook(i)

    def _check_range(self, first: int, last: int) -> None:
        if not 0 <= first < len(self.layers) or not 0 <= last < len(self.layers):
            raise CaffeError(f"layers {first} to {last} asked for, the net has {len(self.layers)}")

    def reshape(self) -> None:
        """Reshape all layers, from the first to the last."""
        with torch.no_grad(), self._on_device:
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

    def set_params(self, values: NDArray[np.float32]) -> None:
        """Copy values into the learnable parameters, flat; nothing is copied onto itself.

        Nothing else may write to them until the next call: what passes need of them, such as
        copies in bfloat16, is made here.
        """
        own = self.param_arena
        if values.shape != own.shape or values.ctypes.data != own.ctypes.data:
            np.copyto(own, values)
        self.arena.values.hold()

    def move_params(self, values: NDArray[np.float32], diffs: NDArray[np.float32]) -> bool:
        """Move the learnable parameters and their gradients into arrays of the caller's.

        Nets that share the parameters stay with the old ones until `share_with` is called again.

        Args:
            values: float32 [P], contiguous.
            diffs: The same.

        Returns:
            Whether they are there now: they stay if some are frozen, or a GPU computes.
        """
        arena = self.arena
        if arena.values.is_mirrored or len(arena.values) != arena.num_learnable:
            return False
        arena.move(*(Storage(given.size, given) for given in (values, diffs)))
        for blob, owner in self.shared:
            arena.share(blob, owner)
        return True

    @property
    def param_arena(self) -> NDArray[np.float32]:
        """The learnable parameters, flat, in the order of the prototxt: a live view."""
        self.arena.values.release()
        view: NDArray[np.float32] = self.arena.values.host[: self.arena.num_learnable].numpy()
        return view

    @property
    def diff_arena(self) -> NDArray[np.float32]:
        """The gradients of the learnable parameters, flat: a live view."""
        view: NDArray[np.float32] = self.arena.gradients.host[: self.arena.num_learnable].numpy()
        return view

    @property
    def arena_layout(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """Layer, index and shape of every parameter in the arena, in its order."""
        return list(self.arena.layout)


def _weighted(losses: Sequence[Blob]) -> float:
    """Return the sum of losses; a loss's diff holds its weight."""
    return sum(float(b.data_tensor.view(-1).dot(b.diff_tensor.view(-1))) for b in losses)
