"""The description of all routes, as OpenAPI 3.1 has it; served at /api/v1/openapi.json.

``schemas`` has what the bodies look like.  docs/protocol.md says what they mean; where the two
differ, one of them is wrong (tests/unit/test_openapi.py compares this one with the application).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from param_server import errors, wire
from param_server.schemas import SCHEMAS, TEXT, problem, reference

Json = dict[str, Any]

#: every kind of problem document: its status, and when it comes
PROBLEMS: dict[str, tuple[int, str]] = {
    "bad-request": (400, "a field is missing or out of range, a body cut off or too long"),
    "unauthorized": (401, "the token is missing or wrong"),
    "wrong-host": (403, "a page was asked for under a foreign name"),
    "not-found": (404, "there is no such route, snapshot or picture"),
    "no-snapshot": (404, "that version has no snapshot"),
    "method-not-allowed": (405, "the route has other methods"),
    "too-slow": (408, "the body did not come in the time that its length allows"),
    "wrong-run": (409, "`run` is bound to the server"),
    "wrong-epoch": (409, "the server is in another `epoch`, at `version`"),
    "wrong-layout": (409, "the server's network has the parameters `entries`, digest `layout`"),
    "length-required": (411, "a push needs a Content-Length and no Transfer-Encoding"),
    "too-large": (413, "the body is larger than any of this route can be"),
    "rejected": (422, "the gradient was not applied, the push counts: see `answer`"),
    "too-early": (425, "the policy has the worker wait: send the same push after Retry-After"),
    "failed": (500, "a failure of the server, logged; the model is unchanged"),
    "crowded": (503, "as many are connected as may be"),
    "draining": (503, "the server is going down: come again after Retry-After"),
    "too-many-viewers": (503, "as many are watching the dashboard as may"),
    "journal-failed": (507, "the push cannot be made durable, and is not acknowledged"),
    "snapshot-failed": (507, "the disk; the last snapshot is unharmed"),
}

_EVERYWHERE = ("crowded", "failed")
_FRAME = {wire.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
_TOKEN: list[Json] = [{"token": []}]
_PAGE: list[Json] = [{}, {"token": []}, {"cookie": []}]
_TAG = {"ETag": {"description": "names the model, in any dtype", "schema": {"type": "string"}}}


def _json(name: str) -> Json:
    return {"application/json": {"schema": reference(name)}}


def _refusals(*kinds: str) -> Json:
    """Return the responses of problem documents, by status."""
    by_status = defaultdict(list)
    for kind in kinds:
        status, when = PROBLEMS[kind]
        by_status[status].append(f"`{kind}`: {when}")
    content = {"application/problem+json": {"schema": reference("Problem")}}
    retry = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return {
        str(status): {
            "description": "; ".join(lines),
            "content": content,
            **({"headers": retry} if status in {425, 503} else {}),
        }
        for status, lines in sorted(by_status.items())
    }


def _model_route(
    summary: str, done: Json, *kinds: str, body: Json | None = None, parameters: Any = ()
) -> Json:
    """Return an operation that needs the token."""
    lease = [
        {"$ref": "#/components/parameters/DDQ-Run"},
        {"$ref": "#/components/parameters/DDQ-Worker"},
    ]
    operation: Json = {
        "summary": summary,
        "security": _TOKEN,
        "parameters": [*parameters, *lease],
        "responses": {**done, **_refusals("unauthorized", *kinds, *_EVERYWHERE)},
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _page_route(summary: str, done: Json, *kinds: str, parameters: Any = ()) -> Json:
    """Return an operation that is open on loopback, and needs token or cookie elsewhere."""
    return {
        "summary": summary,
        "security": _PAGE,
        "parameters": [*parameters],
        "responses": {**done, **_refusals("unauthorized", "wrong-host", *kinds, *_EVERYWHERE)},
    }


def _ok(description: str, content: Json | None = None, headers: Json | None = None) -> Json:
    response: Json = {"description": description}
    if content:
        response["content"] = content
    if headers:
        response["headers"] = headers
    return {"200": response}


def _text(kind: str) -> Json:
    return {kind: {"schema": {"type": "string"}}}


def _parameter(name: str, place: str, description: str, schema: Json) -> Json:
    return {
        "name": name,
        "in": place,
        "description": description,
        "required": place == "path",
        "schema": schema,
    }


_PULL = (
    _parameter(
        "which",
        "query",
        "the weights, or the target network's",
        {"enum": ["weights", "target"], "default": "weights"},
    ),
    _parameter("If-None-Match", "header", "the ETag of what the reader has", {"type": "string"}),
    _parameter(
        "DDQ-Dtype",
        "header",
        "of the payload wanted",
        {"enum": [*wire.DTYPES], "default": wire.DTYPE},
    ),
)
_RUN_BODY = _json("Run")

_MODEL_PATHS: Json = {
    "/api/v1/latest_model": {
        "get": _model_route(
            "Pull: the weights, unless the reader has them",
            {
                **_ok("a `model` frame, its payload the weights", _FRAME, _TAG),
                "304": {"description": "the reader has just these"},
            },
            "bad-request",
            parameters=_PULL,
        )
    },
    "/api/v1/update_model": {
        "post": _model_route(
            "Push: a gradient in, a verdict out, with the new weights if `want_model` asks",
            _ok("an `answer` frame, its payload the weights if `model` is not null", _FRAME),
            "bad-request",
            "too-slow",
            "wrong-run",
            "wrong-epoch",
            "wrong-layout",
            "length-required",
            "too-large",
            "rejected",
            "too-early",
            "draining",
            "journal-failed",
            body=_FRAME,
            parameters=[
                _parameter("Content-Length", "header", "mandatory", {"type": "integer"}),
            ],
        )
    },
    "/api/v1/leave": {
        "post": _model_route(
            "A worker pushes no more for now: nobody waits for it",
            _ok("noted", {"application/json": {"schema": {"type": "object"}}}),
            "bad-request",
            "too-slow",
            "too-large",
            body=_json("Leave"),
        )
    },
    "/api/v1/clear_model": {
        "post": _model_route(
            "Back to version 0, in a new epoch",
            _ok("where the model is now", _json("Place")),
            "draining",
            "journal-failed",
        )
    },
    "/api/v1/snapshot": {
        "post": _model_route(
            "Write a snapshot now",
            _ok("where it is", _json("Snapshot")),
            "snapshot-failed",
        )
    },
    "/api/v1/evaluation": {
        "post": _model_route(
            "How good a snapshot's weights play: the best one is kept",
            _ok("whether it is the best so far", _json("Best")),
            "bad-request",
            "no-snapshot",
            "too-slow",
            "too-large",
            "snapshot-failed",
            body=_json("Evaluation"),
        )
    },
    "/api/v1/incident": {
        "post": _model_route(
            "What has happened to a run's processes: the dashboard shows the newest",
            _ok("noted", {"application/json": {"schema": {"type": "object"}}}),
            "bad-request",
            "too-slow",
            "too-large",
            body=_json("Incident"),
        )
    },
    "/api/v1/prototxt": {
        "get": _model_route(
            "What a worker builds its network from", _ok("the network", _json("Prototxt"))
        )
    },
    "/api/v1/run": {
        "post": _model_route(
            "Bind the server to a run",
            _ok("bound", _json("RunPlace")),
            "bad-request",
            "too-slow",
            "wrong-run",
            "too-large",
            "draining",
            body=_RUN_BODY,
        ),
        "delete": _model_route(
            "Unbind a run",
            _ok("unbound, unless the server is embedded or another run's", _json("RunPlace")),
            "bad-request",
            "too-slow",
            "too-large",
            body=_RUN_BODY,
        ),
    },
}

_PAGE_PATHS: Json = {
    "/api/v1/openapi.json": {
        "get": _page_route(
            "This description",
            _ok("OpenAPI 3.1", {"application/json": {"schema": {"type": "object"}}}),
        )
    },
    "/api/v1/status_data": {
        "get": _page_route("Where training stands", _ok("the status", _json("Status")))
    },
    "/api/v1/history": {
        "get": _page_route("The run so far, for curves", _ok("columns", _json("History")))
    },
    "/api/v1/filters": {
        "get": _page_route(
            "The first convolution's filters",
            _ok("pictures", _json("Filters")),
            "not-found",
        )
    },
    "/events": {
        "get": _page_route(
            "The status as it goes, as server-sent events",
            _ok("`data:` lines, each a Status", _text("text/event-stream")),
            "draining",
            "too-many-viewers",
        )
    },
    "/": {"get": _page_route("Lead to the dashboard", {"302": {"description": "there"}})},
    "/current_status": {"get": _page_route("The dashboard", _ok("a page", _text("text/html")))},
    "/login": {
        "post": {
            "summary": "Turn the token into a cookie that opens pages",
            "security": [],
            "requestBody": {
                "required": True,
                "content": {
                    "application/x-www-form-urlencoded": {
                        "schema": {"type": "object", "properties": {"token": TEXT}}
                    }
                },
            },
            "responses": {
                "303": {
                    "description": "to the dashboard",
                    "headers": {"Set-Cookie": {"schema": {"type": "string"}}},
                },
                "401": {"description": "another token", "content": _text("text/html")},
                **_refusals("too-slow", "too-large", *_EVERYWHERE),
            },
        }
    },
    "/metrics": {"get": _page_route("Prometheus", _ok("metrics", _text("text/plain")))},
    "/healthz": {"get": _page_route("The server lives", _ok("which it is", _json("Health")))},
    "/snapshots/{name}/{file}": {
        "get": _page_route(
            "A file of a snapshot",
            _ok(
                "the file",
                {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            ),
            "not-found",
            parameters=[
                _parameter("name", "path", "the snapshot's folder", {"type": "string"}),
                _parameter("file", "path", "one of its files", {"type": "string"}),
            ],
        )
    },
}

DOCUMENT: Json = {
    "openapi": "3.1.0",
    "info": {
        "title": "Parameter server of a distributed deep-Q trainer",
        "version": "1",
        "description": (
            "Frames (`application/x-ddq-frame`) are `DDQ1`, the header's length as a "
            "little-endian uint32, the header as JSON (the schemas Push, Answer, Model), and the "
            "payload: the flat arena of learnable parameters as little-endian float32 or "
            "bfloat16, as the header's `dtype` says, or nothing. Refusals are problem documents "
            f"(RFC 9457) whose `type` is `{errors.PROBLEM_PREFIX}KIND`. Any route may answer "
            "`not-found`, `method-not-allowed`, and `bad-request` with 400, 431 or 505 to what "
            "is not HTTP/1.1 as it should be. HEAD is answered where GET is."
        ),
    },
    "paths": {**_MODEL_PATHS, **_PAGE_PATHS},
    "components": {
        "schemas": {**SCHEMAS, "Problem": problem([*PROBLEMS])},
        "parameters": {
            name: _parameter(name, "header", f"{what} whose lease the request renews", TEXT)
            for name, what in {"DDQ-Run": "the run", "DDQ-Worker": "its worker"}.items()
        },
        "securitySchemes": {
            "token": {"type": "http", "scheme": "bearer"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": "ddq_session"},
        },
    },
}
