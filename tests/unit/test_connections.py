"""The book of strangers and known: who is cut, who is refused, and that it stays bounded."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from param_server import connections
from param_server.connections import Connections
from param_server.errors import Crowded


class Connection:
    """Leaves when it is cut, or (``stays``) when it is told to."""

    def __init__(self, book, *, stays=False):
        self.book = book
        self.stays = stays
        self.is_cut = False
        self.leaves = threading.Event()

    def cut(self):
        self.is_cut = True
        if not self.stays:  # in a thread of its own, as connections do
            self.thread = threading.Thread(target=self.book.leave, args=(self,))
            self.thread.start()


@pytest.fixture
def book():
    return Connections(strangers=2, known=1)


def admitted(book, count=1, **options):
    made = [Connection(book, **options) for _ in range(count)]
    assert all(map(book.admit, made))
    return made


def test_longest_standing_stranger_makes_room_for_a_new_one(book):
    first, second, third = admitted(book, 3)
    first.thread.join()
    assert (first.is_cut, second.is_cut, third.is_cut) == (True, False, False)
    assert book.count() == (2, 0, 0)


def test_no_number_of_strangers_cuts_the_known(book):
    (worker,) = admitted(book)
    book.recognise(worker)
    strangers = admitted(book, 20)
    assert not worker.is_cut
    assert book.is_known(worker)
    for stranger in strangers[:-2]:
        stranger.thread.join()
    assert book.count() == (2, 1, 0)


def test_known_beyond_the_limit_are_refused_and_stay_strangers(book):
    first, second = admitted(book, 2)
    book.recognise(first)
    with pytest.raises(Crowded, match="1 connections are open"):
        book.recognise(second)
    assert not book.is_known(second)
    book.leave(first)
    book.recognise(second)
    assert book.is_known(second)


def test_recognising_twice_counts_once(book):
    (worker,) = admitted(book)
    book.recognise(worker)
    book.recognise(worker)
    assert book.count() == (0, 1, 0)


def test_stranger_that_was_cut_is_not_recognised(book):
    first, _, _ = admitted(book, 3, stays=True)
    book.recognise(first)
    assert not book.is_known(first)


def test_nobody_is_admitted_while_too_many_are_on_their_way_out(book, monkeypatch):
    monkeypatch.setattr(connections, "_PATIENCE_S", 0.01)
    first, _, _ = admitted(book, 3, stays=True)
    assert not book.admit(Connection(book))
    assert book.count() == (2, 0, 1)
    book.leave(first)
    assert book.admit(Connection(book))


def test_one_that_leaves_makes_room_for_one_that_waits(book):
    first, _, _ = admitted(book, 3, stays=True)
    threading.Timer(0.02, book.leave, [first]).start()
    assert book.admit(Connection(book))


def test_closed_book_has_cut_everybody_and_admits_nobody(book):
    worker, stranger = admitted(book, 2)
    book.recognise(worker)
    book.close()
    assert worker.is_cut
    assert stranger.is_cut
    assert not book.admit(Connection(book))


@given(st.lists(st.sampled_from(["come", "show", "leave first", "leave last"]), max_size=60))
def test_every_group_stays_within_its_limit(steps):
    book = Connections(strangers=3, known=2)
    came, here = [], []
    for step in steps:
        if step == "come":
            came.append(Connection(book))
            here.append(came[-1])
            assert book.admit(came[-1])
        elif here and step == "show":
            try:
                book.recognise(here[-1])
            except Crowded:
                assert book.count()[1] == 2
        elif here:
            book.leave(here.pop(0 if step == "leave first" else -1))
        strangers, known, leaving = book.count()
        assert strangers <= 3
        assert known <= 2
        assert leaving <= 1
    for connection in came:
        if connection.is_cut:
            connection.thread.join()


def test_a_wait_for_everybody_ends_with_the_last(book):
    (slow,) = admitted(book, stays=True)
    book.close()
    book.wait_until_empty(0.01)
    assert book.count() == (1, 0, 0)
    threading.Timer(0.05, book.leave, [slow]).start()
    book.wait_until_empty(60)
    assert book.count() == (0, 0, 0)
