"""The benchmark of rounds: what it makes of a run's rows, and its tables."""

import pytest

from benchmarks import bench_rounds as bench


def row(time, *seconds, applied=10, compute_s=0.5):
    spent = {"act_s": 0.1, "sample_s": 0.0, "compute_s": compute_s}
    workers = [{"seconds": each, "applied": applied, "gathered": 0, **spent} for each in seconds]
    return {"time": time, "workers": workers}


def test_overhead_is_what_passes_beside_the_longest_work():
    found = bench.figures([row(0.0, 9.0), row(2.0, 1.5, 1.8), row(4.0, 1.9, 1.0), row(6.0, 1.7)])
    assert found["counted"] == 3
    assert found["round_s"] == 2.0
    assert found["overhead_s"] == pytest.approx(0.2)
    assert found["update_s"] == pytest.approx(0.2)
    assert found["computing_s"] == pytest.approx(0.06)


def test_each_exchange_has_a_table():
    found = {"round_s": 2.0, "overhead_s": 0.2, "update_s": 0.05, "computing_s": 0.02}
    text = bench.table(
        [{"exchange": name, "tasks": 2, "updates": 50, **found} for name in ("server", "spark")]
    )
    assert "| 2 | 50 | 2,000 | 200 | 10.0% | 0.99% |" in text
    assert "| 2 | 50.0 | 20.0 | 30.0 |" in text
