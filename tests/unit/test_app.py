"""The application: what becomes of refusals and failures, whichever route they come from."""

import pytest
from param_server.app import create_app
from param_server.errors import JournalFailed
from param_server.judgement import Rules
from param_server.outliers import Outliers
from param_server.staleness import parse_policy

from tests.route_rig import BEARER, HERE, post_push, problem
from tests.server_rig import make_service
from tests.store_rig import make_push, make_store, ones


@pytest.fixture
def store():
    store = make_store(game="catch", may_change_run=True)
    yield store
    store.check()


@pytest.fixture
def service(store):
    return make_service(store)


@pytest.fixture
def app(service):
    return create_app(service).test_client()


def test_unknown_path_and_method_are_problem_documents(app):
    missing = app.get("/api/v1/nothing", headers=BEARER)
    assert (missing.status_code, problem(missing)) == (404, "not-found")
    wrong = app.put("/api/v1/latest_model", headers=BEARER)
    assert (wrong.status_code, problem(wrong)) == (405, "method-not-allowed")


def test_failure_is_a_500_that_is_logged_counted_and_tells_nothing(app, store, service, caplog):
    def broken(gradient, scale):
        raise ZeroDivisionError("the inside")

    store._state.weights._apply = broken
    response = post_push(app, make_push(), ones())
    assert (response.status_code, problem(response)) == (500, "failed")
    assert b"the inside" not in response.data
    assert "ZeroDivisionError: the inside" in caplog.text
    assert b"ddq_failed_requests_total 1.0" in service.metrics.page()
    assert store.counters() == (0, 0, 0)


def test_draining_server_says_when_to_come_again(app, store):
    store.close()
    response = post_push(app, make_push(), ones())
    assert (response.status_code, problem(response)) == (503, "draining")
    assert response.headers["Retry-After"] == "1"


def test_snapshot_that_fails_is_a_507(app, service):
    service.snapshots.fails = True
    response = app.post("/api/v1/snapshot", headers=BEARER)
    assert (response.status_code, problem(response)) == (507, "snapshot-failed")
    assert "No space left" in response.json["detail"]


def test_push_that_has_to_wait_is_a_425_that_says_when_to_come_again(monkeypatch):
    monkeypatch.setattr("param_server.service._PATIENCE_S", 0.0)
    store = make_store(rules=Rules(parse_policy("ssp:0"), Outliers(0)))
    app = create_app(make_service(store)).test_client()
    pushes = [make_push(), make_push(worker="w1"), make_push(2), make_push(3)]
    assert [post_push(app, push, ones()).status_code for push in pushes] == [200] * 4
    ahead = make_push(4)  # its worker has pushed once more than the other, who began after it
    response = post_push(app, ahead, ones())
    assert (response.status_code, problem(response)) == (425, "too-early")
    assert int(response.headers["Retry-After"]) >= 0
    assert post_push(app, make_push(2, worker="w1"), ones()).status_code == 200
    assert post_push(app, ahead, ones()).status_code == 200  # the same one, under its sequence


class BrokenJournal:
    def append(self, record, gradient, /):
        raise JournalFailed("no journal: No space left on device")


def test_push_that_cannot_be_made_durable_is_a_507_and_not_applied():
    store = make_store(journal=BrokenJournal())
    app = create_app(make_service(store)).test_client()
    response = post_push(app, make_push(), ones())
    assert (response.status_code, problem(response)) == (507, "journal-failed")
    assert "No space left" in response.json["detail"]
    assert store.version == 0


def test_metrics_count_refusals_by_kind(app):
    app.get("/api/v1/latest_model")
    page = app.get("/metrics", headers=HERE).data
    assert b'ddq_refused_requests_total{kind="unauthorized"} 1.0' in page
