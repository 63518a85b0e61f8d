"""Import shim: the package is one folder down, in python/caffe.

A checkout's root on `sys.path` would otherwise make `import caffe` find this bare folder as an
empty namespace package.
"""

from pathlib import Path

_package = Path(__file__).parent / "python" / "caffe"
__path__ = [str(_package)]
__file__ = str(_package / "__init__.py")
# The package's own __init__, run in this module's place.
exec(compile(Path(__file__).read_text(encoding="utf-8"), __file__, "exec"))  # noqa: S102
