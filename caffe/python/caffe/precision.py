"""Settings of the whole process: arithmetic, threads, random numbers.

- "float32"
- "tf32": a GPU rounds the factors of a product to 10 bits; on a processor this is float32
- "bf16": Convolution and InnerProduct multiply in bfloat16.  An InnerProduct that no ReLU
  follows, which makes a net's output, is computed in float32 all the same, and so is the forward
  pass of convolutions in TRAIN nets: whether a unit is just above or just below 0 decides its
  gradient, for every place of a plain background at once
- "bf16-all": these convolutions too, which is faster, and about five times less exact

Parameters, their gradients and blobs are float32 always.
"""

from __future__ import annotations

import os

import torch

from caffe.errors import CaffeError

_PRECISIONS = ("float32", "tf32", "bf16", "bf16-all")


class _Settings:
    name = "tf32"  # PyTorch's own default, until the end of this module


def set_precision(name: str) -> None:
    """Choose the arithmetic of Convolution and InnerProduct; see the module for the names.

    Raises:
        CaffeError: If the name is another; the setting is unchanged.
    """
    if name not in _PRECISIONS:
        raise CaffeError(f"precision '{name}' is unknown; it is one of {', '.join(_PRECISIONS)}")
    if (name == "tf32") != (_Settings.name == "tf32"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    _Settings.name = name


def arithmetic() -> str:
    """Return the name of the arithmetic that products are computed in."""
    return _Settings.name


def computes_bf16() -> bool:
    """Return whether products are computed in bfloat16."""
    return _Settings.name in ("bf16", "bf16-all")


def keeps_signs() -> bool:
    """Return whether nets that learn run their convolutions forward in float32 all the same."""
    return _Settings.name == "bf16"


def set_num_threads(count: int) -> None:
    """Let PyTorch use this many threads for one operation."""
    torch.set_num_threads(count)


def set_random_seed(seed: int) -> None:
    """Seed fillers, Dropout and DummyData."""
    torch.manual_seed(seed)


set_precision(os.environ.get("DDQ_PRECISION") or "float32")
