"""Old forms of nets and solvers, brought to today's; no PyTorch.

Layers of the forms V0 and V1 become those of today, inputs given as fields of the net an Input
layer, a solver's enum type a name, a snapshot_prefix that names no file one that does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from caffe.errors import require
from caffe.legacy import upgrade_layers

if TYPE_CHECKING:
    from caffe.proto import caffe_pb2

SOLVER_NAMES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")


def upgrade_net(net: caffe_pb2.NetParameter, source: str = "the net") -> None:
    """Bring a net to today's form, in place."""
    if net.layers:
        upgrade_layers(net, source)
    if net.input:
        _upgrade_inputs(net, source)
    for layer in net.layer:
        # BatchNorm's statistics used to be declared as three learnable parameters.
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0


def _upgrade_inputs(net: caffe_pb2.NetParameter, source: str) -> None:
    names, shapes, dims = list(net.input), list(net.input_shape), list(net.input_dim)
    if shapes or dims:
        require(
            len(shapes) >= len(names) if shapes else len(dims) >= 4 * len(names),
            f"{source}: {len(names)} inputs need as many input_shape, or 4 input_dim each",
        )
        layers = list(net.layer)
        del net.layer[:]
        layer = net.layer.add(name="input", type="Input", top=names)
        for index in range(len(names)):
            dim = shapes[index].dim if shapes else dims[4 * index : 4 * index + 4]
            layer.input_param.shape.add(dim=dim)
        net.layer.extend(layers)
    for field in ("input", "input_shape", "input_dim"):
        net.ClearField(field)


def upgrade_solver(solver: caffe_pb2.SolverParameter, source: str = "the solver") -> None:
    """Bring a solver to today's form, in place."""
    if solver.HasField("solver_type"):
        require(
            not solver.HasField("type"),
            f"{source}: give the solver's type once, as `type`; solver_type is its old form",
        )
        solver.type = SOLVER_NAMES[solver.solver_type]
        solver.ClearField("solver_type")


def set_snapshot_prefix(solver: caffe_pb2.SolverParameter, path: str) -> None:
    """Name a solver's snapshots after its file, unless the solver says more than the folder."""
    if not solver.HasField("snapshot_prefix"):
        solver.snapshot_prefix = str(Path(path).with_suffix(""))
    elif os.path.isdir(solver.snapshot_prefix):  # noqa: PTH112  # any string, without raising
        solver.snapshot_prefix = str(Path(solver.snapshot_prefix) / Path(path).stem)
