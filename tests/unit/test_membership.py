"""Who is bound, who was heard, and when a server changes hands."""

import pytest
from param_server.errors import BadRequest, WrongRun
from param_server.membership import LEASE_S, Membership


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def shared(clock):
    members = Membership(clock, run="", may_change_run=True)
    yield members
    members.check()


@pytest.fixture
def embedded(clock):
    members = Membership(clock, run="r1", may_change_run=False)
    yield members
    members.check()


def test_first_push_binds_its_run(shared):
    shared.admit("r1")
    assert shared.run == "r1"


def test_another_run_is_refused_with_the_bound_one_named(shared):
    shared.admit("r1")
    with pytest.raises(WrongRun, match="r1") as caught:
        shared.admit("r2")
    assert caught.value.run == "r1"


def test_push_without_a_run_is_refused(shared):
    with pytest.raises(BadRequest, match="'run' is empty"):
        shared.admit("")


def test_run_that_is_heard_keeps_the_server(shared, clock):
    shared.open("r1")
    clock.now += LEASE_S - 1
    shared.hear("w0")
    clock.now += LEASE_S - 1
    with pytest.raises(WrongRun):
        shared.open("r2")


def test_silent_run_loses_a_shared_server_and_its_workers(shared, clock):
    shared.open("r1")
    shared.hear("w0")
    clock.now += LEASE_S + 1
    shared.open("r2")
    assert shared.run == "r2"
    assert shared.status() == {}


def test_silent_run_keeps_an_embedded_server(embedded, clock):
    clock.now += 10 * LEASE_S
    with pytest.raises(WrongRun):
        embedded.open("r2")


def test_closed_run_frees_a_shared_server(shared):
    shared.open("r1")
    shared.close("r1")
    shared.open("r2")
    assert shared.run == "r2"


def test_closed_run_stays_bound_to_an_embedded_server(embedded):
    embedded.close("r1")
    assert embedded.run == "r1"


def test_nobody_closes_the_run_of_another(shared):
    shared.open("r1")
    with pytest.raises(WrongRun):
        shared.close("r2")
    assert shared.run == "r1"


def test_closing_what_is_not_open_does_nothing(shared):
    shared.close("r1")
    assert shared.run == ""


def test_members_show_process_pushes_and_last_contact(embedded, clock):
    embedded.hear("w0", "i0", pushes=1)
    embedded.hear("w0", pushes=1)
    clock.now += 5
    shown = {"incarnation": "i0", "last_contact_s": 5.0, "pushes": 2, "lost": False}
    assert embedded.status() == {"w0": shown}


def test_new_process_of_a_worker_begins_at_zero(embedded):
    embedded.hear("w0", "i0", pushes=1)
    embedded.hear("w0", "i1", pushes=1)
    assert embedded.status()["w0"]["pushes"] == 1


def test_members_are_bounded(embedded):
    for index in range(2000):
        embedded.hear(f"w{index}")
    assert len(embedded.status()) == 1024
    assert "w1999" in embedded.status()


def test_process_that_begins_takes_the_one_before_it_out_of_the_race(embedded):
    """The one before was killed, and its lease would have the others wait."""
    embedded.enter("w0", "i0")
    embedded.leave("w0", "i1")
    assert embedded.race() == {}
    embedded.leave("unknown", "i0")
    assert set(embedded.status()) == {"w0"}
