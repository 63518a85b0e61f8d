"""The rounds of a run, with a scripted job and server in place of Spark's and ours."""

import pytest

from barista.config import defaults_for
from barista.driver import training
from barista.driver.run_folder import RunFolder
from barista.playing.episodes import Evaluation
from barista.playing.evaluation import Score


class Job:
    def __init__(self, rows, waits=0):
        self._rows, self._waits = rows, waits

    def wait(self, _):
        self._waits -= 1
        return self._waits < 0

    def rows(self):
        return self._rows


class Rounds:
    """Hands out jobs as told; remembers what was asked."""

    def __init__(self, *jobs, running=True):
        self.jobs, self.running, self.asked, self.cancelled = list(jobs), running, [], 0

    def start(self, request, description):
        self.asked.append((request, description))
        return self.jobs.pop(0) if len(self.jobs) > 1 else self.jobs[0]

    def has_running_tasks(self):
        return self.running

    def cancel(self):
        self.cancelled += 1


class Server:
    def __init__(self, **status):
        self.data = {
            "version": 5,
            "steps": 100,
            "episodes": 1,
            "round": {"number": 1},
            "staleness_mean": 1.5,
            **status,
        }
        self.revived, self.noted = None, []

    def incident(self, text):
        self.noted.append(text)

    def status(self):
        return self.data

    def revive(self):
        if isinstance(self.revived, Exception):
            raise self.revived
        said, self.revived = self.revived, None
        return said


class Progress:
    def __init__(self):
        self.said, self.shown, self.ends = [], [], []

    def show(self, text, _):
        self.shown.append(text)

    def end_of_round(self, text):
        self.ends.append(text)

    def say(self, line):
        self.said.append(line)


def row(applied=50, **changes):
    stages = {
        "act_s": 1.0, "sample_s": 0.0, "compute_s": 3.0, "exchange_s": 1.0, "wait_s": 0.0,
    }  # fmt: skip
    counts = {"applied": applied, "gathered": 0, "rejected": 0, "late": 0}
    return {"worker": "w", **counts, "restarts": [], **stages, **changes}


@pytest.fixture
def make(tmp_path):
    def make(
        jobs,
        server=None,
        evaluator=None,
        evaluate_every=0,
        push_period=1,
        *,
        in_step=False,
        **limits,
    ):
        limits = {"rounds": 2, "minutes": None, "updates_per_round": None, **limits}
        return training.Training(
            rounds=jobs,
            server=server or Server(),
            folder=RunFolder.create(tmp_path / "run"),
            progress=Progress(),
            config=defaults_for("ddq/Snake-v0", workers=2, push_period=push_period),
            log=tmp_path / "barista.log",
            workers=2,
            limits=training.Limits(**limits),
            evaluator=evaluator,
            evaluate_every=evaluate_every,
            in_step=in_step,
        )

    return make


def test_rounds_are_numbered_and_sized_by_the_measured_rate(make):
    rounds = Rounds(Job([row(50), row(100)]))
    work = make(rounds)
    assert work.run() == 2
    # First a fixed number; then 20 s of (50 + 100) pushes in 5 s each.
    assert [asked["number"] for asked, _ in rounds.asked] == [1, 2]
    assert [asked["quota"] for asked, _ in rounds.asked] == [2 * training.FIRST_UPDATES, 600]


def test_all_pushes_that_were_judged_count_for_the_rate(make):
    rounds = Rounds(Job([row(20, gathered=60, rejected=20)]))
    make(rounds).run()
    assert rounds.asked[1][0]["quota"] == 400  # 20 s of 100 in 5 s


def test_updates_per_round_are_obeyed(make):
    rounds = Rounds(Job([row()]))
    make(rounds, updates_per_round=7).run()
    assert {asked["quota"] for asked, _ in rounds.asked} == {14}


def test_minutes_bound_a_round_and_the_run(make):
    rounds = Rounds(Job([row()]))
    work = make(rounds, rounds=None, minutes=0.5 / 60)  # less than a round is worth
    assert work.run() == 0
    assert rounds.asked == []


def test_a_round_gets_the_time_that_is_left(make):
    rounds = Rounds(Job([row()]))
    make(rounds, rounds=1, minutes=1).run()
    assert 58 < rounds.asked[0][0]["deadline_s"] <= 60


def test_every_round_is_a_line_of_metrics(make):
    work = make(Rounds(Job([row(restarts=["Barista 7 died in round 1"])])), rounds=1)
    work.run()
    (line,) = work._folder.metrics()
    assert (line["round"], line["version"], line["steps"]) == (1, 5, 100)
    assert line["staleness_mean"] == 1.5
    assert line["workers"][0]["applied"] == 50
    assert work._progress.said == ["Barista 7 died in round 1; restarted"]
    assert work._server.noted == work._progress.said


def test_epsilon_follows_the_steps_of_all_workers(make):
    work = make(Rounds(Job([row()])), Server(steps=27_000), rounds=1)
    work.run()
    config = work._config
    share = (27_000 - config.warmup) / config.epsilon_steps
    expected = config.epsilon_start + share * (config.epsilon_end - config.epsilon_start)
    assert work.epsilon() == pytest.approx(expected)


def test_gradients_that_are_not_finite_end_the_run(make):
    bad = {"count": training.MAX_NON_FINITE, "parameter": "conv1/0"}
    rounds = Rounds(Job([], waits=3))
    work = make(rounds, Server(consecutive_non_finite=bad, lr=0.5))
    with pytest.raises(training.TrainingError, match=r"conv1/0, at learning rate 0\.5"):
        work.run()
    assert rounds.cancelled == 1


def test_a_revived_server_is_news_and_a_dead_one_the_end(make):
    server = Server()
    server.revived = "the parameter server died and was restarted"
    work = make(Rounds(Job([row()], waits=1)), server, rounds=1)
    work.run()
    assert work._progress.said == ["the parameter server died and was restarted"]
    assert work._server.noted == work._progress.said
    server.revived = RuntimeError("it starts no more")
    with pytest.raises(training.TrainingError, match="starts no more"):
        work._watch(Job([], waits=1), 1, 0, float("inf"))


def test_a_cluster_that_gives_nothing_is_named_then_given_up(make, monkeypatch):
    now = [0.0]

    def tick():
        now[0] += 10
        return now[0]

    monkeypatch.setattr(training.time, "monotonic", tick)
    rounds = Rounds(Job([], waits=1000), running=False)
    work = make(rounds, rounds=1)
    with pytest.raises(training.TrainingError, match="no task slot"):
        work.run()
    assert len(work._progress.said) == 1
    assert "are there free executors" in work._progress.said[0]
    assert rounds.cancelled == 1


def test_a_job_that_does_not_end_is_given_up(make, monkeypatch):
    rounds = Rounds(Job([], waits=1000))
    work = make(rounds, rounds=1)
    with pytest.raises(training.TrainingError, match="did not end in time"):
        work._watch(Job([], waits=1000), 1, 0, give_up_at=0.0)
    assert rounds.cancelled == 1


def test_a_full_disk_is_said_once_and_training_goes_on(make, monkeypatch):
    server = Server(snapshots={"error": "no snapshot written: No space left on device"})
    work = make(Rounds(Job([row()], waits=3)), server, rounds=2)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(work._folder, "append", full)
    assert work.run() == 2
    assert sum("the last good snapshot stays" in line for line in work._progress.said) == 1
    assert any("metrics.jsonl: No space left" in line for line in work._progress.said)


def test_an_alarm_is_said_once_and_kept_with_its_rounds(make):
    server = Server(alarms=[{"name": "dead-units", "text": "Half of them.", "since_s": 1.0}])
    work = make(Rounds(Job([row()], waits=3)), server, rounds=2)
    assert work.run() == 2
    assert work._progress.said == ["alarm: dead-units: Half of them."]
    assert [line["alarms"] for line in work._folder.metrics()] == [["dead-units"]] * 2


def test_an_interrupt_comes_through_while_a_round_is_watched(make):
    work = make(Rounds(Job([], waits=5)))
    calls = []

    def check():
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt

    work._check = check
    with pytest.raises(KeyboardInterrupt):
        work.run()
    assert len(calls) == 2


class Evaluator:
    """Has the score of what it began when it is asked for the `delay`-th time."""

    def __init__(self, delay):
        self.delay, self.begun, self.asked = delay, [], 0

    def begin(self, steps):
        self.begun.append(steps)
        self.asked = 0

    def poll(self):
        self.asked += 1
        if not self.begun or self.asked != self.delay:
            return None
        result = Evaluation((1.0, 2.0), (4, 4), complete=True)
        return Score(1, len(self.begun), result, None, self.begun[-1])


def test_every_so_many_rounds_the_weights_are_played_beside_the_next(make):
    evaluator = Evaluator(delay=1)
    work = make(Rounds(Job([row()])), evaluator=evaluator, evaluate_every=2, rounds=6)
    work.run()
    assert evaluator.begun == [100, 100]  # after rounds 2 and 4: the end has one of its own
    scores = [line.get("evaluation") for line in work._folder.metrics()]
    assert [score and score["version"] for score in scores] == [None, None, 1, None, 2, None]
    assert scores[2]["return_mean"] == 1.5
    assert scores[2]["steps"] == 100


def test_a_score_belongs_to_the_round_in_which_it_comes(make):
    evaluator = Evaluator(delay=4)  # asked at the end of each round, and once while it waits
    jobs = Rounds(*[Job([row()], waits=1) for _ in range(5)])
    work = make(jobs, evaluator=evaluator, evaluate_every=1, rounds=5)
    begin = evaluator.begin
    evaluator.begin = lambda steps: None if evaluator.begun else begin(steps)
    work.run()
    scores = [line.get("evaluation") for line in work._folder.metrics()]
    assert [score and score["version"] for score in scores] == [None, None, 1, None, None]


def test_without_evaluations_none_is_begun(make):
    evaluator = Evaluator(delay=1)
    make(Rounds(Job([row()])), evaluator=evaluator, rounds=3).run()
    assert evaluator.begun == []


def test_a_dear_exchange_lengthens_the_push_period(make):
    """4 s of work and 4 s of exchange for 50 pushes: four gradients a push make it a fifth."""
    rounds = Rounds(Job([row(50, exchange_s=4.0)] * 2))
    work = make(rounds, server=Server(busy=0.0), push_period=0)
    work.run()
    assert [asked["push_period"] for asked, _ in rounds.asked] == [1, 4]
    assert rounds.asked[1][0]["quota"] == 100  # 20 s of 2.5 pushes a second, for each of two
    assert any(line.startswith("push period 4: ") for line in work._progress.said)


@pytest.mark.parametrize(
    ("ours", "servers", "period"), [(False, False, 3), (True, False, 1), (False, True, 1)]
)
def test_who_waits_for_others_does_not_lengthen_the_push_period(make, ours, servers, period):
    rounds = Rounds(Job([row(50, exchange_s=0.5), row(50, exchange_s=4.0)]))
    make(rounds, server=Server(busy=0.0, in_step=servers), push_period=0, in_step=ours).run()
    assert [asked["push_period"] for asked, _ in rounds.asked] == [1, period]


def test_a_barista_that_two_tasks_found_counts_once(make):
    twice = [row(50, incarnation="a"), row(50, incarnation="a"), row(7, incarnation="b")]
    work = make(Rounds(Job(twice)), rounds=1)
    work.run()
    (kept,) = work._folder.metrics()
    assert [worker["applied"] for worker in kept["workers"]] == [50, 7]
    assert "incarnation" not in kept["workers"][0]


def test_workers_that_come_and_go_are_told(make, tmp_path):
    work = make(Rounds(*(Job([row(worker=name) for name in names]) for names in ("ab", "a", "ac"))))
    work._limits = work._limits._replace(rounds=3)
    work.run()
    expected = ["b took no part in round 2", "c takes part since round 3"]
    assert [line for line in work._progress.said if "round" in line] == expected
    logged = (tmp_path / "barista.log").read_text().splitlines()
    assert [line.partition(" driver WARNING ")[2] for line in logged] == expected
