"""The Prometheus page says what the status says."""

import pytest
from param_server.metrics import Metrics
from prometheus_client.parser import text_string_to_metric_families

from tests.store_rig import make_push, make_store, ones


@pytest.fixture
def store():
    return make_store()


def samples(store):
    raised = [{"name": "dead-units", "text": "Half of them.", "since_s": 3.0}]
    page = Metrics(lambda: {**store.status(), "lr": 0.1, "alarms": raised}).page().decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_counts_are_those_of_the_store(store):
    store.apply(make_push(1, episodes=(5.0,)), ones())
    store.apply(make_push(2), ones(value=float("nan")))
    store.apply(make_push(2), ones())
    found = samples(store)
    assert found["ddq_updates_total",] == 1
    assert found["ddq_steps_total",] == 8
    assert found["ddq_episodes_total",] == 1
    assert found["ddq_return_mean",] == 5
    assert found["ddq_rejected_pushes_total", "non-finite"] == 1
    assert found["ddq_duplicate_pushes_total",] == 1
    assert found["ddq_workers",] == 1
    assert found["ddq_learning_rate",] == 0.1


def test_staleness_buckets_are_cumulative(store):
    for sequence in range(1, 4):
        store.apply(make_push(sequence, version=0), ones())
    found = samples(store)
    buckets = [found["ddq_staleness_updates_bucket", bound] for bound in "012"]
    assert buckets == [1, 2, 3]
    assert found["ddq_staleness_updates_bucket", "+Inf"] == 3
    assert found["ddq_staleness_updates_sum",] == 3


def test_what_is_not_known_yet_is_not_shown(store):
    assert ("ddq_loss",) not in samples(store)


def test_seconds_of_all_workers_are_added_up(store):
    store.apply(make_push(1, stats={"act_s": 1.5, "wait_s": 0.25}), ones())
    store.apply(make_push(1, worker="w1", stats={"act_s": 2.0}), ones())
    found = samples(store)
    stages = ("act", "sample", "compute", "exchange", "wait")
    assert [found["ddq_worker_seconds_total", stage] for stage in stages] == [3.5, 0, 0, 0, 0.25]


def test_each_alarm_is_shown_whether_it_is_active_or_not(store):
    found = {name: value for name, value in samples(store).items() if name[0] == "ddq_alarm"}
    assert found.pop(("ddq_alarm", "dead-units")) == 1
    assert len(found) == 5
    assert set(found.values()) == {0}


def test_registries_are_separate(store):
    one, other = (Metrics(lambda: {**store.status(), "alarms": []}) for _ in range(2))
    one.failures.inc()
    assert b"ddq_failed_requests_total 1.0" in one.page()
    assert b"ddq_failed_requests_total 0.0" in other.page()
