"""A refusal means the same on both sides of the wire."""

import pytest
from param_server import errors
from param_server.errors import (
    BadRequest,
    EpochChanged,
    Refused,
    ServerFailed,
    WrongRun,
    from_problem,
)

REFUSALS = [error for error in vars(errors).values() if isinstance(error, type)]
REFUSALS = [error for error in REFUSALS if issubclass(error, Refused) and error is not Refused]


@pytest.mark.parametrize("error", REFUSALS)
def test_refusal_survives_as_a_problem_document(error):
    sent = error("why", run="r1", epoch=8)
    received = from_problem(error.status, sent.problem())
    assert type(received) is error
    assert str(received) == "why"
    assert received.members == {"run": "r1", "epoch": 8}


def test_epoch_and_run_can_be_read_from_what_arrived():
    assert from_problem(409, EpochChanged("x", epoch=8).problem()).epoch == 8
    assert from_problem(409, WrongRun("x", run="r2").problem()).run == "r2"


def test_changed_epoch_without_its_number_is_no_more_than_a_bad_request():
    document = {**EpochChanged("x", epoch=8).problem(), "epoch": None}
    assert type(from_problem(409, document)) is BadRequest


def test_unknown_kinds_are_told_apart_by_status():
    assert type(from_problem(418, {"detail": "teapot"})) is BadRequest
    assert type(from_problem(500, {})) is ServerFailed
    assert str(from_problem(502, {})) == "HTTP status 502"


def test_kinds_are_distinct():
    assert len({error.kind for error in REFUSALS}) == len(REFUSALS)


def test_each_class_is_drawn_in_the_tree():
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, errors.ParamServerError):
            assert f"* {name}" in errors.__doc__
