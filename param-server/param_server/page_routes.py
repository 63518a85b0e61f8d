"""The pages: open on loopback, elsewhere to those who have logged in.

Everything a page loads comes from this server, under the same rule as the page itself.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO

from flask import Blueprint, Response, abort, jsonify, redirect, render_template, request

from param_server import formats
from param_server.access import COOKIE, recognise
from param_server.answers import the_service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from werkzeug.wrappers import Response as AnyResponse

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_CHUNK_BYTES = 1 << 18

blueprint = Blueprint("pages", __name__, static_folder="static", static_url_path="/static")


@blueprint.before_request
def _require_page() -> None:
    if request.endpoint != "pages.login":
        require_page()


def require_page() -> None:
    """Let only those pass who may read pages.

    Raises:
        Unauthorized, WrongHost: See ``Access.require_page``.
        Crowded: See ``recognise``.
    """
    has_shown_token = the_service().access.require_page(
        authorization=request.headers.get("Authorization"),
        cookie=request.cookies.get(COOKIE),
        host=request.headers.get("Host"),
    )
    if has_shown_token:
        recognise(request.environ)


@blueprint.get("/")
def index() -> AnyResponse:
    """Lead to the dashboard."""
    return redirect("/current_status")


@blueprint.get("/current_status")
def current_status() -> Response:
    """Show where training stands: whole without scripts, alive with them."""
    service = the_service()
    return page(
        "status.html",
        status=service.status(),
        has_filters=service.filters.exist,
        show=formats.show,
        find=formats.find,
        pace_of=formats.pace_of,
        refusals=formats.refusals,
        census=formats.census,
        split=formats.split,
    )


@blueprint.post("/login")
def login() -> AnyResponse:
    """Turn the token into a cookie for the pages."""
    access = the_service().access
    if not access.is_token(request.form.get("token", "").strip()):
        return page("login.html", status_code=401, failed=True)
    response = redirect("/current_status", code=303)
    response.set_cookie(
        COOKIE, access.cookie(), secure=request.is_secure, httponly=True, samesite="Strict"
    )
    return response


@blueprint.get("/events")
def events() -> Response:
    """Send the status as it goes, as server-sent events.

    Raises:
        TooManyViewers, Draining: See ``Live.watch``.
    """
    stream = the_service().live.watch()
    response = Response(stream, content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.get("/api/v1/history")
def history() -> Response:
    """Answer the run so far, for the curves."""
    return document(the_service().live.history())


@blueprint.get("/api/v1/filters")
def filters() -> Response:
    """Answer the first layer's filters as pictures."""
    picture = the_service().filters.picture()
    if picture is None:
        abort(404, "no parameter of this network has four dimensions")
    return document(picture)


@blueprint.get("/snapshots/<name>/<file>")
def snapshot_file(name: str, file: str) -> Response:
    """Answer a file of a snapshot, to be saved."""
    opened = the_service().downloads.open(name, file)
    if opened is None:
        abort(404, "there is no such snapshot, or no such file in it")
    content, size = opened
    response = Response(_chunks(content), mimetype="application/octet-stream")
    response.call_on_close(content.close)
    response.content_length = size
    response.headers.set("Content-Disposition", "attachment", filename=f"{name}-{file}")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.get("/metrics")
def metrics() -> Response:
    """Answer the Prometheus page."""
    return Response(the_service().metrics.page(), content_type="text/plain; version=0.0.4")


@blueprint.get("/healthz")
def healthz() -> dict[str, Any]:
    """Say that the server lives, and which it is."""
    store = the_service().store
    return {"ok": True, "pid": os.getpid(), "layout": store.layout.digest, "epoch": store.epoch}


def page(template: str, *, status_code: int = 200, **values: Any) -> Response:
    """Return a template as a page that loads nothing from elsewhere."""
    response = Response(render_template(template, **values), status=status_code)
    response.headers["Content-Security-Policy"] = _PAGE_POLICY
    response.headers["Cache-Control"] = "no-store"
    return response


def document(content: dict[str, Any]) -> Response:
    """Return JSON that no cache keeps."""
    response = jsonify(content)
    response.headers["Cache-Control"] = "no-store"
    return response


def _chunks(content: BinaryIO) -> Iterator[bytes]:
    """Yield a file in pieces that are large enough to go out as they are."""
    while chunk := content.read(_CHUNK_BYTES):
        yield chunk
