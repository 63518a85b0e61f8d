"""Hostile and broken requests on a real socket.

Each is answered as documented, the model is unchanged bit for bit, and the next good push works.
"""

import json
import socket

import numpy as np
import pytest
from param_server import wire
from param_server.client import Client
from param_server.errors import LayoutMismatch
from param_server.wire import Layout

from tests.server_rig import TOKEN, running
from tests.store_rig import EPOCH, LAYOUT, make_push, make_store, ones, weights_of

PUSH = wire.encode_push(make_push())
GRADIENT = ones().tobytes()
LARGEST = wire.PREFIX.size + wire.HEADER_LIMIT_BYTES + 4 * LAYOUT.size


@pytest.fixture(scope="module")
def service():
    with running(make_store()) as service:
        yield service


def exchange(service, request):
    """Send bytes and no more; return status and document of the first answer, None if none."""
    with socket.create_connection(("127.0.0.1", service.server.port), timeout=10) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(1 << 16):
            answer += piece
    if not answer:
        return None, None
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)


def request(body, *, token=TOKEN, length=None, path="/api/v1/update_model", extra=b""):
    length = len(body) if length is None else length
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n"
    )
    return head.encode() + extra + b"\r\n" + body


def frame_of(header_text, payload=GRADIENT):
    return wire.PREFIX.pack(b"DDQ1", len(header_text)) + header_text + payload


def push_with(**changes):
    header = json.loads(PUSH[8:]) | changes
    return frame_of(json.dumps(header).encode())


def gradient_with(value, dtype="float32"):
    gradient = np.array([0, 0, 0, 0, 0, 0, value, 0], np.float32)
    return bytes(wire.payload_bytes(gradient, dtype))


def posted(path, document):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return request(body, path=f"/api/v1/{path}")


CASES = {
    "empty": (request(b""), 400, "bad-request"),
    "cut off in the prefix": (request(b"DDQ1"), 400, "bad-request"),
    "cut off in the payload": (request(PUSH + GRADIENT[:-4]), 400, "bad-request"),
    "payload too long": (request(PUSH + GRADIENT + b"\0" * 4), 400, "bad-request"),
    "bad magic": (request(b"PK\3\4" + PUSH[4:] + GRADIENT), 400, "bad-request"),
    "giant header length": (
        request(b"DDQ1\xff\xff\xff\xff" + PUSH[8:] + GRADIENT), 400, "bad-request"),
    "header not UTF-8": (request(frame_of(b'{"run": "\xff"}')), 400, "bad-request"),
    "header not JSON": (request(frame_of(b"{")), 400, "bad-request"),
    "header nested deep": (request(frame_of(b"[" * 100_000)), 400, "bad-request"),
    "header a pickle": (request(frame_of(b"cos\nsystem\n(S'x'\ntR.")), 400, "bad-request"),
    "another message": (request(push_with(kind="model")), 400, "bad-request"),
    "another dtype": (request(push_with(dtype="float64")), 400, "bad-request"),
    "no dtype": (request(push_with(dtype=None)), 400, "bad-request"),
    "another dtype for the answer": (
        request(push_with(model_dtype="float16")), 400, "bad-request"),
    "bfloat16 of twice the length": (request(push_with(dtype="bfloat16")), 400, "bad-request"),
    "dtype of half the length": (request(PUSH + GRADIENT[:16]), 400, "bad-request"),
    "sequence zero": (request(push_with(sequence=0)), 400, "bad-request"),
    "steps negative": (request(push_with(steps=-4)), 400, "bad-request"),
    "steps beyond 64 bits": (request(push_with(steps=2**64)), 400, "bad-request"),
    "sequence no number": (request(push_with(sequence="1")), 400, "bad-request"),
    "version negative": (request(push_with(version=-1)), 400, "bad-request"),
    "version in halves": (request(push_with(version=0.5)), 400, "bad-request"),
    "entries of another layout": (
        request(push_with(entries=[["conv1/0", [2, 4]]])), 400, "bad-request"),
    "no run": (request(push_with(run="")), 400, "bad-request"),
    "wrong token": (request(PUSH + GRADIENT, token="wrong"), 401, "unauthorized"),
    "no token": (request(PUSH + GRADIENT, token=""), 401, "unauthorized"),
    "wrong token, large body": (request(b"x" * 500_000, token="wrong"), 401, "unauthorized"),
    "wrong layout": (request(push_with(layout="0" * 16)), 409, "wrong-layout"),
    "past epoch": (request(push_with(epoch=EPOCH - 1)), 409, "wrong-epoch"),
    "future epoch": (request(push_with(epoch=EPOCH + 1)), 409, "wrong-epoch"),
    "another run": (request(push_with(run="r2")), 409, "wrong-run"),
    "too large": (request(b"x", length=LARGEST + 1), 413, "too-large"),
    "too large by far": (request(b"x", length=10**18), 413, "too-large"),
    "length no number": (request(b"x", length="1e3"), 400, "bad-request"),
    "no such route": (request(b"x", path="/api/v2/update_model"), 404, "not-found"),
    "leaving without a name": (posted("leave", {"worker": "w0"}), 400, "bad-request"),
    "evaluation that is none": (
        posted("evaluation", {"version": 0, "return_mean": None, "return_se": 0, "episodes": 1}),
        400, "bad-request"),
    "evaluation of nothing": (
        posted("evaluation", {"version": 9, "return_mean": 1, "return_se": 0, "episodes": 1}),
        404, "no-snapshot"),
    "document nested deep": (posted("run", b"[" * 4000), 400, "bad-request"),
    "document too large": (posted("run", {"run": "x" * 5000}), 413, "too-large"),
    "chunked": (
        request(b"", length=0, extra=b"Transfer-Encoding: chunked\r\n"), 411, "length-required"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def unharmed(service):
    """The model is the same bit for bit, and the next good push works."""
    client = Client(service.server.address, TOKEN, run="r1")
    store = service.store
    sequence = store.status()["workers"].get("good", {"pushes": 0})["pushes"]
    for _ in range(2):
        sequence += 1
        good = make_push(sequence, worker="good", version=store.version)
        assert client.push(good, ones())[0].status == "applied"
    before, version, counters = weights_of(store).tobytes(), store.version, store.counters()
    yield
    store.check()
    assert (weights_of(store).tobytes(), store.version) == (before, version)
    assert store.counters().updates == counters.updates
    good = make_push(sequence + 1, worker="good", version=version)
    assert client.push(good, ones())[0].status == "applied"
    client.close()


@pytest.mark.parametrize("name", CASES)
def test_hostile_request_is_refused_as_documented(service, name):
    content, status, kind = CASES[name]
    before = service.store.counters()
    answered, document = exchange(service, content)
    assert (answered, document["status"]) == (status, status)
    assert document["type"] == f"urn:ddq:problem:{kind}"
    assert document["detail"]
    assert service.store.counters() == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gradient_with(np.nan), "non-finite: conv1/1"),
        (gradient_with(np.inf), "non-finite: conv1/1"),
        (gradient_with(-np.inf), "non-finite: conv1/1"),
        (gradient_with(1e30), "non-finite: conv1/1"),  # its square is not
        (gradient_with(np.nan, "bfloat16"), "non-finite: conv1/1"),
        (gradient_with(3.4e38, "bfloat16"), "non-finite: conv1/1"),
        (None, "future-version: 1000000, the server is at"),
    ],
)
def test_good_form_and_bad_content_is_rejected_with_a_verdict(service, content, reason):
    """And a repeat of it gets the same verdict as a duplicate."""
    sequences = service.store.counters().steps  # rises with each push that counts
    push = make_push(sequences, worker="bad", version=10**6 if content is None else 0)
    dtype = "bfloat16" if content and len(content) == 16 else "float32"
    body = wire.encode_push(push, dtype) + (content or GRADIENT)
    status, document = exchange(service, request(body))
    assert (status, document["type"]) == (422, "urn:ddq:problem:rejected")
    assert document["detail"].startswith(reason)
    assert document["answer"]["status"] == "rejected"
    client = Client(service.server.address, TOKEN, run="r1")
    answer, model = client.push(push, ones())
    client.close()
    assert (answer.status, model) == ("duplicate", None)
    assert answer.reason.startswith(f"rejected: {reason}")


def test_replayed_sequence_is_not_applied_again(service):
    """Neither the last one nor an older one, whatever its gradient is this time."""
    client = Client(service.server.address, TOKEN, run="r1")
    version = service.store.version
    sequence = service.store.status()["workers"]["good"]["pushes"]
    before, steps = weights_of(service.store), service.store.counters().steps
    for replayed, reason in ((sequence, "applied"), (sequence - 1, "superseded")):
        push = make_push(replayed, worker="good", version=version)
        answer, _ = client.push(push, ones(value=100.0))
        assert (answer.status, answer.version) == ("duplicate", version)
        assert answer.reason.startswith(reason)
    assert np.array_equal(weights_of(service.store), before)
    assert service.store.counters().steps == steps
    client.close()


def test_connections_that_hang_half_open_keep_nobody_waiting(service):
    """They connect, send a part, and neither go on nor go: others are served meanwhile."""
    body = PUSH + GRADIENT
    beginnings = [b"", b"POST", request(body)[:60], request(body[:9], length=len(body))]
    hanging = [socket.create_connection(("127.0.0.1", service.server.port)) for _ in range(8)]
    for index, connection in enumerate(hanging):
        connection.sendall(beginnings[index % len(beginnings)])
    client = Client(service.server.address, TOKEN, run="r1")
    assert client.pull().version == service.store.version
    client.close()
    for connection in hanging:
        connection.close()


@pytest.mark.parametrize("sent", [0, 3, 20, len(PUSH), len(PUSH) + 31])
def test_peer_that_leaves_in_the_middle_changes_nothing(service, sent):
    body = wire.encode_push(make_push(9)) + GRADIENT
    status, document = exchange(service, request(body[:sent], length=len(body)))
    assert (status, document["type"]) == (400, "urn:ddq:problem:bad-request")


def test_two_bodies_in_one_connection_do_not_mix(service):
    """What looks like a request inside a refused body is not one."""
    inner = request(wire.encode_push(make_push(50, worker="smuggled")) + GRADIENT)
    exchange(service, request(inner, token="wrong"))
    assert "smuggled" not in service.store.status()["workers"]


@pytest.mark.parametrize("length", [1, 3, 1 << 19])  # shorter, longer, beyond the limit of a body
def test_worker_of_another_network_is_told_which_parameter_differs(service, length):
    other = Layout.from_entries([("conv1/0", (2, 3)), ("conv1/1", (length,))])
    push = make_push(worker="other", layout=other.digest, entries=other.entries)
    client = Client(service.server.address, TOKEN, run="r1")
    with pytest.raises(LayoutMismatch, match=rf"conv1/1 is \(2,\) here, \({length},\) there"):
        client.push(push, ones(other))
    client.close()
