"""Classifier: a net that takes images of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from caffe.errors import require
from caffe.io import Transformer, oversample, resize_image
from caffe.pycaffe import TEST, Net

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def image_transformer(
    net: Net,
    mean: NDArray[Any] | None,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> Transformer:
    """Return a Transformer of images [H, W, C] for a net's first input, [N, C, H, W].

    Raises:
        CaffeError: If the net has no such input, or the settings do not fit it.
    """
    shapes = [net.blobs[name].shape for name in net.inputs[:1]]
    require(
        [len(shape) for shape in shapes] == [4],
        f"the net's first input must be an image, [N, C, H, W]; its inputs are {net.inputs}, of "
        f"the shapes {[list(net.blobs[name].shape) for name in net.inputs]}",
    )
    name = net.inputs[0]
    transformer = Transformer({name: tuple(shapes[0])})
    transformer.set_transpose(name, (2, 0, 1))
    if mean is not None:
        transformer.set_mean(name, mean)
    if input_scale is not None:
        transformer.set_input_scale(name, input_scale)
    if raw_scale is not None:
        transformer.set_raw_scale(name, raw_scale)
    if channel_swap is not None:
        transformer.set_channel_swap(name, channel_swap)
    return transformer


class Classifier(Net):
    """A net in its TEST phase that classifies images by its first output.

    Images are resized to `image_dims` (height, width; the net's own by default), of which crops of
    the net's size are taken; what the other settings do, `caffe.io.Transformer` says.
    """

    def __init__(  # noqa: PLR0917  # as in pycaffe
        self,
        model_file: Any,
        pretrained_file: Any,
        image_dims: Sequence[int] | None = None,
        mean: NDArray[Any] | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims = self.crop_dims if image_dims is None else np.array(image_dims)
        require(
            self.image_dims.shape == (2,) and (self.image_dims >= self.crop_dims).all(),
            f"image_dims must be a height and a width of at least the net's input, "
            f"{self.crop_dims.tolist()}, not {self.image_dims.tolist()}",
        )

    def predict(
        self,
        inputs: Sequence[NDArray[Any]],
        oversample: bool = True,  # noqa: FBT001, FBT002  # as in pycaffe
    ) -> NDArray[np.float32]:
        """Return the first output for each image [H, W, C], as [images, classes].

        Args:
            inputs: The images, of any sizes.
            oversample: Whether to average over ten crops of each image (the corners, the centre,
                all mirrored), or to take the one in the centre.

        Raises:
            CaffeError: If there are no images, or they do not suit the net.
        """
        channels = self.blobs[self.inputs[0]].shape[1]
        require(
            len(inputs) and all(image.shape[2:] == (channels,) for image in inputs),
            f"predict takes images [H, W, {channels}], at least one; got the shapes "
            f"{[list(image.shape) for image in inputs]}",
        )
        images = np.stack([resize_image(image, self.image_dims.tolist()) for image in inputs])
        crops = _crops(images, self.crop_dims.tolist(), ten=oversample)
        name = self.inputs[0]
        batch = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        predictions = self.forward_all(None, **{name: batch})[self.outputs[0]]
        if not oversample:
            return predictions
        means: NDArray[np.float32] = predictions.reshape(len(images), 10, -1).mean(1)
        return means


def _crops(images: NDArray[Any], dims: list[int], *, ten: bool) -> NDArray[Any]:
    if ten:
        return oversample(list(images), dims)
    top, left = (images.shape[1] - dims[0]) // 2, (images.shape[2] - dims[1]) // 2
    return images[:, top : top + dims[0], left : left + dims[1]]
