"""Whatever happens before a kill, the next life holds what was acknowledged, each push once.

A power cut is a kill that also takes what was not synced: the journal's last segment ends anywhere
behind the last sync.  The model beside it counts the pushes of each worker.
"""

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from param_server.journal import segment_path, segments
from param_server.snapshot import by_age

from tests.lives import Life, write_model

SLOTS = 3
workers = st.integers(0, 1)


class RecoveryMachine(RuleBasedStateMachine):
    """A server of mode `acknowledged`, and what it should hold."""

    @initialize()
    def start(self):
        self.path = Path(tempfile.mkdtemp())
        write_model(self.path, slots=SLOTS)
        self.life, self.is_running = Life(self.path, keep=3), True
        self.acknowledged = [0] * (2 * SLOTS)
        self.open = []  # places of pushes that were applied and not acknowledged, in their order
        self.all = []  # (worker, sequence, epoch) of everything since the last clear
        self.synced()

    def synced(self):
        """Note that everything so far is on disk."""
        for place in self.open:
            self.acknowledged[place] += 1
        self.open = []
        self.length = self.last_segment().stat().st_size

    def last_segment(self):
        return segment_path(self.life.folder.path, segments(self.life.folder.path)[-1])

    @rule(worker=workers, acknowledge=st.booleans())
    def push(self, worker, acknowledge):
        assert self.life.push(worker, acknowledge=acknowledge).status == "applied"
        sequence = self.life.sequences[worker]
        self.all.append((worker, sequence, self.life.store.epoch))
        self.open.append(worker * SLOTS + (sequence - 1) % SLOTS)
        if acknowledge:
            self.synced()

    @rule()
    def snapshot(self):
        self.life.snapshot()
        self.synced()

    @rule()
    def clear(self):
        self.life.clear()
        self.synced()
        self.acknowledged = [0] * (2 * SLOTS)
        self.all = []

    @precondition(lambda self: self.all)
    @rule(index=st.integers(0, 100), acknowledge=st.booleans())
    def repeat(self, index, acknowledge):
        worker, sequence, epoch = self.all[index % len(self.all)]
        newest = self.life.sequences[worker]
        answer = self.life.push(worker, sequence=sequence, epoch=epoch, acknowledge=acknowledge)
        self.life.sequences[worker] = newest
        assert answer.status == "duplicate"
        if acknowledge:
            self.synced()

    @rule(is_damaged=st.booleans(), loses_power=st.booleans(), part=st.floats(0, 1))
    def kill(self, is_damaged, loses_power, part):
        """Kill it and begin the next life, perhaps from the snapshot before the last."""
        before, self.is_running = self.life, False
        before.kill()
        last = self.last_segment()
        if loses_power:
            os.truncate(last, self.length + round(part * (last.stat().st_size - self.length)))
        is_survivable = len(by_age(before.folder.path)) > 1 and not self.has_damaged_ones()
        if is_damaged and is_survivable:
            (by_age(before.folder.path)[0][1] / "model.caffemodel").write_bytes(b"damaged")
        self.life = Life(self.path, resume=self.path, keep=3, sequences=before.sequences)
        self.is_running = True
        survived = self.life.store.version - sum(self.acknowledged)
        assert 0 <= survived <= len(self.open)
        assert loses_power or survived == len(self.open)
        assert self.life.resumed.lost_updates == 0
        gone = len(self.open) - survived
        self.all = self.all[: len(self.all) - gone]
        self.open = self.open[:survived]
        self.synced()

    def has_damaged_ones(self):
        newest = by_age(self.life.folder.path)[:2]
        return any((path / "model.caffemodel").read_bytes() == b"damaged" for _, path in newest)

    @invariant()
    def model_holds_each_push_once(self):
        expected = list(self.acknowledged)
        for place in self.open:
            expected[place] += 1
        assert self.life.weights() == expected
        self.life.store.check()

    def teardown(self):
        if self.is_running:
            self.life.kill()
        shutil.rmtree(self.path)


TestRecovery = RecoveryMachine.TestCase
TestRecovery.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
