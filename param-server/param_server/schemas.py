"""What the bodies of requests and answers look like, as JSON Schema of 2020-12.

Objects may have more members than are described: a later version adds some, and readers pass over
what they do not know.
"""

from __future__ import annotations

from typing import Any

from param_server import alarms, incidents, wire
from param_server.errors import PROBLEM_PREFIX

Json = dict[str, Any]

COUNT: Json = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
TEXT: Json = {"type": "string", "maxLength": 256}
_POSITIVE = {**COUNT, "minimum": 1}
_FLAG = {"type": "boolean"}
_NUMBER = {"type": "number"}
_NUMBER_OR_NULL = {"type": ["number", "null"]}
_DTYPE = {"enum": [*wire.DTYPES]}
_ANYTHING: Json = {}


def reference(name: str) -> Json:
    """Return a reference to one of the schemas below."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(_required: Json, **optional: Json) -> Json:
    properties = {**_required, **optional}
    return {"type": "object", "required": [*_required], "properties": properties}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _map(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values}


_MODEL = {
    "epoch": COUNT,
    "version": COUNT,
    "target_version": COUNT,
    "layout": TEXT,
    "counters": reference("Counters"),
}
_VERDICT = {
    "status": {"enum": ["applied", "gathered", "late", "duplicate", "rejected"]},
    "reason": {"type": "string", "maxLength": 4096},
    "epoch": COUNT,
    "version": COUNT,
    "durable_version": COUNT,
    "target_version": COUNT,
    "counters": reference("Counters"),
    "round_over": _FLAG,
    "staleness": COUNT,
}

SCHEMAS: dict[str, Json] = {
    # -- headers of frames
    "Push": _object(
        {
            "kind": {"const": "push"},
            "dtype": _DTYPE,
            "run": {**TEXT, "minLength": 1},
            "worker": TEXT,
            "incarnation": TEXT,
            "sequence": _POSITIVE,
            "epoch": COUNT,
            "version": COUNT,
            "layout": TEXT,
            "round": COUNT,
            "partition": COUNT,
            "quota": COUNT,
            "loss": _NUMBER_OR_NULL,
            "steps": {**COUNT, "maximum": wire.STEPS_LIMIT},
            "episodes": _list(_NUMBER),
            "episode_lengths": _list(COUNT),
            "stats": _map(_NUMBER_OR_NULL),
            "want_model": _FLAG,
        },
        model_dtype={**_DTYPE, "default": wire.DTYPE},
        entries=reference("Entries"),
    ),
    "Answer": _object(
        {
            "kind": {"const": "answer"},
            "dtype": _DTYPE,
            **_VERDICT,
            "model": {"oneOf": [{"type": "null"}, _object(_MODEL)]},
        }
    ),
    "Model": _object({"kind": {"const": "model"}, "dtype": _DTYPE, **_MODEL}),
    # -- their parts
    "Counters": _object({"steps": COUNT, "episodes": COUNT, "updates": COUNT}),
    "Verdict": _object(_VERDICT),
    "Entries": _list(
        {
            "description": "a parameter's name and shape",
            "type": "array",
            "prefixItems": [TEXT, {**_list(_POSITIVE), "maxItems": 32}],
            "minItems": 2,
            "maxItems": 2,
        }
    ),
    # -- requests
    "Leave": _object({"worker": TEXT, "incarnation": TEXT}),
    "Evaluation": _object(
        {
            "version": COUNT,
            "return_mean": _NUMBER,
            "return_se": {"type": "number", "minimum": 0},
            "episodes": _POSITIVE,
        }
    ),
    "Incident": _object(
        {"text": {"type": "string", "minLength": 1, "maxLength": incidents.TEXT_LIMIT}}
    ),
    "Run": _object({"run": {**TEXT, "minLength": 1}}),
    # -- answers
    "Best": _object({"best": _FLAG}),
    "Place": _object({"epoch": COUNT, "version": COUNT}),
    "RunPlace": _object({"run": TEXT, "epoch": COUNT, "version": COUNT}),
    "Snapshot": _object({"path": {"type": "string"}, "epoch": COUNT, "version": COUNT}),
    "Prototxt": _object(
        {
            "net": {"type": "string"},
            "solver": {"type": "string"},
            "solver_type": {"type": "string"},
            "layout": _object({"digest": TEXT, "entries": reference("Entries")}),
            "game": {"type": "string"},
            "target_period": _POSITIVE,
        },
        same_host={"type": "string"},
    ),
    "Health": _object({"ok": _FLAG, "pid": _POSITIVE, "layout": TEXT, "epoch": COUNT}),
    "Status": _object(
        {
            "version": COUNT,
            "epoch": COUNT,
            "durable_version": COUNT,
            "target_version": COUNT,
            "target_period": _POSITIVE,
            "run": TEXT,
            "game": {"type": "string"},
            "layout": TEXT,
            "staleness_policy": {"type": "string"},
            "in_step": _FLAG,
            "steps": COUNT,
            "episodes": COUNT,
            "updates_per_s": _NUMBER,
            "loss": _NUMBER_OR_NULL,
            "return_mean": _NUMBER_OR_NULL,
            "return_se": _NUMBER_OR_NULL,
            "return_largest": _NUMBER_OR_NULL,
            "staleness": _map(COUNT),
            "staleness_mean": _NUMBER,
            "rejected": _map(COUNT),
            "judged": _object({"count": COUNT, "rejected": COUNT}),
            "late": COUNT,
            "duplicates": COUNT,
            "gathered": COUNT,
            "stats": _map(_NUMBER_OR_NULL),
            "worker_s": _map(_NUMBER),
            "alarms": _list(
                _object(
                    {
                        "name": {"enum": [*alarms.NAMES]},
                        "text": {"type": "string"},
                        "since_s": _NUMBER,
                    }
                )
            ),
            "incidents": _list(_object({"time": _NUMBER, "text": {"type": "string"}})),
            "workers": _map(
                _object(
                    {
                        "incarnation": TEXT,
                        "last_contact_s": _NUMBER,
                        "pushes": COUNT,
                        "lost": _FLAG,
                    }
                )
            ),
            "uptime_s": _NUMBER,
            "lr": _NUMBER,
            "snapshots": _object({}, folder=_ANYTHING, last_version=_ANYTHING, error=_ANYTHING),
        }
    ),
    "History": _object(
        {
            "epoch": {"type": ["integer", "null"]},
            "stride": _POSITIVE,
            "columns": _map(_list(_NUMBER_OR_NULL)),
        }
    ),
    "Filters": _object(
        {
            "version": COUNT,
            "layer": TEXT,
            "shape": _list(COUNT),
            "pixels": {"type": "string", "contentEncoding": "base64"},
        }
    ),
}


def problem(kinds: list[str]) -> Json:
    """Return the schema of problem documents (RFC 9457) of these kinds."""
    return _object(
        {
            "type": {"enum": [PROBLEM_PREFIX + kind for kind in kinds]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
        run=TEXT,
        epoch=COUNT,
        version=COUNT,
        layout=TEXT,
        entries=reference("Entries"),
        answer=reference("Verdict"),
    )
