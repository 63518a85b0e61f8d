"""Where a worker and the tasks of synchronous updates meet: `--exchange spark`.

The worker pulls and pushes as ever, only that no server answers: a Spark task does, with what the
driver gave it.  One update, seen from here:

    an order comes        the answer to the push that waits, if any, and the weights of now
    the worker goes on    it takes over those weights, computes, and hands in its next push
    the push waits        each task that asks gets it, until an order answers it

So the same order may come twice, and the same push may be fetched twice: a task that is repeated
changes nothing.  A push that an order has passed over, because another Barista's was taken for its
partition meanwhile, is stale: its worker is told that it came late, and goes on.

Frames are those of `param_server.wire`: a JSON header, checked by its fields, and float32 values.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from param_server import wire
from param_server.errors import BadRequest, TooEarly
from param_server.wire import PushAnswer

if TYPE_CHECKING:
    import threading

    from numpy.typing import NDArray
    from param_server.wire import Model, Push

    Float32 = NDArray[np.float32]

PushId = tuple[str, str, int]  # worker, incarnation, sequence


class Order(NamedTuple):
    """What the driver tells every worker at once."""

    number: int  # from 1, rising
    model: Model  # the weights of now
    answer: PushAnswer | None = None  # to the pushes of the order before
    answered: frozenset[PushId] = frozenset()  # which ones these were

    @property
    def is_last(self) -> bool:
        """Whether no push is wanted any more: the round is over."""
        return self.answer is not None and self.answer.round_over

    def answer_to(self, push: Push) -> PushAnswer | None:
        """Return what is said of a push; None where it is still wanted."""
        if push_id(push) in self.answered:
            return self.answer
        model = self.model
        if (push.epoch, push.version) == (model.epoch, model.version):
            return None
        return PushAnswer(  # its steps may have been counted: told again, they might be twice
            status="late",
            reason="another push was taken in its place",
            epoch=model.epoch,
            version=model.version,
            durable_version=model.version,
            target_version=model.target_version,
            counters=model.counters,
            round_over=self.is_last,
            staleness=0,
        )


def push_id(push: Push) -> PushId:
    """Return what names a push within its run."""
    return push.worker, push.incarnation, push.sequence


def encode_order(order: Order) -> bytes:
    """Return an order as a frame, weights included."""
    header = {
        "kind": "order",
        "number": order.number,
        "answer": None if order.answer is None else wire.answer_fields(order.answer),
        "answered": sorted(order.answered),
        "model": _model_fields(order.model),
    }
    return wire.encode_header(header) + wire.payload_bytes(order.model.weights)


def decode_order(frame: bytes) -> Order:
    """Return the order that a frame holds; its weights are a view of the frame.

    Raises:
        BadRequest: If it is damaged.
    """
    header, values = _open(frame)
    try:
        number, answer, answered = (header[name] for name in ("number", "answer", "answered"))
        ids = frozenset((str(worker), str(life), int(last)) for worker, life, last in answered)
        model = _model(header["model"], values)
        said = None if answer is None else wire.answer_from_fields(answer)
        return Order(int(number), model, said, ids)
    except (KeyError, TypeError, ValueError) as error:
        raise BadRequest(f"the order is damaged: {error}") from None


def encode_target(model: Model) -> bytes:
    """Return the target's weights as a frame."""
    return wire.encode_model(model) + wire.payload_bytes(model.weights)


def decode_target(frame: bytes) -> Model:
    """Return the target's weights that a frame holds, as a view of it.

    Raises:
        BadRequest: If it is damaged.
    """
    return _model(*_open(frame))


def encode_push(push: Push, gradient: Float32) -> bytes:
    """Return a push as a frame, its gradient included."""
    return wire.encode_push(push) + bytes(wire.payload_bytes(gradient))


def decode_push(frame: bytes) -> tuple[Push, Float32]:
    """Return the push that a frame holds, and its gradient as a view of it.

    Raises:
        BadRequest: If it is damaged.
    """
    header, values = _open(frame)
    return wire.decode_push(header), values


class Mailbox:
    """An `Exchange` whose other side is a task.  Safe to call from many threads.

    Args:
        changed: Guards all that is here, and is notified when it has changed.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._order: Order | None = None
        self._target: Model | None = None
        self._waiting: Push | None = None  # that has no answer yet
        self._frame = b""  # of that push
        self._answer: PushAnswer | None = None  # to the push before
        self._closed = False

    # -- the task's side

    def deliver(self, order: Order) -> None:
        """Take an order in; one that is not newer than the newest changes nothing."""
        with self._changed:
            if self._order is not None and order.number <= self._order.number:
                return
            self._order = order
            self._settle()

    def deliver_target(self, target: Model) -> None:
        """Take the target's weights in."""
        with self._changed:
            self._target = target
            self._changed.notify_all()

    @property
    def target(self) -> tuple[int, int] | None:
        """(epoch, target version) of the target's weights that are here."""
        target = self._target
        return None if target is None else (target.epoch, target.target_version)

    @property
    def push_frame(self) -> bytes:
        """The push that waits for an answer, as a frame; empty where none does."""
        return self._frame

    def close(self) -> None:
        """Answer nothing any more: the worker is to leave."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # -- the worker's side

    def pull(self, known: tuple[int, int] | None, out: Float32, /) -> Model | None:
        """Return the weights of the newest order, waiting for the first one.

        Raises:
            TooEarly: If the mailbox was closed.
        """
        return _copy(self._wait_for_order().model, known, out)

    def pull_target(self, known: tuple[int, int] | None, out: Float32, /) -> Model | None:
        """Return the target's weights that the newest order goes with, waiting for them.

        Raises:
            TooEarly: If the mailbox was closed.
        """
        wanted = self._wait_for_order().model
        key = wanted.epoch, wanted.target_version
        if known == key:
            return None
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.target == key)
            self._require_open()
            assert self._target is not None
            np.copyto(out, self._target.weights)
            return replace(self._target, weights=out)

    def push(
        self, push: Push, gradient: Float32, out: Float32, /
    ) -> tuple[PushAnswer, Model | None]:
        """Hand a push in and wait for its answer; see `Exchange`.

        Raises:
            TooEarly: If the mailbox was closed.
        """
        frame = encode_push(push, gradient)
        with self._changed:
            self._waiting, self._frame = push, frame
            self._settle()  # an order may have passed it over already
            self._changed.wait_for(lambda: self._closed or self._waiting is None)
            self._require_open()
            assert self._answer is not None
            assert self._order is not None
            return self._answer, _copy(self._order.model, (push.epoch, push.version), out)

    def leave(self, worker: str, incarnation: str, /) -> None:
        """Nobody needs to be told: the driver sees which tasks come back with a push."""

    def _settle(self) -> None:
        """Answer the push that waits, if the newest order does."""
        if self._order is not None and self._waiting is not None:
            answer = self._order.answer_to(self._waiting)
            if answer is not None:
                self._waiting, self._frame, self._answer = None, b"", answer
        self._changed.notify_all()

    def _wait_for_order(self) -> Order:
        """Return the newest order, once there is one."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._order is not None)
            self._require_open()
            assert self._order is not None
            return self._order

    def _require_open(self) -> None:
        if self._closed:
            raise TooEarly("this worker is leaving")


def _open(frame: bytes) -> tuple[dict[str, Any], Float32]:
    """Return a frame's header and, as a view, its float32 values."""
    header, length = wire.read_header(io.BytesIO(frame), len(frame))
    if length % 4:
        raise BadRequest(f"{length} bytes are no float32 values")
    return header, np.frombuffer(frame, "<f4", offset=len(frame) - length)


def _model_fields(model: Model) -> dict[str, Any]:
    """Return all of a model but its weights, as JSON."""
    names = ("epoch", "version", "target_version", "layout")
    counters = model.counters._asdict()
    return {**{name: getattr(model, name) for name in names}, "counters": counters}


def _model(fields: dict[str, Any], weights: Float32) -> Model:
    model = wire.decode_model({**fields, "kind": "model", "dtype": wire.DTYPE}, weights)
    assert model is not None  # only an answer may lack one
    return model


def _copy(model: Model, known: tuple[int, int] | None, out: Float32) -> Model | None:
    """Copy a model into `out`, None where (epoch, version) is known already."""
    if known == (model.epoch, model.version):
        return None
    np.copyto(out, model.weights)
    return replace(model, weights=out)
