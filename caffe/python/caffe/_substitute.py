"""Another caffe package in this one's place: a real pycaffe, whose folder DDQ_CAFFE names."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


def substitute(mine: ModuleSpec) -> bool:
    """Import the package that DDQ_CAFFE names as the module `caffe`, if it names another one.

    Args:
        mine: The specification that the running import of `caffe` has found.

    Raises:
        SystemExit: If there is no such package: one line on stderr, exit code 2.
    """
    folder = os.environ.get("DDQ_CAFFE")
    if not folder:
        return False
    file = Path(folder).resolve() / "caffe" / "__init__.py"
    if not file.is_file():
        sys.stderr.write(f"DDQ_CAFFE={folder}: this folder holds no caffe package\n")
        raise SystemExit(2)
    if Path(mine.origin or "").resolve() == file:
        return False
    # Caffe's hundreds of lines about every net; its errors are still said.
    os.environ.setdefault("GLOG_minloglevel", "2")
    spec = importlib.util.spec_from_file_location(
        "caffe", file, submodule_search_locations=[str(file.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    for name in [name for name in sys.modules if name.startswith("caffe.")]:
        del sys.modules[name]  # this package's own
    # Import hands out what lies here when a module's code has run.
    sys.modules["caffe"] = module
    spec.loader.exec_module(module)
    return True
