"""The routes of workers and drivers: pull, push, and the model's affairs.

Each decodes, calls the service, encodes.  Described in docs/protocol.md.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request

from param_server import wire
from param_server.answers import problem_response, the_service
from param_server.errors import BadRequest, LengthRequired, TooLarge
from param_server.page_routes import require_page

if TYPE_CHECKING:
    from param_server.service import Service
    from param_server.wire import Model

_log = logging.getLogger(__name__)

_TAG = re.compile(r'"(\d{1,19})-(target-)?(\d{1,19})"')

blueprint = Blueprint("model", __name__, url_prefix="/api/v1")


@blueprint.before_request
def _require_token() -> None:
    service = the_service()
    authorization = request.headers.get("Authorization")
    if request.endpoint == "model.status_data":
        require_page()
    else:
        service.access.require_token(authorization)
    run, worker = request.headers.get("DDQ-Run", ""), request.headers.get("DDQ-Worker", "")
    if run and service.access.holds_token(authorization):
        service.store.hear(run, worker)


@blueprint.get("/latest_model")
def latest_model() -> Response:
    """Answer the weights, or the target's, unless the reader has them."""
    service = the_service()
    with service.metrics.request_s.labels("latest_model").time():
        is_target = request.args.get("which") == "target"
        known = _known(is_target=is_target)
        model = service.pull(known, service.buffer(), target=is_target)
        if model is None:
            return Response(status=304)
        response = _frame(wire.encode_model(model), model)
        version = f"target-{model.target_version}" if is_target else str(model.version)
        response.headers["ETag"] = f'"{model.epoch}-{version}"'
        return response


@blueprint.post("/update_model")
def update_model() -> Response:
    """Take a push; answer the verdict, with the new weights if they were asked for."""
    service = the_service()
    with service.metrics.request_s.labels("update_model").time():
        gradient = service.buffer()
        header, length = wire.read_header(request.environ["wsgi.input"], _frame_length(service))
        push = wire.decode_push(header)
        wire.read_payload(request.environ["wsgi.input"], length, gradient)
        answer, model = service.push(push, gradient, out=gradient)
        if answer.status == "rejected":
            return problem_response(
                "rejected", 422, answer.reason, answer=wire.answer_fields(answer)
            )
        return _frame(wire.encode_answer(answer, model), model)


@blueprint.post("/clear_model")
def clear_model() -> dict[str, Any]:
    """Send the model back to version 0."""
    store = the_service().store
    store.clear(the_service().new_epoch())
    _log.warning("model cleared by %s, epoch %d", request.remote_addr, store.epoch)
    return {"epoch": store.epoch, "version": store.version}


@blueprint.post("/snapshot")
def snapshot() -> dict[str, Any]:
    """Write a snapshot now."""
    return the_service().snapshots.now()


@blueprint.get("/prototxt")
def prototxt() -> dict[str, Any]:
    """Answer the network, the solver and the layout."""
    return dict(the_service().prototxt)


@blueprint.post("/run")
def open_run() -> dict[str, Any]:
    """Bind the server to a run."""
    store = the_service().store
    store.open_run(_run_of_body())
    return {"run": store.run, "epoch": store.epoch, "version": store.version}


@blueprint.delete("/run")
def close_run() -> dict[str, Any]:
    """Unbind a run."""
    store = the_service().store
    store.close_run(_run_of_body())
    return {"run": store.run, "epoch": store.epoch, "version": store.version}


@blueprint.get("/status_data")
def status_data() -> dict[str, Any]:
    """Answer what the status page shows."""
    return the_service().status()


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
