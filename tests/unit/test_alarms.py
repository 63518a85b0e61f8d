"""When a run is said not to learn, and when it is left in peace."""

import json
import math
from pathlib import Path

import pytest
from param_server.alarms import NAMES, Alarms
from param_server.tally import WINDOW

RESULTS = Path(__file__).resolve().parents[2] / "docs/results"
STALL_S = 1800.0


class Run:
    """A run whose status is looked at each second, or so."""

    def __init__(self, stall_s=STALL_S, **changes):
        self.alarms = Alarms(stall_s)
        self.status = {
            "epoch": 1, "run": "r", "uptime_s": 100.0, "version": 0, "steps": 0, "episodes": 100,
            "stats": {}, "return_mean": 5.0, "return_se": 0.1, "return_largest": 8.0,
            "returns_count": 100, "rejected": {}, "judged": {"count": 0, "rejected": 0},
        }  # fmt: skip
        self.train(1, **changes)

    def train(self, seconds, *, episodes_per_s=1, idle=False, every_s=1, **changes):
        """Go on for a while; return the names of the alarms at the end."""
        self.status.update(changes)
        for _ in range(0, seconds, every_s):
            self.status["uptime_s"] += every_s
            if not idle:
                self.status["version"] += 30 * every_s
                self.status["steps"] += 120 * every_s
                self.status["episodes"] += episodes_per_s * every_s
            self.alarms.look(self.status)
        return [alarm["name"] for alarm in self.active()]

    def active(self):
        return self.alarms.look(self.status)


# What is wrong, what is so again, for how long it must last, and what is said of it.
FAULTS = {
    "q-runaway": ({"stats": {"q_max": 81.0}}, {"stats": {"q_max": 39.0}}, 60, "they reach 81"),
    "td-error-runaway": (
        {"stats": {"td_error_mean": 5.1}}, {"stats": {"td_error_mean": 2.0}}, 60, "5.1 on average",
    ),
    "one-action": (
        {"stats": {"action_share": 0.98}}, {"stats": {"action_share": 0.94}}, 600, "(98.0% of",
    ),
    "dead-units": (
        {"stats": {"dead_units": 0.9}}, {"stats": {"dead_units": 0.7}}, 600, "90% of",
    ),
    "rejected-gradients": (
        {"judged": {"count": 300, "rejected": 75}, "rejected": {"stale": 70, "outlier": 5}},
        {"judged": {"count": 300, "rejected": 20}}, 30, "25% of the last gradients were rejected, "
        "most in this run as stale",
    ),
    "no-progress": ({}, {"return_mean": 5.5}, 1800, "above 5 by more than chance"),
}  # fmt: skip
HEALTHY = {
    "stats": {"q_max": 9.0, "td_error_mean": 0.5, "action_share": 0.5, "dead_units": 0.5},
    "judged": {"count": 300, "rejected": 3},
}


def test_each_alarm_has_its_case():
    assert set(FAULTS) == set(NAMES)


@pytest.mark.parametrize("name", FAULTS)
def test_alarm_begins_after_a_while_and_ends_when_all_is_well(name):
    wrong, well, hold_s, said = FAULTS[name]
    run = Run(**HEALTHY)
    assert run.train(20) == []
    assert run.train(hold_s - 30, **wrong) == []
    assert run.train(60) == [name]
    (alarm,) = run.active()
    assert said in alarm["text"]
    assert 0 <= alarm["since_s"] <= 60
    assert run.train(5) == [name]
    assert run.active()[0] == {**alarm, "since_s": alarm["since_s"] + 5}, "only its age changes"
    assert run.train(5, **well) == []


def test_what_lies_about_the_limit_does_not_flicker():
    run = Run(**HEALTHY)
    assert run.train(70, stats={"q_max": 81.0}) == ["q-runaway"]
    for q_max in (79.0, 41.0, 81.0):
        assert run.train(5, stats={"q_max": q_max}) == ["q-runaway"]
    assert run.train(5, stats={"q_max": 39.0}) == []
    for _ in range(20):  # above the limit half of the time, and never for long
        assert run.train(30, stats={"q_max": 81.0}) == []
        assert run.train(30, stats={"q_max": 79.0}) == []


def test_bound_of_clipped_rewards_is_believed_where_workers_tell_it():
    told = {"q_max": 160.0, "q_bound": 100.0}
    assert Run(return_largest=2000.0).train(70, stats=told) == ["q-runaway"]
    assert Run(return_largest=2000.0).train(70, stats={**told, "q_max": 149.0}) == []
    assert Run(return_largest=2000.0).train(70, stats={"q_max": 160.0}) == []
    assert Run(return_largest=None).train(70, stats={"q_max": 1e6}) == [], "nothing to compare with"


def test_negative_values_run_away_too():
    assert Run().train(70, stats={"q_max": -90.0, "q_mean": -300.0}) == ["q-runaway"]


def test_td_errors_of_dense_rewards_are_large_from_the_beginning():
    run = Run()
    assert run.train(2, stats={"td_error_mean": 2.5}) == []
    assert run.train(70, stats={"td_error_mean": 24.0}) == []
    assert run.train(70, stats={"td_error_mean": 26.0}) == ["td-error-runaway"]


def test_no_alarm_while_there_is_little_to_judge():
    run = Run(returns_count=99, judged={"count": 99, "rejected": 99}, rejected={"stale": 99})
    assert run.train(4000, every_s=20) == []


def test_a_return_is_better_by_more_than_chance_or_not_at_all():
    run = Run()
    for turn in range(19):  # three standard errors of the difference are 0.42
        assert run.train(100, return_mean=5.0 + 0.4 * (turn % 2)) == [] or turn == 18
    assert run.train(5) == ["no-progress"]
    assert run.train(5, return_mean=5.43) == []
    assert run.train(1700) == []


def test_no_progress_needs_a_window_of_new_episodes():
    run = Run()
    assert run.train(4000, every_s=20, episodes_per_s=0) == []
    assert run.train(WINDOW + 1) == ["no-progress"]


def test_no_progress_can_be_switched_off():
    assert Run(stall_s=0.0).train(4000, every_s=20) == []


def test_a_server_that_idles_raises_nothing_and_takes_nothing_back():
    run = Run(stats={"q_max": 900.0})
    assert run.train(5000, idle=True, every_s=20) == []
    assert run.train(70) == ["q-runaway"]
    assert run.train(5000, idle=True, every_s=20, stats={}) == ["q-runaway"]
    assert run.active()[0]["since_s"] >= 5000


@pytest.mark.parametrize("new", [{"epoch": 2}, {"run": "another"}])
def test_another_run_begins_without_alarms(new):
    run = Run()
    assert run.train(70, stats={"q_max": 900.0}) == ["q-runaway"]
    assert run.train(2, **new) == []


def test_a_status_is_judged_once_a_second_at_most():
    run = Run(stats={"q_max": 900.0})
    run.train(59)
    run.status["uptime_s"] += 0.5
    run.status["version"] += 1
    assert run.active() == []
    run.status["uptime_s"] += 0.6
    run.status["version"] += 1
    assert run.active() == []
    assert run.train(2) == ["q-runaway"]


def statuses(run):
    """Yield a recorded run's rounds as statuses; what was not recorded is as bad as it can be."""
    lines = (RESULTS / run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        workers, mean = row["workers"], row["return_mean"]
        count = min(WINDOW, row["episodes"])
        worst, best = (-21.0, 21.0) if "pong" in run else (-1.0, 99.0)
        known = mean is not None and count > 1
        # No distribution between the two has a larger variance (Bhatia and Davis, 2000).
        error = math.sqrt((best - mean) * (mean - worst) / count) if known else None
        judged = [worker["applied"] + worker["rejected"] for worker in workers]
        yield {
            **row,
            "epoch": 1, "run": run, "uptime_s": row["time"] - rows[0]["time"],
            "stats": {
                name: max(abs(worker[name]) for worker in workers)
                for name in ("q_mean", "td_error_mean")
            },
            "return_se": error, "return_largest": None if mean is None else abs(mean),
            "returns_count": count,
            "rejected": {}, "judged": {
                "count": sum(judged), "rejected": sum(worker["rejected"] for worker in workers),
            },
        }  # fmt: skip


@pytest.mark.parametrize("run", ["2026-11-22-pong", "2026-11-22-snake"])
def test_runs_that_learned_raised_no_alarm(run):
    alarms, last_s = Alarms(STALL_S), 0.0
    for status in statuses(run):
        assert alarms.look(status) == []
        last_s = status["uptime_s"]
    assert last_s > 200


def test_a_run_that_had_diverged_would_have_raised_some():
    alarms = Alarms(STALL_S)
    for status in statuses("2026-11-22-pong"):
        if status["uptime_s"] > 1000:
            factor = 1.003 ** (status["uptime_s"] - 1000)
            status["stats"] = {name: factor * value for name, value in status["stats"].items()}
            status["return_mean"] = -20.5
        seen = alarms.look(status)
    assert [alarm["name"] for alarm in seen] == [
        "td-error-runaway", "no-progress", "q-runaway",
    ]  # fmt: skip
