"""Requests for rounds and the rows that answer them."""

import json
import math

import pytest
from param_server.wire import Counters, PushAnswer

from barista.learner import LearnStats
from barista.rounds import RoundRequest, RoundTally, mean


def answer(status, staleness=0):
    return PushAnswer(status, "", 1, 1, 0, 0, Counters(), False, staleness)


def test_a_request_survives_json():
    request = RoundRequest(number=3, partition=1, quota=400, deadline_s=30.0)
    assert RoundRequest(**json.loads(json.dumps(vars(request)))) == request


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"number": -1}, "number is -1, expected a count"),
        ({"number": "3"}, "number is '3', expected a count"),
        ({"number": 1, "quota": 1.5}, "quota is 1.5, expected a count"),
        ({"number": 1, "partition": True}, "partition is True, expected a count"),
        ({"number": 1, "deadline_s": 0}, "deadline_s is 0, expected seconds above 0"),
        ({"number": 1, "deadline_s": "9"}, "deadline_s is '9', expected seconds above 0"),
        ({"number": 1, "deadline_s": math.nan}, "deadline_s is nan, expected seconds above 0"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        RoundRequest(**fields)


def test_a_row_counts_verdicts_and_takes_means():
    tally = RoundTally({"act": 1.0, "sample": 2.0})
    tally.add_steps(8, [])
    tally.add_steps(6, [1.0, 3.0])
    tally.add_gradient(
        LearnStats(loss=0.5, td_error_mean=1.0, q_mean=2.0, q_max=3.0, dead_units=0.0)
    )
    tally.add_gradient(
        LearnStats(loss=1.5, td_error_mean=2.0, q_mean=4.0, q_max=3.0, dead_units=0.0)
    )
    for given in (answer("applied", 2), answer("applied", 4), answer("gathered", 6),
                  answer("rejected"), answer("late"), answer("duplicate")):  # fmt: skip
        tally.add_answer(given)
    tally.add_dropped(2)
    row = tally.row(
        "host-0",
        RoundRequest(number=3, partition=1),
        epsilon=0.5,
        seconds=9.0,
        stages_s={"act": 1.5, "sample": 2.0, "compute": 4.0, "exchange": 0.25, "wait": 8.0},
    )
    assert row == {
        "worker": "host-0", "round": 3, "partition": 1,
        "applied": 2, "gathered": 1, "rejected": 1, "late": 1, "duplicates": 1, "dropped": 2,
        "steps": 14, "episodes": 2, "return_mean": 2.0,
        "loss_mean": 1.0, "q_mean": 3.0, "td_error_mean": 1.5, "staleness_mean": 4.0,
        "epsilon": 0.5, "seconds": 9.0,
        "act_s": 0.5, "sample_s": 0.0, "compute_s": 4.0, "exchange_s": 0.25,
        "wait_s": 8.0,
    }  # fmt: skip


def test_a_row_of_nothing_is_json():
    row = RoundTally({}).row("w", RoundRequest(1), epsilon=1.0, seconds=0.1, stages_s={})
    assert json.loads(json.dumps(row, allow_nan=False))["loss_mean"] is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], None), ([1, 2], 1.5), ([1.0, math.nan], None), ([math.inf, -math.inf], None)],
)
def test_a_mean_is_a_number_or_none(values, expected):
    assert mean(values) == expected
