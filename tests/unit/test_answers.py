"""Problem documents as responses."""

import pytest
from param_server.answers import problem_response, the_service
from param_server.app import create_app

from tests.server_rig import make_service
from tests.store_rig import make_store


@pytest.fixture
def service():
    return make_service(make_store())


@pytest.fixture
def app(service):
    return create_app(service)


def test_handlers_find_their_own_service(app, service):
    with app.test_request_context():
        assert the_service() is service


def test_problem_is_answered_under_its_status_with_its_members(app):
    with app.test_request_context():
        response = problem_response("wrong-run", 409, "bound to r1", run="r1")
    assert (response.status_code, response.content_type) == (409, "application/problem+json")
    assert response.json == {
        "type": "urn:ddq:problem:wrong-run",
        "title": "wrong run",
        "status": 409,
        "detail": "bound to r1",
        "run": "r1",
    }
