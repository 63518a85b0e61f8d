"""The public names of `caffe` and the modules they come from, imported when first used."""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "1.0.0"

_ORIGINS = {
    "caffe.classifier": ("Classifier",),
    "caffe.detector": ("Detector",),
    "caffe.compiling": ("set_compile",),
    "caffe.device": ("set_device", "set_mode_cpu", "set_mode_gpu"),
    "caffe.errors": ("CaffeCallError", "CaffeError", "CaffeFileError"),
    "caffe.layer": ("Layer",),
    "caffe.modes": (
        "NCCL",
        "Timer",
        "has_nccl",
        "init_log",
        "layer_type_list",
        "log",
        "set_multiprocess",
        "set_solver_count",
        "set_solver_rank",
        "solver_count",
        "solver_rank",
    ),
    "caffe.net_spec": ("NetSpec", "params", "to_proto"),
    "caffe.precision": ("set_num_threads", "set_precision", "set_random_seed"),
    "caffe.pycaffe": (
        "TEST",
        "TRAIN",
        "Net",
    ),
    "caffe.tuning": ("set_lowering",),
    "caffe.solver": (
        "AdaDeltaSolver",
        "AdaGradSolver",
        "AdamSolver",
        "NesterovSolver",
        "RMSPropSolver",
        "SGDSolver",
        "get_solver",
    ),
}
_HOMES = {name: module for module, names in _ORIGINS.items() for name in names}
_MODULES = (
    "_caffe",
    "classifier",
    "coord_map",
    "detector",
    "draw",
    "io",
    "layers",
    "net_spec",
    "proto",
    "pycaffe",
)


def _load_engine() -> None:
    importlib.import_module("caffe.pycaffe")
    importlib.import_module("caffe.solver")


if hasattr(os, "register_at_fork"):
    # Whoever imports us and then forks wants the children to find the engine loaded, PyTorch too.
    os.register_at_fork(before=_load_engine)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"caffe.{name}")
    raise AttributeError(f"module 'caffe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_HOMES, *_MODULES, "__version__"])
