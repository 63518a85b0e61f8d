"""The routes: HTTP around the store, and nothing else.

Each route checks who asks, decodes, calls the store, encodes.  Refusals are exceptions, and leave
as problem JSON.  The routes are described in docs/protocol.md.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from flask import Blueprint, Flask, Response, current_app, redirect, render_template, request
from werkzeug.exceptions import HTTPException

from param_server import wire
from param_server.access import COOKIE, Access
from param_server.errors import (
    BadRequest,
    LengthRequired,
    Refused,
    SnapshotFailed,
    TooLarge,
    Unauthorized,
    problem,
)
from param_server.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from werkzeug.wrappers import Response as AnyResponse

    from param_server.store import Store
    from param_server.wire import Float32, Model

_log = logging.getLogger(__name__)

_TAG = re.compile(r'"(\d{1,19})-(target-)?(\d{1,19})"')
_FORM_LIMIT_BYTES = 4096
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"


class Snapshots(Protocol):
    """Whatever writes snapshots."""

    def now(self) -> dict[str, Any]:
        """Write one and return its path, epoch and version."""


class Service:
    """What the routes need; one for each application."""

    def __init__(
        self,
        store: Store,
        *,
        access: Access,
        snapshots: Snapshots,
        prototxt: Mapping[str, Any],
        status: Callable[[], dict[str, Any]],
        new_epoch: Callable[[], int],
    ) -> None:
        self.store = store
        self.access = access
        self.snapshots = snapshots
        self.prototxt = prototxt
        self.status = status
        self.new_epoch = new_epoch
        self.metrics = Metrics(status)
        self._local = threading.local()

    def buffer(self) -> Float32:
        """Return this thread's float32 [P], for a payload on its way in or out."""
        buffer: Float32 | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = np.empty(self.store.layout.size, np.float32)
        return buffer


def create_app(service: Service) -> Flask:
    """Return the application around one service."""
    app = Flask(__name__)
    app.extensions["ddq"] = service
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of the default provider
    app.config["MAX_CONTENT_LENGTH"] = _FORM_LIMIT_BYTES  # of what Flask itself reads
    app.register_blueprint(_model)
    app.register_blueprint(_pages)
    app.register_error_handler(Refused, _answer_refused)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(SnapshotFailed, _answer_snapshot_failed)
    app.register_error_handler(Exception, _answer_failure)
    return app


def _service() -> Service:
    service: Service = current_app.extensions["ddq"]
    return service


# -- the model routes: always with the token

_model = Blueprint("model", __name__, url_prefix="/api/v1")


@_model.before_request
def _require_token() -> None:
    service = _service()
    authorization = request.headers.get("Authorization")
    if request.endpoint == "model.status_data":
        _require_page()
    else:
        service.access.require_token(authorization)
    run, worker = request.headers.get("DDQ-Run", ""), request.headers.get("DDQ-Worker", "")
    if run and service.access.holds_token(authorization):
        service.store.hear(run, worker)


@_model.get("/latest_model")
def latest_model() -> Response:
    """Answer the weights, or the target's, unless the reader has them."""
    service = _service()
    with service.metrics.request_s.labels("latest_model").time():
        is_target = request.args.get("which") == "target"
        read = service.store.read_target if is_target else service.store.read
        model = read(_known(is_target=is_target), out=service.buffer())
        if model is None:
            return Response(status=304)
        response = _frame(wire.encode_model(model), model)
        version = f"target-{model.target_version}" if is_target else str(model.version)
        response.headers["ETag"] = f'"{model.epoch}-{version}"'
        return response


@_model.post("/update_model")
def update_model() -> Response:
    """Take a push; answer the verdict, with the new weights if they were asked for."""
    service = _service()
    with service.metrics.request_s.labels("update_model").time():
        gradient = service.buffer()
        header, length = wire.read_header(request.environ["wsgi.input"], _frame_length(service))
        push = wire.decode_push(header)
        wire.read_payload(request.environ["wsgi.input"], length, gradient)
        if push.want_model:
            answer, model = service.store.exchange(push, gradient, out=gradient)
        else:
            answer, model = service.store.apply(push, gradient), None
        if answer.status == "rejected":
            return _problem("rejected", 422, answer.reason, answer=wire.answer_fields(answer))
        return _frame(wire.encode_answer(answer, model), model)


@_model.post("/clear_model")
def clear_model() -> dict[str, Any]:
    """Send the model back to version 0."""
    store = _service().store
    store.clear(_service().new_epoch())
    _log.warning("model cleared by %s, epoch %d", request.remote_addr, store.epoch)
    return {"epoch": store.epoch, "version": store.version}


@_model.post("/snapshot")
def snapshot() -> dict[str, Any]:
    """Write a snapshot now."""
    return _service().snapshots.now()


@_model.get("/prototxt")
def prototxt() -> dict[str, Any]:
    """Answer the network, the solver and the layout."""
    return dict(_service().prototxt)


@_model.post("/run")
def open_run() -> dict[str, Any]:
    """Bind the server to a run."""
    store = _service().store
    store.open_run(_run_of_body())
    return {"run": store.run, "epoch": store.epoch, "version": store.version}


@_model.delete("/run")
def close_run() -> dict[str, Any]:
    """Unbind a run."""
    store = _service().store
    store.close_run(_run_of_body())
    return {"run": store.run, "epoch": store.epoch, "version": store.version}


@_model.get("/status_data")
def status_data() -> dict[str, Any]:
    """Answer what the status page shows."""
    return _service().status()


# -- the pages: open on loopback

_pages = Blueprint("pages", __name__)


@_pages.before_request
def _require_page() -> None:
    if request.endpoint == "pages.login":
        return
    _service().access.require_page(
        authorization=request.headers.get("Authorization"),
        cookie=request.cookies.get(COOKIE),
        host=request.headers.get("Host"),
    )


@_pages.get("/")
def index() -> AnyResponse:
    """Lead to the status page."""
    return redirect("/current_status")


@_pages.get("/current_status")
def current_status() -> Response:
    """Show where training stands."""
    return _page("status.html", status=_service().status())


@_pages.post("/login")
def login() -> AnyResponse:
    """Turn the token into a cookie for the pages."""
    access = _service().access
    if not access.is_token(request.form.get("token", "").strip()):
        return _page("login.html", status_code=401, failed=True)
    response = redirect("/current_status", code=303)
    response.set_cookie(COOKIE, access.cookie(), httponly=True, samesite="Strict")
    return response


@_pages.get("/metrics")
def metrics() -> Response:
    """Answer the Prometheus page."""
    return Response(_service().metrics.page(), content_type="text/plain; version=0.0.4")


@_pages.get("/healthz")
def healthz() -> dict[str, Any]:
    """Say that the server lives, and which it is."""
    store = _service().store
    return {"ok": True, "pid": os.getpid(), "layout": store.layout.digest, "epoch": store.epoch}


# -- refusals and failures


def _answer_refused(error: Refused) -> Response:
    _service().metrics.refused.labels(error.kind).inc()
    is_page = request.blueprint == "pages" and request.accept_mimetypes.accept_html
    if isinstance(error, Unauthorized) and is_page and request.path == "/current_status":
        response = _page("login.html", status_code=401, failed=False)
    else:
        response = _problem_document(error.problem())
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="ddq"'
    if error.status == 503:
        response.headers["Retry-After"] = "1"
    return response


def _answer_http_error(error: HTTPException) -> Response | HTTPException:
    if error.code is None or error.code < 400:
        return error
    kind = (error.name or "error").lower().replace(" ", "-")
    _service().metrics.refused.labels(kind).inc()
    return _problem(kind, error.code, error.description or error.name)


def _answer_snapshot_failed(error: SnapshotFailed) -> Response:
    return _problem("snapshot-failed", 507, str(error))


def _answer_failure(error: Exception) -> Response:
    """Answer what nobody foresaw: log it whole, tell the client nothing of it."""
    if current_app.testing:
        raise error
    _service().metrics.failures.inc()
    _log.error("%s %s failed", request.method, request.path, exc_info=error)
    return _problem("failed", 500, "the server failed at this request; its log says why")


# -- encoding


def _known(*, is_target: bool) -> tuple[int, int] | None:
    match = _TAG.fullmatch(request.headers.get("If-None-Match", ""))
    if match is None or bool(match[2]) != is_target:
        return None
    return int(match[1]), int(match[3])


def _frame_length(service: Service) -> int:
    """Return a push's Content-Length, refusing what no push of this network can have."""
    length = request.environ.get("CONTENT_LENGTH", "")
    if not length or "HTTP_TRANSFER_ENCODING" in request.environ:
        raise LengthRequired("a push needs a Content-Length and no Transfer-Encoding")
    largest = wire.PREFIX.size + wire.HEADER_LIMIT_BYTES + 4 * service.store.layout.size
    if int(length) > largest:
        raise TooLarge(f"the body has {length} bytes, a push of this network at most {largest}")
    return int(length)


def _run_of_body() -> str:
    document = request.get_json(silent=True)
    run = document.get("run") if isinstance(document, dict) else None
    if not isinstance(run, str) or not 0 < len(run) <= 256:
        raise BadRequest('expected {"run": "NAME"}')
    return run


def _frame(header: bytes, model: Model | None) -> Response:
    parts: list[Any] = [header]
    if model is not None:
        parts.append(wire.payload_bytes(model.weights))
    return Response(parts, mimetype=wire.MEDIA_TYPE)


def _page(template: str, *, status_code: int = 200, **values: Any) -> Response:
    response = Response(render_template(template, **values), status=status_code)
    response.headers["Content-Security-Policy"] = _PAGE_POLICY
    response.headers["Cache-Control"] = "no-store"
    return response


def _problem(kind: str, status: int, detail: str, **members: Any) -> Response:
    return _problem_document(problem(kind, status, detail, **members))


def _problem_document(document: dict[str, Any]) -> Response:
    text = current_app.json.dumps(document)
    return Response(text, status=document["status"], mimetype="application/problem+json")
