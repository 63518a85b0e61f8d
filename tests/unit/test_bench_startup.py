"""The benchmark of start-up: how it reads off what a run says and writes."""

import socket

from benchmarks import bench_startup as bench

PLAN = "  workers  2\n  server   127.0.0.1:{port}, this run's own\n"
LISTENING = "host-0 INFO listening on 127.0.0.1:50001\nhost-1 INFO listening on 127.0.0.1:50002\n"
PLAYING = "host-0 INFO round 1, partition 0\nhost-1 INFO round 1, partition 1\n"


def test_stages_are_of_the_last_worker(monkeypatch):
    updates = {"127.0.0.1:5500": 0}
    monkeypatch.setattr(bench, "_updates", updates.__getitem__)
    plan = PLAN.format(port=5500)
    assert bench.reached("", "") == []
    assert bench.reached(plan, LISTENING.splitlines()[0]) == ["plan"]
    assert bench.reached(plan, LISTENING + PLAYING) == ["plan", "listening", "playing"]
    updates["127.0.0.1:5500"] = 1
    assert bench.reached(plan, LISTENING + PLAYING) == list(bench.STAGES)


def test_a_server_that_is_not_there_has_applied_nothing():
    with socket.socket() as taken:  # nobody listens
        taken.bind(("127.0.0.1", 0))
        assert bench._updates(f"127.0.0.1:{taken.getsockname()[1]}") == 0


def test_the_table_has_the_median_of_each_stage():
    starts = [dict.fromkeys(bench.STAGES, float(seconds)) for seconds in (9, 11, 10)]
    assert "| playing | 10.0 | 9.0 | 11.0 |" in bench.table(starts)
