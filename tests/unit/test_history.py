"""The series of points: bounded, whole, and honest about what is not known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from param_server.history import History, Point


def status(number, *, epoch=1, **values):
    """Return a status after that many seconds, with as many updates."""
    return {
        "epoch": epoch, "uptime_s": float(number), "version": number, "steps": 4 * number,
        "episodes": number // 10, "loss": None, "return_mean": None, "stats": {},
        "updates_per_s": 1.0, "staleness_mean": 0.0, **values,
    }  # fmt: skip


def columns(history):
    history.check()
    return history.as_json()["columns"]


def test_points_are_readings_until_there_are_too_many():
    history = History(limit=8)
    for number in range(7):
        history.add(status(number, loss=number / 2, stats={"epsilon": 0.5}))
    shown = columns(history)
    assert shown["version"] == [0, 1, 2, 3, 4, 5, 6]
    assert shown["loss"] == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert shown["epsilon"] == [0.5] * 7


def test_full_history_halves_its_resolution():
    history = History(limit=4)
    for number in range(4):
        history.add(status(number, loss=float(number)))
    assert history.as_json()["stride"] == 2
    assert columns(history)["version"] == [1, 3]  # a count is that at the end of the stretch
    assert columns(history)["loss"] == [0.5, 2.5]  # a value is the mean
    history.add(status(4, loss=9.0))
    assert columns(history)["loss"] == [0.5, 2.5, 9.0]  # an unfinished stretch is shown too


def test_what_is_not_known_is_none_and_in_no_mean():
    history = History(limit=4)
    for number, loss in enumerate([None, None, None, 3.0]):
        history.add(status(number, loss=loss))
    assert columns(history)["loss"] == [None, 3.0]
    assert columns(history)["busy"] == [None, None]


def test_another_epoch_begins_anew():
    history = History(limit=4)
    for number in range(5):
        history.add(status(number))
    history.add(status(5, epoch=2, version=0))
    shown = history.as_json()
    assert (shown["epoch"], shown["stride"]) == (2, 1)
    assert shown["columns"]["version"] == [0]


def test_empty_history_has_its_columns():
    assert columns(History()) == {name: [] for name in Point._fields}


@given(st.integers(1, 500), st.sampled_from([2, 4, 10, 16]))
def test_any_length_of_run_is_whole(readings, limit):
    history = History(limit)
    for number in range(readings):
        history.add(status(number, loss=1.0))
    shown = columns(history)
    assert len(shown["version"]) <= limit
    assert shown["version"][-1] == readings - 1
    assert shown["version"] == sorted(shown["version"])
    stride = history.as_json()["stride"]
    gaps = {b - a for a, b in zip(shown["version"], shown["version"][1:-1], strict=False)}
    assert gaps <= {stride}, "no stretch is missing"
    assert set(shown["loss"]) == {1.0}


def test_a_day_in_a_thousand_points():
    history = History()
    for number in range(0, 86_400, 8):  # one reading in eight: the series cannot tell
        history.add(status(number))
    assert 500 <= len(columns(history)["uptime_s"]) <= 1000


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_limit_must_be_even(limit):
    with pytest.raises(AssertionError):
        History(limit)
