"""What is counted, and over which window."""

import json
import math
import statistics

import pytest
from param_server.errors import BadRequest
from param_server.ledger import Verdict
from param_server.tally import Tally, mean
from param_server.wire import Push


def push(**fields):
    names = {"run": "r", "worker": "w", "incarnation": "i", "layout": "x"}
    return Push(**names, sequence=1, epoch=1, version=0, **fields)


@pytest.fixture
def tally():
    tally = Tally()
    yield tally
    tally.check()


@pytest.mark.parametrize("status", ["applied", "rejected", "late"])
def test_steps_and_episodes_count_whatever_became_of_the_gradient(tally, status):
    tally.count_push(push(steps=4, episodes=(3.0, 5.0)), Verdict(status, "non-finite: x"))
    shown = tally.status(0.0)
    assert (shown["steps"], shown["episodes"], shown["return_mean"]) == (4, 2, 4.0)


def test_returns_are_of_the_last_hundred_episodes(tally):
    tally.count_push(push(episodes=tuple(map(float, range(150)))), Verdict("applied"))
    assert tally.status(0.0)["returns_count"] == 100
    assert tally.status(0.0)["return_mean"] == sum(range(50, 150)) / 100


def test_nothing_seen_has_no_mean(tally):
    assert mean(tally.losses) is None
    assert tally.status(0.0)["loss"] is None


def test_staleness_falls_into_its_bucket(tally):
    for staleness in (0, 1, 4, 7, 8, 64):
        tally.count_gradient(0.5, staleness)
    shown = tally.status(1.0)
    assert shown["staleness"] == {
        "0": 1, "1": 1, "2": 0, "3": 0, "7": 2, "15": 1, "31": 0, "63": 0, "more": 1,
    }  # fmt: skip
    assert shown["staleness_mean"] == 84 / 6


def test_non_finite_gradients_in_a_row_end_with_one_that_is_taken(tally):
    rejected = Verdict("rejected", "non-finite: conv1/0")
    tally.count_push(push(), rejected)
    tally.count_push(push(), rejected)
    assert tally.status(0.0)["consecutive_non_finite"] == {"count": 2, "parameter": "conv1/0"}
    assert tally.status(0.0)["rejected"] == {"non-finite": 2}
    tally.count_gradient(0.5, 0)
    assert tally.status(0.0)["consecutive_non_finite"] == {"count": 0, "parameter": ""}


def test_rejection_for_another_reason_does_not_count_as_non_finite(tally):
    tally.count_push(push(), Verdict("rejected", "future-version: 9"))
    assert tally.status(0.0)["consecutive_non_finite"]["count"] == 0


def test_loss_that_is_not_finite_is_not_averaged(tally):
    tally.count_gradient(math.nan, 0)
    tally.count_gradient(2.0, 0)
    assert tally.status(0.0)["loss"] == 2.0


def test_rate_is_of_the_last_half_minute(tally):
    for second in range(100):
        tally.count_update(float(second))
    assert tally.updates_per_s(100.0) == pytest.approx(1.0, rel=0.05)
    assert tally.updates_per_s(200.0) == 0.0


def test_stats_are_averaged_and_bounded_in_number(tally):
    for index in range(100):
        tally.count_push(push(stats={f"s{index}": 1.0, "s0": 3.0}), Verdict("applied"))
    assert len(tally.status(0.0)["stats"]) == 32
    assert tally.status(0.0)["stats"]["s0"] == 3.0
    assert tally.status(0.0)["stats"]["s1"] == 1.0


def test_state_survives_json(tally):
    tally.count_push(push(steps=4, episodes=(3.0,), episode_lengths=(9,)), Verdict("applied"))
    tally.count_gradient(0.5, 2)
    restored = Tally()
    restored.count_gradient(9.0, 9)
    restored.restore(json.loads(json.dumps(tally.state())))
    assert restored.state() == tally.state()
    assert restored.status(0.0)["staleness_mean"] == 0.0
    restored.check()


def test_damaged_state_is_refused_and_changes_nothing(tally):
    tally.count_push(push(steps=4), Verdict("applied"))
    before = tally.state()
    with pytest.raises(BadRequest, match="'returns'"):
        tally.restore({**before, "returns": [None]})
    assert tally.state() == before


def test_seconds_of_workers_are_added_up_by_stage_and_not_averaged(tally):
    for seconds in (0.5, 1.5):
        tally.count_push(push(stats={"act_s": seconds, "q_max": seconds}), Verdict("applied"))
    shown = tally.status(0.0)
    assert shown["worker_s"] == {"act": 2, "sample": 0, "compute": 0, "exchange": 0, "wait": 0}
    assert shown["stats"] == {"q_max": 1.0}


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, 1e300, 86_401.0])
def test_what_cannot_be_a_time_is_none(tally, seconds):
    tally.count_push(push(stats={"act_s": seconds, "wait_s": 2.0}), Verdict("applied"))
    assert tally.status(0.0)["worker_s"]["act"] == 0
    assert tally.status(0.0)["worker_s"]["wait"] == 2


def test_numbers_at_the_edge_of_floats_leave_the_status_json(tally):
    huge = push(stats={"q_max": 1.7e308, "q_mean": -1.7e308}, episodes=(1.7e308, -1.7e308) * 3)
    for _ in range(3):
        tally.count_push(huge, Verdict("applied"))
        tally.count_gradient(1.7e308, 0)
    shown = json.loads(json.dumps(tally.status(0.0), allow_nan=False))
    assert shown["stats"] == {"q_max": pytest.approx(1.7e308), "q_mean": pytest.approx(-1.7e308)}
    assert shown["loss"] == pytest.approx(1.7e308)
    assert shown["return_se"] is None


def test_thousands_of_stats_leave_room_for_the_seconds(tally):
    many = {f"s{index}": 1.0 for index in range(5000)}
    tally.count_push(push(stats={**many, "act_s": 1.0}), Verdict("applied"))
    assert len(tally.status(0.0)["stats"]) == 32
    assert tally.status(0.0)["worker_s"]["act"] == 1


def test_standard_error_is_of_the_window(tally):
    assert tally.status(0.0)["return_se"] is None
    tally.count_push(push(episodes=(1.0, 3.0, -8.0)), Verdict("applied"))
    shown = tally.status(0.0)
    assert shown["return_se"] == pytest.approx(statistics.stdev([1, 3, -8]) / math.sqrt(3))
    assert shown["return_largest"] == 8


def test_rejections_are_counted_among_the_pushes_judged_last(tally):
    for _ in range(300):
        tally.count_push(push(), Verdict("rejected", "stale: 9"))
    for verdict in (Verdict("applied"), Verdict("gathered"), Verdict("late")):
        for _ in range(50):
            tally.count_push(push(), verdict)
    assert tally.status(0.0)["judged"] == {"count": 300, "rejected": 200}
