"""The pages: open on loopback, elsewhere to those who have logged in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, redirect, render_template, request

from param_server.access import COOKIE
from param_server.answers import the_service

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as AnyResponse

_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"

blueprint = Blueprint("pages", __name__)


@blueprint.before_request
def _require_page() -> None:
    if request.endpoint != "pages.login":
        require_page()


def require_page() -> None:
    """Let only those pass who may read pages.

    Raises:
        Unauthorized, WrongHost: See ``Access.require_page``.
    """
    the_service().access.require_page(
        authorization=request.headers.get("Authorization"),
        cookie=request.cookies.get(COOKIE),
        host=request.headers.get("Host"),
    )


@blueprint.get("/")
def index() -> AnyResponse:
    """Lead to the status page."""
    return redirect("/current_status")


@blueprint.get("/current_status")
def current_status() -> Response:
    """Show where training stands."""
    return page("status.html", status=the_service().status())


@blueprint.post("/login")
def login() -> AnyResponse:
    """Turn the token into a cookie for the pages."""
    access = the_service().access
    if not access.is_token(request.form.get("token", "").strip()):
        return page("login.html", status_code=401, failed=True)
    response = redirect("/current_status", code=303)
    response.set_cookie(COOKIE, access.cookie(), httponly=True, samesite="Strict")
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
