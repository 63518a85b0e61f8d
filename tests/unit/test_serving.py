"""The WSGI server: bodies without copies, connections kept alive or closed as HTTP demands."""

import contextlib
import http.client
import json
import socket
import threading

import pytest
from param_server import serving
from param_server.serving import Server


@contextlib.contextmanager
def served(application):
    server = Server("127.0.0.1", 0)
    server.application = application
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def echo(environ, start_response):
    """Answer with the body, or with nothing read for /ignore."""
    body = b"" if environ["PATH_INFO"] == "/ignore" else environ["wsgi.input"].read()
    answer = body or json.dumps({k: v for k, v in environ.items() if isinstance(v, str)}).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer[:3], memoryview(answer)[3:]]


@pytest.fixture(scope="module")
def server():
    with served(echo) as server:
        yield server


@pytest.fixture
def connection(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    yield connection
    connection.close()


def raw(server, request):
    """Send bytes; return all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(1 << 16):
            answer += piece
    return answer


@pytest.mark.parametrize("size", [1, 1000, 3_000_000])
def test_body_comes_and_goes_unchanged(connection, size):
    body = bytes(range(256)) * (size // 256 + 1)
    connection.request("POST", "/", body[:size])
    assert connection.getresponse().read() == body[:size]


def test_connection_is_kept_alive(connection):
    connection.request("GET", "/")
    connection.getresponse().read()
    first = connection.sock
    connection.request("POST", "/", b"abc")
    assert connection.getresponse().read() == b"abc"
    assert connection.sock is first


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_body_that_nobody_read_does_not_spoil_the_next_request(connection, size):
    connection.request("POST", "/ignore", b"GET / HTTP/1.1\r\n\r\n".ljust(size))
    connection.getresponse().read()
    connection.request("POST", "/", b"abc")
    assert connection.getresponse().read() == b"abc"


def test_environ_is_that_of_the_request(connection):
    connection.request(
        "GET", "/a%20b?c=d", headers={"X-One": "1", "X_One": "2", "Content-Type": "t"}
    )
    environ = json.loads(connection.getresponse().read())
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["PATH_INFO"] == "/a b"
    assert environ["QUERY_STRING"] == "c=d"
    assert environ["HTTP_X_ONE"] == "1"
    assert environ["CONTENT_TYPE"] == "t"
    assert environ["REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: x",
        b"Content-Length: -1",
        b"Content-Length: 1, 2",
        b"Content-Length: 1\r\nContent-Length: 1",
        b"Content-Length: " + b"9" * 30,
        b"Content-Length: \xb2",
    ],
)
def test_length_that_is_no_number_is_a_400_and_the_end(server, lines):
    answer = raw(server, b"POST / HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in answer
    assert b"Connection: close" in answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [(b"nonsense\r\n\r\n", 400), (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
     (b"GET /" + b"a" * 70_000, 414), (b"GET / HTTP/9.9\r\n\r\n", 505)],
)  # fmt: skip
def test_what_is_not_http_is_answered_as_a_problem(server, request_bytes, status):
    answer = raw(server, request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f" {status} ".encode() in head.splitlines()[0]
    assert json.loads(body)["status"] == status


def test_chunked_body_closes_the_connection_after_the_answer(server):
    answer = raw(
        server,
        b"POST /ignore HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\n\r\n",
    )
    assert answer.count(b"HTTP/1.1 200") == 1
    assert b"Connection: close" in answer


def test_body_beyond_the_limit_closes_the_connection(server, monkeypatch):
    monkeypatch.setattr(serving, "_DISCARD_LIMIT_BYTES", 1000)
    head = b"POST /ignore HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"
    answer = raw(server, head + b"x" * 5000)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" in answer


def test_peer_that_leaves_within_its_body_ends_only_its_connection(server, connection):
    raw(server, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
    connection.request("POST", "/", b"abc")
    assert connection.getresponse().read() == b"abc"


def test_expectation_to_continue_is_met(server):
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    assert raw(server, head + b"abc").startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


def test_silent_connection_is_closed(server, monkeypatch):
    monkeypatch.setattr(serving._Handler, "timeout", 0.05)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        assert client.recv(1) == b""


def test_failing_application_closes_the_connection_and_is_logged(caplog):
    def fail(environ, start_response):
        raise ZeroDivisionError

    with served(fail) as server:
        assert raw(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    assert "ZeroDivisionError" in caplog.text


def test_parts_of_an_answer_are_closed():
    closed = threading.Event()

    class Parts(list):
        def close(self):
            closed.set()

    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])
        return Parts([b"ok"])

    with served(application) as server:
        assert raw(server, b"GET / HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nok")
        assert closed.wait(10)


def test_address_is_written_as_in_a_url():
    with contextlib.closing(socket.socket(socket.AF_INET6)) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 on this machine")
    server = Server("::1", 0)
    server.server_close()
    assert server.address == f"[::1]:{server.port}"
