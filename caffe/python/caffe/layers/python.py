"""Python: a layer that the user's module defines, a subclass of `caffe.Layer`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, ClassVar

from caffe.errors import CaffeError
from caffe.layer import Layer, register

if TYPE_CHECKING:
    from caffe.proto import caffe_pb2


@register("Python")
class Python(Layer):
    """Becomes an instance of the class `layer` of `module`.

    The user's class has `setup`, `reshape`, `forward` (bottom, top) and `backward` (top,
    propagate_down, bottom), and finds `param_str`, `phase` and `blobs` in itself.
    """

    bottoms: ClassVar[tuple[int, int | None]] = (0, None)
    tops: ClassVar[tuple[int, int | None]] = (0, None)

    def __new__(cls, param: caffe_pb2.LayerParameter) -> Layer:  # type: ignore[misc]
        """Return the user's layer."""
        names = param.python_param
        try:
            made = getattr(importlib.import_module(names.module), names.layer)
        except (ImportError, AttributeError, ValueError) as error:
            raise CaffeError(f"layer '{param.name}' (Python): {error}") from error
        if not (isinstance(made, type) and issubclass(made, Layer)):
            raise CaffeError(
                f"layer '{param.name}': {names.module}.{names.layer} is no subclass of caffe.Layer"
            )
        layer: Layer = made(param)
        layer.bottoms = layer.tops = (0, None)  # type: ignore[misc]
        layer.type = "Python"
        layer.reshapes_always = True  # type: ignore[misc]  # users count on it, as in Caffe
        layer.param_str = names.param_str  # type: ignore[attr-defined]
        return layer
