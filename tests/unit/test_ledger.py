"""Repeats and rounds."""

import json

import pytest
from param_server.errors import BadRequest
from param_server.ledger import Ledger, Round, Verdict

APPLIED = Verdict("applied", "", 2)


@pytest.fixture
def ledger():
    ledger = Ledger(incarnation_limit=3)
    yield ledger
    ledger.check()


def test_new_push_is_no_repeat(ledger):
    assert ledger.repeated("w", "i", 1) is None


def test_repeat_gets_its_verdict_again(ledger):
    ledger.record("w", "i", 4, APPLIED)
    assert ledger.repeated("w", "i", 4) == APPLIED


def test_older_repeat_is_a_repeat_whose_verdict_is_forgotten(ledger):
    ledger.record("w", "i", 4, APPLIED)
    assert ledger.repeated("w", "i", 3).status == "superseded"


def test_sequences_may_skip(ledger):
    ledger.record("w", "i", 4, APPLIED)
    assert ledger.repeated("w", "i", 9) is None


@pytest.mark.parametrize("other", [("w", "j"), ("v", "i")])
def test_another_worker_or_process_counts_for_itself(ledger, other):
    ledger.record("w", "i", 4, APPLIED)
    assert ledger.repeated(*other, 4) is None


def test_least_recently_heard_is_forgotten_first(ledger):
    for name in ("a", "b", "c"):
        ledger.record(name, "i", 1, APPLIED)
    ledger.record("a", "i", 2, APPLIED)
    ledger.record("d", "i", 1, APPLIED)
    assert ledger.repeated("b", "i", 1) is None
    assert ledger.repeated("a", "i", 2) == APPLIED


def test_round_is_over_when_its_quota_is_credited(ledger):
    assert not ledger.is_late(1, 2)
    ledger.credit(1, 2)
    assert not ledger.is_late(1, 2)
    ledger.credit(1, 2)
    assert ledger.is_late(1, 2)
    assert ledger.round == Round(1, 2, 2)


def test_later_round_ends_the_one_before(ledger):
    ledger.credit(1, 10)
    ledger.credit(3, 10)
    assert ledger.is_late(1, 10)
    assert ledger.is_late(2, 10)
    assert not ledger.is_late(3, 10)


def test_first_push_of_a_round_fixes_its_quota(ledger):
    ledger.credit(1, 2)
    ledger.credit(1, 100)
    assert ledger.is_late(1, 100)


def test_push_without_quota_belongs_to_no_round(ledger):
    ledger.credit(5, 1)
    ledger.credit(0, 0)
    assert not ledger.is_late(0, 0)
    assert ledger.round == Round(5, 1, 1)


def test_another_run_begins_its_rounds_anew_and_repeats_stay_known(ledger):
    ledger.open_run("r1")
    ledger.credit(5, 1)
    ledger.record("w", "i", 4, APPLIED)
    ledger.open_run("r1")
    assert ledger.is_late(5, 1)
    ledger.open_run("r2")
    assert not ledger.is_late(1, 1)
    assert ledger.repeated("w", "i", 4) == APPLIED


def test_state_survives_json(ledger):
    ledger.open_run("r1")
    ledger.credit(5, 2)
    ledger.record("w", "i", 4, APPLIED)
    restored = Ledger(incarnation_limit=3)
    restored.restore(json.loads(json.dumps(ledger.state())))
    assert restored.state() == ledger.state()
    assert restored.repeated("w", "i", 4) == APPLIED
    restored.check()


@pytest.mark.parametrize(
    "damage",
    [
        {"round": [1, 2]},
        {"round": [1, -2, 0]},
        {"run": None},
        {"answered": [["w", "i"]]},
        {"answered": 3},
        {"answered": [["w", "i", "x", "applied", "", 0]]},
    ],
)
def test_damaged_state_is_refused_and_changes_nothing(ledger, damage):
    ledger.credit(5, 2)
    before = ledger.state()
    with pytest.raises(BadRequest):
        ledger.restore({**before, **damage})
    assert ledger.state() == before
