"""A client written from docs/protocol.md alone: sockets, struct and json, none of the product.

It talks to a server by hand-made HTTP, and the examples that the document prints are taken from it
and read by the same few functions.
"""

import hashlib
import json
import math
import re
import socket
import struct
from pathlib import Path

import pytest

from tests.server_rig import TOKEN, running
from tests.store_rig import EPOCH, LAYOUT, make_store

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/protocol.md").read_text()
EXAMPLE_LAYOUT = [["fc/0", [1, 2]], ["fc/1", [1]]]


# -- the client: what one would write in an afternoon


def digest(entries):
    text = json.dumps(entries, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def encode(values, dtype):
    if dtype == "float32":
        return struct.pack(f"<{len(values)}f", *values)
    halves = []
    for value in values:
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
        if math.isnan(value):
            halves.append(0x7FC0)
        else:
            halves.append((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 & 0xFFFF)
    return struct.pack(f"<{len(halves)}H", *halves)


def decode(payload, dtype):
    if dtype == "float32":
        return list(struct.unpack(f"<{len(payload) // 4}f", payload))
    halves = struct.unpack(f"<{len(payload) // 2}H", payload)
    return [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in halves]


def make_frame(header, values):
    text = json.dumps(header).encode()
    return b"DDQ1" + struct.pack("<I", len(text)) + text + encode(values, header["dtype"])


def take_frame(frame):
    magic, length = struct.unpack("<4sI", frame[:8])
    assert magic == b"DDQ1"
    header = json.loads(frame[8 : 8 + length])
    return header, decode(frame[8 + length :], header["dtype"])


class Client:
    """One kept-alive connection."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.reader = self.socket.makefile("rb")
        self.host = f"127.0.0.1:{port}"

    def ask(self, method, path, body=b"", **fields):
        """Return status, headers (by lower-case name) and body."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}"]
        fields = {"Authorization": f"Bearer {TOKEN}", "Content-Length": len(body), **fields}
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        status = int(self.reader.readline().split()[1])
        headers = {}
        while line := self.reader.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        content = b"" if status == 304 else self.reader.read(int(headers["content-length"]))
        return status, headers, content

    def close(self):
        self.reader.close()
        self.socket.close()


def push_header(sequence, version, **fields):
    return {
        "kind": "push", "dtype": "float32", "run": "r1", "worker": "w0", "incarnation": "i0",
        "sequence": sequence, "epoch": EPOCH, "version": version, "layout": LAYOUT.digest,
        "round": 0, "partition": 0, "quota": 0, "loss": None, "stats": {}, "steps": 4,
        "episodes": [], "episode_lengths": [], "want_model": True, **fields,
    }  # fmt: skip


# -- against a server


@pytest.fixture
def client():
    with running(make_store()) as service:
        client = Client(service.server.port)
        yield client
        client.close()


def test_worker_conversation(client):
    status, _, content = client.ask("GET", "/api/v1/prototxt")
    prototxt = json.loads(content)
    assert status == 200
    assert prototxt["layout"]["digest"] == digest(prototxt["layout"]["entries"])

    status, headers, content = client.ask("GET", "/api/v1/latest_model")
    model, weights = take_frame(content)
    assert (status, model["kind"], weights) == (200, "model", [1.0] * 8)
    tag = headers["etag"]
    assert tag == f'"{model["epoch"]}-{model["version"]}"'
    status, _, content = client.ask("GET", "/api/v1/latest_model", If_None_Match=tag)
    assert (status, content) == (304, b"")

    frame = make_frame(push_header(1, 0), [0.5] * 8)
    status, _, content = client.ask("POST", "/api/v1/update_model", frame)
    answer, weights = take_frame(content)
    assert (status, answer["status"], answer["version"]) == (200, "applied", 1)
    assert answer["model"]["version"] == 1
    assert weights == [0.5] * 8

    # The answer was lost: the same bytes again.
    status, _, content = client.ask("POST", "/api/v1/update_model", frame)
    answer, weights = take_frame(content)
    assert (answer["status"], answer["reason"], answer["version"]) == ("duplicate", "applied", 1)
    assert weights == [0.5] * 8

    body = json.dumps({"worker": "w0", "incarnation": "i0"}).encode()
    assert client.ask("POST", "/api/v1/leave", body)[2].strip() == b"{}"


def test_bfloat16_both_ways(client):
    third = struct.unpack("<f", struct.pack("<f", 1 / 3))[0]
    header = push_header(1, 0, dtype="bfloat16", model_dtype="bfloat16")
    _, _, content = client.ask("POST", "/api/v1/update_model", make_frame(header, [third] * 8))
    answer, weights = take_frame(content)
    assert answer["dtype"] == "bfloat16"
    assert weights == [0.6640625] * 8  # 1 - 0.333984375 lies halfway: to even
    _, _, content = client.ask("GET", "/api/v1/latest_model")
    assert take_frame(content)[1] == [1 - 0.333984375] * 8
    _, _, content = client.ask("GET", "/api/v1/latest_model", DDQ_Dtype="bfloat16")
    assert take_frame(content)[1] == weights


def test_target_has_a_tag_of_its_own(client):
    for sequence in (1, 2, 3):  # its period in this server
        frame = make_frame(push_header(sequence, sequence - 1), [0.25] * 8)
        client.ask("POST", "/api/v1/update_model", frame)
        _, headers, content = client.ask("GET", "/api/v1/latest_model?which=target")
        header, target = take_frame(content)
        due = sequence == 3
        assert (header["target_version"], target) == ((3, [0.25] * 8) if due else (0, [1.0] * 8))
        assert headers["etag"] == f'"{EPOCH}-target-{header["target_version"]}"'
        tag = headers["etag"]
        path = "/api/v1/latest_model?which=target"
        assert client.ask("GET", path, If_None_Match=tag)[0] == 304


ENTRIES_HERE = [["conv1/0", [2, 3]], ["conv1/1", [2]]]
OTHER_LAYOUT = {"layout": digest(EXAMPLE_LAYOUT), "entries": EXAMPLE_LAYOUT}
NAN = float("nan")


@pytest.mark.parametrize(
    ("header", "values", "told"),
    [
        (push_header(1, 0, epoch=1), [0] * 8, (409, "wrong-epoch", "epoch", EPOCH)),
        (push_header(1, 0, run="r2"), [0] * 8, (409, "wrong-run", "run", "r1")),
        (
            push_header(1, 0, **OTHER_LAYOUT),
            [0] * 3,
            (409, "wrong-layout", "entries", ENTRIES_HERE),
        ),
        (push_header(1, 0), [0] * 7 + [NAN], (422, "rejected", "detail", "non-finite: conv1/1")),
        (push_header(1, 0), [0] * 9, (400, "bad-request", "title", "bad request")),
        (push_header(1, 0, dtype="bfloat16"), [0] * 9, (400, "bad-request", "status", 400)),
    ],
)
def test_refusals(client, header, values, told):
    status, kind, member, value = told
    body = json.dumps({"run": "r1"}).encode()
    assert client.ask("POST", "/api/v1/run", body)[0] == 200
    frame = make_frame(header, values)
    answered, headers, content = client.ask("POST", "/api/v1/update_model", frame)
    problem = json.loads(content)
    assert (answered, headers["content-type"]) == (status, "application/problem+json")
    assert (problem["type"], problem[member]) == (f"urn:ddq:problem:{kind}", value)
    # And the same connection goes on.
    assert client.ask("GET", "/api/v1/latest_model")[0] == 200


def test_token_is_asked_for(client):
    status, headers, _ = client.ask("GET", "/api/v1/latest_model", Authorization="Bearer no")
    assert status == 401
    assert "www-authenticate" in headers


# -- the document's examples


def blocks():
    return re.findall(r"^```\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)


def test_layout_of_the_example_has_the_digest_that_is_printed():
    layout, printed = re.search(r"`(\[\[\"fc.*?\]\])`\. Its digest,\s+`(\w+)`", DOCUMENT).groups()
    assert json.loads(layout) == EXAMPLE_LAYOUT
    assert digest(EXAMPLE_LAYOUT) == printed


def test_push_of_the_example():
    prefix, text, payload = next(b for b in blocks() if '"kind":"push"' in b).split()
    frame = bytes.fromhex(prefix) + text.encode() + bytes.fromhex(payload)
    header, values = take_frame(frame)
    assert values == pytest.approx([0.5, -0.25, 1 / 3])
    assert header["layout"] == digest(EXAMPLE_LAYOUT)
    assert f"{len(frame)} bytes" in DOCUMENT
    half = re.search(r"The same gradient as bfloat16: `(\w+)`", DOCUMENT)[1]
    assert encode(values, "bfloat16") == bytes.fromhex(half)
    described = set(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", DOCUMENT, re.MULTILINE))
    fields = {name for row in described for name in re.findall(r"`(\w+)`", row)}
    assert header.keys() - {"kind", "dtype"} <= fields


def test_push_of_the_example_is_one_to_the_product_too():
    from param_server import wire

    _, text, _ = next(b for b in blocks() if '"kind":"push"' in b).split()
    push = wire.decode_push(json.loads(text))
    assert wire.encode_push(push)[8:].decode() == text


def test_model_of_the_example():
    dump = next(b for b in blocks() if b.startswith("00000000:"))
    lines = [line[10:49].replace(" ", "") for line in dump.splitlines()]
    header, weights = take_frame(bytes.fromhex("".join(lines)))
    assert (header["kind"], header["dtype"]) == ("model", "bfloat16")
    assert weights == [1.0, -2.5, 0.333984375]
    assert header["layout"] == digest(EXAMPLE_LAYOUT)


def test_document_names_every_route_kind_and_flag():
    from param_server import openapi
    from param_server.options import parser

    for path in openapi.DOCUMENT["paths"]:
        told = re.sub(r"{\w+}.*", "", path).removeprefix("/api/v1/")
        assert told in DOCUMENT, path
    assert [kind for kind in openapi.PROBLEMS if f"`{kind}`" not in DOCUMENT] == []
    flags = {flag for action in parser()._actions for flag in action.option_strings}
    assert [flag for flag in flags - {"-h", "--help"} if f"`{flag}`" not in DOCUMENT] == []
