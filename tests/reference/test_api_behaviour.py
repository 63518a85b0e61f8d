"""Every row of what pycaffe was observed to do, against our engine.

Each row is replayed on a net, or a solver, of its own.  Where we differ on purpose, the row stands
in DIFFERENT, with the reason and what we do instead.
"""

import ast
import builtins
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

import caffe

with zipfile.ZipFile(Path(__file__).with_name("cases.zip")) as _archive:
    OBSERVED = json.loads(_archive.read("api_behaviour/meta.json"))["observed"]

X = np.arange(2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8) / 100


class Rig:
    """A net and a solver, made when first asked for."""

    def __init__(self, folder):
        self.folder = folder
        self.file = str(folder / "net.prototxt")
        self.solver_file = str(folder / "solver.prototxt")
        self._net = self._solver = None

    @property
    def net(self):
        if self._net is None:
            self._net = caffe.Net(self.file, caffe.TRAIN)
        return self._net

    @property
    def solver(self):
        if self._solver is None:
            self._solver = caffe.get_solver(self.solver_file)
        return self._solver


@pytest.fixture
def rig(cases, tmp_path):
    folder = tmp_path / "case"
    shutil.copytree(cases / "api_behaviour", folder)
    solver = folder / "solver.prototxt"
    solver.write_text(
        solver.read_text().replace("{CASE}", str(folder))
        + f'snapshot_prefix: "{folder}/solver" random_seed: 1\n'
    )
    return Rig(folder)


def shapes(values):
    return {name: value.shape for name, value in values.items()}


def public(thing, recorded):
    """Return the recorded names that a thing has too, of its class and of itself."""
    return [name for name in recorded if name in dir(thing) and hasattr(thing, name)]


def hear_callbacks(rig):
    heard = []
    for name, sign in zip(
        ("before_forward", "after_forward", "before_backward", "after_backward"),
        ("bf", "af", "bb", "ab"),
        strict=True,
    ):
        getattr(rig.net, name)(lambda layer, sign=sign: heard.append((sign, layer)))
    rig.net.forward()
    rig.net.backward()
    return heard


def hear_solver(rig):
    heard = []
    added = rig.solver.add_callback(lambda: heard.append("start"), lambda: heard.append("grad"))
    return added, rig.solver.step(1), heard


def reshape(rig, batch):
    return (
        rig.net.blobs["data"].reshape(batch, 3, 8, 8),
        rig.net.reshape(),
        rig.net.blobs["extra"].data.shape,
    )


def write_through_a_view(rig):
    rig.net.blobs["data"].data[...] = X
    view = rig.net.blobs["data"].data
    view[0, 0, 0, 0] = 99
    return bool(rig.net.blobs["data"].data[0, 0, 0, 0] == 99)


def share(rig):
    other = caffe.Net(rig.file, caffe.TEST)
    shared = other.share_with(rig.net)
    rig.net.params["fc1"][0].data[...] = 5
    return shared, bool((other.params["fc1"][0].data == 5).all())


def write_out(rig):
    """Compare as objects: every access makes a new array."""
    return rig.net.forward()["extra"] is rig.net.blobs["extra"].data


def memory(rig):
    data = rig.net.blobs["data"].data
    return data.dtype.str, data.flags.c_contiguous, data.flags.writeable, data.flags.owndata


def settings(rig):
    param = rig.solver.param
    return param.max_iter, param.display, param.layer_wise_reduce


ROWS = {
    "_layer_names": lambda r: list(r.net._layer_names),
    "add_callback": hear_solver,
    "assign blob.data": lambda r: setattr(r.net.blobs["data"], "data", X),
    "backward default": lambda r: shapes(r.net.backward()),
    "backward diffs": lambda r: shapes(r.net.backward(diffs=["fc1"])),
    "backward wrong kw": lambda r: r.net.backward(nope=X),
    "bad ctor": lambda r: caffe.Net(r.file),
    "blob num etc": lambda r: tuple(
        getattr(r.net.blobs["data"], n) for n in ("num", "channels", "height", "width", "count")
    ),
    "blob.shape type": lambda r: (
        type(r.net.blobs["data"].shape).__name__,
        list(r.net.blobs["data"].shape),
    ),
    "blob_loss_weights": lambda r: dict(r.net.blob_loss_weights),
    "blobs in": lambda r: "conv1" in r.net.blobs,
    "bottom_names": lambda r: dict(r.net.bottom_names),
    "class ctor ignores type": lambda r: type(caffe.SGDSolver(r.solver_file)).__name__,
    "data dtype": memory,
    "data is a live view": write_through_a_view,
    "dir(Blob)": lambda r: public(type(r.net.blobs["data"]), OBSERVED["dir(Blob)"]),
    "dir(Layer)": lambda _: public(caffe.Layer, OBSERVED["dir(Layer)"]),
    "dir(Net)": lambda _: public(caffe.Net, OBSERVED["dir(Net)"]),
    "dir(SGDSolver)": lambda _: public(caffe.SGDSolver, OBSERVED["dir(SGDSolver)"]),
    "dir(Transformer)": lambda _: public(caffe.io.Transformer, OBSERVED["dir(Transformer)"]),
    "dir(caffe)": lambda _: public(caffe, OBSERVED["dir(caffe)"]),
    "dir(io)": lambda _: public(caffe.io, OBSERVED["dir(io)"]),
    "forward bad start": lambda r: r.net.forward(start="zz"),
    "forward blobs=": lambda r: sorted(r.net.forward(blobs=["fc1"])),
    "forward kwargs": lambda r: list(r.net.forward(data=X)),
    "forward output is a live view": write_out,
    "forward returns": lambda r: {
        name: (type(value).__name__, value.shape) for name, value in r.net.forward().items()
    },
    "forward start end": lambda r: list(r.net.forward(start="conv1", end="fc1")),
    "forward wrong batch": lambda r: r.net.forward(data=X[:1]),
    "forward wrong kw": lambda r: r.net.forward(nope=X),
    "forward_all": lambda r: shapes(r.net.forward_all(data=np.ones((7, 3, 8, 8), np.float32))),
    "iter after": lambda r: (r.solver.step(2), r.solver.iter)[1],
    "kw ctor": lambda r: caffe.Net(network_file=r.file, phase=caffe.TEST),
    "layer_dict": lambda r: list(r.net.layer_dict),
    "layers": lambda r: [(type(x).__name__, x.type, len(x.blobs)) for x in r.net.layers],
    "legacy num on 2d": lambda r: tuple(
        getattr(r.net.blobs["fc1"], n) for n in ("num", "channels", "height", "width")
    ),
    "len(params)": lambda r: len(r.net.params["conv1"]),
    "list(net.blobs)": lambda r: list(r.net.blobs),
    "missing blob": lambda r: r.net.blobs["nope"],
    "missing net file": lambda _: caffe.Net("/nope.prototxt", caffe.TEST),
    "missing solver file": lambda _: caffe.get_solver("/nope.prototxt"),
    "missing weights": lambda r: r.net.copy_from("/nope.caffemodel"),
    "net callbacks": hear_callbacks,
    "net.inputs": lambda r: r.net.inputs,
    "net.outputs": lambda r: r.net.outputs,
    "old ctor order": lambda r: caffe.Net(
        r.file, str(r.folder / "solver_iter_5.caffemodel"), caffe.TEST
    ),
    "params neg index": lambda r: r.net.params["conv1"][-1].data.shape,
    "params out of range": lambda r: r.net.params["conv1"][2],
    "params[0].data.shape": lambda r: r.net.params["conv1"][0].data.shape,
    "reshape": lambda r: reshape(r, 5),
    "reshape kwargs": lambda r: r.net.blobs["data"].reshape(dim=3),
    "reshape smaller keeps": lambda r: reshape(r, 1)[1:],
    "reshape tuple": lambda r: r.net.blobs["data"].reshape((2, 3, 8, 8)),
    "set iter": lambda r: setattr(r.solver, "iter", 3),
    "share_with": share,
    "solve": lambda r: (r.solver.solve(), r.solver.iter),
    "solver type": lambda r: type(r.solver).__name__,
    "solver.iter": lambda r: r.solver.iter,
    "solver.lr": lambda r: r.solver.lr,
    "solver.param": settings,
    "solver.param.base_lr": lambda r: r.solver.param.base_lr,
    "solver.test_nets": lambda r: (type(r.solver.test_nets).__name__, len(r.solver.test_nets)),
    "step": lambda r: r.solver.step(1),
    "top_names": lambda r: dict(r.net.top_names),
    "type(net.blobs)": lambda r: type(r.net.blobs).__name__,
    "type(net.params)": lambda r: type(r.net.params).__name__,
    "type(net.params[conv1])": lambda r: type(r.net.params["conv1"]).__name__,
}

LAYERS = [
    ("Input", "Input", 0),
    ("Convolution", "Convolution", 2),
    ("InnerProduct", "InnerProduct", 2),
    ("InnerProduct", "InnerProduct", 2),
]
# Row -> (reason, what we do instead: a value, or the type and the beginning of an exception).
DIFFERENT = {
    "missing solver file": (
        "real Caffe aborts the process; nothing aborts here",
        (RuntimeError, "Could not open file /nope.prototxt"),
    ),
    "layers": ("a layer is of its type's own class, a subclass of caffe.Layer", LAYERS),
    "bad ctor": ("Boost names C++ types; we name the arguments", (TypeError, "Net takes (file,")),
    "reshape tuple": (
        "Boost names C++ types; we name the argument's",
        (TypeError, "Blob.reshape takes integers, got tuple"),
    ),
    "assign blob.data": ("the words are Python's, of its version", (AttributeError, "")),
    "set iter": ("the words are Python's, of its version", (AttributeError, "")),
    "kw ctor": ("an address tells nothing: the class is compared", caffe.Net),
    "old ctor order": ("an address tells nothing: the class is compared", caffe.Net),
}


def expected(row):
    """Return what a row must give: a value, or the type and the beginning of an exception."""
    if row in DIFFERENT:
        return DIFFERENT[row][1]
    text = OBSERVED[row]
    if isinstance(text, list):
        return text
    if text.startswith("EXC "):
        kind, _, message = text.removeprefix("EXC ").partition(": ")
        return getattr(builtins, kind), message
    return ast.literal_eval(text)


def is_error(wanted):
    return isinstance(wanted, tuple) and wanted and isinstance(wanted[0], type)


def test_every_row_is_replayed():
    assert set(ROWS) == set(OBSERVED)
    assert set(DIFFERENT) <= set(OBSERVED)


@pytest.mark.parametrize("row", sorted(ROWS))
def test_row(rig, row):
    wanted = expected(row)
    if is_error(wanted):
        kind, message = wanted
        with pytest.raises(kind) as caught:
            ROWS[row](rig)
        assert str(caught.value).startswith(message)
        return
    value = ROWS[row](rig)
    assert isinstance(value, wanted) if isinstance(wanted, type) else value == wanted


@pytest.mark.parametrize("row", ["forward wrong kw", "forward wrong batch", "backward wrong kw"])
def test_what_pycaffe_raises_as_a_bare_exception_is_ours(rig, row):
    with pytest.raises(caffe.CaffeError):
        ROWS[row](rig)


def test_our_layers_are_layers(rig):
    assert all(isinstance(layer, caffe.Layer) for layer in rig.net.layers)
    assert type(rig.net.layers).__name__ == "LayerVec"
