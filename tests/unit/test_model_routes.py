"""The routes of workers and drivers: who may, what is answered, and as which document."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from param_server import wire
from param_server.app import create_app
from param_server.wire import Layout

from tests.route_rig import BEARER, HERE, frame, post_push, problem
from tests.server_rig import make_service
from tests.store_rig import EPOCH, LAYOUT, make_push, make_store, ones, weights_of

MODEL_ROUTES = [
    ("GET", "/api/v1/latest_model"),
    ("POST", "/api/v1/update_model"),
    ("POST", "/api/v1/clear_model"),
    ("POST", "/api/v1/snapshot"),
    ("POST", "/api/v1/leave"),
    ("POST", "/api/v1/evaluation"),
    ("POST", "/api/v1/incident"),
    ("GET", "/api/v1/prototxt"),
    ("POST", "/api/v1/run"),
    ("DELETE", "/api/v1/run"),
]


@pytest.fixture
def store():
    store = make_store(game="catch", may_change_run=True)
    yield store
    store.check()


@pytest.fixture
def app(store):
    return create_app(make_service(store)).test_client()


@pytest.mark.parametrize(("method", "path"), MODEL_ROUTES)
@pytest.mark.parametrize("token", [None, "wrong"])
def test_model_routes_always_need_the_token(app, method, path, token):
    headers = {**HERE, **({"Authorization": f"Bearer {token}"} if token else {})}
    response = app.open(path, method=method, headers=headers)
    assert response.status_code == 401
    assert problem(response) == "unauthorized"
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


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


@pytest.mark.parametrize("dtype", wire.DTYPES)
@pytest.mark.parametrize("model_dtype", wire.DTYPES)
def test_gradient_and_weights_each_travel_in_the_dtype_they_say(app, store, dtype, model_dtype):
    push = make_push(want_model=True, model_dtype=model_dtype)
    response = post_push(app, push, ones(value=0.3), dtype)
    header, weights = frame(response)
    sent = np.float32(0.3) if dtype == "float32" else np.float32(0.30078125)
    assert header["dtype"] == model_dtype
    assert np.all(weights_of(store) == 1 - sent)
    error = 2**-9 if model_dtype == "bfloat16" else 0
    assert np.all(np.abs(weights - weights_of(store)) <= error)
    head = wire.encode_answer(wire.decode_answer(header), wire.decode_model(header, weights))
    assert len(response.data) - len(head) == pytest.approx(
        wire.payload_size(LAYOUT.size, model_dtype), abs=2
    )


def test_pull_is_answered_in_the_dtype_it_asks_for_under_the_same_tag(app, store):
    store.apply(make_push(), ones(value=0.3))
    full = app.get("/api/v1/latest_model", headers=BEARER)
    half = app.get("/api/v1/latest_model", headers={**BEARER, "DDQ-Dtype": "bfloat16"})
    header, weights = frame(half)
    assert header["dtype"] == "bfloat16"
    assert np.all(weights == np.float32(0.69921875))
    assert len(full.data) - len(half.data) == 2 * LAYOUT.size - 1  # "bfloat16" is a letter longer
    assert full.headers["ETag"] == half.headers["ETag"]


@pytest.mark.parametrize(
    ("query", "headers"),
    [("", {"DDQ-Dtype": "float16"}), ("", {"DDQ-Dtype": ""}), ("?which=both", {})],
)
def test_pull_of_what_there_is_not_is_a_400(app, query, headers):
    response = app.get(f"/api/v1/latest_model{query}", headers={**BEARER, **headers})
    assert (response.status_code, problem(response)) == (400, "bad-request")
    assert "expected one of" in response.json["detail"]


@pytest.mark.parametrize("fields", [{"dtype": "float16"}, {"model_dtype": "float64"}])
def test_push_in_a_dtype_nobody_knows_is_a_400(app, store, fields):
    header = {**wire.push_fields(make_push()), **fields}
    body = wire.encode_header(header) + ones().tobytes()
    response = app.post("/api/v1/update_model", data=body, headers=BEARER)
    assert (response.status_code, problem(response)) == (400, "bad-request")
    assert store.version == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38])
def test_bfloat16_does_not_hide_what_is_not_finite(app, store, value):
    """3.4e38 is finite, and too large for a bfloat16."""
    response = post_push(app, make_push(), ones(value=value), "bfloat16")
    assert (response.status_code, problem(response)) == (422, "rejected")
    assert np.all(weights_of(store) == 1.0)


def test_payload_has_the_length_of_its_dtype(app, store):
    body = wire.encode_push(make_push(), "bfloat16") + ones().tobytes()
    response = app.post("/api/v1/update_model", data=body, headers=BEARER)
    assert (response.status_code, problem(response)) == (400, "bad-request")
    assert response.json["detail"].endswith("expected 16: 8 values of bfloat16")
    assert store.version == 0


@pytest.mark.parametrize("length", [2, 3, 1_000_000])  # as here, another, above the limit
def test_push_for_another_network_is_told_what_is_here_and_which_parameter_differs(app, length):
    other = Layout.from_entries([("conv1/0", (2, 3)), ("bias", (length,))])
    push = make_push(layout=other.digest)
    told = post_push(app, push, ones(other))
    assert (told.status_code, problem(told)) == (409, "wrong-layout")
    assert told.json["layout"] == LAYOUT.digest
    assert Layout.from_entries(told.json["entries"]) == LAYOUT
    named = post_push(app, replace(push, entries=other.entries), ones(other))
    assert named.json["detail"].endswith("conv1/1 (2,) is missing there")


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


def test_clear_begins_a_new_epoch(app, store):
    store.apply(make_push(), ones())
    assert app.post("/api/v1/clear_model", headers=BEARER).json == {
        "epoch": EPOCH + 1,
        "version": 0,
    }


def test_snapshot_says_where(app):
    assert app.post("/api/v1/snapshot", headers=BEARER).json["path"] == "there"


def test_worker_that_leaves_is_waited_for_no_more(app, store):
    store.apply(make_push(), ones())
    body = {"worker": "w0", "incarnation": "i0"}
    response = app.post("/api/v1/leave", json=body, headers=BEARER)
    assert (response.status_code, response.json) == (200, {})
    assert store._members.race() == {}


@pytest.mark.parametrize("body", [{}, {"worker": "w0"}, {"worker": 3, "incarnation": "i0"}])
def test_worker_that_leaves_says_who_it_is(app, body):
    response = app.post("/api/v1/leave", json=body, headers=BEARER)
    assert (response.status_code, problem(response)) == (400, "bad-request")


EVALUATION = {"version": 0, "return_mean": 3.5, "return_se": 0.25, "episodes": 30}


@pytest.mark.parametrize(("mean", "is_best"), [(3.5, True), (-1, False)])
def test_evaluation_is_noted_and_says_whether_it_is_the_best(app, mean, is_best):
    body = {**EVALUATION, "return_mean": mean}
    response = app.post("/api/v1/evaluation", json=body, headers=BEARER)
    assert response.json == {"best": is_best}


def test_evaluation_of_a_version_without_snapshot_is_a_404(app):
    response = app.post("/api/v1/evaluation", json={**EVALUATION, "version": 5}, headers=BEARER)
    assert (response.status_code, problem(response)) == (404, "no-snapshot")


@pytest.mark.parametrize(
    "change",
    [
        {"version": -1},
        {"version": 1.5},
        {"return_mean": None},
        {"return_mean": "high"},
        {"return_mean": 1e39},
        {"return_se": -0.1},
        {"episodes": 0},
    ],
)
def test_evaluation_out_of_range_is_a_400(app, change):
    response = app.post("/api/v1/evaluation", json={**EVALUATION, **change}, headers=BEARER)
    assert (response.status_code, problem(response)) == (400, "bad-request")
    assert next(iter(change)) in response.json["detail"]


@pytest.mark.parametrize(("peer", "turns"), [("127.0.0.1", 0), ("::1", 0), ("10.0.0.7", 1)])
def test_gradients_from_other_machines_come_in_turn(store, monkeypatch, peer, turns):
    service, taken = make_service(store), []

    @contextmanager
    def turn(_, size):
        taken.append(size)
        yield

    monkeypatch.setattr(service.receiving, "turn", turn)
    response = post_push(create_app(service).test_client(), make_push(), ones(), peer=peer)
    assert frame(response)[0]["status"] == "applied"
    assert taken == [4 * LAYOUT.size] * turns


def test_an_incident_is_shown(app):
    assert app.post("/api/v1/incident", json={"text": "it died"}, headers=BEARER).json == {}
    (shown,) = app.get("/api/v1/status_data", headers=HERE).json["incidents"]
    assert shown["text"] == "it died"
    assert "it died" in app.get("/current_status", headers=HERE).text


def test_another_run_does_not_see_the_incidents_of_the_last(app):
    for run, seen in (("r1", 0), ("r1", 1), ("r2", 0)):
        app.post("/api/v1/run", json={"run": run}, headers=BEARER)
        status = app.get("/api/v1/status_data", headers=HERE).json
        assert len(status["incidents"]) == seen
        app.post("/api/v1/incident", json={"text": "it died"}, headers=BEARER)
        if seen:
            app.delete("/api/v1/run", json={"run": run}, headers=BEARER)


@pytest.mark.parametrize("body", [{}, {"text": ""}, {"text": 7}, {"text": "x" * 513}])
def test_an_incident_without_words_or_with_too_many_is_a_400(app, body):
    response = app.post("/api/v1/incident", json=body, headers=BEARER)
    assert (response.status_code, problem(response)) == (400, "bad-request")


@pytest.mark.parametrize(
    "path", ["/api/v1/leave", "/api/v1/evaluation", "/api/v1/incident", "/api/v1/run"]
)
@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"[" * 4000, 400, "bad-request"),
        (b'{"version": ' + b"9" * 4000 + b"}", 400, "bad-request"),
        (b"\xff\xfe{", 400, "bad-request"),
        (b" " * 5000, 413, "too-large"),
    ],
)
def test_hostile_json_is_refused(app, path, body, status, kind):
    response = app.post(path, data=body, headers=BEARER)
    assert (response.status_code, problem(response)) == (status, kind)


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


def test_status_data_keeps_the_order_of_the_histogram(app):
    text = app.get("/api/v1/status_data", headers=HERE).data.decode()
    assert text.index('"7"') < text.index('"15"') < text.index('"more"')


def test_prototxt_has_what_a_worker_builds_its_net_from(app):
    document = app.get("/api/v1/prototxt", headers=BEARER).json
    assert document["layout"]["digest"] == LAYOUT.digest
    assert {"net", "solver", "solver_type", "game", "target_period"} <= document.keys()
