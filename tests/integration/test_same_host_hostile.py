"""Hostile and broken peers of the same-host path.

Each gets its documented answer, the model is unchanged bit for bit, and the next good push works.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from param_server import channel, wire
from param_server.same_host import Limits
from param_server.same_host_client import SameHostClient
from param_server.segment import Segment

from tests.same_host_rig import Peer, frame, frame_of, hello, no_descriptors, sharing
from tests.server_rig import TOKEN, make_service, until
from tests.store_rig import EPOCH, make_push, make_store, ones, weights_of

ROOT = Path(__file__).resolve().parents[2]
PUSH = wire.encode_push(make_push(worker="hostile"))
# What a frame can be answered with over HTTP, by status.
DOCUMENTED = {
    400: {"bad-request"},
    401: {"unauthorized"},
    409: {"wrong-run", "wrong-epoch", "wrong-layout"},
    422: {"rejected"},
}


@pytest.fixture(scope="module")
def service():
    return make_service(make_store())


@pytest.fixture(scope="module")
def server(service):
    with sharing(service) as server:
        yield server


@pytest.fixture(autouse=True)
def unharmed(service, server):
    """The model is the same bit for bit, and the next good push works."""
    store = service.store
    client = SameHostClient(str(server.path), TOKEN, run="r1")
    sequence = store.status()["workers"].get("good", {"pushes": 0})["pushes"]

    def push(step):
        good = make_push(sequence + step, worker="good", version=store.version)
        assert client.push(good, ones())[0].status == "applied"

    push(1)
    before, version = weights_of(store).tobytes(), store.version
    yield
    store.check()
    assert (weights_of(store).tobytes(), store.version) == (before, version)
    push(2)
    client.close()


@contextlib.contextmanager
def authenticated(server):
    """A connection that was welcomed, its gradient full of NaN: no push of it can be applied."""
    with Peer(server.path) as peer:
        peer.socket.sendall(hello())
        header, descriptors, _, _ = socket.recv_fds(peer.socket, 4096, 1)
        assert b"welcome" in header
        Segment(descriptors[0], 8).gradient[:] = np.nan
        os.close(descriptors[0])
        yield peer


def push_with(**changes):
    return frame(**json.loads(PUSH[8:]) | changes)


CASES = {
    "bad magic": (b"PK\3\4" + PUSH[4:], 400, "bad-request"),
    "giant header length": (b"DDQ1\xff\xff\xff\xff" + PUSH[8:], 400, "bad-request"),
    "header over one MiB": (frame_of(b" " * (1 << 20) + PUSH[8:]), 400, "bad-request"),
    "cut off in the prefix": (PUSH[:3], 400, "bad-request"),
    "cut off in the header": (PUSH[:-1], 400, "bad-request"),
    "header not UTF-8": (frame_of(b'{"run": "\xff"}'), 400, "bad-request"),
    "header not JSON": (frame_of(b"{"), 400, "bad-request"),
    "header empty": (frame_of(b""), 400, "bad-request"),
    "header nested deep": (frame_of(b"[" * 100_000), 400, "bad-request"),
    "header a pickle": (frame_of(b"cos\nsystem\n(S'x'\ntR."), 400, "bad-request"),
    "header a list": (frame_of(b"[]"), 400, "bad-request"),
    "number of a million digits": (frame_of(b"9" * 1_000_000), 400, "bad-request"),
    "HTTP": (b"POST /api/v1/update_model HTTP/1.1\r\n\r\n", 400, "bad-request"),
    "unknown kind": (frame(kind="clear"), 400, "bad-request"),
    "kind no text": (frame(kind=[]), 400, "bad-request"),
    "hello again": (hello(), 400, "bad-request"),
    "another dtype": (push_with(dtype="bfloat16"), 400, "bad-request"),
    "another dtype wanted": (push_with(model_dtype="bfloat16"), 400, "bad-request"),
    "sequence zero": (push_with(sequence=0), 400, "bad-request"),
    "steps negative": (push_with(steps=-4), 400, "bad-request"),
    "steps beyond 64 bits": (push_with(steps=2**64), 400, "bad-request"),
    "half a surrogate": (push_with(worker="\ud800"), 400, "bad-request"),
    "no run": (push_with(run=""), 400, "bad-request"),
    "pull of nothing known": (frame(kind="pull", which="replay", known=None), 400, "bad-request"),
    "known version negative": (
        frame(kind="pull", which="weights", known=[7, -1]), 400, "bad-request"),
    "wrong layout": (push_with(layout="0" * 16), 409, "wrong-layout"),
    "past epoch": (push_with(epoch=EPOCH - 1), 409, "wrong-epoch"),
    "another run": (push_with(run="r2"), 409, "wrong-run"),
    "not finite": (push_with(incarnation="i1"), 422, "rejected"),
    "version of the future": (push_with(incarnation="i2", version=10**6), 422, "rejected"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hostile_frame_is_refused_as_documented(server, name):
    content, status, kind = CASES[name]
    with authenticated(server) as peer:
        with contextlib.suppress(BrokenPipeError):  # it may have heard enough
            peer.say(content)
            peer.end()
        assert peer.problem() == (status, kind)
        assert peer.hear() is None


@pytest.mark.parametrize("sent", [1, 8, 40, len(PUSH) - 1])
def test_half_a_frame_is_not_waited_for_without_end(server, monkeypatch, sent):
    monkeypatch.setattr(channel, "FRAME_S", 0.05)
    with authenticated(server) as peer:
        peer.say(PUSH[:sent])
        assert peer.problem() == (400, "bad-request")
        assert peer.hear() is None


def test_peer_that_does_not_read_its_answers_is_left(service, monkeypatch):
    monkeypatch.setattr(channel, "FRAME_S", 0.1)
    with sharing(service) as server, authenticated(server) as peer:
        pulls = frame(kind="pull", which="weights", known=None) * 100_000
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            peer.say(pulls)
        until(lambda: not any(server._connections.count()))


def mutated(rng, number):
    """Return a good push of an incarnation of its own, with some of its bytes changed."""
    content = bytearray(wire.encode_push(make_push(worker="hostile", incarnation=f"i{number}")))
    for _ in range(rng.choice([1, 1, 1, 3, 30])):
        where = rng.randrange(len(content))
        if rng.random() < 0.5:
            content[where] = rng.randrange(256)
        elif rng.random() < 0.5:
            del content[where]
        else:
            content[where:where] = rng.randbytes(3)
    return bytes(content)


def is_quiet(server):
    """Whether only the good worker is connected, which `unharmed` has."""
    return sum(server._connections.count()) == 1


def footprint():
    process = psutil.Process()
    return process.memory_info().rss, process.num_fds(), threading.active_count()


def test_two_thousand_mutated_pushes_are_answered_and_leave_nothing(server):
    """Each on a connection of its own; the service meanwhile works, and costs no more after."""
    rng = random.Random(0)
    before, problems = None, 0
    for number in range(2200):
        if number == 200:
            until(lambda: is_quiet(server))
            before = footprint()
        with authenticated(server) as peer:
            peer.say(mutated(rng, number))
            peer.end()
            header = peer.hear()
            if header["kind"] == "problem":
                document = header["problem"]
                kind = document["type"].removeprefix("urn:ddq:problem:")
                assert kind in DOCUMENTED[document["status"]], document
                assert document["detail"]
                problems += 1
            else:  # what was changed is of no account, or made it an old push
                assert header["status"] in {"late", "duplicate"}, header
            assert peer.hear() is None
    until(lambda: is_quiet(server) and footprint()[1:] == before[1:])
    assert footprint()[0] - before[0] < 16 << 20
    assert problems > 2000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)  # fmt: skip
FIELDS = sorted(json.loads(PUSH[8:]))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from([*FIELDS, "which", "known"]), JSON, min_size=1))
def test_any_fields_are_answered_on_one_connection(server, changes):
    """The connection lives on: a frame was a frame, whatever it said."""
    with authenticated(server) as peer:
        peer.say(push_with(**changes), push_with(run="r2"))
        header = peer.hear()
        if header["kind"] == "problem":
            document = header["problem"]
            kind = document["type"].removeprefix("urn:ddq:problem:")
            assert kind in DOCUMENTED[document["status"]], document
        else:
            assert header["status"] in {"late", "duplicate"}, header
        assert peer.problem() == (409, "wrong-run")


KILLED = """
import os, signal, sys
import numpy as np
from param_server import wire
from param_server.same_host_client import SameHostClient
from param_server.segment import Segment
from tests.store_rig import make_push
client = SameHostClient(sys.argv[1], sys.argv[2], run="r1")
client.connect()
line = client._line
line.memory.gradient[:4] = np.inf
frame = wire.encode_push(make_push(worker="killed"))
line.socket.sendall(frame[:int(sys.argv[3])])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("sent", [0, 20])
def test_worker_killed_in_the_middle_of_a_push_changes_nothing(service, server, sent):
    paths = f"{ROOT}:{ROOT / 'param-server'}"
    command = [sys.executable, "-c", KILLED, str(server.path), TOKEN, str(sent)]
    process = subprocess.run(command, env={"PYTHONPATH": paths}, check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL
    until(lambda: is_quiet(server))
    assert "killed" not in service.store.status()["workers"]


def test_without_descriptors_workers_wait_and_are_served_when_there_are_some(server, caplog):
    until(lambda: is_quiet(server))
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        second.settimeout(20)
        with no_descriptors():
            # A thread that waits in accept holds the descriptor that it will return.
            first.connect(str(server.path))
            second.connect(str(server.path))
            second.sendall(hello())
            until(lambda: "could not be accepted" in caplog.text)
        assert b"welcome" in second.recv(4096)
    assert caplog.text.count("could not be accepted") == 1


def test_without_a_descriptor_for_memory_a_worker_is_told(server):
    until(lambda: is_quiet(server))
    with Peer(server.path) as peer:
        until(lambda: sum(server._connections.count()) == 2)
        with no_descriptors():
            peer.say(hello())
            assert peer.problem() == (503, "crowded")


def test_peers_without_a_token_cannot_keep_workers_out(service):
    with sharing(service, limits=Limits(strangers=4)) as server, contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(Peer(server.path, b"DDQ1"))
        client = SameHostClient(str(server.path), TOKEN)
        assert client.pull().epoch == EPOCH
        client.close()
