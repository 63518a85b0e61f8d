"""Detector: a net that classifies windows of images."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe.classifier import image_transformer
from caffe.errors import CaffeError, require
from caffe.io import load_image, resize_image
from caffe.pycaffe import TEST, Net

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    FileName = str | os.PathLike[str]


class Detector(Net):
    """A net in its TEST phase that classifies windows, warped to its input's size.

    With `context_pad`, so many pixels at every edge of the net's input show what lies around the
    window, as in R-CNN; where that is outside the image, they show the mean.  What the other
    settings do, `caffe.io.Transformer` says.
    """

    def __init__(  # noqa: PLR0917  # as in pycaffe
        self,
        model_file: Any,
        pretrained_file: Any,
        mean: NDArray[Any] | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(
        self, images_windows: Iterable[tuple[FileName, Iterable[Sequence[int]]]]
    ) -> list[dict[str, Any]]:
        """Return the first output for windows of image files.

        Args:
            images_windows: Files with their windows, each (top, left, bottom, right).

        Returns:
            For each window a dict of `window`, `prediction` (an array) and `filename`.

        Raises:
            CaffeError: If an image cannot be read, or a window does not lie in it.
        """
        name = self.inputs[0]
        detections: list[dict[str, Any]] = []
        batch = []
        for filename, windows in images_windows:
            image = load_image(filename)
            for window in windows:
                batch.append(self.transformer.preprocess(name, self.crop(image, window)))
                detections.append({"window": window, "filename": filename})
        if batch:
            predictions = self.forward_all(None, **{name: np.stack(batch)})[self.outputs[0]]
            for detection, prediction in zip(detections, predictions, strict=True):
                detection["prediction"] = prediction
        return detections

    def detect_selective_search(self, image_fnames: Iterable[FileName]) -> list[dict[str, Any]]:
        """Return what `detect_windows` does, for the windows that Selective Search proposes.

        Raises:
            CaffeError: If the package for it is not installed.
        """
        try:
            search = importlib.import_module("selective_search_ijcv_with_python")
        except ImportError as error:
            raise CaffeError(
                "detect_selective_search needs the package selective_search_ijcv_with_python and "
                f"MATLAB; propose windows yourself and call detect_windows ({error})"
            ) from None
        files = [str(Path(name).resolve()) for name in image_fnames]
        windows = search.get_windows(files, cmd="selective_search_rcnn")
        return self.detect_windows(zip(files, windows, strict=True))

    def configure_crop(self, context_pad: int | None) -> None:
        """Set how many pixels at every edge show what lies around the window.

        Raises:
            CaffeError: If nothing of the window would be left.
        """
        name = self.inputs[0]
        _, channels, height, width = self.blobs[name].shape
        self.crop_dims = np.array((height, width, channels))
        self.context_pad = context_pad
        if not context_pad:
            return
        require(
            height == width and 0 < 2 * context_pad < width,
            f"context_pad takes a square input of more than twice its size, {context_pad}; the "
            f"net's is {height} × {width}",
        )
        # The mean as pixels of an image: without what the transformer does after raw_scale.
        mean = np.zeros((channels, 1, 1), np.float32)
        mean = mean + self.transformer.mean.get(name, 0) / self.transformer.raw_scale.get(name, 1)
        if name in self.transformer.channel_swap:
            mean = mean[np.argsort(self.transformer.channel_swap[name])]
        self.crop_mean = mean.transpose(1, 2, 0)

    def crop(self, im: NDArray[Any], window: Sequence[int]) -> NDArray[Any]:
        """Return a window (top, left, bottom, right) of an image [H, W, C].

        With context it has the size of the net's input, without its own.

        Raises:
            CaffeError: If nothing of the image is in the window.
        """
        box, limits = np.array(window, float), np.array(im.shape[:2] * 2)
        seen = np.clip(box, 0, limits) if box.shape == (4,) else np.zeros(4)
        require(
            (seen[:2] < seen[2:]).all(),
            f"window {np.array(window).tolist()} is no (top, left, bottom, right) in the image of "
            f"the shape {list(im.shape)}",
        )
        if not self.context_pad:
            top, left, bottom, right = seen.astype(int)
            return im[top:bottom, left:right]
        side = int(self.crop_dims[0])
        # The window grows about its centre so that its own part fills the inner square.
        half = (box[2:] - box[:2] + 1) / 2
        grown = half * side / (side - 2 * self.context_pad)
        centre = box[:2] + half
        box = np.round(np.concatenate([centre - grown, centre + grown]))
        scale = side / (box[2:] - box[:2] + 1)
        start = np.round(np.maximum(0, -box[:2]) * scale).astype(int)
        box = np.clip(box, 0, limits)
        size = np.round((box[2:] - box[:2] + 1) * scale).astype(int)
        size = np.minimum(size, side - start)
        stop = start + size
        top, left, bottom, right = box.astype(int)
        crop: NDArray[Any] = np.ones(self.crop_dims, np.float32) * self.crop_mean
        crop[start[0] : stop[0], start[1] : stop[1]] = resize_image(
            im[top:bottom, left:right], size.tolist()
        )
        return crop
