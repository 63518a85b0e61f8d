"""What the server really answers, and what clients really send, against the described schemas."""

import dataclasses
import json

import jsonschema
import numpy as np
import pytest
from param_server import wire
from param_server.app import create_app
from param_server.openapi import DOCUMENT
from param_server.wire import Layout

from tests.route_rig import BEARER, HERE, frame, post_push
from tests.server_rig import make_service
from tests.store_rig import LAYOUT, make_push, make_store, ones

LEAVE = {"worker": "w0", "incarnation": "i0"}
EVALUATION = {"version": 0, "return_mean": 3.5, "return_se": 0.25, "episodes": 30}
REQUESTS = [
    ("GET", "/api/v1/prototxt", None),
    ("POST", "/api/v1/run", {"run": "r1"}),
    ("DELETE", "/api/v1/run", {"run": "r1"}),
    ("POST", "/api/v1/snapshot", None),
    ("POST", "/api/v1/leave", LEAVE),
    ("POST", "/api/v1/evaluation", EVALUATION),
    ("POST", "/api/v1/incident", {"text": "it died"}),
    ("POST", "/api/v1/clear_model", None),
    ("GET", "/api/v1/status_data", None),
    ("GET", "/api/v1/history", None),
    ("GET", "/healthz", None),
    # refused
    ("POST", "/api/v1/run", {"run": ""}),
    ("POST", "/api/v1/evaluation", {**EVALUATION, "version": 9}),
    ("POST", "/api/v1/leave", {"worker": "x" * 5000}),
    ("POST", "/api/v1/incident", {"text": ""}),
]


@pytest.fixture
def service():
    return make_service(make_store(may_change_run=True))


@pytest.fixture
def app(service):
    return create_app(service).test_client()


def validate(document, schema):
    """Check a document against a schema of the description, or the name of one."""
    if isinstance(schema, str):
        schema = {"$ref": f"#/components/schemas/{schema}"}
    jsonschema.Draft202012Validator({**DOCUMENT, **schema}).validate(document)


def described(response, path, method):
    """Return the schema that the description has for a response."""
    answers = DOCUMENT["paths"][path][method.lower()]["responses"]
    return answers[str(response.status_code)]["content"][response.content_type]["schema"]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
def test_answer_is_as_described(app, service, method, path, body):
    service.store.apply(make_push(episodes=(3.0,), stats={"epsilon": 0.5}), ones())
    service.store.apply(make_push(2), ones(value=np.nan))
    service.live.read_status()
    response = app.open(path, method=method, json=body, headers={**BEARER, **HERE})
    validate(response.json, described(response, path, method))


@pytest.mark.parametrize("name", ["Leave", "Evaluation", "Run"])
def test_request_that_is_not_as_described_is_refused(app, name):
    """And one that is, is taken: the schema says no less and no more than the server asks."""
    good = {"Leave": LEAVE, "Evaluation": EVALUATION, "Run": {"run": "r1"}}[name]
    path = f"/api/v1/{name.lower()}"
    validate(good, name)
    assert app.post(path, json=good, headers=BEARER).status_code == 200
    for field, value in [(f, v) for f in good for v in (None, [], -1, 2**63, "x" * 257, 0.5, True)]:
        bad = {**good, field: value}
        try:
            validate(bad, name)
        except jsonschema.ValidationError:
            assert app.post(path, json=bad, headers=BEARER).status_code == 400, bad
        else:
            assert app.post(path, json=bad, headers=BEARER).status_code == 200, bad


def test_headers_of_frames_are_as_described(app):
    push = make_push(
        want_model=True, entries=LAYOUT.entries, episodes=(1.0,), episode_lengths=(3,),
        stats={"epsilon": 0.1},
    )  # fmt: skip
    validate(json.loads(wire.encode_push(push)[8:]), "Push")
    again = dataclasses.replace(push, sequence=2, want_model=False)
    for answered in (post_push(app, push, ones()), post_push(app, again, ones())):
        validate(frame(answered)[0], "Answer")
    validate(frame(app.get("/api/v1/latest_model", headers=BEARER))[0], "Model")


@pytest.mark.parametrize(
    ("fields", "gradient"),
    [
        ({"epoch": 1}, ones()),
        ({"layout": "x"}, ones()),
        ({"run": "r2"}, ones()),
        ({"version": 5}, ones()),
        ({}, ones(value=np.inf)),
        ({}, ones(Layout.from_entries([("a", (3,))]))),
    ],
)
def test_refusals_of_pushes_are_as_described(app, service, fields, gradient):
    service.store.apply(make_push(), ones())
    response = post_push(app, make_push(2, **fields), gradient)
    assert response.status_code >= 400
    validate(response.json, described(response, "/api/v1/update_model", "POST"))


def test_validation_can_fail():
    with pytest.raises(jsonschema.ValidationError):
        validate({"best": "yes"}, "Best")
