"""An acknowledgement comes after the disk, and says no more than the disk holds."""

import pytest
from param_server import progress
from param_server.durability import Durability
from param_server.errors import JournalFailed
from param_server.journal import Journal
from param_server.journal_reader import Reading
from param_server.progress import Progress

from tests.store_rig import EPOCH, make_push, make_store, ones


@pytest.fixture
def journalled(tmp_path):
    """A store with a journal, and what acknowledges its changes."""
    journal = Journal(tmp_path, lambda: (store.epoch, store.changes))
    store = make_store(journal=journal)
    store.capture(lambda: None)
    durability = Durability(Progress(tmp_path), journal)
    yield store, durability, journal
    durability.close()


def test_in_mode_interval_it_is_noted_only(tmp_path):
    store = make_store()
    durability = Durability(Progress(tmp_path))
    store.apply(make_push(), ones())
    durability.acknowledge(store)
    durability.close()
    assert progress.read(tmp_path) == (EPOCH, 1, 1)


def test_what_is_acknowledged_is_in_the_journal(journalled, tmp_path):
    store, durability, _ = journalled
    for sequence in (1, 2):
        assert store.apply(make_push(sequence), ones()).durable_version == sequence
        durability.acknowledge(store)
    assert progress.read(tmp_path) == (EPOCH, 2, 2)
    assert len(list(Reading(tmp_path, 1, (EPOCH, 0)))) == 2


def test_what_happens_during_the_sync_is_not_noted_with_it(journalled, tmp_path, monkeypatch):
    store, durability, journal = journalled
    store.apply(make_push(), ones())
    sync = journal.sync

    def slow():
        sync()
        store.apply(make_push(2), ones())

    monkeypatch.setattr(journal, "sync", slow)
    durability.acknowledge(store)
    assert progress.read(tmp_path) == (EPOCH, 1, 1)


def test_what_may_not_be_on_disk_is_not_noted(journalled, tmp_path, monkeypatch):
    store, durability, journal = journalled

    def failing():
        raise JournalFailed("the disk")

    monkeypatch.setattr(journal, "sync", failing)
    store.apply(make_push(), ones())
    with pytest.raises(JournalFailed):
        durability.acknowledge(store)
    assert progress.read(tmp_path) is None
