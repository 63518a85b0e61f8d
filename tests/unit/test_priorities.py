"""The sum tree, against running sums over a list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barista import priorities
from barista.priorities import FAN_OUT, SumTree

SIZES = [1, 63, 64, 65, 4096, 4097, 300_000]  # of one, two and three levels, full and not


def make(size):
    return SumTree(np.zeros(SumTree.shape_for(size)))


@pytest.mark.parametrize("size", SIZES)
def test_a_mass_is_found_where_the_running_sum_exceeds_it(size):
    rng = np.random.default_rng(size)
    values = rng.integers(0, 3, size).astype(float)  # many zeros; sums are exact
    values[-1] = 1
    tree = make(size)
    tree.set(np.arange(size), values)
    ends = values.cumsum()
    masses = np.concatenate([rng.uniform(0, ends[-1], 200), ends[:-1][:100], [0.0, ends[-1] - 1]])
    assert tree.find(masses).tolist() == np.searchsorted(ends, masses, side="right").tolist()
    assert tree.total == ends[-1]
    assert tree.nbytes == SumTree.nbytes_for(size)
    tree.check()


@settings(deadline=None, max_examples=100)
@given(
    changes=st.lists(
        st.lists(
            st.tuples(st.integers(0, 299), st.floats(0, 1e12) | st.just(0.0)),
            min_size=1,
            max_size=9,
        ),
        min_size=1,
        max_size=20,
    )
)
def test_any_changes_give_the_sums_of_the_list(changes):
    """With three levels of a few children each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priorities, "FAN_OUT", 4)
        patch.setattr(priorities, "ROOT_WIDTH", 8)
        tree, values = make(300), np.zeros(300)
        for change in changes:
            indices, news = (np.array(column) for column in zip(*change, strict=True))
            tree.set(indices, news)
            for index, new in change:
                values[index] = new
            tree.set(int(indices[0]), values[indices[0]])  # one alone
            assert tree.get(np.arange(300)).tolist() == values.tolist()
            assert tree.total == pytest.approx(values.sum())
            tree.check()
            if values.any():
                found = tree.find(np.linspace(0, tree.total, 50))
                assert (values[found] > 0).all()


def test_a_leaf_of_zero_is_never_found_however_masses_lie():
    tree = make(10_000)
    positive = np.arange(7, 10_000, 501)
    tree.set(positive, 10.0 ** np.linspace(-300, 300, len(positive)))  # sums lose all but the last
    found = tree.find(np.array([-1.0, 0.0, 1e-320, 1.0, 1e300, tree.total, np.inf]))
    assert set(found.tolist()) <= set(positive.tolist())
    assert found[0] == positive[0]
    assert found[-1] == positive[-1]


def test_sums_do_not_drift():
    """Adding and subtracting the differences would lose the small leaf beside the large one."""
    tree = make(5000)
    tree.set(0, 1e-9)
    for _ in range(100):
        tree.set(1, 1e9)
        assert tree.total > 1e9 - 1
        tree.set(1, 0.0)
        assert tree.total == 1e-9


def test_leaves_of_an_earlier_tree_count():
    leaves = np.zeros(SumTree.shape_for(9000))
    leaves[100, 3] = 2.5
    tree = SumTree(leaves)
    assert tree.total == 2.5
    assert tree.find(np.array([1.0])).tolist() == [100 * FAN_OUT + 3]
    tree.set(5, 1.0)
    assert leaves[0, 5] == 1  # they are used, not copied


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_check_notices_a_wrong_leaf(wrong):
    tree = make(5000)
    tree.set(3, wrong)
    with pytest.raises(AssertionError):
        tree.check()


def test_check_notices_a_leaf_that_was_changed_behind_its_back():
    leaves = np.zeros(SumTree.shape_for(5000))
    tree = SumTree(leaves)
    assert tree.total == 0
    leaves[2, 2] = 1
    with pytest.raises(AssertionError):
        tree.check()
