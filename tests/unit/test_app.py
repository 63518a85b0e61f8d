"""The routes, in process: who may, what is answered, and as which document."""

import io
import json

import numpy as np
import pytest
from param_server import wire
from param_server.app import create_app

from tests.server_rig import EPOCH, LAYOUT, TOKEN, make_push, make_service, make_store, ones

BEARER = {"Authorization": f"Bearer {TOKEN}"}
HERE = {"Host": "127.0.0.1:5500"}
MODEL_ROUTES = [
    ("GET", "/api/v1/latest_model"),
    ("POST", "/api/v1/update_model"),
    ("POST", "/api/v1/clear_model"),
    ("POST", "/api/v1/snapshot"),
    ("GET", "/api/v1/prototxt"),
    ("POST", "/api/v1/run"),
    ("DELETE", "/api/v1/run"),
]
PAGES = ["/current_status", "/metrics", "/healthz", "/api/v1/status_data", "/"]


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


@pytest.fixture
def public(store):
    """The same server bound beyond loopback."""
    return create_app(make_service(store, host="0.0.0.0")).test_client()


def post_push(app, push, gradient):
    body = wire.encode_push(push) + bytes(wire.payload_bytes(gradient))
    return app.post("/api/v1/update_model", data=body, headers=BEARER)


def frame(response):
    source = io.BytesIO(response.data)
    header, length = wire.read_header(source, len(response.data))
    out = np.empty(length // 4, np.float32)
    wire.read_payload(source, length, out)
    return header, out


def problem(response):
    assert response.content_type == "application/problem+json"
    document = json.loads(response.data)
    assert document["status"] == response.status_code
    return document["type"].removeprefix("urn:ddq:problem:")


@pytest.mark.parametrize(("method", "path"), MODEL_ROUTES)
@pytest.mark.parametrize("token", [None, "wrong"])
def test_model_routes_always_need_the_token(app, method, path, token):
    headers = {**HERE, **({"Authorization": f"Bearer {token}"} if token else {})}
    response = app.open(path, method=method, headers=headers)
    assert response.status_code == 401
    assert problem(response) == "unauthorized"
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_open_on_loopback(app, path):
    assert app.get(path, headers=HERE).status_code in {200, 302}


@pytest.mark.parametrize("path", PAGES)
def test_pages_have_no_foreign_name(app, path):
    response = app.get(path, headers={"Host": "evil.example:5500"})
    assert (response.status_code, problem(response)) == (403, "wrong-host")


@pytest.mark.parametrize("path", PAGES)
def test_pages_need_the_token_beyond_loopback(public, path):
    assert public.get(path, headers=HERE).status_code == 401
    assert public.get(path, headers=BEARER).status_code in {200, 302}


def test_login_gives_a_cookie_that_opens_the_pages_and_is_not_the_token(public):
    form = public.get("/current_status", headers={"Accept": "text/html"})
    assert b'<form method="post" action="/login">' in form.data
    response = public.post("/login", data={"token": TOKEN})
    cookie = response.headers["Set-Cookie"]
    assert response.status_code == 303
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert public.get("/current_status").status_code == 200
    assert public.post("/api/v1/clear_model").status_code == 401


def test_login_with_another_token_gives_no_cookie(public):
    response = public.post("/login", data={"token": "wrong"})
    assert response.status_code == 401
    assert "Set-Cookie" not in response.headers


def test_weights_come_with_a_tag_that_saves_the_second_pull(app):
    response = app.get("/api/v1/latest_model", headers=BEARER)
    header, weights = frame(response)
    assert response.headers["ETag"] == f'"{EPOCH}-0"'
    assert header["layout"] == LAYOUT.digest
    assert np.all(weights == 1.0)
    again = {**BEARER, "If-None-Match": response.headers["ETag"]}
    assert app.get("/api/v1/latest_model", headers=again).status_code == 304


@pytest.mark.parametrize("tag", ['"8-0"', '"7-1"', '"7-target-0"', "7-0", '"x"', '"7-0", "7-1"'])
def test_tag_of_anything_else_gets_the_weights(app, tag):
    headers = {**BEARER, "If-None-Match": tag}
    assert app.get("/api/v1/latest_model", headers=headers).status_code == 200


def test_target_has_a_tag_of_its_own(app, store):
    for sequence in (1, 2):
        store.apply(make_push(sequence), ones())
    path = "/api/v1/latest_model?which=target"
    response = app.get(path, headers=BEARER)
    header, weights = frame(response)
    assert response.headers["ETag"] == f'"{EPOCH}-target-0"'
    assert (header["version"], header["target_version"]) == (2, 0)
    assert np.all(weights == 1.0)
    assert app.get(path, headers={**BEARER, "If-None-Match": '"7-target-0"'}).status_code == 304


def test_push_is_applied_and_answered(app):
    response = post_push(app, make_push(), ones())
    header, payload = frame(response)
    assert response.content_type == wire.MEDIA_TYPE
    assert wire.decode_answer(header).version == 1
    assert payload.size == 0


def test_push_that_wants_the_model_gets_it(app):
    header, weights = frame(post_push(app, make_push(want_model=True), ones()))
    assert header["model"]["version"] == 1
    assert np.all(weights == 0.0)


def test_rejected_push_is_a_422_with_the_verdict(app):
    response = post_push(app, make_push(), ones(value=np.nan))
    assert (response.status_code, problem(response)) == (422, "rejected")
    assert response.json["detail"] == "non-finite: conv1/0"
    assert response.json["answer"]["counters"] == {"steps": 4, "episodes": 0, "updates": 0}


@pytest.mark.parametrize(
    ("fields", "kind", "member"),
    [
        ({"epoch": 1}, "wrong-epoch", ("epoch", EPOCH)),
        ({"layout": "x"}, "wrong-layout", ("layout", LAYOUT.digest)),
        ({"run": "r2"}, "wrong-run", ("run", "r1")),
    ],
)
def test_foreign_push_is_a_409_that_says_what_is_here(app, store, fields, kind, member):
    store.apply(make_push(), ones())
    response = post_push(app, make_push(2, **fields), ones())
    assert (response.status_code, problem(response)) == (409, kind)
    assert response.json[member[0]] == member[1]


def test_push_without_a_length_is_a_411(app):
    environ = {"CONTENT_LENGTH": ""}
    response = app.post("/api/v1/update_model", headers=BEARER, environ_overrides=environ)
    assert (response.status_code, problem(response)) == (411, "length-required")


def test_push_larger_than_the_network_is_a_413(app):
    environ = {"CONTENT_LENGTH": str(1 << 30)}
    response = app.post("/api/v1/update_model", headers=BEARER, environ_overrides=environ)
    assert (response.status_code, problem(response)) == (413, "too-large")


def test_push_that_is_no_frame_is_a_400(app):
    response = app.post("/api/v1/update_model", data=b"GIF89a...........", headers=BEARER)
    assert (response.status_code, problem(response)) == (400, "bad-request")


def test_draining_server_says_when_to_come_again(app, store):
    store.close()
    response = post_push(app, make_push(), ones())
    assert (response.status_code, problem(response)) == (503, "draining")
    assert response.headers["Retry-After"] == "1"


def test_clear_begins_a_new_epoch(app, store):
    store.apply(make_push(), ones())
    assert app.post("/api/v1/clear_model", headers=BEARER).json == {
        "epoch": EPOCH + 1,
        "version": 0,
    }


def test_snapshot_says_where(app):
    assert app.post("/api/v1/snapshot", headers=BEARER).json["path"] == "there"


def test_snapshot_that_fails_is_a_507(app, service):
    service.snapshots.fails = True
    response = app.post("/api/v1/snapshot", headers=BEARER)
    assert (response.status_code, problem(response)) == (507, "snapshot-failed")
    assert "No space left" in response.json["detail"]


def test_run_is_opened_and_closed(app, store):
    opened = app.post("/api/v1/run", json={"run": "r1"}, headers=BEARER)
    assert opened.json == {"run": "r1", "epoch": EPOCH, "version": 0}
    refused = app.post("/api/v1/run", json={"run": "r2"}, headers=BEARER)
    assert (refused.status_code, problem(refused)) == (409, "wrong-run")
    app.delete("/api/v1/run", json={"run": "r1"}, headers=BEARER)
    assert store.run == ""


@pytest.mark.parametrize("body", [b"", b"[]", b'{"run": ""}', b'{"run": 5}', b"{"])
def test_run_without_a_name_is_a_400(app, body):
    response = app.post("/api/v1/run", data=body, headers=BEARER, content_type="application/json")
    assert (response.status_code, problem(response)) == (400, "bad-request")


def test_headers_of_a_pull_renew_the_lease_of_a_worker(app, store):
    store.apply(make_push(), ones())
    headers = {**BEARER, "DDQ-Run": "r1", "DDQ-Worker": "w7"}
    app.get("/api/v1/latest_model", headers=headers)
    assert "w7" in store.status()["workers"]


def test_headers_without_the_token_renew_nothing(app, store):
    store.apply(make_push(), ones())
    app.get("/api/v1/status_data", headers={**HERE, "DDQ-Run": "r1", "DDQ-Worker": "w7"})
    assert "w7" not in store.status()["workers"]


def test_unknown_path_and_method_are_problem_documents(app):
    missing = app.get("/api/v1/nothing", headers=BEARER)
    assert (missing.status_code, problem(missing)) == (404, "not-found")
    wrong = app.put("/api/v1/latest_model", headers=BEARER)
    assert (wrong.status_code, problem(wrong)) == (405, "method-not-allowed")


def test_failure_is_a_500_that_is_logged_counted_and_tells_nothing(app, store, service, caplog):
    def broken(gradient):
        raise ZeroDivisionError("the inside")

    store._apply = broken
    response = post_push(app, make_push(), ones())
    assert (response.status_code, problem(response)) == (500, "failed")
    assert b"the inside" not in response.data
    assert "ZeroDivisionError: the inside" in caplog.text
    assert b"ddq_failed_requests_total 1.0" in service.metrics.page()
    assert store.counters() == (0, 0, 0)


def test_status_page_shows_where_training_stands(app, store):
    store.apply(make_push(episodes=(3.0,)), ones())
    store.apply(make_push(2), ones(value=np.nan))
    response = app.get("/current_status", headers=HERE)
    page = response.data.decode()
    for shown in ("catch", "run r1", "w0", "non-finite", "conv1/0", "3.00", "0.50000"):
        assert shown in page
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "http://" not in page
    assert "https://" not in page


def test_status_page_escapes_names(app, store):
    store.apply(make_push(worker="<script>alert(1)</script>"), ones())
    assert b"<script>" not in app.get("/current_status", headers=HERE).data


def test_status_data_keeps_the_order_of_the_histogram(app):
    text = app.get("/api/v1/status_data", headers=HERE).data.decode()
    assert text.index('"7"') < text.index('"15"') < text.index('"more"')


def test_prototxt_has_what_a_worker_builds_its_net_from(app):
    document = app.get("/api/v1/prototxt", headers=BEARER).json
    assert document["layout"]["digest"] == LAYOUT.digest
    assert {"net", "solver", "solver_type", "game", "target_period"} <= document.keys()


def test_metrics_count_refusals_by_kind(app):
    app.get("/api/v1/latest_model")
    page = app.get("/metrics", headers=HERE).data
    assert b'ddq_refused_requests_total{kind="unauthorized"} 1.0' in page
