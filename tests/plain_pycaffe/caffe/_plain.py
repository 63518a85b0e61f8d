"""The names of a real pycaffe, over our engine, and its ways to fail."""

import os
import sys
from collections import OrderedDict

from ._engine import load

GLOG_LEVEL = "GLOG_minloglevel"  # glog's own spelling

_errors = load("errors")
sys.modules[f"{__package__}.proto"] = load("proto")
sys.modules[f"{__package__}.proto.caffe_pb2"] = load("proto.caffe_pb2")

# What `dir` lists of a real build's module, and of its classes.
MODULE = """
    AdaDeltaSolver AdaGradSolver AdamSolver Classifier Detector Layer NCCL NesterovSolver Net
    NetSpec RMSPropSolver SGDSolver TEST TRAIN Timer _caffe classifier detector get_solver has_nccl
    init_log io layer_type_list layers log net_spec params proto pycaffe set_device set_mode_cpu
    set_mode_gpu set_multiprocess set_random_seed set_solver_count set_solver_rank solver_count
    solver_rank to_proto
"""
NET = """
    _backward _batch _blob_loss_weights _blob_names _blobs _bottom_ids _forward _inputs _layer_names
    _outputs _set_input_arrays _top_ids after_backward after_forward backward before_backward
    before_forward blob_loss_weights blobs bottom_names clear_param_diffs copy_from forward
    forward_all forward_backward_all inputs layer_dict layers load_hdf5 outputs params reshape save
    save_hdf5 set_input_arrays share_with top_names
"""
BLOB = "channels count data diff height num reshape shape width"
LAYER = "blobs reshape setup type"
SOLVER = """
    add_callback apply_update iter lr net param restore share_weights snapshot solve step test_nets
"""


def _log(severity, message):
    """Write a line as glog does before it is initialised."""
    if "IWEF".index(severity) >= int(os.environ.get(GLOG_LEVEL, "0")):
        sys.stderr.write(f"{severity}1122 12:34:56.123456  4711 check.cpp:53] {message}\n")
        sys.stderr.flush()


def _guarded(call, *args, **keywords):
    """Call into the engine, and fail as a plain pycaffe does."""
    try:
        return call(*args, **keywords)
    except (_errors.CaffeFileError, _errors.CaffeCallError) as error:
        raise RuntimeError(str(error)) from None
    except _errors.CaffeError as error:
        if "arguments do not match" in str(error) or "not batch sized" in str(error):
            raise Exception(str(error)) from None  # noqa: TRY002 (as in pycaffe.py)
        _log("F", f"Check failed: {error}")
        sys.stderr.write(
            "*** Check failure stack trace: ***\n    @     0x7f0123456789  (unknown)\n"
        )
        sys.stderr.flush()
        os.abort()


class _Plain:
    """An object of the engine, of which only the names in `_names` can be seen."""

    _names = ""
    __slots__ = ("__inner",)

    def __init__(self, inner):
        object.__setattr__(self, "_Plain__inner", inner)

    def __getattr__(self, name):
        if name not in self._names.split():
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return _wrap(_guarded(getattr, self.__inner, name))

    def __setattr__(self, name, value):
        raise AttributeError(f"property of {type(self).__name__!r} object has no setter")

    def __dir__(self):
        return sorted(self._names.split())

    def _unwrapped(self):
        return self.__inner


class Net(_Plain):
    """`Net(file, phase, level=0, stages=None, weights=None)`."""

    _names = NET
    __slots__ = ()

    def __init__(self, network_file, phase, level=0, stages=None, weights=None):
        _check_files(network_file, *([] if weights is None else [weights]))
        _log("I", "Initializing net from parameters")
        make = load("pycaffe").Net
        super().__init__(
            _guarded(make, network_file, phase, level=level, stages=stages, weights=weights)
        )


class Blob(_Plain):
    _names = BLOB
    __slots__ = ()

    @property
    def shape(self):
        return IntVec(self._unwrapped().shape)

    def reshape(self, *dims):
        for dim in dims:
            if type(dim) is not int:
                raise TypeError(
                    "No registered converter was able to produce a C++ rvalue of type int from "
                    f"this Python object of type {type(dim).__name__}"
                )
        _guarded(self._unwrapped().reshape, *dims)


class _Layer(_Plain):
    _names = LAYER
    __slots__ = ()


class _Solver(_Plain):
    _names = SOLVER
    __slots__ = ()


class IntVec:
    """A vector of C++: a sequence, but no tuple or list."""

    def __init__(self, values):
        self._values = list(values)

    def __len__(self):
        return len(self._values)

    def __getitem__(self, index):
        return self._values[index]


class BlobVec(IntVec):
    pass


def _wrap(value):
    if isinstance(value, load("net").Network):
        plain = Net.__new__(Net)
        _Plain.__init__(plain, value)
        return plain
    for kind, plain in (
        (load("blob").Blob, Blob),
        (load("layer").Layer, _Layer),
        (load("solver").Solver, _Solver),
    ):
        if isinstance(value, kind):
            return plain(value)
    if isinstance(value, load("blob").BlobVec):
        return BlobVec(map(_wrap, value))
    if isinstance(value, dict):
        return OrderedDict((key, _wrap(each)) for key, each in value.items())
    if isinstance(value, list):
        return [_wrap(each) for each in value]
    return _method(value) if callable(value) else value


def _method(call):
    def method(*args, **keywords):
        _check_files(*(arg for arg in args if isinstance(arg, os.PathLike)))
        plain = [arg._unwrapped() if isinstance(arg, _Plain) else arg for arg in args]
        return _wrap(_guarded(call, *plain, **keywords))

    return method


def _check_files(*files):
    for file in files:
        if not isinstance(file, str):
            raise TypeError(f"Python argument types did not match C++ signature: {file!r}")


def get_solver(file):
    return _make_solver("get_solver", file)


def _make_solver(name, file):
    _check_files(file)
    _log("I", "Initializing solver from parameters")
    try:
        return _Solver(_guarded(getattr(load("solver"), name), file))
    except RuntimeError:  # of nets and weights a missing file is an exception, of solvers it is not
        _log("F", f"Check failed: fd != -1 (-1 vs. -1) File not found: {file}")
        os.abort()


def set_device(device):
    _log("F", "Cannot use GPU in CPU-only Caffe: check mode.")
    os.abort()


def set_random_seed(seed):
    if not 0 <= seed < 2**32:
        raise OverflowError("value too large to convert to unsigned int")
    load("precision").set_random_seed(seed)


def __dir__():
    """List the names of the module `caffe`."""
    return sorted(MODULE.split())


def __getattr__(name):
    """Return what the module `caffe` has under a name that is not made here."""
    if name not in MODULE.split() and name != "__version__":
        raise AttributeError(f"module 'caffe' has no attribute {name!r}")
    if name.endswith("Solver"):
        return lambda file: _make_solver(name, file)
    return globals()[name] if name in globals() else getattr(load("_exports"), name)
