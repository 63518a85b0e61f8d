"""A pycaffe-compatible engine on PyTorch.

Names are imported when first used: `import caffe` itself and `caffe.proto` cost no PyTorch.
"""

from typing import TYPE_CHECKING

from caffe._substitute import substitute

if not substitute(__spec__):  # DDQ_CAFFE names another package
    from caffe._exports import __dir__, __getattr__, __version__

if TYPE_CHECKING:
    from caffe import (
        _caffe,
        classifier,
        coord_map,
        detector,
        draw,
        io,
        layers,
        net_spec,
        proto,
        pycaffe,
    )
    from caffe.classifier import Classifier
    from caffe.compiling import set_compile
    from caffe.detector import Detector
    from caffe.device import set_device, set_mode_cpu, set_mode_gpu
    from caffe.errors import CaffeCallError, CaffeError, CaffeFileError
    from caffe.layer import Layer
    from caffe.modes import (
        NCCL,
        Timer,
        has_nccl,
        init_log,
        layer_type_list,
        log,
        set_multiprocess,
        set_solver_count,
        set_solver_rank,
        solver_count,
        solver_rank,
    )
    from caffe.net_spec import NetSpec, params, to_proto
    from caffe.precision import set_num_threads, set_precision, set_random_seed
    from caffe.pycaffe import (
        TEST,
        TRAIN,
        Net,
    )
    from caffe.solver import (
        AdaDeltaSolver,
        AdaGradSolver,
        AdamSolver,
        NesterovSolver,
        RMSPropSolver,
        SGDSolver,
        get_solver,
    )
    from caffe.tuning import set_lowering

__all__ = [
    "NCCL",
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "CaffeCallError",
    "CaffeError",
    "CaffeFileError",
    "Classifier",
    "Detector",
    "Layer",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Timer",
    "__dir__",
    "__getattr__",
    "__version__",
    "_caffe",
    "classifier",
    "coord_map",
    "detector",
    "draw",
    "get_solver",
    "has_nccl",
    "init_log",
    "io",
    "layer_type_list",
    "layers",
    "log",
    "net_spec",
    "params",
    "proto",
    "pycaffe",
    "set_compile",
    "set_device",
    "set_lowering",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_num_threads",
    "set_precision",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
]
