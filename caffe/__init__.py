"""Import shim: the package is one folder down, in python/caffe.

A checkout's root on `sys.path` would otherwise make `import caffe` find this bare folder as an
empty namespace package.  With DDQ_CAFFE set to a folder that holds another caffe package (a real
pycaffe, say), the shim steps aside for that one.
"""

import os
from pathlib import Path

_package = Path(__file__).parent / "python" / "caffe"
if os.environ.get("DDQ_CAFFE"):
    _package = Path(os.environ["DDQ_CAFFE"]) / "caffe"
__path__ = [str(_package)]
__file__ = str(_package / "__init__.py")
# The package's own __init__, run in this module's place, whichever package it is.
exec(compile(Path(__file__).read_text(encoding="utf-8"), __file__, "exec"))  # noqa: S102
