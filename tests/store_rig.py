"""A store over plain arrays, with a clock that stands still."""

import json

import numpy as np
from param_server.store import Store
from param_server.wire import Layout, Push

LAYOUT = Layout.from_entries([("conv1/0", (2, 3)), ("conv1/1", (2,))])
EPOCH = 7


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class ListJournal:
    """Keeps the records in memory, as they would come back from disk."""

    def __init__(self):
        self.records = []

    def append(self, record, gradient):
        kept = None if gradient is None else gradient.copy()
        self.records.append((json.loads(json.dumps(record)), kept))

    def undo(self):
        self.records.pop()

    def rotate(self):
        self.records.clear()
        return 3


def make_store(layout=LAYOUT, *, values=None, **options):
    """Return a store whose weights begin at 1 and lose each gradient, times its step's factor."""
    weights = ones(layout) if values is None else values.copy()

    def apply(gradient, scale):
        np.subtract(weights, np.float32(scale) * gradient, out=weights)

    def reset():
        weights[...] = 1.0

    settings = {
        "apply": apply, "reset": reset, "epoch": EPOCH, "clock": Clock(), "target_period": 3,
        **options,
    }  # fmt: skip
    return Store(layout, weights, **settings)


def make_push(sequence=1, **fields):
    """Return a push of the rig's layout, from version 0 unless told otherwise."""
    defaults = {
        "run": "r1", "worker": "w0", "incarnation": "i0", "epoch": EPOCH, "version": 0,
        "layout": LAYOUT.digest, "loss": 0.5, "steps": 4,
    }  # fmt: skip
    return Push(sequence=sequence, **{**defaults, **fields})


def ones(layout=LAYOUT, value=1.0):
    return np.full(layout.size, value, np.float32)


def weights_of(store):
    return store.read(out=ones(store.layout)).weights
