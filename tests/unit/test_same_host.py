"""The server's side of the same-host path: who is let in, what it costs, how it ends."""

import contextlib
import os
import resource
import stat
import tempfile
import threading
from pathlib import Path

import pytest
from param_server import same_host
from param_server.errors import JournalFailed
from param_server.same_host import Limits, SameHostServer, offer
from param_server.same_host_client import SameHostClient

from tests.same_host_rig import Peer, frame, hello, sharing
from tests.server_rig import TOKEN, make_service, until
from tests.store_rig import EPOCH, LAYOUT, make_push, make_store, ones


@pytest.fixture
def service():
    return make_service(make_store())


@pytest.fixture
def server(service):
    with sharing(service) as server:
        yield server


@pytest.fixture
def client(server):
    client = SameHostClient(str(server.path), TOKEN, run="r1", worker="w0")
    yield client
    client.close()


@pytest.fixture
def temporary(monkeypatch):
    """No runtime directory, and a folder for temporary files with a short path."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("DDQ_SAME_HOST", raising=False)
    with tempfile.TemporaryDirectory(prefix="ddq-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def counted(service, sample):
    lines = service.metrics.page().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(sample))


def test_the_socket_is_its_owner_s_alone(server):
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    assert server.path.stat().st_uid == os.geteuid()


def test_welcome_says_what_the_memory_is(server):
    with Peer(server.path, hello()) as peer:
        assert peer.hear() == {
            "kind": "welcome", "dtype": "float32", "epoch": EPOCH, "layout": LAYOUT.digest,
            "size": 8, "weights_offset": 4096,
        }  # fmt: skip


def test_the_memory_has_no_name(server, client):
    """A small /dev/shm does not matter, and a kill leaves nothing there."""
    before = set(Path("/dev/shm").iterdir())
    client.push(make_push(), ones())
    assert set(Path("/dev/shm").iterdir()) == before
    assert sorted(server.path.parent.iterdir()) == [server.path]


def test_any_layout_is_welcome_where_none_is_named(server):
    with Peer(server.path, hello(layout="")) as peer:
        assert peer.hear()["kind"] == "welcome"


@pytest.mark.parametrize(
    ("greeting", "problem"),
    [
        (hello(token="wrong"), (401, "unauthorized")),
        (hello(token=""), (401, "unauthorized")),
        (hello(token=None), (400, "bad-request")),
        (hello(layout="0" * 16), (409, "wrong-layout")),
        (hello(kind="push"), (400, "bad-request")),
        (hello(worker=7), (400, "bad-request")),
        (hello(run="x" * 9000), (400, "bad-request")),
        (frame(kind="pull", which="weights", known=None), (400, "bad-request")),
        (b"GET / HTTP/1.1\r\n\r\n", (400, "bad-request")),
    ],
)
def test_who_does_not_say_hello_is_refused_and_left(service, server, greeting, problem):
    with Peer(server.path, greeting) as peer:
        assert peer.problem() == problem
        assert peer.hear() is None
    assert counted(service, f'ddq_refused_requests_total{{kind="{problem[1]}"}}') == 1


def test_another_user_is_refused_before_a_word(service):
    with sharing(service, user=os.geteuid() + 1) as server, Peer(server.path) as peer:
        assert peer.problem() == (401, "unauthorized")
        assert peer.hear() is None


def test_who_says_nothing_is_left(service):
    with sharing(service, limits=Limits(hello_s=0.02)) as server, Peer(server.path) as peer:
        assert peer.hear() is None


def test_who_falls_silent_is_left_and_comes_back(service):
    with sharing(service, limits=Limits(idle_s=0.02)) as server:
        client = SameHostClient(str(server.path), TOKEN)
        client.connect()
        until(lambda: not any(server._connections.count()))
        assert client.pull().version == 0
        client.close()


def test_more_workers_than_the_limit_are_told_to_use_http(service):
    with sharing(service, limits=Limits(known=1)) as server:
        with Peer(server.path, hello()) as first:
            assert first.hear()["kind"] == "welcome"
            with Peer(server.path, hello()) as second:
                assert second.problem() == (503, "crowded")
        until(lambda: not any(server._connections.count()))
        with Peer(server.path, hello()) as third:
            assert third.hear()["kind"] == "welcome"


def test_strangers_cannot_keep_a_worker_out(service):
    with sharing(service, limits=Limits(strangers=2)) as server, contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(Peer(server.path))
        worker = stack.enter_context(Peer(server.path, hello()))
        assert worker.hear()["kind"] == "welcome"
        assert sum(server._connections.count()) <= 4


def test_memory_that_is_not_granted_is_told_too(server):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Peer(server.path) as peer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            peer.say(hello())
            assert peer.problem() == (503, "crowded")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_who_gets_no_thread_is_left_and_the_next_is_served(server, monkeypatch, caplog):
    def start(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with Peer(server.path) as peer:
            assert peer.hear() is None
    assert "can't start new thread" in caplog.text
    with Peer(server.path, hello()) as peer:
        assert peer.hear()["kind"] == "welcome"


def test_requests_renew_leases_and_are_counted_like_http_s(service, client):
    client.push(make_push(), ones())
    service.store._clock.now += 30
    client.pull()
    client.pull_target((EPOCH, 0))
    assert service.store.status()["workers"]["w0"]["last_contact_s"] == 0
    assert counted(service, 'ddq_request_seconds_count{route="update_model"}') == 1
    assert counted(service, 'ddq_request_seconds_count{route="latest_model"}') == 2


@pytest.mark.parametrize(
    ("request_frame", "detail"),
    [
        (frame(kind="dance"), "'kind' is 'dance'"),
        (frame(), "'kind' is missing"),
        (frame(kind="pull", which="both", known=None), "'which' is 'both'"),
        (frame(kind="pull", which="weights", known=[1]), "'known'"),
        (frame(kind="pull", which="weights", known="x"), "'known'"),
        (frame(kind="pull", dtype="bfloat16", which="weights"), "'dtype'"),
        (frame(kind="push", model_dtype="bfloat16"), "'model_dtype'"),
        (frame(kind="push"), "field 'run'"),
    ],
)
def test_a_wrong_request_is_answered_and_the_next_good_one_works(server, request_frame, detail):
    with Peer(server.path, hello()) as peer:
        peer.hear()
        peer.say(request_frame)
        answer = peer.hear()["problem"]
        assert answer["status"] == 400
        assert detail in answer["detail"]
        peer.say(frame(kind="pull", which="weights", known=None))
        assert peer.hear()["kind"] == "model"


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (JournalFailed("disk full"), (507, "journal-failed")),
        (ZeroDivisionError("a bug of ours"), (500, "failed")),
    ],
)
def test_failures_of_ours_are_answered_and_the_connection_lives(service, server, error, problem):
    def fail(*_arguments, **_options):
        raise error

    working, service.push = service.push, fail
    with Peer(server.path, hello()) as peer:
        peer.hear()
        fields = dict(vars(make_push()), stats={}, kind="push", loss=0.5)
        peer.say(frame(**fields))
        assert peer.problem() == problem
        service.push = working
        peer.say(frame(**fields))
        assert peer.hear()["status"] == "applied"


def test_close_ends_threads_and_connections_and_removes_the_socket(service):
    with sharing(service) as server, Peer(server.path, hello()) as peer:
        assert peer.hear()["kind"] == "welcome"
        server.close()
        assert peer.hear() is None
        assert not server.path.exists()
        until(lambda: not [t for t in threading.enumerate() if t.name.startswith("same host")])


def test_a_path_that_cannot_be_bound_is_an_error(service, tmp_path):
    with pytest.raises(OSError, match="No such file"):
        SameHostServer(service, tmp_path / "missing" / "a.sock")


def test_offer_binds_in_the_private_folder_and_removes_leftovers(service, temporary):
    first = offer(service, 5500)
    first._listener.close()  # killed
    second = offer(service, 5500)
    assert [second.path] == list((temporary / f"ddq-{os.geteuid()}").iterdir())
    assert second.path != first.path
    second.start()
    second.close()


def test_no_path_is_offered_where_it_is_turned_off(service, temporary, monkeypatch):
    monkeypatch.setenv("DDQ_SAME_HOST", "0")
    assert offer(service, 5500) is None
    assert list(temporary.iterdir()) == []


def test_no_path_is_offered_without_sealed_memory(service, temporary, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    assert offer(service, 5500) is None
    assert list(temporary.iterdir()) == []


def test_a_foreign_folder_is_a_warning_and_no_path(service, temporary, caplog):
    (temporary / f"ddq-{os.geteuid()}").mkdir(mode=0o777)
    assert offer(service, 5500) is None
    assert "will use HTTP" in caplog.text
    assert same_host.__name__ in caplog.text or "not a folder" in caplog.text
