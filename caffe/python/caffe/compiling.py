"""Compiling whole passes with torch.compile: an option where there is a C++ compiler.

The first pass of every net and batch size then takes many seconds.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import torch

from caffe.errors import CaffeError

if TYPE_CHECKING:
    from collections.abc import Callable


class _Settings:
    enabled = False


def set_compile(enabled: bool) -> None:  # noqa: FBT001  # a switch, like PyTorch's
    """Compile the passes of the nets that are made from now on, or stop doing so.

    Raises:
        CaffeError: If there is no C++ compiler; the setting is unchanged.
    """
    compiler = os.environ.get("CXX") or "g++"
    if enabled and shutil.which(compiler) is None:
        raise CaffeError(f"compiling needs a C++ compiler: there is no {compiler} on PATH")
    _Settings.enabled = enabled


def compiled(call: Callable[[], None]) -> Callable[[], None]:
    """Return the call, compiled if that was asked for."""
    return torch.compile(call) if _Settings.enabled else call


set_compile(os.environ.get("DDQ_COMPILE", "0") not in ("", "0"))
