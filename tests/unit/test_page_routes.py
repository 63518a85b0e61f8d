"""The pages: who may read them, and what they show."""

import json

import numpy as np
import pytest
from param_server.app import create_app
from param_server.live import MOST_VIEWERS
from param_server.snapshot import Folder
from param_server.wire import Layout

from tests.route_rig import BEARER, HERE, problem
from tests.server_rig import TOKEN, make_service
from tests.store_rig import Clock, make_push, make_store, ones

PAGES = [
    "/current_status", "/metrics", "/healthz", "/api/v1/status_data", "/api/v1/history", "/events",
    "/snapshots/100/model.caffemodel", "/static/dashboard.js", "/static/dashboard.css", "/",
]  # fmt: skip


@pytest.fixture
def store():
    store = make_store(game="catch", may_change_run=True)
    yield store
    store.check()


@pytest.fixture
def snapshots(tmp_path):
    """A folder with a snapshot of version 100."""
    folder = Folder(tmp_path / "snapshots")
    folder.prepare()

    def fill(path):
        (path / "model.caffemodel").write_bytes(b"weights" * 100_000)
        return {"epoch": 1, "version": 100}

    folder.write(fill)
    return folder


@pytest.fixture
def service(store, snapshots):
    return make_service(store, snapshots=snapshots.path)


@pytest.fixture
def app(service):
    return create_app(service).test_client()


@pytest.fixture
def public(store, snapshots):
    """The same server bound beyond loopback."""
    service = make_service(store, host="0.0.0.0", snapshots=snapshots.path)
    return create_app(service).test_client()


def status_of(app, path, headers):
    with app.get(path, headers=headers) as response:
        return response.status_code


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_open_on_loopback(app, path):
    assert status_of(app, path, HERE) in {200, 302}


@pytest.mark.parametrize("path", PAGES)
def test_pages_have_no_foreign_name(app, path):
    response = app.get(path, headers={"Host": "evil.example:5500"})
    assert (response.status_code, problem(response)) == (403, "wrong-host")


@pytest.mark.parametrize("path", PAGES)
def test_pages_need_the_token_beyond_loopback(public, path):
    assert status_of(public, path, HERE) == 401
    assert status_of(public, path, BEARER) in {200, 302}


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


def test_status_page_shows_where_training_stands(app, store):
    store.apply(make_push(episodes=(3.25,), stats={"epsilon": 0.75}), ones())
    store.apply(make_push(2), ones(value=np.nan))
    response = app.get("/current_status", headers=HERE)
    page = response.data.decode()
    for shown in ("catch", "r1", "w0", "rejected: non-finite", "conv1/0", "3.25", "0.5", "0.75"):
        assert f">{shown}<" in page
    assert 'http-equiv="refresh"' in page[page.index("<noscript>") : page.index("</noscript>")]


def test_pages_load_from_this_server_only(app, public):
    login = public.get("/current_status", headers={"Accept": "text/html"})
    for response in (app.get("/current_status", headers=HERE), login):
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        foreign = response.data.replace(b"http://www.w3.org/2000/svg", b"")  # a name, no address
        assert b"http://" not in foreign
        assert b"https://" not in foreign


def test_status_page_escapes_names(app, store):
    name = "<script>alert(1)</script>"
    store.apply(make_push(worker=name, run=name), ones())
    page = app.get("/current_status", headers=HERE).data.decode()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_status_page_of_an_idle_server_knows_nothing_yet(app):
    page = app.get("/current_status", headers=HERE).data.decode()
    assert ">none yet<" in page
    assert ">0 live<" in page
    assert 'id="resumed" hidden' in page


def test_lost_worker_is_marked():
    clock = Clock()
    store = make_store(clock=clock, lease_s=60.0)
    app = create_app(make_service(store)).test_client()
    store.apply(make_push(worker="w0"), ones())
    clock.now += 61
    store.apply(make_push(worker="w1"), ones())
    page = app.get("/current_status", headers=HERE).data.decode()
    of_w0, of_w1 = page[page.index('id="workers"') :].split("<tr ")[1:3]
    assert ">w0<" in of_w0
    assert 'class="lost"' in of_w0
    assert ">w1<" in of_w1
    assert 'class="lost"' not in of_w1
    assert ">1 live, 1 lost<" in page


def test_resumed_server_says_so(service, app):
    status = service.status
    origin = {"path": "logs/<old>", "version": 1200, "lost_updates": 3}
    service.status = lambda: {**status(), "resumed": origin}
    page = app.get("/current_status", headers=HERE).data.decode()
    assert "Resumed at version 1,200 from logs/&lt;old&gt;." in page
    assert "gone: 3." in page


def test_history_is_served_by_column(app, service):
    service.live.read_status()
    service.live.read_status()
    answer = app.get("/api/v1/history", headers=HERE)
    assert answer.json["columns"]["version"] == [0, 0]
    assert answer.headers["Cache-Control"] == "no-store"


def test_filters_are_not_there_without_a_convolution(app):
    response = app.get("/api/v1/filters", headers=HERE)
    assert (response.status_code, problem(response)) == (404, "not-found")


def test_filters_of_a_convolution_are_served():
    layout = Layout.from_entries([("conv1/0", (2, 1, 3, 3))])
    app = create_app(make_service(make_store(layout))).test_client()
    picture = app.get("/api/v1/filters", headers=HERE).json
    assert (picture["layer"], picture["shape"], picture["version"]) == ("conv1/0", [2, 1, 3, 3], 0)
    assert b"<canvas" in app.get("/current_status", headers=HERE).data


def test_events_are_the_status_as_it_goes(app, service):
    service.live.read_status()
    response = app.get("/events", headers=HERE)
    assert response.content_type == "text/event-stream; charset=utf-8"
    assert response.content_length is None
    parts = iter(response.response)
    assert next(parts) == b"retry: 1000\n\n"
    assert json.loads(next(parts).removeprefix(b"data: "))["version"] == 0
    assert service.live.viewers == 1
    response.close()
    assert service.live.viewers == 0


def test_question_about_the_events_is_no_viewer(app, service):
    with app.head("/events", headers=HERE) as response:
        assert response.status_code == 200
    assert service.live.viewers == 0


def test_one_viewer_too_many_is_told_to_come_again(app):
    viewers = [app.get("/events", headers=HERE) for _ in range(MOST_VIEWERS)]
    response = app.get("/events", headers=HERE)
    assert (response.status_code, problem(response)) == (503, "too-many-viewers")
    assert response.headers["Retry-After"]
    for viewer in viewers:
        viewer.close()


def test_snapshots_are_downloads(app, snapshots):
    with app.get("/snapshots/100/model.caffemodel", headers=HERE) as response:
        content = response.data
    assert content == b"weights" * 100_000
    assert response.content_length == 700_000
    assert response.headers["Content-Disposition"] == "attachment; filename=100-model.caffemodel"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    page = app.get("/current_status", headers=HERE).data
    assert b'href="/snapshots/100/model.caffemodel"' in page
    assert b">700.2 kB<" in page  # with its manifest


@pytest.mark.parametrize(
    "path",
    [
        "100/secret", "101/model.caffemodel", "100/../../secret", "100/%2e%2e%2f%2e%2e%2fsecret",
        "../secret", "100/", "100", "", "100//etc/passwd", "100/model.caffemodel/",
    ],
)  # fmt: skip
def test_nothing_else_is_a_download(app, snapshots, path):
    (snapshots.path.parent / "secret").write_text("secret")
    (snapshots.path / "100" / "secret").write_text("secret")
    response = app.get(f"/snapshots/{path}", headers=HERE)
    assert (response.status_code, problem(response)) == (404, "not-found")


@pytest.mark.parametrize("name", ["dashboard.js", "chart.js", "format.js", "filters.js"])
def test_scripts_are_served_as_such(app, name):
    response = app.get(f"/static/{name}", headers=HERE)
    assert "javascript" in response.content_type  # a browser runs a module of no other type
    assert response.headers["ETag"]
    response.close()


@pytest.mark.parametrize("path", ["nothing.js", "../page_routes.py", "%2e%2e/page_routes.py", ""])
def test_nothing_else_is_static(app, path):
    assert app.get(f"/static/{path}", headers=HERE).status_code == 404
