"""The nets of a solver: one to train, any number to test."""

from __future__ import annotations

from caffe.errors import CaffeError, require
from caffe.proto import caffe_pb2
from caffe.prototxt import read_net
from caffe.pycaffe import Net, NetVec
from caffe.upgrade import upgrade_net


def _make_net(
    net: caffe_pb2.NetParameter | str,
    source: str,
    phase: caffe_pb2.Phase,
    *states: caffe_pb2.NetState,
) -> Net:
    """Make a net whose state is the phase, then the net's own, then the given ones."""
    param = caffe_pb2.NetParameter()
    if isinstance(net, str):
        param.CopyFrom(read_net(net))
    else:
        param.CopyFrom(net)
        upgrade_net(param, source)
    state = caffe_pb2.NetState(phase=phase)
    for other in (param.state, *states):
        state.MergeFrom(other)
    param.state.CopyFrom(state)
    try:
        return Net(param, None)
    except CaffeError as error:
        raise CaffeError(f"{net if isinstance(net, str) else source}: {error}") from error


def train_net(solver: caffe_pb2.SolverParameter, source: str) -> Net:
    """Return the training net.

    Raises:
        CaffeError: If the solver names none, or more than one.
    """
    fields = [
        name
        for name in ("net", "net_param", "train_net", "train_net_param")
        if solver.HasField(name)
    ]
    require(
        len(fields) == 1,
        f"{source}: give the training net once, as one of net, net_param, train_net, "
        f"train_net_param; given are {fields}",
    )
    return _make_net(getattr(solver, fields[0]), source, caffe_pb2.TRAIN, solver.train_state)


def test_nets(solver: caffe_pb2.SolverParameter, source: str) -> NetVec:
    """Return the test nets: test_net_param, test_net, and the training net for further test_iter.

    Raises:
        CaffeError: If their number does not fit those of test_iter and test_state.
    """
    nets: list[caffe_pb2.NetParameter | str] = [*solver.test_net_param, *solver.test_net]
    spare = len(solver.test_iter) - len(nets)
    generic = solver.HasField("net") or solver.HasField("net_param")
    require(
        spare >= 0 if generic else spare == 0,
        f"{source}: {len(nets)} test nets, but {len(solver.test_iter)} test_iter",
    )
    nets += [solver.net if solver.HasField("net") else solver.net_param] * spare
    require(
        len(solver.test_state) in (0, len(nets)),
        f"{source}: {len(nets)} test nets, but {len(solver.test_state)} test_state",
    )
    require(
        not nets or solver.test_interval > 0,
        f"{source}: test nets need a test_interval, got {solver.test_interval}",
    )
    states = [[state] for state in solver.test_state] or [[] for _ in nets]
    return NetVec(
        _make_net(net, source, caffe_pb2.TEST, *given)
        for net, given in zip(nets, states, strict=True)
    )
