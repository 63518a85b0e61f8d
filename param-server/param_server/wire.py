"""What travels between a worker and the server: frames, and the messages inside them.

A frame is the four bytes ``DDQ1``, the header's length as a little-endian uint32, the header as
UTF-8 JSON, and a payload (see ``payload``).  The header says what the payload is; the payload is
the flat arena of a network's learnable parameters (see ``layout``), or nothing.

The design.  Pickle is out because a port is open to strangers.  Protocol buffers would copy the
payload twice.  Here a sender writes a small header and then the array's own memory, and a reader
reads the header, checks it, and has the payload written straight into an array it has already.
Every field is checked where it enters, by type and range, and a reader allocates nothing on the
word of a peer: lengths are compared with what the layout says before anything is read.

Invariant: ``decode(encode(message)) == message`` for every message (tests/property/test_wire.py);
anything else that decodes raises BadRequest, never another exception.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.errors import BadRequest
from param_server.fields import Fields, decode_object
from param_server.layout import Entry, Layout
from param_server.payload import (
    DTYPE,
    DTYPES,
    Float32,
    Source,
    fill,
    payload_bytes,
    payload_size,
    read_payload,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DTYPE",
    "DTYPES",
    "HEADER_LIMIT_BYTES",
    "MAGIC",
    "MEDIA_TYPE",
    "PREFIX",
    "STEPS_LIMIT",
    "Counters",
    "Entry",
    "Float32",
    "Layout",
    "Model",
    "Push",
    "PushAnswer",
    "Source",
    "answer_fields",
    "answer_from_fields",
    "decode_answer",
    "decode_model",
    "decode_push",
    "encode_answer",
    "encode_header",
    "encode_model",
    "encode_push",
    "payload_bytes",
    "payload_dtype",
    "payload_size",
    "push_fields",
    "read_header",
    "read_payload",
]

MAGIC = b"DDQ1"
PREFIX = struct.Struct("<4sI")
HEADER_LIMIT_BYTES = 1 << 20
MEDIA_TYPE = "application/x-ddq-frame"
STEPS_LIMIT = 2**32 - 1  # of one push, so that their total fits into 64 bits


class Counters(NamedTuple):
    """Totals over all workers: agent steps, episodes, updates applied."""

    steps: int = 0
    episodes: int = 0
    updates: int = 0


@dataclass(frozen=True)
class Push:
    """What a worker says about a gradient; the gradient itself is the frame's payload.

    (run, worker, incarnation, sequence) names the push for ever: a repeat is answered, not applied.
    ``steps``, ``episodes`` and ``episode_lengths`` are of the time since the worker's last push.
    """

    run: str
    worker: str
    incarnation: str  # one per process of that worker
    sequence: int  # from 1, rising
    epoch: int
    version: int  # that the gradient was computed from
    layout: str  # digest
    round: int = 0
    partition: int = 0
    quota: int = 0  # pushes that complete the round; 0: no rounds
    loss: float = math.nan
    steps: int = 0
    episodes: tuple[float, ...] = ()  # undiscounted sums of raw rewards
    episode_lengths: tuple[int, ...] = ()  # agent steps
    stats: Mapping[str, float] = field(default_factory=dict)
    want_model: bool = False
    model_dtype: str = DTYPE  # in which the weights are wanted back
    entries: tuple[Entry, ...] = ()  # of the layout, or none: lets a refusal name what differs


@dataclass(frozen=True)
class PushAnswer:
    """The server's verdict on a push, and where it stands now.

    ``status`` is applied, gathered (kept for an update that waits for other pushes), rejected
    (``reason`` says why), late (its round was over), or duplicate (``reason`` repeats the first
    verdict).  ``staleness`` is in updates, 0 unless applied or gathered.
    """

    status: str
    reason: str
    epoch: int
    version: int
    durable_version: int
    target_version: int
    counters: Counters
    round_over: bool
    staleness: int


@dataclass(frozen=True, eq=False)
class Model:
    """One consistent copy of the weights, or of the target weights.

    (epoch, version) names the online weights, (epoch, target_version) the target's.
    """

    epoch: int
    version: int
    target_version: int
    layout: str  # digest
    counters: Counters
    weights: Float32  # [P]


def encode_header(header: Mapping[str, Any]) -> bytes:
    """Return a frame up to its payload.

    Raises:
        ValueError: If the header exceeds its limit of one MiB.
    """
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > HEADER_LIMIT_BYTES:
        raise ValueError(f"header of {len(text)} bytes exceeds {HEADER_LIMIT_BYTES}")
    return PREFIX.pack(MAGIC, len(text)) + text


def encode_push(push: Push, dtype: str = DTYPE) -> bytes:
    """Return a push's frame up to its payload, which is the gradient in ``dtype``."""
    return encode_header({**push_fields(push), "dtype": dtype})


def push_fields(push: Push) -> dict[str, Any]:
    """Return a push as a JSON object, the header of its frame; ``decode_push`` reads it."""
    header = {"kind": "push", "dtype": DTYPE, **vars(push)}  # `asdict` would copy what is in them
    if not push.entries:
        del header["entries"]
    header["loss"] = _nullable(push.loss)
    header["stats"] = {name: _nullable(value) for name, value in push.stats.items()}
    return header


def encode_answer(answer: PushAnswer, model: Model | None = None, dtype: str = DTYPE) -> bytes:
    """Return an answer's frame up to its payload: the model's weights in ``dtype``, or nothing."""
    described = None if model is None else _model_fields(model)
    header = {"kind": "answer", "dtype": dtype, **answer_fields(answer), "model": described}
    return encode_header(header)


def encode_model(model: Model, dtype: str = DTYPE) -> bytes:
    """Return a model's frame up to its payload, which is the weights in ``dtype``."""
    return encode_header({"kind": "model", "dtype": dtype, **_model_fields(model)})


def answer_fields(answer: PushAnswer) -> dict[str, Any]:
    """Return an answer as a JSON object."""
    return {**vars(answer), "counters": answer.counters._asdict()}


def read_header(source: Source, length: int) -> tuple[dict[str, Any], int]:
    """Read a frame's header from a source that holds ``length`` bytes.

    Returns:
        The header, and how many bytes of payload follow it.

    Raises:
        BadRequest: If it is not a frame of this version, or is cut off, or is not a JSON object.
    """
    if length < PREFIX.size:
        raise BadRequest(f"a frame has at least {PREFIX.size} bytes, not {length}")
    prefix = bytearray(PREFIX.size)
    fill(source, memoryview(prefix))
    magic, header_length = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise BadRequest(f"the frame begins with {magic!r}, expected {MAGIC!r}")
    if header_length > min(HEADER_LIMIT_BYTES, length - PREFIX.size):
        raise BadRequest(f"the header's length {header_length} exceeds the frame or one MiB")
    text = bytearray(header_length)
    fill(source, memoryview(text))
    return decode_object(text), length - PREFIX.size - header_length


def payload_dtype(header: Mapping[str, Any]) -> str:
    """Return the dtype of the payload that follows a header.

    Raises:
        BadRequest: If it is none that this version knows.
    """
    return Fields(header).one_of("dtype", DTYPES)


def decode_push(header: Mapping[str, Any]) -> Push:
    """Return the push that a header describes.

    Raises:
        BadRequest: Naming the field that is missing or out of range.
    """
    fields = _fields_of(header, "push")
    layout = Layout.from_entries(fields.shapes("entries"))
    if layout.entries and layout.digest != header.get("layout"):
        raise BadRequest("field 'entries' is not what field 'layout' is the digest of")
    return Push(
        run=fields.text("run"),
        worker=fields.text("worker"),
        incarnation=fields.text("incarnation"),
        sequence=fields.integer("sequence", at_least=1),
        epoch=fields.integer("epoch"),
        version=fields.integer("version"),
        layout=fields.text("layout"),
        round=fields.integer("round"),
        partition=fields.integer("partition"),
        quota=fields.integer("quota"),
        loss=fields.number("loss"),
        steps=fields.integer("steps", at_most=STEPS_LIMIT),
        episodes=tuple(fields.finite_numbers("episodes")),
        episode_lengths=tuple(fields.integers("episode_lengths")),
        stats=fields.numbers_by_name("stats"),
        want_model=fields.flag("want_model"),
        model_dtype=fields.one_of("model_dtype", DTYPES, default=DTYPE),
        entries=layout.entries,
    )


def decode_answer(header: Mapping[str, Any]) -> PushAnswer:
    """Return the answer that a header describes; its model is ``decode_model``'s affair."""
    return answer_from_fields(_fields_of(header, "answer").fields)


def answer_from_fields(document: Mapping[str, Any]) -> PushAnswer:
    """Return the answer that a JSON object holds."""
    fields = Fields(document)
    return PushAnswer(
        status=fields.text("status"),
        reason=fields.text("reason", limit=4096),
        epoch=fields.integer("epoch"),
        version=fields.integer("version"),
        durable_version=fields.integer("durable_version"),
        target_version=fields.integer("target_version"),
        counters=_counters(fields),
        round_over=fields.flag("round_over"),
        staleness=fields.integer("staleness"),
    )


def decode_model(header: Mapping[str, Any], weights: Float32) -> Model | None:
    """Return the model that a model's or an answer's header describes, None if it has none."""
    if header.get("kind") == "answer":
        described = header.get("model")
        if described is None:
            return None
        fields = Fields(described)
    else:
        fields = _fields_of(header, "model")
    return Model(
        epoch=fields.integer("epoch"),
        version=fields.integer("version"),
        target_version=fields.integer("target_version"),
        layout=fields.text("layout"),
        counters=_counters(fields),
        weights=weights,
    )


def _model_fields(model: Model) -> dict[str, Any]:
    return {
        "epoch": model.epoch,
        "version": model.version,
        "target_version": model.target_version,
        "layout": model.layout,
        "counters": model.counters._asdict(),
    }


def _fields_of(header: Mapping[str, Any], kind: str) -> Fields:
    fields = Fields(header)
    fields.expect("kind", kind)
    fields.one_of("dtype", DTYPES)
    return fields


def _counters(fields: Fields) -> Counters:
    nested = fields.nested("counters")
    return Counters(*(nested.integer(name) for name in Counters._fields))


def _nullable(number: float) -> float | None:
    """JSON has no NaN and no infinity; both travel as null and arrive as NaN."""
    return float(number) if math.isfinite(number) else None
