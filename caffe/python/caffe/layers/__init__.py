"""The layer types, a module a family; `load` finds them all.

To add a type, write a class with `@register("Name")` in a module of this folder: nothing else
needs to know.  As in pycaffe, `from caffe import layers as L` gives NetSpec's functions too:
`L.Convolution(...)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def load() -> None:
    """Import every module of this folder, and so register their layers."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def __getattr__(name: str) -> Any:
    if not name[:1].isupper():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from caffe.net_spec import layers  # noqa: PLC0415  # a cycle otherwise

    return getattr(layers, name)
