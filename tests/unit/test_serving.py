"""The WSGI server: bodies without copies, connections kept alive or closed as HTTP demands."""

import contextlib
import http.client
import json
import socket
import ssl
import threading

import pytest
from param_server import serving, tls
from param_server.errors import Crowded, Refused
from param_server.serving import Limits, Server

from tests.server_rig import until
from tests.tls_rig import Authority


@contextlib.contextmanager
def served(application, limits=None, **options):
    """Serve an application; with ``limits`` others than the server's own."""
    options["limits"] = None if limits is None else Limits(**limits)
    server = Server("127.0.0.1", 0, **options)
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
    [(b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n\r\n", 400),
     (b"GET /" + b"a" * 70_000, 414), (b"GET / HTTP/9.9\r\n\r\n", 505),
     (b"GET / HTTP/1.1\r\nA: " + b"a" * 70_000, 431), (b"\x16\x03\x01\x00\xf0\x01", 400)],
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


def recognising(environ, start_response):
    """Answer whether the connection is known, which /token makes it."""
    body = b"known"
    try:
        if environ["PATH_INFO"] == "/token":
            environ["ddq.recognise"]()
        body = environ["wsgi.input"].read() or body
    except Refused as error:
        body = error.kind.encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


@contextlib.contextmanager
def dialled(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        yield client


def ask(client, path="/", body=b"", length=None):
    """Send a request; return the body of its answer, empty if the server closed instead."""
    length = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client.recv(1 << 16).partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_stranger_that_does_not_ask_is_closed(said):
    with served(echo, {"head_s": 0.05}) as server, dialled(server) as client:
        client.sendall(said)
        assert client.recv(1) == b""
        until(lambda: server.connections.count() == (0, 0, 0))


def test_known_connection_may_idle_for_longer():
    limits = {"head_s": 0.05, "idle_s": 30.0}
    with served(recognising, limits) as server, dialled(server) as one, dialled(server) as other:
        assert ask(one, "/token") == b"known"
        assert ask(other) == b"known"
        assert other.recv(1) == b""
        until(lambda: server.connections.count() == (0, 1, 0))
        assert ask(one) == b"known"


def test_known_connection_that_idles_too_long_is_closed():
    with served(recognising, {"idle_s": 0.05}) as server, dialled(server) as client:
        assert ask(client, "/token") == b"known"
        assert client.recv(1) == b""


def test_longest_standing_stranger_is_cut_for_a_new_one():
    with served(recognising, {"strangers": 2}) as server, contextlib.ExitStack() as stack:
        worker, first = (stack.enter_context(dialled(server)) for _ in range(2))
        assert ask(worker, "/token") == b"known"
        assert ask(first) == b"known"
        second, third = (stack.enter_context(dialled(server)) for _ in range(2))
        assert ask(second) == ask(third) == ask(worker) == b"known"
        assert first.recv(1) == b""
        assert server.connections.count()[:2] == (2, 1)


def test_known_connection_beyond_the_limit_is_refused_and_closed():
    with (
        served(recognising, {"known": 1}) as server,
        dialled(server) as one,
        dialled(server) as two,
    ):
        assert ask(one, "/token") == b"known"
        assert ask(two, "/token") == Crowded.kind.encode()
        assert two.recv(1) == b""
        assert ask(one) == b"known"


def test_body_that_comes_too_slowly_is_refused_and_the_connection_closed():
    limits = {"head_s": 0.05, "bytes_per_s": 1e6, "discard_s": 0.05}
    with served(recognising, limits) as server, dialled(server) as client:
        assert ask(client, body=b"abc", length=10) == b"too-slow"
        assert client.recv(1) == b""


def test_body_may_take_the_time_that_its_length_needs():
    limits = {"head_s": 0.05, "bytes_per_s": 1.0}  # three bytes may take three seconds
    with served(recognising, limits) as server, dialled(server) as client:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
        for piece in (head, b"a", b"b", b"c"):
            client.sendall(piece)
            threading.Event().wait(0.03)
        assert client.recv(1 << 16).endswith(b"abc")


def test_answer_to_one_who_does_not_read_is_cut():
    def large(environ, start_response):
        start_response("200 OK", [("Content-Length", str(100 << 20))])
        return [bytes(100 << 20)]

    with served(large, {"head_s": 0.05, "bytes_per_s": 1e10}) as server, dialled(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: server.connections.count() == (1, 0, 0))
        until(lambda: server.connections.count() == (0, 0, 0))


def test_answer_without_a_length_comes_part_by_part_and_ends_with_the_connection():
    more = threading.Event()

    def events(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield b"data: 1\n\n"
        assert more.wait(10)
        yield b"data: 2\n\n"

    with served(events) as server, dialled(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"data: 1\n\n"):
            answer += client.recv(1 << 16)
        assert b"Connection: close" in answer
        more.set()
        assert client.recv(1 << 16) == b"data: 2\n\n"
        assert client.recv(1) == b""


def test_head_request_keeps_the_connection(connection):
    connection.request("HEAD", "/ignore")
    assert connection.getresponse().read() == b""


def test_refused_body_that_was_withheld_closes_the_connection(server):
    head = b"POST /ignore HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    answer = raw(server, head)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"100 Continue" not in answer


def test_closing_the_server_ends_all_connections():
    with served(recognising) as server:
        one = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        assert ask(one, "/token") == b"known"
    with one:
        assert one.recv(1) == b""
    until(lambda: server.connections.count() == (0, 0, 0))


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secured(authority):
    context = tls.server_context(*authority.sign("127.0.0.1"))
    with served(echo, {"head_s": 0.5}, tls=context) as server:
        yield server


def test_tls_carries_large_bodies_both_ways(secured, authority):
    context = tls.client_context(authority.file)
    connection = http.client.HTTPSConnection("127.0.0.1", secured.port, timeout=10, context=context)
    for _ in range(2):
        connection.request("POST", "/", bytes(3_000_000))
        assert connection.getresponse().read() == bytes(3_000_000)
    connection.request("GET", "/")
    assert json.loads(connection.getresponse().read())["wsgi.url_scheme"] == "https"
    connection.close()
    assert secured.url == f"https://127.0.0.1:{secured.port}"


def test_plain_request_to_a_tls_server_is_told_so(secured):
    answer = raw(secured, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"this server speaks TLS" in answer


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\x03\x01 nonsense"])
def test_handshake_that_comes_to_nothing_ends_only_its_connection(secured, authority, caplog, said):
    with dialled(secured) as client:
        client.sendall(said)
        until(lambda: secured.connections.count()[0] == 1)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(1 << 16):
                pass
    until(lambda: secured.connections.count() == (0, 0, 0))
    assert caplog.text == ""


def test_tls_of_old_is_not_spoken(secured, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.file)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with dialled(secured) as client, pytest.raises(ssl.SSLError):
        context.wrap_socket(client, server_hostname="127.0.0.1")


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
