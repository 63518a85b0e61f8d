"""The routes of workers and drivers: pull, push, and the model's affairs.

Each decodes, calls the service, encodes.  Described in docs/protocol.md.
"""

from __future__ import annotations

import logging
import re
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request

from param_server import openapi, wire
from param_server.access import is_loopback, recognise
from param_server.answers import problem_response, the_service
from param_server.errors import BadRequest, LengthRequired, TooLarge
from param_server.fields import Fields, decode_object
from param_server.incidents import TEXT_LIMIT
from param_server.page_routes import require_page

if TYPE_CHECKING:
    from param_server.service import Service
    from param_server.wire import Float32, Model, Push

_log = logging.getLogger(__name__)

_TAG = re.compile(r'"([0-9]{1,19})-(target-)?([0-9]{1,19})"')
_LOOKED_INTO_BYTES = 1 << 30  # a longer body is refused without a look at its header
_OPEN_AS_PAGES = ("model.status_data", "model.description")

blueprint = Blueprint("model", __name__, url_prefix="/api/v1")


@blueprint.before_request
def _require_token() -> None:
    service = the_service()
    authorization = request.headers.get("Authorization")
    if request.endpoint in _OPEN_AS_PAGES:
        require_page()
    else:
        service.access.require_token(authorization)
        recognise(request.environ)
    run, worker = request.headers.get("DDQ-Run", ""), request.headers.get("DDQ-Worker", "")
    if run and service.access.holds_token(authorization):
        service.store.hear(run, worker)


@blueprint.get("/latest_model")
def latest_model() -> Response:
    """Answer the weights, or the target's, unless the reader has them."""
    service = the_service()
    with service.metrics.request_s.labels("latest_model").time():
        choices = ("weights", "target")
        is_target = Fields(request.args).one_of("which", choices, default="weights") == "target"
        asked = {"DDQ-Dtype": request.headers.get("DDQ-Dtype", wire.DTYPE)}
        dtype = Fields(asked).one_of("DDQ-Dtype", wire.DTYPES)
        known = _known(is_target=is_target)
        model = service.pull(known, service.buffer(), target=is_target)
        if model is None:
            return Response(status=304)
        response = _frame(wire.encode_model(model, dtype), model, dtype)
        version = f"target-{model.target_version}" if is_target else str(model.version)
        response.headers["ETag"] = f'"{model.epoch}-{version}"'
        return response


@blueprint.post("/update_model")
def update_model() -> Response:
    """Take a push; answer the verdict, with the new weights if they were asked for."""
    service = the_service()
    with service.metrics.request_s.labels("update_model").time():
        gradient = service.buffer()
        push = _read_push(service, gradient)
        answer, model = service.push(push, gradient, out=gradient)
        if answer.status == "rejected":
            return problem_response(
                "rejected", 422, answer.reason, answer=wire.answer_fields(answer)
            )
        dtype = push.model_dtype
        return _frame(wire.encode_answer(answer, model, dtype), model, dtype)


@blueprint.post("/leave")
def leave() -> dict[str, Any]:
    """Note that a worker pushes no more for now, so that nobody waits for it."""
    fields = _fields()
    the_service().store.leave(fields.text("worker"), fields.text("incarnation"))
    return {}


@blueprint.post("/clear_model")
def clear_model() -> dict[str, Any]:
    """Send the model back to version 0."""
    store = the_service().store
    the_service().clear()
    _log.warning("model cleared by %s, epoch %d", request.remote_addr, store.epoch)
    return {"epoch": store.epoch, "version": store.version}


@blueprint.post("/snapshot")
def snapshot() -> dict[str, Any]:
    """Write a snapshot now."""
    return the_service().snapshots.now()


@blueprint.post("/evaluation")
def evaluation() -> dict[str, Any]:
    """Note how good a snapshot's weights play: the best one is kept."""
    fields = _fields()
    is_best = the_service().snapshots.mark_evaluated(
        fields.integer("version"),
        return_mean=fields.finite_number("return_mean"),
        return_se=fields.finite_number("return_se", at_least=0.0),
        episodes=fields.integer("episodes", at_least=1),
    )
    return {"best": is_best}


@blueprint.post("/incident")
def incident() -> dict[str, Any]:
    """Note what has happened to a run's processes, for whoever looks at the dashboard."""
    the_service().incidents.add(_fields().text("text", at_least=1, limit=TEXT_LIMIT))
    return {}


@blueprint.get("/prototxt")
def prototxt() -> dict[str, Any]:
    """Answer the network, the solver and the layout."""
    return dict(the_service().prototxt)


@blueprint.post("/run")
def open_run() -> dict[str, Any]:
    """Bind the server to a run."""
    store, before = the_service().store, the_service().store.run
    store.open_run(_run_of_body())
    if store.run != before:
        the_service().incidents.clear()
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


@blueprint.get("/openapi.json")
def description() -> dict[str, Any]:
    """Answer the description of all routes."""
    return openapi.DOCUMENT


def _known(*, is_target: bool) -> tuple[int, int] | None:
    match = _TAG.fullmatch(request.headers.get("If-None-Match", ""))
    if match is None or bool(match[2]) != is_target:
        return None
    return int(match[1]), int(match[3])


def _read_push(service: Service, gradient: Float32) -> Push:
    """Read the request's frame, its payload into ``gradient``.

    The gradient of another network has another length as a rule.  Its worker is told which
    parameter differs, before its length is complained of.

    Raises:
        BadRequest, LengthRequired, TooLarge, LayoutMismatch: If it is no push of this network.
    """
    body, text = request.environ["wsgi.input"], request.environ.get("CONTENT_LENGTH", "")
    if not text or "HTTP_TRANSFER_ENCODING" in request.environ:
        raise LengthRequired("a push needs a Content-Length and no Transfer-Encoding")
    layout, length = service.store.layout, int(text)
    largest = wire.PREFIX.size + wire.HEADER_LIMIT_BYTES + wire.payload_size(layout.size)
    too_large = TooLarge(f"the body has {length} bytes, a push of this network at most {largest}")
    if length > max(largest, _LOOKED_INTO_BYTES):
        raise too_large
    try:
        header, rest = wire.read_header(body, length)
        push, dtype = wire.decode_push(header), wire.payload_dtype(header)
        if rest != wire.payload_size(layout.size, dtype) and push.layout != layout.digest:
            raise layout.mismatch(push.layout, push.entries)
        # Turns are for links; what comes from this machine has none to share.
        is_near = is_loopback(request.remote_addr or "")
        with nullcontext() if is_near else service.receiving.turn(body, rest):
            wire.read_payload(body, rest, gradient, dtype)
    except BadRequest:
        if length > largest:
            raise too_large from None
        raise
    return push


def _run_of_body() -> str:
    return _fields().text("run", at_least=1)


def _fields() -> Fields:
    return Fields(decode_object(request.get_data(cache=False)))


def _frame(header: bytes, model: Model | None, dtype: str) -> Response:
    parts: list[Any] = [header]
    if model is not None:
        parts.append(wire.payload_bytes(model.weights, dtype))
    return Response(parts, mimetype=wire.MEDIA_TYPE)
