"""A server for a store, on a port of the system's choice."""

import contextlib
import threading
import time
from pathlib import Path

from param_server.access import Access
from param_server.alarms import Alarms
from param_server.app import create_app
from param_server.downloads import Downloads
from param_server.errors import NoSnapshot, SnapshotFailed
from param_server.incidents import Incidents
from param_server.service import Service
from param_server.serving import Server

from tests.store_rig import EPOCH

TOKEN = "the-token"


class NoSnapshots:
    """Stands for a Snapshotter; fails when it is told to."""

    fails = False

    def now(self):
        if self.fails:
            raise SnapshotFailed("no snapshot written to there: No space left on device")
        return {"path": "there", "epoch": EPOCH, "version": 0}

    def mark_evaluated(self, version, *, return_mean, return_se, episodes):
        if version != 0:
            raise NoSnapshot(f"version {version} has no snapshot here")
        return return_mean > 0


def make_service(store, *, host="127.0.0.1", port=5500, snapshots=Path("nowhere")):
    entries = [[name, list(shape)] for name, shape in store.layout.entries]
    downloads = Downloads(snapshots)
    alarms, incidents = Alarms(60.0), Incidents()
    last = {"folder": "there", "last_version": None, "error": ""}
    return Service(
        store,
        access=Access(TOKEN, host=host, port=port),
        snapshots=NoSnapshots(),
        downloads=downloads,
        incidents=incidents,
        prototxt={
            "net": 'name: "n"', "solver": 'type: "Adam"', "solver_type": "Adam", "game": "catch",
            "layout": {"digest": store.layout.digest, "entries": entries}, "target_period": 3,
        },
        status=lambda: {
            **(status := store.status()), "lr": 0.1, "layers": [], "alarms": alarms.look(status),
            "incidents": incidents.listing(),
            "snapshots": {**last, "available": downloads.listing()},
        },
        new_epoch=lambda: store.epoch + 1,
    )  # fmt: skip


@contextlib.contextmanager
def running(store, **options):
    """Serve a store; yield its service with the server as ``.server``."""
    server = Server("127.0.0.1", 0, **options)
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
