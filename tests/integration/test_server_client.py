"""Client and server over a real socket: whole copies, one application of each push."""

import threading

import numpy as np
import pytest
from param_server.app import create_app
from param_server.client import Client
from param_server.errors import EpochChanged, ParamServerError, Unauthorized, WrongRun
from param_server.serving import Server
from param_server.wire import Layout

from tests.server_rig import TOKEN, make_service, running
from tests.store_rig import EPOCH, LAYOUT, make_push, make_store, ones

WIDE = Layout.from_entries([("fc/0", (100_000,)), ("fc/1", (10,))])


@pytest.fixture
def service():
    with running(make_store(may_change_run=True)) as service:
        yield service
        service.store.check()


@pytest.fixture
def client(service):
    client = Client(service.server.address, TOKEN, run="r1", worker="w0", retry_s=0)
    yield client
    client.close()


def test_every_exchange_of_the_protocol(client):
    layout = client.prototxt().layout
    assert layout == LAYOUT
    model = client.pull()
    assert (model.epoch, model.version, float(model.weights[0])) == (EPOCH, 0, 1.0)
    assert client.pull((EPOCH, 0)) is None
    answer, new = client.push(make_push(want_model=True), ones(), out=np.empty(8, np.float32))
    assert (answer.status, new.version, float(new.weights[0])) == ("applied", 1, 0.0)
    answer, none = client.push(make_push(2, version=1), ones(value=np.nan))
    assert (answer.status, none) == ("rejected", None)
    assert client.pull_target((EPOCH, 0)) is None
    assert float(client.pull_target().weights[0]) == 1.0
    assert client.status()["version"] == 1
    assert client.snapshot()["path"] == "there"
    assert client.clear() == {"epoch": EPOCH + 1, "version": 0}
    with pytest.raises(EpochChanged) as caught:
        client.push(make_push(3), ones())
    assert caught.value.epoch == EPOCH + 1


def test_wrong_token_is_told_even_for_a_large_push(service):
    stranger = Client(service.server.address, "wrong", retry_s=0)
    for _ in range(3):
        with pytest.raises(Unauthorized):
            stranger.push(make_push(), np.zeros(2_000_000, np.float32))
    stranger.close()


def test_second_run_waits_for_the_first_to_close(service, client):
    client.open_run()
    other = Client(service.server.address, TOKEN, run="r2", retry_s=0)
    with pytest.raises(WrongRun, match="r1"):
        other.open_run()
    with pytest.raises(WrongRun):
        other.push(make_push(run="r2"), ones())
    client.close_run()
    assert other.open_run()["run"] == "r2"
    other.close()


def test_client_survives_a_server_that_restarts_at_its_address():
    store = make_store()
    with running(store) as service:
        port = service.server.port
        client = Client(service.server.address, TOKEN, retry_s=0)
        client.pull()
    server = Server("127.0.0.1", port)
    server.application = create_app(make_service(store, port=port))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    assert client.pull().version == 0
    server.shutdown()
    server.server_close()
    thread.join(10)
    client.close()


class Crowd:
    """Workers that push each gradient twice, and readers; what they saw that cannot be."""

    def __init__(self, address):
        self.client = Client(address, TOKEN, run="r1", retry_s=0)
        self.failures = []

    def push(self, worker):
        gradient, out = ones(WIDE), np.empty(WIDE.size, np.float32)
        fields = {"worker": worker, "layout": WIDE.digest, "want_model": True}
        for sequence in range(1, 101):
            for status in ("applied", "duplicate"):
                answer, model = self.client.push(make_push(sequence, **fields), gradient, out)
                self.see(answer.status == status, model.version, out)

    def pull(self, pull):
        out = np.empty(WIDE.size, np.float32)
        for _ in range(1000):
            model = pull(out=out)
            is_target = pull == self.client.pull_target
            self.see(True, model.target_version if is_target else model.version, out)

    def see(self, is_right, version, weights):
        """All weights of a version are equal, so any torn copy shows two values."""
        if not (is_right and np.all(weights == np.float32(1 - version))):
            self.failures.append((version, np.unique(weights)))

    def work(self, function, argument):
        try:
            function(argument)
        except (ParamServerError, OSError, AttributeError) as error:
            self.failures.append(error)
        finally:
            self.client.close()


def test_many_workers_push_and_pull_and_nothing_is_torn_lost_or_doubled():
    """2 000 pulls beside 300 pushes, each sent twice."""
    store = make_store(WIDE, target_period=7)
    with running(store) as service:
        crowd = Crowd(service.server.address)
        tasks = [(crowd.push, f"w{index}") for index in range(3)]
        tasks += [(crowd.pull, crowd.client.pull), (crowd.pull, crowd.client.pull_target)]
        threads = [threading.Thread(target=crowd.work, args=task) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert crowd.failures == []
    assert store.version == 300
    assert store.counters() == (1200, 0, 300)
    assert store.status()["duplicates"] == 300
    store.check()
