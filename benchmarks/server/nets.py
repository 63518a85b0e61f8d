"""Networks of three sizes: the model's own, and it with half and with twice as many filters."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from caffe.proto import caffe_pb2
from google.protobuf import text_format

ROOT = Path(__file__).resolve().parents[2]
SOLVER = ROOT / "models/deepq/solver.prototxt"
NET = ROOT / "models/deepq/train_val.prototxt"


class Size(NamedTuple):
    """Outputs of each learning layer but the last."""

    label: str  # bytes of one float32 payload
    filters: tuple[int, int, int]
    units: int


SIZES = (
    Size("0.91 MB", (16, 32, 32), 131),  # 0.23 M parameters
    Size("6.75 MB", (32, 64, 64), 512),  # 1.69 M: the model as it is
    Size("33.9 MB", (64, 128, 128), 1303),  # 8.48 M
)
MAIN = "6.75 MB"  # which the targets speak of


def write_solver(solver: Path, size: Size, folder: Path) -> Path:
    """Write a net of a size and a copy of a solver that names it; return the solver's path."""
    net = text_format.Parse(NET.read_text(), caffe_pb2.NetParameter())
    outputs = dict(
        zip(("conv1", "conv2", "conv3", "fc4"), (*size.filters, size.units), strict=True)
    )
    for layer in net.layer:
        if layer.name.startswith("conv") and layer.name in outputs:
            layer.convolution_param.num_output = outputs[layer.name]
        elif layer.name in outputs:
            layer.inner_product_param.num_output = outputs[layer.name]
    folder.mkdir(parents=True)
    (folder / "train_val.prototxt").write_text(text_format.MessageToString(net))
    param = text_format.Parse(solver.read_text(), caffe_pb2.SolverParameter())
    param.net = str(folder / "train_val.prototxt")
    path = folder / "solver.prototxt"
    path.write_text(text_format.MessageToString(param))
    return path
