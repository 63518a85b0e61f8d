"""When shared memory is chosen over HTTP."""

import numpy as np
import pytest
from param_server.best_exchange import BestExchange, best_exchange
from param_server.client import Client
from param_server.errors import Draining, ParamServerError

from tests.same_host_rig import sharing
from tests.server_rig import TOKEN, make_service, running
from tests.store_rig import EPOCH, Clock, make_push, make_store, ones


@pytest.fixture
def store():
    return make_store()


@pytest.fixture
def service(store, monkeypatch):
    monkeypatch.delenv("DDQ_SAME_HOST", raising=False)
    with running(store) as service:
        yield service


@pytest.fixture
def http(service):
    client = Client(service.server.address, TOKEN, run="r1", worker="w0", retry_s=0)
    yield client
    client.close()


def test_shared_memory_is_used_where_it_can_be(service, http):
    with sharing(service) as server:
        exchange = best_exchange(http)
        assert exchange.is_same_host
        out = np.empty(8, np.float32)
        assert exchange.push(make_push(want_model=True), ones(), out)[1].weights is out
        assert exchange.pull((EPOCH, 1), out) is None
        assert exchange.pull_target((EPOCH, 1), out).version == 1
        assert server._connections.count()[1] == 1
        exchange.close()


def test_http_is_used_where_the_environment_says_so(service, http, monkeypatch):
    monkeypatch.setenv("DDQ_SAME_HOST", "0")
    with sharing(service):
        assert best_exchange(http) is http


@pytest.mark.parametrize("path", ["", "/nowhere/5500-0.sock", "x" * 200])
def test_http_is_used_where_there_is_no_socket(service, http, path):
    service.prototxt["same_host"] = path
    exchange = BestExchange(http)
    assert not exchange.is_same_host
    assert exchange.pull().version == 0


def test_http_is_used_where_the_socket_is_another_server_s(service, http):
    """Its token differs; with the same token, its path would: no two servers share one."""
    other = make_service(make_store())
    with sharing(service), sharing(other) as server:
        other.access = type(other.access)("another", host="127.0.0.1", port=1)
        service.prototxt["same_host"] = str(server.path)
        exchange = BestExchange(http)
        assert not exchange.is_same_host
        assert exchange.pull().version == 0


def test_a_path_that_goes_is_left_for_http_and_one_that_comes_is_found(service, http, store):
    clock = Clock()
    with sharing(service):
        exchange = BestExchange(http, clock=clock)
        assert exchange.push(make_push(1), ones())[0].status == "applied"
    assert exchange.push(make_push(2), ones())[0].status == "applied"
    assert not exchange.is_same_host
    with sharing(service):
        exchange.pull()
        assert not exchange.is_same_host  # it was looked for a moment ago
        clock.now += 60
        exchange.pull()
        assert exchange.is_same_host
        answer, _ = exchange.push(make_push(2), ones())  # a repeat, by the other way
        assert answer.status == "duplicate"
        assert store.version == 2
        exchange.close()


def test_the_path_of_a_new_life_is_found_with_the_first_answer(service, http):
    clock = Clock()
    with sharing(service) as first:
        exchange = BestExchange(http, clock=clock)
        first.close()
        with sharing(service):
            assert exchange.push(make_push(1), ones())[0].status == "applied"
            assert exchange.is_same_host
            exchange.close()


def test_draining_is_left_to_http_which_knows_how_to_wait(service, store):
    slept = []
    http = Client(service.server.address, TOKEN, retry_s=0.01, sleep=slept.append)
    with sharing(service):
        exchange = BestExchange(http)
        store.close()
        with pytest.raises(Draining):
            exchange.push(make_push(), ones())
        assert slept
        exchange.close()


def test_refusals_of_the_store_do_not_change_the_way(service, http):
    with sharing(service):
        exchange = BestExchange(http)
        with pytest.raises(ParamServerError):
            exchange.push(make_push(epoch=EPOCH + 1), ones())
        assert exchange.is_same_host
        exchange.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_memory_is_lent_and_taken_back_as_ways_change(service, http, when):
    """Weights lie where the server writes them while there is such a place, and elsewhere else."""
    places = []

    def take(weights, gradient):
        places.append(weights)
        return True

    clock = Clock()
    out = np.empty(8, np.float32)
    if when == "before":
        exchange = BestExchange(http, clock=clock)
        exchange.lend_to(take)
        assert places == []
        clock.now += 60
    with sharing(service) as server:
        if when == "after":
            exchange = BestExchange(http, clock=clock)
            exchange.lend_to(take)
        else:
            exchange.pull(None, out)  # by HTTP, which finds the other way
        assert len(places) == 1
        assert exchange.pull(None, out).weights is places[0]
        server.close()
        assert exchange.pull(None, out).weights is out  # by HTTP
        assert len(places) == 2
        assert not np.may_share_memory(*places)
    exchange.close()
