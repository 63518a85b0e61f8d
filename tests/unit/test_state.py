"""What a snapshot holds, and doing again what a journal says."""

import numpy as np
import pytest
from param_server.errors import BadRequest
from param_server.judgement import Rules
from param_server.outliers import Outliers
from param_server.staleness import parse_policy

from tests.store_rig import EPOCH, LAYOUT, ListJournal, make_push, make_store, ones, weights_of


def rules(policy, gather=1):
    return Rules(parse_policy(policy), Outliers(0), gather)


@pytest.mark.parametrize(("policy", "gather"), [
    ("accept", 1), ("accept", 3), ("scale", 1), ("scale", 2), ("dc:0.5", 1), ("reject:2", 1),
    ("sync", 1), ("ssp:3", 1),
])  # fmt: skip
def test_replaying_gives_the_same_state_bit_for_bit(policy, gather):
    journal = ListJournal()
    store = make_store(rules=rules(policy, gather), journal=journal)
    rng = np.random.default_rng(0)
    statuses = set()
    for sequence in range(1, 30):
        gradient = rng.normal(size=LAYOUT.size).astype(np.float32)
        worker = f"w{sequence % 2}"
        version = max(0, store.version - int(rng.integers(0, 3)))
        if policy == "sync":
            version = store.version
        push = make_push(sequence, worker=worker, version=version, round=1, quota=25)
        statuses.add(store.apply(push, gradient).status)
    if policy == "sync":
        store.leave("w0", "i0")
        store.leave("w1", "i0")
    again = make_store(rules=rules(policy, gather))
    for record, gradient in journal.records:
        again.replay(record, gradient)
    assert "applied" in statuses
    assert "late" in statuses
    assert np.array_equal(weights_of(again), weights_of(store))
    mine, theirs = (s.capture(lambda: None)[0] for s in (again, store))
    assert mine.state | {"journal": 3} == theirs.state
    assert np.array_equal(mine.target, theirs.target)


def test_clear_is_replayed():
    journal = ListJournal()
    store = make_store(journal=journal)
    store.apply(make_push(1), ones())
    store.clear(EPOCH + 1)
    again = make_store()
    for record, gradient in journal.records:
        again.replay(record, gradient)
    assert again.version == 0
    assert again.changes == store.changes
    assert np.array_equal(weights_of(again), ones())


def test_change_that_fails_is_not_in_the_journal():
    def apply(gradient, scale):
        raise MemoryError

    journal = ListJournal()
    store = make_store(journal=journal, apply=apply)
    with pytest.raises(MemoryError):
        store.apply(make_push(1), ones())
    assert journal.records == []
    assert store.changes == 0


def test_update_that_fails_keeps_what_was_gathered():
    """Its push is not answered, so it comes again; the ones before it were."""
    failing = [True]
    applied = []

    def apply(gradient, scale):
        if failing:
            raise MemoryError
        applied.append(gradient.copy())

    store = make_store(rules=rules("accept", 2), apply=apply)
    store.apply(make_push(1), ones(value=1))
    with pytest.raises(MemoryError):
        store.apply(make_push(2), ones(value=2))
    failing.clear()
    assert store.apply(make_push(2), ones(value=2)).status == "applied"
    assert applied[0].tolist() == [3] * LAYOUT.size


@pytest.mark.parametrize("record", [
    {}, {"kind": "other"}, {"kind": "push", "push": {}, "verdict": ["applied", "", 0], "scale": 1},
])  # fmt: skip
def test_damaged_record_is_refused(record):
    with pytest.raises(BadRequest):
        make_store().replay(record, ones())


def test_record_without_its_gradient_is_refused():
    journal = ListJournal()
    store = make_store(journal=journal)
    store.apply(make_push(1), ones())
    with pytest.raises(BadRequest, match="lost its gradient"):
        make_store().replay(journal.records[0][0], None)
