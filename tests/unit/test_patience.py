"""How long a worker waits, and for what."""

import pytest
from param_server.errors import (
    Crowded,
    Draining,
    ServerFailed,
    ServerUnreachable,
    TooEarly,
    WrongRun,
)

from barista.patience import LEASE_S, Patience
from tests.rig import Clock, Stop


class Waiting:
    """A patience whose time passes at once; `answers` are raised or returned one by one."""

    def __init__(self, *answers):
        self.clock = Clock()
        self.stop = Stop(self.clock)
        self.answers = list(answers)
        self.patience = Patience(self.clock)

    def ask(self, **keywords):
        return self.patience.ask(self.answer, self.stop.wait, **keywords)

    def answer(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def silent():
    return ServerUnreachable("127.0.0.1:1", "refused")


PASSING = [silent(), Draining("going down"), Crowded("too many"), ServerFailed("disk full")]


def early():
    return TooEarly("3 pushes ahead of the slowest worker, at most 2")


def test_an_answer_is_returned_at_once():
    waiting = Waiting("answer")
    assert waiting.ask() == "answer"
    assert waiting.stop.waits == []


@pytest.mark.parametrize("error", PASSING)
def test_silence_is_waited_out_with_longer_and_longer_pauses(error):
    waiting = Waiting(*[error] * 6, "answer")
    assert waiting.ask() == "answer"
    assert waiting.stop.waits == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0]


@pytest.mark.parametrize("error", PASSING)
def test_silence_is_given_up_after_a_lease(error):
    waiting = Waiting(error)
    with pytest.raises(type(error)):
        waiting.ask()
    assert LEASE_S <= waiting.clock.now < LEASE_S + 6


def test_who_is_too_early_asks_again_soon_and_for_longer_than_a_lease():
    """A server that says so is alive, whatever its own lease is."""
    waiting = Waiting(*[early()] * 1000, "answer")
    assert waiting.ask() == "answer"
    assert set(waiting.stop.waits) == {0.25}
    assert waiting.clock.now > 3 * LEASE_S


def test_who_is_too_early_waits_until_the_deadline():
    waiting = Waiting(early())
    assert waiting.ask(deadline=7.0) is None
    assert 7.0 <= waiting.clock.now < 7.5


def test_a_server_that_falls_silent_then_has_a_whole_lease():
    waiting = Waiting(*[early()] * 100, silent())
    with pytest.raises(ServerUnreachable):
        waiting.ask()
    assert sum(waiting.stop.waits[100:]) >= LEASE_S


@pytest.mark.parametrize("error", [silent(), early()])
def test_stop_ends_any_wait(error):
    waiting = Waiting(error)
    waiting.stop.set()
    assert waiting.ask() is None
    assert len(waiting.stop.waits) == 1


def test_a_refusal_is_not_waited_out():
    waiting = Waiting(WrongRun("another run"))
    with pytest.raises(WrongRun):
        waiting.ask()
    assert waiting.stop.waits == []
