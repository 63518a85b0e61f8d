"""A pycaffe-compatible engine on PyTorch.

Names are imported when first used: `import caffe` itself and `caffe.proto` cost no PyTorch.
"""

from typing import TYPE_CHECKING

from caffe._exports import __all__, __dir__, __getattr__, __version__  # noqa: F401

if TYPE_CHECKING:
    from caffe.pycaffe import *
