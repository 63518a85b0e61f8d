"""What all routes share: the service behind the application, and refusals as problem JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response, current_app

from param_server.errors import problem

if TYPE_CHECKING:
    from param_server.service import Service


def the_service() -> Service:
    """Return the service of the application that handles this request."""
    service: Service = current_app.extensions["ddq"]
    return service


def problem_response(kind: str, status: int, detail: str, **members: Any) -> Response:
    """Return a problem document of this protocol as a response."""
    return document_response(problem(kind, status, detail, **members))


def document_response(document: dict[str, Any]) -> Response:
    """Return a problem document as a response with its status."""
    text = current_app.json.dumps(document)
    return Response(text, status=document["status"], mimetype="application/problem+json")
