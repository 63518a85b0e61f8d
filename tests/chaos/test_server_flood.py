"""Floods and slow peers: the workers go on, newcomers get in, and nothing grows."""

import contextlib
import socket
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
from param_server.client import Client
from param_server.serving import Limits
from param_server.wire import Layout

from tests.server_rig import TOKEN, running, until
from tests.store_rig import make_push, make_store, ones

pytestmark = pytest.mark.chaos

WIDE = Layout.from_entries([("fc/0", (1_000_000,))])
# Keeps a thousand connections that say nothing; while it can, a new one takes the oldest's place.
FLOOD = """
import collections, socket, sys, threading
port, size = int(sys.argv[1]), int(sys.argv[2])
held, over = collections.deque(), threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
while not over.is_set():
    try:
        held.append(socket.create_connection(("127.0.0.1", port), timeout=5))
    except OSError:
        continue
    if len(held) == size:
        print("flooded", flush=True)
    if len(held) > size:
        held.popleft().close()
"""


class Workers:
    """Two workers that push and pull until they are told to stop."""

    def __init__(self, service, layout):
        self._service = service
        self._layout = layout
        self._stop = threading.Event()
        self.failures = []
        self._threads = [
            threading.Thread(target=self._work, args=(name,), name=name) for name in ("w1", "w2")
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.failures == []
        self._service.store.check()

    def go_on(self, updates=20):
        """Wait until they have made so many more updates."""
        goal = self._service.store.version + updates
        until(lambda: self.failures or self._service.store.version >= goal, 60)
        assert self.failures == []

    def _work(self, name):
        client = Client(self._service.server.address, TOKEN, run="r1", worker=name, retry_s=0)
        gradient, out = ones(self._layout, 1e-6), ones(self._layout)
        version = sequence = 0
        try:
            while not self._stop.is_set():
                sequence += 1
                push = make_push(
                    sequence, worker=name, version=version, layout=self._layout.digest,
                    want_model=True,
                )  # fmt: skip
                answer, _ = client.push(push, gradient, out)
                version = answer.version
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.failures.append(error)
        finally:
            client.close()


@contextlib.contextmanager
def flooding(service, size=1000):
    """Have another process open connections that say nothing, and again and again new ones."""
    command = [sys.executable, "-c", FLOOD, str(service.server.port), str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"flooded\n"
        yield
        process.stdin.close()
        assert process.wait(30) == 0


def connect(service):
    return socket.create_connection(("127.0.0.1", service.server.port), timeout=30)


def request(path, *, length=0, token=TOKEN):
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def is_closed_by_server(connection):
    """Read until the end; a reset is one too."""
    try:
        while connection.recv(1 << 20):
            pass
    except ConnectionResetError:
        pass
    return True


def test_flood_of_silent_connections_starves_nobody_and_grows_nothing():
    limits = Limits()
    with running(make_store(WIDE), limits=limits) as service, Workers(service, WIDE) as workers:
        process = psutil.Process()
        before, threads = process.memory_info().rss, threading.active_count()
        with flooding(service):
            for _ in range(3):
                workers.go_on()
                strangers, known, leaving = service.server.connections.count()
                assert strangers <= limits.strangers
                assert leaving <= limits.strangers // 2
                assert known == 2
                # those that have left the book are a moment from their end
                assert threading.active_count() - threads <= 2 * limits.strangers
            newcomer = Client(service.server.address, TOKEN, run="r1", worker="w3")
            assert newcomer.pull() is not None
            assert process.memory_info().rss - before < 100 << 20
            newcomer.close()
        workers.go_on()


def test_slowloris_is_cut_and_nobody_waits_for_it():
    limits = Limits(head_s=0.5)
    with running(make_store(WIDE), limits=limits) as service, Workers(service, WIDE) as workers:
        slow = [connect(service) for _ in range(50)]
        over = threading.Event()

        def drip():
            while not over.wait(0.02):
                for connection in slow:
                    with contextlib.suppress(OSError):
                        connection.send(b"a")

        thread = threading.Thread(target=drip)
        thread.start()
        workers.go_on()
        assert all(map(is_closed_by_server, slow))
        over.set()
        thread.join()
        workers.go_on()
        assert service.server.connections.count()[0] == 0
        for connection in slow:
            connection.close()


def test_body_that_drips_is_refused_though_its_sender_has_the_token():
    limits = Limits(head_s=0.2, bytes_per_s=1e8, discard_s=0.2)
    with running(make_store(WIDE), limits=limits) as service, Workers(service, WIDE) as workers:
        with connect(service) as slow:
            slow.sendall(request("/api/v1/update_model", length=4_000_000) + b"DDQ1")
            assert slow.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
            assert is_closed_by_server(slow)
        workers.go_on()


def test_peers_that_stop_in_the_middle_are_forgotten():
    limits = Limits(head_s=0.2, idle_s=0.2, bytes_per_s=1e8, discard_s=0.2)
    whole = request("/api/v1/update_model", length=4_000_000)
    with running(make_store(WIDE), limits=limits) as service, Workers(service, WIDE) as workers:
        silent = [connect(service) for _ in range(20)]
        for index, connection in enumerate(silent):
            connection.sendall(whole[: index * len(whole) // 20])
        workers.go_on()
        assert all(map(is_closed_by_server, silent))
        until(lambda: service.server.connections.count() == (0, 2, 0))
        for connection in silent:
            connection.close()


def test_reader_that_never_reads_is_cut_and_holds_nobody_up():
    limits = Limits(head_s=0.5, bytes_per_s=1e9)
    with running(make_store(WIDE), limits=limits) as service, Workers(service, WIDE) as workers:
        readers = [connect(service) for _ in range(5)]
        asked = request("/api/v1/latest_model").replace(b"POST", b"GET")
        for reader in readers:
            # less than an answer fits, so the server waits for a reader
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            reader.sendall(asked * 4)
        until(lambda: service.server.connections.count()[1] == 7)
        workers.go_on()
        until(lambda: service.server.connections.count() == (0, 2, 0))
        for reader in readers:
            reader.close()


def test_stranger_moves_no_payload():
    """No body of a stranger gets memory of its own: it is read and forgotten in small pieces."""
    with running(make_store(WIDE)) as service, Workers(service, WIDE) as workers:
        before = psutil.Process().memory_info().rss
        body = np.zeros(1_000_000, np.float32).tobytes()
        for _ in range(20):
            with connect(service) as stranger:
                stranger.sendall(request("/api/v1/update_model", length=len(body), token="wrong"))
                stranger.sendall(body)
                assert stranger.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
        assert psutil.Process().memory_info().rss - before < 20 << 20
        workers.go_on()
