"""The model of scaling against closed forms, what it is fitted on, and its table."""

from dataclasses import replace

import pytest

pytest.importorskip("simpy", reason="the model needs simpy: pip install -e '.[dev]'")

from benchmarks.scaling import report
from benchmarks.scaling.costs import Fit
from benchmarks.scaling.model import Costs, Scenario, bottleneck, simulate
from benchmarks.scaling.runs import BOTH, FIT_COMPUTE_MS, PUSH, Case

COSTS = Costs(
    request=0.001, receive=0.002, check=0.0005, apply=0.004, copy=0.001, send=0.003,
    worker_send=0.0015, worker_receive=0.0025, delay=0.0005, overlap=0.0, contention=0.0,
    worker_rest=0.0, server_rest=0.0,
)  # fmt: skip
SERIAL_S = 0.016  # all of it, one after the other
APART = Scenario(workers=1, payload=1e6, compute_s=0.05, cores=16, is_shared=False)


def close(value, rel=0.02):
    return pytest.approx(value, rel=rel)


def test_one_worker_computes_then_exchanges():
    found = simulate(APART, COSTS)
    assert found.updates_per_s == close(1 / (0.05 + SERIAL_S))
    assert found.exchange_s == close(SERIAL_S)
    assert found.staleness == 0
    assert bottleneck(found) == "workers"


def test_what_overlaps_takes_as_long_as_the_slower_side():
    found = simulate(APART, replace(COSTS, overlap=1.0))
    assert found.exchange_s == close(SERIAL_S - 0.0015 - 0.0025)


@pytest.mark.parametrize("pull_period", [1, 4])
def test_without_a_pull_nothing_comes_back(pull_period):
    found = simulate(replace(APART, pull_period=pull_period), COSTS)
    assert found.exchange_s == close(SERIAL_S - (1 - 1 / pull_period) * (0.001 + 0.003 + 0.0025))


def test_the_lock_saturates():
    found = simulate(replace(APART, workers=20, compute_s=0.0), COSTS)
    assert found.updates_per_s == close(1 / (0.004 + 0.001))
    assert found.staleness == close(19)
    assert bottleneck(found) == "lock"


def test_the_cores_that_all_share_saturate():
    at_work_s = SERIAL_S - 0.0005
    shared = Scenario(workers=8, payload=1e6, compute_s=0.0, cores=2)
    assert simulate(shared, COSTS, updates=300).updates_per_s == close(2 / at_work_s, rel=0.05)
    slower = simulate(shared, replace(COSTS, contention=0.5), updates=300)
    assert slower.updates_per_s == close(2 / 1.5 / at_work_s, rel=0.05)


def test_the_link_saturates():
    scenario = replace(APART, workers=20, compute_s=0.0, bits_per_s=1e8, pull_period=10**6)
    found = simulate(scenario, COSTS, updates=300)
    assert found.updates_per_s == close(1e8 / 8e6, rel=0.05)
    assert bottleneck(found) == "link in"


def test_gradients_received_in_turn_fill_a_link_both_ways():
    scenario = replace(APART, workers=16, compute_s=0.0, bits_per_s=1e8)
    found = simulate(scenario, COSTS, updates=300)
    assert min(found.busy["link in"], found.busy["link out"]) > 0.95


def test_shards_share_the_bytes_but_not_those_of_a_worker():
    saturated = replace(APART, workers=20, compute_s=0.0, bits_per_s=1e8, pull_period=10**6)
    both = [simulate(replace(saturated, shards=n), COSTS, updates=100) for n in (1, 4)]
    assert both[1].updates_per_s == close(4 * both[0].updates_per_s, rel=0.1)
    alone = [simulate(replace(APART, bits_per_s=1e8, shards=n), COSTS) for n in (1, 4)]
    assert alone[1].exchange_s == close(alone[0].exchange_s, rel=0.05)


def test_a_push_of_several_gradients():
    found = simulate(replace(APART, push_period=5), COSTS)
    assert found.updates_per_s == close(1 / (5 * 0.05 + SERIAL_S))
    assert found.gradients_per_s == close(5 * found.updates_per_s)


def run(size, way, clients, compute_ms, **found):
    case = Case("HTTP", size, clients, compute_ms, way=way)
    measured = {"updates_per_s": 100.0, "staleness": 0.0, "exchange_ms": 0.0, **found}
    return {**case._asdict(), **measured}


def document(updates_per_s):
    """What runs with the costs above would have shown, at a size and at twice that."""
    arrays, runs = {}, []
    for size, scale in (("6.75 MB", 1), ("13.5 MB", 2)):
        milliseconds = {"check_ms": 0.5 * scale, "apply_ms": 4 * scale, "copy_ms": 1 * scale}
        arrays[size] = {"bytes": 6.75e6 * scale, **milliseconds}
        push = {"server_cpu_ms": 1.5 + 6.5 * scale, "worker_cpu_ms": 0.5 + 1.5 * scale}
        pulls = {"server_cpu_ms": 1.5 + 10.5 * scale, "worker_cpu_ms": 0.5 + 4 * scale}
        runs += [
            run(size, PUSH, 1, FIT_COMPUTE_MS, **push),
            run(size, BOTH, 1, FIT_COMPUTE_MS, **pulls, exchange_ms=2.5 + 14.5 * scale),
        ]
    busy = {"server_cpu_ms": 11.5, "worker_cpu_ms": 4.0}  # after a rest: 0.5 more each
    runs.append(run("6.75 MB", BOTH, 2, 0, updates_per_s=updates_per_s, **busy))
    return {"arrays": arrays, "runs": runs}


def test_a_fit_finds_the_costs_again():
    scenario = Scenario(workers=2, payload=6.75e6, compute_s=0.0)
    contended = replace(COSTS, contention=0.25)
    fit = Fit(document(simulate(scenario, contended).updates_per_s), "HTTP")
    for scale in (1, 1.5, 2):
        found = fit.at(6.75e6 * scale)
        assert found.request == close(0.001)
        assert found.apply == close(0.004 * scale)
        assert found.receive == close(0.002 * scale)
        assert found.send == close(0.003 * scale)
        assert found.worker_receive == close(0.0025 * scale)
        assert found.delay == close(0.0005)
        assert found.overlap == 0
        assert (found.worker_rest, found.server_rest) == (close(0.0005), close(0.0005))
    assert fit.at(6.75e6).contention == pytest.approx(0.25, abs=0.05)


def test_the_table_shows_what_was_not_predicted():
    case = run("6.75 MB", BOTH, 4, 30, exchange_ms=10.0)
    other = run("6.75 MB", BOTH, 8, 30, exchange_ms=10.0)
    text = report.table(
        [case, other], [{**case, "updates_per_s": 90.0}, other | {"updates_per_s": 50}]
    )
    assert "| 100, 90 | +11% |" in text
    assert "| 100, 50 | **+100%** |" in text
    assert "1 of 2 within 15%" in text
