"""The stream of statuses, and who may watch it."""

import json
import threading

import pytest
from param_server import live as live_module
from param_server.errors import Draining, TooManyViewers
from param_server.live import MOST_VIEWERS, Live

from tests.server_rig import until
from tests.store_rig import make_push, make_store, ones


@pytest.fixture
def store():
    return make_store()


@pytest.fixture
def live(store):
    live = Live(store.status)
    yield live
    live.close()


def document(event):
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    return json.loads(event.removeprefix(b"data: "))


def test_viewer_gets_the_newest_status_and_then_each(live, store):
    live.read_status()
    viewer = live.watch()
    assert next(viewer) == b"retry: 1000\n\n"
    assert document(next(viewer))["version"] == 0
    store.apply(make_push(), ones())
    live.read_status()
    assert document(next(viewer))["version"] == 1
    viewer.close()


def test_slow_viewer_is_told_the_newest_and_not_all_it_missed(live, store):
    viewer = live.watch()
    next(viewer)
    for sequence in range(1, 4):
        store.apply(make_push(sequence), ones(value=0.1))
        live.read_status()
    assert document(next(viewer))["version"] == 3
    viewer.close()


def test_history_has_a_point_for_each_reading(live, store):
    live.read_status()
    store.apply(make_push(), ones())
    live.read_status()
    assert live.history()["columns"]["version"] == [0, 1]


def test_readings_go_on_by_themselves(live, monkeypatch):
    monkeypatch.setattr(live_module, "PERIOD_S", 0.01)
    live.start()
    until(lambda: len(live.history()["columns"]["version"]) >= 3)


def test_reading_that_fails_is_logged_and_the_next_one_comes(store, monkeypatch, caplog):
    monkeypatch.setattr(live_module, "PERIOD_S", 0.01)
    failures = [OSError("no such status")]

    def status():
        if failures:
            raise failures.pop()
        return store.status()

    live = Live(status)
    live.start()
    until(lambda: live.history()["columns"]["version"])
    live.close()
    assert "no such status" in caplog.text


def test_silence_is_filled_with_comments(live, monkeypatch):
    monkeypatch.setattr(live_module, "_HEARTBEAT_S", 0.01)
    viewer = live.watch()
    assert [next(viewer) for _ in range(3)] == [b"retry: 1000\n\n", b":\n\n", b":\n\n"]
    viewer.close()


def test_there_is_a_most_of_viewers_and_who_leaves_makes_room(live):
    viewers = [live.watch() for _ in range(MOST_VIEWERS)]
    with pytest.raises(TooManyViewers) as refused:
        live.watch()
    assert (refused.value.status, refused.value.kind) == (503, "too-many-viewers")
    viewers[3].close()
    viewers[3].close()  # once or twice is the same
    viewers[3] = live.watch()
    for viewer in viewers:
        viewer.close()
    assert live.viewers == 0


def test_stream_ends_after_a_while_so_that_who_has_gone_is_noticed(live, monkeypatch):
    monkeypatch.setattr(live_module, "_LIFE_EVENTS", 2)
    monkeypatch.setattr(live_module, "_HEARTBEAT_S", 0.01)
    viewer = live.watch()
    assert len(list(viewer)) == 3
    viewer.close()


def test_streams_end_when_the_server_does(live):
    live.read_status()
    viewer = live.watch()
    next(viewer), next(viewer)
    left = []
    thread = threading.Thread(target=lambda: left.extend(viewer))
    thread.start()
    live.close()
    thread.join(10)
    assert not thread.is_alive()
    assert left == []
    viewer.close()
    with pytest.raises(Draining):
        live.watch()
