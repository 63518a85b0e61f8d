"""Stage timings, on a clock that the test turns."""

import numpy as np
import pytest

from barista.timings import Timings


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_stage_counts_the_time_of_its_block():
    clock = Clock()
    timings = Timings(clock)
    for seconds in (1.0, 3.0):
        with timings.measure("act"):
            clock.now += seconds
        clock.now += 50
    stage = timings.stages()["act"]
    assert (stage.times, stage.mean_s, stage.deviation_s, stage.total_s) == (2, 2.0, 1.0, 4.0)


def test_a_block_that_raises_is_counted():
    clock = Clock()
    timings = Timings(clock)

    def fail():
        with timings.measure("push"):
            clock.now += 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert timings.totals_s() == {"push": 2}


def test_a_stage_within_a_stage_is_taken_out_of_it():
    clock = Clock()
    timings = Timings(clock)
    with timings.measure("exchange"):
        clock.now += 1
        for _ in range(2):
            with timings.measure("wait"):
                clock.now += 4
                with timings.measure("act"):
                    clock.now += 8
        clock.now += 2
    with timings.measure("exchange"):
        clock.now += 16
    assert timings.totals_s() == {"act": 16, "wait": 8, "exchange": 19}


def test_mean_and_deviation_agree_with_numpy():
    samples = np.random.default_rng(0).exponential(size=200)
    timings = Timings()
    for seconds in samples:
        timings.add("act", float(seconds))
    stage = timings.stages()["act"]
    np.testing.assert_allclose(
        [stage.mean_s, stage.deviation_s, stage.total_s],
        [samples.mean(), samples.std(), samples.sum()],
        rtol=1e-9,
    )


def test_nothing_measured_is_nothing_shown():
    assert Timings().totals_s() == {}
    assert str(Timings()) == ""


def test_the_line_shows_shares():
    timings = Timings()
    timings.add("act", 0.001)
    timings.add("compute", 0.003)
    assert str(timings) == "act 1.00 ± 0.00 ms (25%), compute 3.00 ± 0.00 ms (75%)"
