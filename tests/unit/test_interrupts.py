"""Ctrl-C, also where Python would lose it."""

import contextlib
import os
import signal

import pytest

from barista.driver.interrupts import Interrupts


@pytest.fixture
def interrupts():
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    interrupts = Interrupts()
    interrupts.install()
    yield interrupts
    for number, handler in before.items():
        signal.signal(number, handler)


def test_without_a_signal_nothing_happens(interrupts):
    interrupts.check()
    assert not interrupts.requested


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_an_exception(interrupts, number):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_an_interrupt_that_was_swallowed_is_not_forgotten(interrupts):
    with contextlib.suppress(KeyboardInterrupt):  # as in a finalizer
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()


def test_an_interrupt_that_is_held_back_comes_afterwards(interrupts):
    done = []

    def work():
        with interrupts.held_back():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of it"]
