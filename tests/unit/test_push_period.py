"""How many gradients a push holds where that is left to us."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barista.driver.push_period import BUSY_SHARE, EXCHANGE_SHARE, LONGEST, Costs, PushPeriod, costs

SECONDS = st.floats(1e-4, 1.0)


@given(SECONDS, SECONDS, SECONDS, st.integers(1, 100))
def test_both_shares_are_held_down_by_the_fewest_gradients(gradient_s, exchange_s, server_s, many):
    found = Costs(gradient_s, exchange_s, server_s)
    period = found.period(many)

    def holds(period):
        rate = found.pushes_per_s(many, period)
        exchange, busy = rate * exchange_s / many, rate * server_s
        return exchange <= EXCHANGE_SHARE + 1e-9 and busy <= BUSY_SHARE + 1e-9

    assert holds(period) or period == LONGEST
    assert period == 1 or not holds(period - 1) or found.period(many) < period


def row(**changes):
    counts = {"applied": 40, "gathered": 0, "rejected": 5, "late": 5}
    spent = {"act_s": 1.0, "sample_s": 1.0, "compute_s": 8.0, "exchange_s": 2.0, "wait_s": 0.5}
    return {**counts, **spent, **changes}


def test_costs_are_of_one_gradient_and_one_push():
    found = costs([row(), row()], 2, seconds=12.5, busy=0.4)
    assert found == pytest.approx((0.1, 0.05, 0.05))


def test_who_waits_for_a_slower_one_does_not_make_the_exchange_long():
    slow, waiting = row(compute_s=11.0, exchange_s=0.5, wait_s=0.0), row(wait_s=3.0)
    found = costs([slow, waiting], 2, seconds=12.5, busy=0.4, in_step=True)
    assert found.exchange_s == pytest.approx(0.01)


@pytest.mark.parametrize("nothing", [[], [row(applied=0, rejected=0, late=0)]])
def test_a_round_without_pushes_says_nothing(nothing):
    assert costs(nothing, 1, seconds=1.0, busy=0.0) is None


def test_it_rises_at_once_and_falls_when_half_would_do():
    periods = PushPeriod(0, workers=1)
    assert periods.now == 1
    assert "the exchange took 50% of a worker's time" in periods.follow(Costs(0.01, 0.01, 0.0))
    assert periods.now == 4
    assert periods.follow(Costs(0.01, 0.006, 0.0)) == ""  # 3 would do
    assert periods.follow(Costs(0.01, 0.005, 0.0)).startswith("push period 2: with 4 ")
    assert periods.follow(None) == ""
    assert periods.now == 2


def test_a_crowded_server_lengthens_it_too():
    periods = PushPeriod(0, workers=12)
    assert "the server was 109% busy" in periods.follow(Costs(0.1, 0.01, 0.01))
    assert periods.now == 2


def test_a_period_that_was_asked_for_stays():
    periods = PushPeriod(3, workers=1)
    assert periods.follow(Costs(0.01, 1.0, 1.0)) == ""
    assert periods.now == 3
