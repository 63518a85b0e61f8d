"""The ledger beside a slow twin that remembers every push."""

import hypothesis.strategies as st
from hypothesis import given
from param_server.ledger import Ledger, Verdict

events = st.lists(
    st.tuples(
        st.sampled_from(["w0", "w1"]),
        st.sampled_from(["i0", "i1"]),
        st.integers(1, 6),  # sequence
        st.integers(1, 4),  # round
        st.integers(0, 3),  # quota
    ),
    max_size=60,
)


class Twin:
    """Says the same from everything that ever happened."""

    def __init__(self):
        self.answered = []  # (worker, incarnation, sequence, verdict)
        self.credits = []  # (round, quota)

    def is_repeat(self, worker, incarnation, sequence):
        return any((w, i) == (worker, incarnation) and s >= sequence for w, i, s in self.answered)

    def is_late(self, number, quota):
        if quota == 0:
            return False
        mine = [q for n, q in self.credits if n == number]
        superseded = any(n > number for n, _ in self.credits)
        return superseded or (bool(mine) and len(mine) >= mine[0])


@given(events)
def test_ledger_agrees_with_its_twin(pushes):
    ledger, twin = Ledger(), Twin()
    for index, (worker, incarnation, sequence, number, quota) in enumerate(pushes):
        repeated = ledger.repeated(worker, incarnation, sequence)
        assert (repeated is not None) == twin.is_repeat(worker, incarnation, sequence)
        late = ledger.is_late(number, quota)
        assert late == twin.is_late(number, quota)
        if repeated is not None:
            continue
        verdict = Verdict("late" if late else "applied", str(index))
        ledger.record(worker, incarnation, sequence, verdict)
        twin.answered.append((worker, incarnation, sequence))
        if not late:
            ledger.credit(number, quota)
            if quota:
                twin.credits.append((number, quota))
        assert ledger.repeated(worker, incarnation, sequence) == verdict
        ledger.check()
        restored = Ledger()
        restored.restore(ledger.state())
        assert restored.state() == ledger.state()


@given(st.integers(1, 5), st.integers(1, 20))
def test_no_more_pushes_are_credited_than_the_quota(quota, pushes):
    ledger = Ledger()
    credited = 0
    for _ in range(pushes):
        if not ledger.is_late(1, quota):
            ledger.credit(1, quota)
            credited += 1
    assert credited == min(quota, pushes)
