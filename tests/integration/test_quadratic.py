"""What each rule of the server does, on a loss whose every step is known.

The loss is (θ - θ*)² / 2 in every element, its gradient θ - θ*.  The weights begin at 1 and the
step is a Caffe solver's own: SGD without momentum, so that θ ← θ - α scale (gradient).
"""

import contextlib
import itertools
import threading

import numpy as np
import pytest
from param_server.engine import Engine
from param_server.errors import TooEarly
from param_server.judgement import Rules
from param_server.outliers import Outliers
from param_server.staleness import parse_policy
from param_server.store import Store

from tests.store_rig import EPOCH, Clock, make_push

NET = """
layer { name: "in" type: "Input" top: "state" input_param { shape { dim: 1 dim: 4 } } }
layer {
  name: "q" type: "InnerProduct" bottom: "state" top: "Q_out" loss_weight: 1
  inner_product_param {
    num_output: 2 bias_term: false weight_filler { type: "constant" value: 1 }
  }
}
"""
TARGET = 0.0
LEASE_S = 60.0


class Quadratic:
    """A store around a real solver, and workers that push gradients of the quadratic."""

    def __init__(self, folder, policy="accept", *, rate=0.5, outliers=0.0, solver=""):
        (folder / "net.prototxt").write_text(NET)
        (folder / "solver.prototxt").write_text(
            'net: "net.prototxt" type: "SGD" lr_policy: "fixed" momentum: 0 '
            f"base_lr: {rate} {solver}"
        )
        work = folder / "work"
        work.mkdir()
        self.engine = Engine(folder / "solver.prototxt", roots=[folder], work=work)
        self.clock = Clock()
        rules = Rules(parse_policy(policy), Outliers(outliers), self.engine.iter_size)
        self.store = Store(
            self.engine.layout, self.engine.weights,
            apply=self.engine.apply, reset=self.engine.reset,
            epoch=EPOCH, clock=self.clock, lease_s=LEASE_S, rules=rules,
        )  # fmt: skip
        self.sequences = {}

    def pull(self):
        """Return (version, θ): all elements are equal."""
        model = self.store.read(out=np.empty(self.store.layout.size, np.float32))
        assert np.ptp(model.weights) == 0
        return model.version, float(model.weights[0])

    def push(self, worker="w0", pulled=None, *, target=TARGET, gradient=None, **fields):
        """Push the gradient of the weights that were pulled; return the answer."""
        version, theta = pulled or self.pull()
        value = theta - target if gradient is None else gradient
        sequence = self.sequences.get(worker, 0) + 1
        push = make_push(
            sequence, worker=worker, version=version, layout=self.store.layout.digest, **fields
        )
        flat = np.full(self.store.layout.size, value, np.float32)
        answer = self.store.apply(push, flat, patience_s=fields.pop("patience_s", 0.0))
        self.sequences[worker] = sequence
        self.store.check()
        return answer

    def delayed(self, delay, pushes):
        """Push gradients that are always ``delay`` versions old; return θ after each."""
        pulled = [self.pull()]
        thetas = []
        for _ in range(pushes):
            self.push(pulled=pulled[max(0, len(pulled) - 1 - delay)])
            pulled.append(self.pull())
            thetas.append(pulled[-1][1])
        return thetas


def join(quadratic, *workers):
    """Bring workers into the race without moving the weights, and end in a complete update."""
    joined = set()
    for worker in itertools.cycle(workers):
        with contextlib.suppress(TooEarly):  # its part of this update is there
            quadratic.push(worker, quadratic.pull(), gradient=0.0)
        joined.add(worker)
        if len(joined) == len(workers) and not quadratic.store.status()["gathered"]:
            return


# -- staleness


def test_accept_all_applies_a_stale_gradient_as_it_is(tmp_path):
    quadratic = Quadratic(tmp_path)
    old = quadratic.pull()
    quadratic.push(pulled=old)
    assert quadratic.push(pulled=old).staleness == 1
    assert quadratic.pull() == (2, 0.0)  # 1 - 0.5 - 0.5


def test_a_rate_that_converges_in_step_diverges_when_all_gradients_are_late(tmp_path):
    """With a delay of 4 the limit is 2 sin(π / 18) = 0.35 in place of 2."""
    for name, delay in (("fresh", 0), ("late", 4)):
        (tmp_path / name).mkdir()
        last = np.abs(Quadratic(tmp_path / name).delayed(delay, 60)[-10:])
        assert last.max() < 1e-6 if delay == 0 else last.max() > 10


def test_reject_takes_what_is_fresh_enough_and_nothing_else(tmp_path):
    quadratic = Quadratic(tmp_path, "reject:1")
    old = quadratic.pull()
    assert quadratic.push(pulled=old).status == "applied"
    assert quadratic.push(pulled=old).status == "applied"
    before = quadratic.pull()
    answer = quadratic.push(pulled=old)
    assert (answer.status, answer.reason) == ("rejected", "stale: 2 updates, at most 1")
    assert quadratic.pull() == before
    assert quadratic.store.status()["rejected"] == {"stale": 1}


def test_scale_divides_the_step_by_one_more_than_the_staleness(tmp_path):
    quadratic = Quadratic(tmp_path, "scale")
    old = quadratic.pull()
    quadratic.push(pulled=old)
    quadratic.push(pulled=old)  # staleness 1: half a step
    assert quadratic.pull()[1] == 1 - 0.5 - 0.25
    quadratic.push(pulled=old)  # staleness 2
    assert quadratic.pull()[1] == pytest.approx(0.25 - 0.5 / 3, abs=1e-7)


def test_scale_converges_where_late_gradients_as_they_are_diverge(tmp_path):
    assert abs(Quadratic(tmp_path, "scale").delayed(4, 200)[-1]) < 1e-3


def test_scale_is_of_the_step_where_the_rule_divides_the_gradients_scale_out(tmp_path):
    """AdaGrad's first step is α g / (|g| + δ): α, however large g is."""
    Quadratic(tmp_path)
    text = (tmp_path / "solver.prototxt").read_text()
    text = text.replace('"SGD"', '"AdaGrad"').replace("momentum: 0", "delta: 1e-8")
    (tmp_path / "solver.prototxt").write_text(text)
    (tmp_path / "ada").mkdir()
    engine = Engine(tmp_path / "solver.prototxt", roots=[tmp_path], work=tmp_path / "ada")
    engine.apply(np.full(8, 3.0, np.float32), 0.25)
    assert engine.weights == pytest.approx(1 - 0.5 * 0.25, abs=1e-6)


def test_delay_compensation_gives_the_gradient_of_now(tmp_path):
    """At θ = 5, λ g² = 0.04 · 25 is the second derivative, 1: the correction is then exact."""
    corrected, plain = [], []
    for name, policy in (("dc", "dc:0.04"), ("accept", "accept")):
        (tmp_path / name).mkdir()
        quadratic = Quadratic(tmp_path / name, policy, rate=0.25)
        quadratic.push(gradient=-16.0)  # from 1 to 5
        old = quadratic.pull()
        assert old[1] == 5.0
        quadratic.push(pulled=old)
        theta = quadratic.pull()[1]
        quadratic.push("w1", pulled=old)
        (corrected if policy != "accept" else plain).append((theta, quadratic.pull()[1]))
    (theta, after), (_, after_plain) = corrected[0], plain[0]
    assert after == pytest.approx(theta - 0.25 * theta, abs=1e-6)  # the gradient at θ_now
    assert after_plain == pytest.approx(theta - 0.25 * 5, abs=1e-6)


def test_delay_compensation_scales_the_step_of_what_is_older_than_its_ring(tmp_path):
    quadratic = Quadratic(tmp_path, "dc:0.04", rate=0.5)
    old = quadratic.pull()
    for _ in range(70):  # the ring holds 64 versions
        quadratic.push(gradient=0.0)
    assert quadratic.push(pulled=old).staleness == 70
    assert quadratic.pull()[1] == pytest.approx(1 - 0.5 / 71, abs=1e-6)


# -- policies that wait


def test_ssp_stops_who_is_too_far_ahead_and_lets_him_go_on_when_the_slowest_has_moved(tmp_path):
    quadratic = Quadratic(tmp_path, "ssp:2")
    quadratic.push("slow")
    for _ in range(3):  # enters where the slowest is, at 1
        assert quadratic.push("fast").status == "applied"
    before = quadratic.pull()
    with pytest.raises(TooEarly, match="3 pushes ahead of the slowest worker, at most 2"):
        quadratic.push("fast")
    assert quadratic.pull() == before
    quadratic.push("slow")
    assert quadratic.push("fast").status == "applied"


def test_ssp_bounds_the_staleness_of_what_is_applied(tmp_path):
    """Two workers at S: at most 2 S + 1 pushes of the other come between a pull and its push."""
    quadratic = Quadratic(tmp_path, "ssp:1", rate=0.1)
    pulled = {"slow": quadratic.pull(), "fast": quadratic.pull()}
    worst = waits = 0
    for turn in range(300):
        name = "slow" if turn % 4 == 0 else "fast"
        try:
            worst = max(worst, quadratic.push(name, pulled[name]).staleness)
        except TooEarly:
            waits += 1
            continue
        pulled[name] = quadratic.pull()
    assert waits > 50
    assert worst <= 3
    assert abs(quadratic.pull()[1]) < 1e-3


def test_ssp_waits_for_a_dead_worker_no_longer_than_its_lease(tmp_path):
    quadratic = Quadratic(tmp_path, "ssp:0")
    quadratic.push("dead")
    quadratic.push("alive")
    with pytest.raises(TooEarly):
        quadratic.push("alive")
    quadratic.clock.now += LEASE_S - 1
    with pytest.raises(TooEarly):
        quadratic.push("alive")
    quadratic.clock.now += 2
    for _ in range(40):
        quadratic.push("alive")
    assert abs(quadratic.pull()[1]) < 1e-6


def test_ssp_counts_neither_who_has_left_nor_who_was_replaced(tmp_path):
    quadratic = Quadratic(tmp_path, "ssp:0")
    quadratic.push("slow")
    quadratic.push("fast")
    with pytest.raises(TooEarly):
        quadratic.push("fast")
    quadratic.store.leave("slow", "i0")
    quadratic.push("fast")
    quadratic.push("fast")
    # It comes back where the slowest is, not where it was: nobody waits for it to catch up.
    quadratic.push("slow", incarnation="i1")
    quadratic.push("fast")


def test_synchronous_rounds_are_gradient_descent_on_the_mean(tmp_path):
    """Three workers with optima 1, 2 and 6: the mean loss has its optimum at 3."""
    quadratic = Quadratic(tmp_path, "sync:3", rate=0.5)
    optima = {"w0": 1.0, "w1": 2.0, "w2": 6.0}
    join(quadratic, *optima)
    quadratic.store.clear(EPOCH + 1)
    theta = 1.0
    for round_number in range(8):
        pulled = quadratic.pull()
        statuses = [
            quadratic.push(name, pulled, target=optimum, epoch=EPOCH + 1).status
            for name, optimum in optima.items()
        ]
        assert statuses == ["gathered", "gathered", "applied"]
        theta -= 0.5 * (theta - 3.0)
        assert quadratic.pull() == (round_number + 1, pytest.approx(theta, abs=1e-5))


def test_a_worker_adds_to_an_update_once_and_then_waits(tmp_path):
    quadratic = Quadratic(tmp_path, "sync")
    join(quadratic, "w0", "w1")
    pulled = quadratic.pull()
    assert quadratic.push("w0", pulled).status == "gathered"
    with pytest.raises(TooEarly, match="other workers"):
        quadratic.push("w0", pulled)
    assert quadratic.push("w1", pulled).status == "applied"
    assert quadratic.push("w0", pulled).reason.startswith("stale")


def test_synchronous_rounds_go_on_without_a_worker_that_died(tmp_path):
    quadratic = Quadratic(tmp_path, "sync", rate=0.5)
    join(quadratic, "w0", "w1", "dead")
    pulled = quadratic.pull()
    statuses = [quadratic.push(name, pulled).status for name in ("w0", "w1")]
    assert statuses == ["gathered", "gathered"]
    with pytest.raises(TooEarly):
        quadratic.push("w0", pulled)
    quadratic.clock.now += LEASE_S - 1
    for name in ("w0", "w1"):
        quadratic.store.hear("r1", name)
    quadratic.clock.now += 2
    quadratic.store.leave("nobody", "")  # any look at the race: what was gathered is an update now
    assert quadratic.pull() == (pulled[0] + 1, pulled[1] * 0.5)
    for _ in range(30):
        pulled = quadratic.pull()
        quadratic.push("w0", pulled)
        quadratic.push("w1", pulled)
    assert abs(quadratic.pull()[1]) < 1e-6


def test_backup_workers_are_not_waited_for(tmp_path):
    """Chen et al. (2016): of three, the first two make the update, the third is too late."""
    quadratic = Quadratic(tmp_path, "sync:2")
    join(quadratic, "w0", "w1", "w2")
    pulled = quadratic.pull()
    statuses = [quadratic.push(name, pulled).status for name in ("w0", "w1", "w2")]
    assert statuses == ["gathered", "applied", "rejected"]


@pytest.mark.parametrize("policy", ["sync", "ssp:1"])
def test_workers_in_threads_wait_for_each_other_and_converge(tmp_path, policy):
    quadratic = Quadratic(tmp_path, policy, rate=0.2)
    store = quadratic.store
    spread = []
    all_push = threading.Barrier(3)  # a fast machine would have one done before the next begins

    def work(name):
        gradient = np.empty(store.layout.size, np.float32)
        done = 0
        while done < 40:
            if done == 1:
                all_push.wait(60)
            model = store.read(out=np.empty(store.layout.size, np.float32))
            np.copyto(gradient, model.weights)
            push = make_push(
                done + 1, worker=name, version=model.version, layout=store.layout.digest
            )
            try:
                store.apply(push, gradient, patience_s=1.0)
            except TooEarly:
                continue
            done += 1
            pushes = [worker["pushes"] for worker in store.status()["workers"].values()]
            spread.append(max(pushes) - min(pushes) if len(pushes) == 3 else 0)
        store.leave(name, "i0")

    threads = [threading.Thread(target=work, args=(f"w{index}",)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert abs(quadratic.pull()[1]) < 0.01
    store.check()
    if policy == "sync":
        assert store.version < 3 * 40  # updates hold several pushes


# -- outliers


def test_an_outlier_changes_nothing_and_its_loss_is_remembered(tmp_path):
    quadratic = Quadratic(tmp_path, outliers=4.0, rate=0.1)
    rng = np.random.default_rng(0)
    for _ in range(150):
        quadratic.push(loss=float(rng.normal(1.0, 0.1)))
    before = quadratic.pull()
    answer = quadratic.push(gradient=1e6, loss=50.0)
    assert (answer.status, answer.reason.split(":")[0]) == ("rejected", "outlier")
    assert quadratic.pull() == before
    assert quadratic.push(loss=1.0).status == "applied"


def test_too_many_outliers_are_accepted_with_a_warning(tmp_path, caplog):
    quadratic = Quadratic(tmp_path, outliers=0.5, rate=0.01)
    rng = np.random.default_rng(0)
    statuses = [quadratic.push(loss=float(rng.exponential())).status for _ in range(400)]
    assert 0 < statuses.count("rejected") <= 20
    assert statuses[-100:].count("applied") == 100
    assert "accepting them all" in caplog.text
    assert quadratic.store.status()["outliers"]["overruled"]


def test_without_the_rule_nothing_is_an_outlier(tmp_path):
    quadratic = Quadratic(tmp_path)
    assert all(quadratic.push(loss=10.0**k).status == "applied" for k in range(300 // 10))


# -- the solver's own


def test_iter_size_averages_as_many_pushes_into_one_update(tmp_path):
    quadratic = Quadratic(tmp_path, solver="iter_size: 3")
    pulled = quadratic.pull()
    answers = [quadratic.push(pulled=pulled, gradient=g) for g in (1.0, 2.0, 6.0)]
    assert [answer.status for answer in answers] == ["gathered", "gathered", "applied"]
    assert [answer.version for answer in answers] == [0, 0, 1]
    assert quadratic.pull() == (1, 1 - 0.5 * 3.0)


def test_clip_gradients_bounds_the_pushed_gradients_norm(tmp_path):
    """Eight elements of 10 have norm 28.28; clipped to 1 each is 10 / 28.28."""
    quadratic = Quadratic(tmp_path, solver="clip_gradients: 1")
    quadratic.push(gradient=10.0)
    assert quadratic.pull()[1] == pytest.approx(1 - 0.5 / np.sqrt(8), abs=1e-6)
    theta = quadratic.pull()[1]
    quadratic.push(gradient=0.1)  # of norm 0.28: as it is
    assert quadratic.pull()[1] == pytest.approx(theta - 0.05, abs=1e-6)


def test_what_is_gathered_survives_a_snapshot(tmp_path):
    quadratic = Quadratic(tmp_path, solver="iter_size: 2")
    quadratic.push(gradient=4.0)
    capture, weights = quadratic.store.capture(quadratic.engine.weights.copy)
    (tmp_path / "again").mkdir()
    again = Quadratic(tmp_path / "again", solver="iter_size: 2")
    again.store.restore(capture.state, capture.target, epoch=EPOCH + 1, gathered=capture.gathered)
    again.sequences = {"w0": 1}
    assert np.array_equal(weights, again.engine.weights)
    assert again.push(gradient=2.0, epoch=EPOCH + 1).status == "applied"
    assert again.pull()[1] == 1 - 0.5 * 3.0
