"""Numbers as people read them."""

import pytest
from param_server import formats


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "general", "–"),
        ("ssp:3", "text", "ssp:3"),
        (1234567, "0", "1,234,567"),
        (-20.456, "1", "-20.5"),
        (0, "general", "0"),
        (12345.6, "general", "12,346"),
        (-0.012345, "general", "-0.0123"),
        (0.00012, "general", "1.2e-4"),
        (0.0, "scientific", "0"),
        (1234.0, "scientific", "1.2e3"),
        (0.314, "percent", "31 %"),
        (0.04, "duration", "0.0 s"),
        (59.9, "duration", "59 s"),
        (189, "duration", "3 m 09 s"),
        (7500, "duration", "2 h 05 m"),
        (300_000, "duration", "3 d 11 h"),
        (912, "size", "912 B"),
        (6_750_000, "size", "6.8 MB"),
        (1.5e9, "size", "1.5 GB"),
        (0, "moment", "1970-01-01 00:00 UTC"),
        ([32, 4, 8, 8], "shape", "32 × 4 × 8 × 8"),
        (0, "sigmas", "off"),
        (5.0, "sigmas", "5 σ"),
        ({"return_mean": 12.34, "return_se": 0.5}, "score", "12.34 ± 0.50"),
        ({"return_mean": 12.34}, "score", "12.34"),
        ({"number": 3, "credited": 2, "quota": 40}, "round", "round 3: 2 of 40 pushes"),
        ({"number": 0, "credited": 0, "quota": 0}, "round", "no rounds"),
    ],
)
def test_values_are_shown_by_kind(value, kind, text):
    assert formats.show(value, kind) == text


@pytest.mark.parametrize(("lost", "gone"), [(0, "gone: none."), (1200, "gone: 1,200.")])
def test_resumed_server_says_what_is_gone(lost, gone):
    text = formats.show({"path": "logs/run", "version": 5000, "lost_updates": lost}, "resumed")
    assert text.startswith("Resumed at version 5,000 from logs/run.")
    assert gone in text


@pytest.mark.parametrize(
    ("ratio", "percent", "word"),
    [
        (None, 0, ""), (0.0, 0, "slow"), (1e-6, 0, "slow"), (1e-9, 0, "slow"), (9e-5, 32.6, "slow"),
        (1e-3, 50, "healthy"), (0.02, 71.7, "fast"), (7.0, 100, "fast"),
    ],
)  # fmt: skip
def test_pace_is_healthy_around_a_thousandth(ratio, percent, word):
    pace = formats.pace_of(ratio)
    assert pace.percent == pytest.approx(percent, abs=0.1)
    assert pace.word == word


def test_find_follows_dots_as_far_as_there_is_something():
    status = {"stats": {"epsilon": 0.5}, "resumed": None}
    assert formats.find(status, "stats.epsilon") == 0.5
    assert formats.find(status, "stats.q_max") is None
    assert formats.find(status, "resumed.version") is None


def test_refusals_and_census_are_complete():
    status = {"rejected": {"non-finite": 2, "outlier": 1}, "late": 3, "duplicates": 4}
    assert [count for _, count in formats.refusals(status)] == [2, 1, 3, 4]
    assert formats.census({"a": {"lost": False}, "b": {"lost": True}}) == "1 live, 1 lost"
    assert formats.census({}) == "0 live"
