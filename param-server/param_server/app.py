"""The Flask application: the routes joined, and what becomes of refusals and failures.

Refusals are exceptions, and leave as problem JSON.  The routes are in ``model_routes`` and
``page_routes``; they are described in docs/protocol.md.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException

from param_server import model_routes, page_routes
from param_server.answers import document_response, problem_response, the_service
from param_server.errors import JournalFailed, Refused, SnapshotFailed, Unauthorized

if TYPE_CHECKING:
    from param_server.service import Service

_log = logging.getLogger(__name__)

_FORM_LIMIT_BYTES = 4096


def create_app(service: Service) -> Flask:
    """Return the application around one service."""
    app = Flask(__name__, static_folder=None)  # the pages have one, behind their rule
    app.extensions["ddq"] = service
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of the default provider
    app.config["MAX_CONTENT_LENGTH"] = _FORM_LIMIT_BYTES  # of what Flask itself reads
    app.register_blueprint(model_routes.blueprint)
    app.register_blueprint(page_routes.blueprint)
    app.register_error_handler(Refused, _answer_refused)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(SnapshotFailed, _answer_snapshot_failed)
    app.register_error_handler(JournalFailed, _answer_journal_failed)
    app.register_error_handler(Exception, _answer_failure)
    return app


def _answer_refused(error: Refused) -> Response:
    the_service().metrics.refused.labels(error.kind).inc()
    is_page = request.blueprint == "pages" and request.accept_mimetypes.accept_html
    if isinstance(error, Unauthorized) and is_page and request.path == "/current_status":
        response = page_routes.page("login.html", status_code=401, failed=False)
    else:
        response = document_response(error.problem())
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="ddq"'
    if error.status in {425, 503}:
        response.headers["Retry-After"] = "1"
    return response


def _answer_http_error(error: HTTPException) -> Response | HTTPException:
    if error.code is None or error.code < 400:
        return error
    kind = "too-large" if error.code == 413 else (error.name or "error").lower().replace(" ", "-")
    the_service().metrics.refused.labels(kind).inc()
    return problem_response(kind, error.code, error.description or error.name)


def _answer_snapshot_failed(error: SnapshotFailed) -> Response:
    return problem_response("snapshot-failed", 507, str(error))


def _answer_journal_failed(error: JournalFailed) -> Response:
    return problem_response("journal-failed", 507, str(error))


def _answer_failure(error: Exception) -> Response:
    """Answer what nobody foresaw: log it whole, tell the client nothing of it."""
    if current_app.testing:
        raise error
    the_service().metrics.failures.inc()
    _log.error("%s %s failed", request.method, request.path, exc_info=error)
    return problem_response("failed", 500, "the server failed at this request; its log says why")
