"""How many gradients are received at once, and who is next."""

import threading
from contextlib import ExitStack

import pytest
from param_server import receiving
from param_server.receiving import FEWEST, MOST, SMALL_BYTES, Limit, Receiving

from tests.server_rig import until

LINK, OWN = 125e6, 12.5e6  # bytes a second: of the server's link, of a worker's


class Body:
    def __init__(self, size=SMALL_BYTES):
        self.size = self.remaining = size


def drive(limit, windows, *, workers, link=LINK, own=LINK):
    """Let a limit see so many windows; return how much was received in each."""
    received = []
    for _ in range(windows):
        peak = min(workers, limit.now)
        received.append(min(link, own * peak))
        limit.follow(received[-1], peak)
    return received


@pytest.mark.parametrize("workers", [4, 16, 512])
def test_as_few_as_fill_the_link_are_received_at_once(workers):
    limit = Limit()
    drive(limit, 20, workers=workers)
    seen = []
    for _ in range(200):
        drive(limit, 1, workers=workers)
        seen.append(limit.now)
    assert sum(now > FEWEST for now in seen) < 20  # more are tried, and not kept
    assert max(seen) == 2 * FEWEST


@pytest.mark.parametrize("workers", [3, 8, 60])
def test_where_the_workers_own_links_are_slow_all_are_received_at_once(workers):
    limit = Limit()
    received = drive(limit, 400, workers=workers, link=1e12, own=OWN)
    assert sum(received) > 0.95 * 400 * workers * OWN


def test_more_are_let_in_again_when_that_brings_more():
    limit = Limit()
    drive(limit, 40, workers=16)
    assert limit.now <= 2 * FEWEST
    drive(limit, 60, workers=16, link=1e12, own=OWN)
    received = drive(limit, 200, workers=16, link=1e12, own=OWN)
    assert sum(received) > 0.9 * 200 * 16 * OWN


def test_a_lone_worker_says_nothing_about_many():
    limit = Limit()
    drive(limit, 100, workers=1)
    assert limit.now == MOST


class Inside:
    """Threads that have a turn until they are let go."""

    def __init__(self, turns):
        self._turns, self.order, self._threads, self._gates = turns, [], [], {}

    def ask(self, name, size=SMALL_BYTES):
        """Begin a thread, and return when it is inside or waits its turn."""
        self._gates[name] = threading.Event()
        waiting = len(self._turns._waiting)
        thread = threading.Thread(target=self._have, args=(name, size), daemon=True)
        thread.start()
        self._threads.append(thread)
        until(lambda: name in self.order or len(self._turns._waiting) > waiting)

    def let_go(self, *names):
        for name in names or self._gates:
            self._gates[name].set()
        if not names:
            for thread in self._threads:
                thread.join(10)
                assert not thread.is_alive()

    def _have(self, name, size):
        with self._turns.turn(Body(size), size):
            self.order.append(name)
            assert self._gates[name].wait(10)


@pytest.fixture
def turns():
    turns = Receiving()
    turns.limit.now = 2
    return turns


def test_turns_come_in_order_and_are_no_more_than_allowed(turns, monkeypatch):
    monkeypatch.setattr(receiving, "_PATIENCE_S", 100.0)
    inside = Inside(turns)
    for name in "abcd":
        inside.ask(name)
    assert inside.order == ["a", "b"]
    inside.ask("small", SMALL_BYTES - 1)
    assert inside.order == ["a", "b", "small"]
    inside.let_go("b")
    until(lambda: len(inside.order) == 4)
    assert inside.order[-1] == "c"
    inside.let_go()
    assert inside.order[-1] == "d"


def test_a_limit_that_rises_lets_several_in(turns, monkeypatch):
    monkeypatch.setattr(receiving, "_PATIENCE_S", 100.0)
    inside = Inside(turns)
    for name in "abcd":
        inside.ask(name)
    turns.limit.now = 3
    inside.let_go("a")
    until(lambda: inside.order == ["a", "b", "c", "d"])
    inside.let_go()


def test_one_that_hangs_is_waited_for_no_longer_than_a_while(turns, monkeypatch):
    monkeypatch.setattr(receiving, "_PATIENCE_S", 0.05)
    inside = Inside(turns)
    for name in "abcde":
        inside.ask(name)
    until(lambda: inside.order == ["a", "b", "c", "d", "e"])
    inside.let_go()


def test_a_gradient_that_breaks_off_gives_its_turn_back(turns):
    for _ in range(3):
        with pytest.raises(OSError, match="reset"), turns.turn(Body(), SMALL_BYTES):
            raise OSError("reset")
    assert not turns._flows


def test_a_window_counts_bytes_while_any_come(monkeypatch):
    clock = [10.0]
    turns, told = Receiving(lambda: clock[0]), []
    monkeypatch.setattr(turns.limit, "follow", lambda *what: told.append(what))
    long, short = Body(8 * SMALL_BYTES), Body()
    with ExitStack() as stack:
        stack.enter_context(turns.turn(long, long.remaining))
        with turns.turn(short, SMALL_BYTES):
            clock[0] += 1.0
            short.remaining, long.remaining = 0, 5 * SMALL_BYTES
        assert told == [(4 * SMALL_BYTES, 2)]
        clock[0] += 0.25
        long.remaining = 0
    clock[0] += 100.0  # nobody sends
    with turns.turn(short, SMALL_BYTES):
        clock[0] += 0.25
    assert told[1:] == [(6 * SMALL_BYTES / 0.5, 1)]
