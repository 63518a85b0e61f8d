"""What travels between a worker and the server: frames, and the messages inside them.

A frame is the four bytes ``DDQ1``, the header's length as a little-endian uint32, the header as
UTF-8 JSON, and a payload of little-endian float32.  The header says what the payload is; the
payload is the flat arena of a network's learnable parameters, or nothing.

The design.  Pickle is out because a port is open to strangers.  Protocol buffers would copy the
payload twice.  Here a sender writes a small header and then the array's own memory, and a reader
reads the header, checks it, and lets the socket write straight into an array it has already: no
byte of a payload is copied in Python.  Every field is checked where it enters, by type and range,
and a reader allocates nothing on the word of a peer: lengths are compared with what the layout
says before anything is read.

Invariant: ``decode(encode(message)) == message`` for every message (tests/property/test_wire.py);
anything else that decodes raises BadRequest, never another exception.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import sys
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from param_server.errors import BadRequest
from param_server.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Float32: TypeAlias = NDArray[np.float32]

MAGIC = b"DDQ1"
PREFIX = struct.Struct("<4sI")
HEADER_LIMIT_BYTES = 1 << 20
MEDIA_TYPE = "application/x-ddq-frame"
DTYPE = "float32"


class Source(Protocol):
    """A stream that fills buffers: a socket's file, an HTTP response, a BytesIO."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Write into the buffer and return how many bytes, 0 at the end."""


class Entry(NamedTuple):
    """One learnable parameter: its name, such as ``conv1/0``, and its shape."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The learnable parameters of a network, in the order of its flat arena."""

    entries: tuple[Entry, ...]

    @classmethod
    def from_entries(cls, entries: Iterable[tuple[str, Sequence[int]]]) -> Layout:
        """Return the layout of (name, shape) pairs in arena order."""
        return cls(tuple(Entry(str(name), tuple(map(int, shape))) for name, shape in entries))

    @classmethod
    def from_arena(cls, arena_layout: Iterable[tuple[str, int, Sequence[int]]]) -> Layout:
        """Return the layout of a Caffe net's ``arena_layout``: (layer, index, shape) triples."""
        return cls.from_entries((f"{layer}/{index}", shape) for layer, index, shape in arena_layout)

    @cached_property
    def size(self) -> int:
        """Number of floats."""
        return sum(math.prod(entry.shape) for entry in self.entries)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that differ when a name, shape or the order differs."""
        listing = [[name, list(shape)] for name, shape in self.entries]
        text = json.dumps(listing, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def slices(self) -> Iterator[tuple[str, slice]]:
        """Yield each parameter's name and its place in the flat arena."""
        start = 0
        for name, shape in self.entries:
            stop = start + math.prod(shape)
            yield name, slice(start, stop)
            start = stop


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


@dataclass(frozen=True)
class PushAnswer:
    """The server's verdict on a push, and where it stands now.

    ``status`` is applied, rejected (``reason`` says why), late (its round was over), or duplicate
    (``reason`` repeats the first verdict).  ``staleness`` is in updates, 0 unless applied.
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


def payload_bytes(array: Float32) -> memoryview:
    """Return the memory of a float32 array as bytes; a view, not a copy."""
    if sys.byteorder != "little":
        array = array.astype("<f4")
    return np.ascontiguousarray(array).data.cast("B")


def encode_push(push: Push) -> bytes:
    """Return a push's frame up to its payload, which is the gradient."""
    fields = asdict(push)
    fields["loss"] = _nullable(push.loss)
    fields["stats"] = {name: _nullable(value) for name, value in push.stats.items()}
    return encode_header({"kind": "push", "dtype": DTYPE, **fields})


def encode_answer(answer: PushAnswer, model: Model | None = None) -> bytes:
    """Return an answer's frame up to its payload: the model's weights, or nothing."""
    described = None if model is None else _model_fields(model)
    header = {"kind": "answer", "dtype": DTYPE, **answer_fields(answer), "model": described}
    return encode_header(header)


def encode_model(model: Model) -> bytes:
    """Return a model's frame up to its payload, which is the weights."""
    return encode_header({"kind": "model", "dtype": DTYPE, **_model_fields(model)})


def answer_fields(answer: PushAnswer) -> dict[str, Any]:
    """Return an answer as a JSON object."""
    return {**asdict(answer), "counters": answer.counters._asdict()}


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
    _fill(source, memoryview(prefix))
    magic, header_length = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise BadRequest(f"the frame begins with {magic!r}, expected {MAGIC!r}")
    if header_length > min(HEADER_LIMIT_BYTES, length - PREFIX.size):
        raise BadRequest(f"the header's length {header_length} exceeds the frame or one MiB")
    text = bytearray(header_length)
    _fill(source, memoryview(text))
    try:
        header = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the header is not JSON in UTF-8: {error}") from None
    if not isinstance(header, dict):
        raise BadRequest("the header is not a JSON object")
    return header, length - PREFIX.size - header_length


def read_payload(source: Source, length: int, out: Float32) -> None:
    """Read a payload of ``length`` bytes into a float32 array, which it must fill exactly.

    Raises:
        BadRequest: If the length is not the array's (nothing was read), or the source ends early
            (the array is then partly overwritten).
    """
    if length != out.nbytes:
        raise BadRequest(
            f"the payload has {length} bytes, expected {out.nbytes}: {out.size} values of {DTYPE}"
        )
    if length:
        _fill(source, out.data.cast("B"))
        if sys.byteorder != "little":
            out.byteswap(inplace=True)


def decode_push(header: Mapping[str, Any]) -> Push:
    """Return the push that a header describes.

    Raises:
        BadRequest: Naming the field that is missing or out of range.
    """
    fields = _fields_of(header, "push")
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
        steps=fields.integer("steps"),
        episodes=tuple(fields.finite_numbers("episodes")),
        episode_lengths=tuple(fields.integers("episode_lengths")),
        stats=fields.numbers_by_name("stats"),
        want_model=fields.flag("want_model"),
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
    fields.expect("dtype", DTYPE)
    return fields


def _counters(fields: Fields) -> Counters:
    nested = fields.nested("counters")
    return Counters(*(nested.integer(name) for name in Counters._fields))


def _nullable(number: float) -> float | None:
    """JSON has no NaN and no infinity; both travel as null and arrive as NaN."""
    return float(number) if math.isfinite(number) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _fill(source: Source, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        count = source.readinto(buffer[done:])
        if not count:
            raise BadRequest(f"the frame ends {len(buffer) - done} bytes early")
        done += count
