"""Import shim: the package is one folder down, in python/caffe.

A checkout's root on `sys.path` would otherwise make `import caffe` find this bare folder as an
empty namespace package.  With DDQ_CAFFE set to a folder that holds another caffe package (a real
pycaffe, say), the shim steps aside for that one.
"""

import os

_elsewhere = os.environ.get("DDQ_CAFFE")
if _elsewhere:
    __path__ = [os.path.join(_elsewhere, "caffe")]
    __file__ = os.path.join(_elsewhere, "caffe", "__init__.py")
else:
    __path__ = [os.path.join(os.path.dirname(__file__), "python", "caffe")]
    __file__ = os.path.join(os.path.dirname(__file__), "python", "caffe", "__init__.py")
with open(__file__, encoding="utf-8") as _file:
    exec(compile(_file.read(), __file__, "exec"))
