"""A store over plain arrays, and a server for it on a port of the system's choice."""

import contextlib
import threading
import time

import numpy as np
from param_server.access import Access
from param_server.app import create_app
from param_server.errors import SnapshotFailed
from param_server.service import Service
from param_server.serving import Server
from param_server.store import Store
from param_server.wire import Layout, Push

LAYOUT = Layout.from_entries([("conv1/0", (2, 3)), ("conv1/1", (2,))])
TOKEN = "the-token"
EPOCH = 7


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def make_store(layout=LAYOUT, **options):
    """Return a store whose weights begin at 1 and lose each gradient."""
    weights = np.ones(layout.size, np.float32)

    def apply(gradient):
        np.subtract(weights, gradient, out=weights)

    def reset():
        weights[...] = 1.0

    settings = {"epoch": EPOCH, "clock": Clock(), "target_period": 3, **options}
    return Store(layout, weights, apply=apply, reset=reset, **settings)


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


class NoSnapshots:
    """Stands for a Snapshotter; fails when it is told to."""

    fails = False

    def now(self):
        if self.fails:
            raise SnapshotFailed("no snapshot written to there: No space left on device")
        return {"path": "there", "epoch": EPOCH, "version": 0}


def make_service(store, *, host="127.0.0.1", port=5500):
    entries = [[name, list(shape)] for name, shape in store.layout.entries]
    snapshots = {"folder": "there", "last_version": None, "error": ""}
    return Service(
        store,
        access=Access(TOKEN, host=host, port=port),
        snapshots=NoSnapshots(),
        prototxt={
            "net": 'name: "n"', "solver": 'type: "Adam"', "solver_type": "Adam", "game": "catch",
            "layout": {"digest": store.layout.digest, "entries": entries}, "target_period": 3,
        },
        status=lambda: {**store.status(), "lr": 0.1, "snapshots": snapshots},
        new_epoch=lambda: store.epoch + 1,
    )  # fmt: skip


@contextlib.contextmanager
def running(store):
    """Serve a store; yield its service with the server as ``.server``."""
    server = Server("127.0.0.1", 0)
    service = make_service(store, port=server.port)
    server.application = create_app(service)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    service.server = server
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def until(condition, timeout_s=20.0):
    """Wait for a condition with a deadline; return its value."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing happened in time"
        pause.wait(0.01)
    return value
