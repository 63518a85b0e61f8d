"""Our engine under another name, so that `caffe.…` reaches nothing of it."""

import importlib
import importlib.machinery
import importlib.util
import re
import sys
import types
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[3] / "caffe/python/caffe"
NAME = "engine_beneath_plain_pycaffe"
# The package's name in imports and in lists of modules; a generated schema has none of these.
_OWN_NAME = re.compile(r"\bcaffe(?=\.[\w{])|(?<=from )caffe(?= import)|(?<=import )caffe\b")


class _Renaming(importlib.machinery.SourceFileLoader):
    """Loads a module of the engine as one of NAME, without the bytecode of the original."""

    def get_code(self, fullname):
        text = Path(self.path).read_text(encoding="utf-8")
        if not self.path.endswith("_pb2.py"):
            text = _OWN_NAME.sub(NAME, text)
        return self.source_to_code(text, self.path)


class _Finder:
    """Finds the engine's modules, and none of ours under the name of this package."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        here, _, name = fullname.rpartition(".")
        if here == __package__ and not Path(__file__).with_name(f"{name}.py").exists():
            # An editable install's finder would offer it.
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        if not fullname.startswith(NAME + "."):
            return None
        folder = SOURCES.joinpath(*fullname.split(".")[1:])
        is_package = folder.is_dir()
        file = str(folder / "__init__.py" if is_package else folder.with_suffix(".py"))
        return importlib.util.spec_from_file_location(
            fullname,
            file,
            loader=_Renaming(fullname, file),
            submodule_search_locations=[str(folder)] if is_package else None,
        )


def load(module):
    """Import a module of the engine."""
    if NAME not in sys.modules:
        package = types.ModuleType(NAME)
        package.__path__ = [str(SOURCES)]
        sys.modules[NAME] = package
        if __package__ != "caffe":  # beside our own engine: a process has one schema
            schema = importlib.import_module("caffe.proto.caffe_pb2")
            sys.modules[f"{NAME}.proto.caffe_pb2"] = schema
        sys.meta_path.insert(0, _Finder)  # before the one that knows the folder
    return importlib.import_module(f"{NAME}.{module}")
