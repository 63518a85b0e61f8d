"""Any order of pushes, repeats, late ones, clears and restarts keeps the store's promises.

The model beside it adds up gradients that are whole numbers, so that equal means equal.
"""

import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from param_server.errors import EpochChanged, LayoutMismatch, WrongRun

from tests.store_rig import EPOCH, LAYOUT, ListJournal, make_push, make_store, weights_of

PERIOD = 3
workers = st.sampled_from(["w0", "w1"])
values = st.integers(-3, 3)


class StoreMachine(RuleBasedStateMachine):
    """A store, and what it should hold."""

    @initialize()
    def start(self):
        self.journal = ListJournal()
        self.store = make_store(target_period=PERIOD, journal=self.journal)
        self.epoch = EPOCH
        self.history = [np.ones(LAYOUT.size, np.float32)]  # weights of each version
        self.steps = 0
        self.sequences = {"w0": 0, "w1": 0}
        self.answered = []  # pushes with their gradients, newest last
        self.snapshot()

    def push(self, worker, value, **fields):
        self.sequences[worker] += 1
        version = min(fields.pop("version", len(self.history) - 1), 2**62)
        push = make_push(
            self.sequences[worker], worker=worker, epoch=self.epoch, version=version, **fields
        )
        gradient = np.full(LAYOUT.size, value, np.float32)
        answer = self.store.apply(push, gradient)
        self.answered.append((push, gradient))
        self.steps += push.steps
        if answer.status == "applied":
            self.history.append(self.history[-1] - gradient)
        return answer

    @rule(worker=workers, value=values, behind=st.integers(0, 3))
    def good_push_is_applied(self, worker, value, behind):
        version = max(0, len(self.history) - 1 - behind)
        staleness = len(self.history) - 1 - version
        answer = self.push(worker, value, version=version)
        assert (answer.status, answer.staleness) == ("applied", staleness)

    @rule(worker=workers, value=values, number=st.integers(1, 5), quota=st.integers(1, 3))
    def push_of_a_round_is_applied_or_late(self, worker, value, number, quota):
        before = self.store.status()["round"]
        over = number < before["number"] or (number == before["number"] and before["over"])
        answer = self.push(worker, value, round=number, quota=quota)
        assert answer.status == ("late" if over else "applied")
        assert answer.round_over >= over

    @rule(worker=workers, value=st.sampled_from([np.nan, np.inf, 3e38]))
    def push_that_is_not_finite_is_rejected(self, worker, value):
        assert self.push(worker, value).reason == "non-finite: conv1/0"

    @rule(worker=workers)
    def push_from_the_future_is_rejected(self, worker):
        assert self.push(worker, 1, version=len(self.history)).status == "rejected"

    @precondition(lambda self: self.answered)
    @rule(index=st.integers(0, 100))
    def repeat_is_answered_and_not_applied(self, index):
        push, gradient = self.answered[index % len(self.answered)]
        answer = self.store.apply(push, gradient)
        assert answer.status == "duplicate"
        assert answer.version == len(self.history) - 1

    @rule(worker=workers, fields=st.sampled_from([
        ({"epoch": 1}, EpochChanged), ({"layout": "other"}, LayoutMismatch),
    ]))  # fmt: skip
    def foreign_push_is_refused(self, worker, fields):
        changes, error = fields
        push = make_push(
            self.sequences[worker] + 1, worker=worker, **{"epoch": self.epoch, **changes}
        )
        with pytest.raises(error):
            self.store.apply(push, np.ones(LAYOUT.size, np.float32))

    @precondition(lambda self: self.store.run)
    @rule()
    def push_of_another_run_is_refused(self):
        with pytest.raises(WrongRun):
            self.store.apply(make_push(run="other"), np.ones(LAYOUT.size, np.float32))

    @rule()
    def snapshot(self):
        capture, weights = self.store.capture(lambda: weights_of(self.store))
        state = json.loads(json.dumps(capture.state))
        self.saved = (
            state, capture.target, weights,
            (list(self.history), self.steps, dict(self.sequences), list(self.answered)),
        )  # fmt: skip
        self.last = self.saved  # what the journal continues

    @precondition(lambda self: self.saved)
    @rule()
    def kill_and_resume(self):
        state, target, weights, model = self.saved
        self.history, self.steps, self.sequences, self.answered = (
            list(model[0]), model[1], dict(model[2]), list(model[3])
        )  # fmt: skip
        self.begin_again(state, target, weights)
        self.snapshot()

    def begin_again(self, state, target, weights):
        self.epoch += 1
        self.store = make_store(target_period=PERIOD, values=weights, journal=self.journal)
        self.store.restore(state, target, epoch=self.epoch)

    @rule()
    def kill_and_do_again_what_the_journal_says(self):
        state, target, weights, _ = self.last
        records = list(self.journal.records)
        self.begin_again(state, target, weights)
        for record, gradient in records:
            self.store.replay(record, gradient)
        self.snapshot()

    @rule()
    def clear(self):
        self.epoch += 1
        self.store.clear(self.epoch)
        self.history = self.history[:1]
        self.steps = 0
        self.answered = []
        self.saved = None

    @invariant()
    def weights_target_and_counters_are_those_of_the_model(self):
        self.store.check()
        version = len(self.history) - 1
        model = self.store.read(out=np.empty(LAYOUT.size, np.float32))
        assert (model.epoch, model.version) == (self.epoch, version)
        assert np.array_equal(model.weights, self.history[version])
        target = self.store.read_target(out=np.empty(LAYOUT.size, np.float32))
        assert target.target_version == version - version % PERIOD
        assert np.array_equal(target.weights, self.history[target.target_version])
        assert model.counters == (self.steps, 0, version)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
