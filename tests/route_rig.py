"""What tests of the routes share: callers' headers, a push in process, answers taken apart."""

import io
import json

import numpy as np
from param_server import wire

from tests.server_rig import TOKEN

BEARER = {"Authorization": f"Bearer {TOKEN}"}
HERE = {"Host": "127.0.0.1:5500"}


def post_push(app, push, gradient, dtype="float32", *, peer="127.0.0.1"):
    body = wire.encode_push(push, dtype) + bytes(wire.payload_bytes(gradient, dtype))
    environ = {"REMOTE_ADDR": peer}
    return app.post("/api/v1/update_model", data=body, headers=BEARER, environ_overrides=environ)


def frame(response):
    """Return header and payload of a response."""
    source = io.BytesIO(response.data)
    header, length = wire.read_header(source, len(response.data))
    dtype = wire.payload_dtype(header)
    out = np.empty(length // wire.payload_size(1, dtype), np.float32)
    wire.read_payload(source, length, out, dtype)
    return header, out


def problem(response):
    """Return the kind of a problem document, which says the same as the status line."""
    assert response.content_type == "application/problem+json"
    document = json.loads(response.data)
    assert document["status"] == response.status_code
    return document["type"].removeprefix("urn:ddq:problem:")
