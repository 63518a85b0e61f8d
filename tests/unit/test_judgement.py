"""The order in which a push is judged."""

import pytest
from param_server.errors import TooEarly
from param_server.judgement import Rules
from param_server.outliers import Outliers
from param_server.staleness import parse_policy

from tests.store_rig import make_push, make_store, ones


def store_of(policy="accept", *, sigmas=0.0, gather=1):
    return make_store(rules=Rules(parse_policy(policy), Outliers(sigmas), gather))


def test_late_comes_before_stale():
    store = store_of("reject:0")
    store.apply(make_push(1, round=1, quota=1), ones())
    answer = store.apply(make_push(2, round=1, quota=1), ones())
    assert answer.status == "late"


def test_not_finite_comes_before_stale():
    store = store_of("reject:0")
    store.apply(make_push(1), ones())
    answer = store.apply(make_push(2), ones(value=float("nan")))
    assert answer.reason.startswith("non-finite")


def test_waiting_counts_no_outlier_and_no_steps():
    """Else a push that asks again and again would be counted as often."""
    store = store_of("ssp:0", sigmas=3.0)
    for sequence in range(1, 3):
        store.apply(make_push(1, worker=f"w{sequence}"), ones(value=0))
    before = store.status()["steps"], store._rules.outliers._seen
    for _ in range(3):
        with pytest.raises(TooEarly):
            store.apply(make_push(2, worker="w2"), ones(value=0))
    assert (store.status()["steps"], store._rules.outliers._seen) == before


def test_rejected_pushes_advance_their_workers_clock():
    """Else a worker whose gradients are all rejected would stop everybody."""
    store = store_of("ssp:0")
    for name in ("good", "bad"):
        store.apply(make_push(1, worker=name), ones(value=0))
    store.apply(make_push(2, worker="bad", version=9), ones(value=0))
    store.apply(make_push(2, worker="good"), ones(value=0))


def test_gathered_pushes_belong_to_rounds_like_others():
    store = store_of(gather=2)
    answers = [store.apply(make_push(n, round=1, quota=2), ones()) for n in (1, 2)]
    assert [(a.status, a.version, a.round_over) for a in answers] == [
        ("gathered", 0, False), ("applied", 1, True),
    ]  # fmt: skip


def test_repeat_of_a_gathered_push_is_a_repeat():
    store = store_of(gather=3)
    store.apply(make_push(1), ones())
    answer = store.apply(make_push(1), ones())
    assert (answer.status, answer.reason) == ("duplicate", "gathered")
    assert store.status()["gathered"] == 1
