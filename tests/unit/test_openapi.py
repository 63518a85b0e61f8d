"""The description of the routes says all that the application does, and nothing else."""

import re

import jsonschema
import pytest
from param_server import errors
from param_server.app import create_app
from param_server.errors import Refused
from param_server.openapi import DOCUMENT, PROBLEMS

from tests.route_rig import BEARER, HERE
from tests.server_rig import make_service
from tests.store_rig import make_store

OPERATIONS = [
    pytest.param(operation, id=f"{method} {path}")
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]
# What the application answers besides the refusals that have a class.
OTHER_KINDS = {
    "failed", "journal-failed", "method-not-allowed", "not-found", "rejected", "snapshot-failed",
}  # fmt: skip


def app():
    return create_app(make_service(make_store()))


def walk(node):
    """Yield every object inside a JSON document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def test_each_route_is_described_with_its_methods_and_no_other_is():
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app().url_map.iter_rules()
        if not rule.endpoint.endswith("static")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    described = {(path, method) for path, item in DOCUMENT["paths"].items() for method in item}
    assert described == routes


def test_each_kind_of_problem_is_described_with_its_status():
    refusals = [error for error in vars(errors).values() if isinstance(error, type)]
    refusals = [error for error in refusals if issubclass(error, Refused)]
    assert {error.kind for error in refusals} | OTHER_KINDS == PROBLEMS.keys()
    assert all(PROBLEMS[error.kind][0] == error.status for error in refusals)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_has_what_the_standard_asks_for(operation):
    assert operation["summary"]
    assert all(response["description"] for response in operation["responses"].values())
    assert all(re.fullmatch(r"[2-5]\d\d", status) for status in operation["responses"])
    for parameter in operation.get("parameters", ()):
        assert "$ref" in parameter or {"name", "in", "schema"} <= parameter.keys()
    assert all(
        DOCUMENT["components"]["securitySchemes"][s] for n in operation["security"] for s in n
    )


def test_each_parameter_in_a_path_is_declared():
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            declared = {p["name"] for p in operation.get("parameters", ()) if p.get("in") == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path)), path


def test_references_lead_somewhere():
    for node in walk(DOCUMENT):
        if "$ref" in node:
            target = DOCUMENT
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            assert target


def test_each_schema_is_one_and_is_used():
    used = {node["$ref"].rpartition("/")[2] for node in walk(DOCUMENT) if "$ref" in node}
    headers_of_frames = {"Push", "Answer", "Model", "Status"}
    assert DOCUMENT["components"]["schemas"].keys() - used <= headers_of_frames
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_description_is_served_as_a_page_is():
    client = app().test_client()
    path = "/api/v1/openapi.json"
    assert client.get(path, headers=HERE).json == DOCUMENT
    assert client.get(path, headers={"Host": "evil.example"}).status_code == 403
    assert client.get(path, headers={**BEARER, "Host": "evil.example"}).status_code == 200
