"""The desk where rounds are handed in, and the request loop in front of it."""

import http.client
import json
import threading

import pytest

from barista.rounds import RoundRequest
from barista.server import PortTakenError, RequestServer, RoundDesk


def request(number):
    return RoundRequest(number=number, partition=0, quota=10, deadline_s=60.0)


@pytest.fixture
def desk():
    return RoundDesk(lambda: {"heartbeat": 7})


def test_a_round_is_taken_once(desk):
    desk.submit(request(1))
    assert desk.next_round(0).number == 1
    assert desk.next_round(0) is None


def test_submitting_the_current_round_again_joins_it(desk):
    desk.submit(request(1))
    desk.next_round(0)
    desk.submit(request(1))
    assert desk.next_round(0) is None
    assert not desk.interrupt.is_set()


def test_a_newer_round_interrupts_the_current_one(desk):
    desk.submit(request(1))
    desk.next_round(0)
    desk.submit(request(2))
    assert desk.interrupt.is_set()
    desk.finish(request(1), {"late": True})
    assert desk.status()["metrics"] is None
    assert desk.next_round(0).number == 2
    assert not desk.interrupt.is_set()


def test_an_older_round_is_refused(desk):
    desk.submit(request(2))
    with pytest.raises(ValueError, match="round 1 is over"):
        desk.submit(request(1))
    assert desk.status()["round"] == 2


def test_the_metrics_of_a_finished_round_stay_readable(desk):
    desk.submit(request(1))
    desk.next_round(0)
    desk.finish(request(1), {"applied": 3})
    assert desk.status(wait_for_round=1, timeout_s=60)["metrics"] == {"applied": 3}
    assert desk.status(wait_for_round=1, timeout_s=60)["progress"] == {"heartbeat": 7}


def test_a_failure_ends_the_wait(desk):
    desk.fail("it broke")
    assert desk.status(wait_for_round=1, timeout_s=60)["error"] == "it broke"


def test_stop_wakes_the_learner(desk):
    taken = []
    thread = threading.Thread(target=lambda: taken.append(desk.next_round()))
    thread.start()
    desk.stop()
    thread.join(10)
    assert taken == [None]


@pytest.fixture
def server(desk):
    server = RequestServer(desk, "secret", 0, exact=False)
    server.start()
    yield server
    server.stop()


def ask(server, method, path, content=None, token="secret"):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    body = None if content is None else json.dumps(content)
    connection.request(method, path, body, {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    result = answer.status, json.loads(answer.read())
    connection.close()
    return result


def test_a_round_over_http(server, desk):
    wanted = {"number": 3, "partition": 1, "quota": 5, "deadline_s": 9.0}
    assert ask(server, "POST", "/round", wanted)[0] == 200
    assert desk.next_round(0) == RoundRequest(**wanted)
    status, body = ask(server, "GET", "/status?round=3&wait_s=0")
    assert (status, body["round"], body["metrics"]) == (200, 3, None)


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/round", {"number": -3}, 400),
        ("POST", "/round", [1], 400),
        ("POST", "/nowhere", {}, 404),
        ("GET", "/nowhere", None, 404),
        ("GET", "/status?round=x", None, 400),
    ],
)
def test_bad_requests_are_answered(server, method, path, content, status):
    assert ask(server, method, path, content)[0] == status
    assert ask(server, "GET", "/status")[0] == 200


@pytest.mark.parametrize("path", ["/round", "/stop"])
def test_a_stranger_gets_nothing(server, desk, path):
    assert ask(server, "POST", path, {}, token="guess")[0] == 404
    assert not desk.stopped.is_set()


def test_stop_over_http(server, desk):
    assert ask(server, "POST", "/stop", {})[0] == 200
    assert desk.stopped.wait(10)


def test_a_taken_port_is_stepped_over_unless_it_was_asked_for(server, desk):
    beside = RequestServer(desk, "secret", server.port, exact=False)
    assert beside.port != server.port
    beside.stop()
    with pytest.raises(PortTakenError, match=f"port {server.port}"):
        RequestServer(desk, "secret", server.port, exact=True)
