"""The share of a processor that a process takes."""

import pytest
from param_server.busy import Busy


class Meter:
    """A clock, or a processor's time."""

    def __init__(self):
        self.value = 0.0

    def __call__(self):
        return self.value


@pytest.fixture
def clock():
    return Meter()


@pytest.fixture
def spent():
    return Meter()


def test_nothing_is_known_at_first(clock, spent):
    assert Busy(clock, spent).share() == 0.0


def test_share_is_processor_time_over_time(clock, spent):
    busy = Busy(clock, spent)
    clock.value, spent.value = 10.0, 4.0
    assert busy.share() == pytest.approx(0.4)


def test_share_is_of_the_last_half_minute(clock, spent):
    busy = Busy(clock, spent)
    for _ in range(100):
        clock.value += 1
        spent.value += 1
        busy.share()
    for _ in range(30):
        clock.value += 1
        busy.share()
    assert busy.share() == pytest.approx(0.0, abs=0.04)


def test_the_real_process_is_measured():
    busy = Busy()
    sum(range(2_000_000))
    assert busy.share() > 0
