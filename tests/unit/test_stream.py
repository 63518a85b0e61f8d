"""The bytes of a connection: heads and bodies out of pieces, each within its time."""

import socket
import threading
import time

import pytest
from param_server.errors import TooSlow
from param_server.request_head import NotHttp
from param_server.stream import HEAD_LIMIT_BYTES, Body, Stream

SOON_S, NEVER_S = 0.05, 30.0


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def stream(ends):
    return Stream(ends[0])


@pytest.fixture
def peer(ends):
    return ends[1]


def within(seconds=NEVER_S):
    return time.monotonic() + seconds


def body(stream, length, seconds=NEVER_S, **options):
    return Body(stream, length, within(seconds), **options)


def dripping(peer, byte, until):
    """Send a byte again and again; return the thread that does."""

    def drip():
        while not until.wait(0.005):
            peer.send(byte)

    thread = threading.Thread(target=drip)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_heads_and_bodies_come_out_of_pieces_of_any_size(stream, peer, size):
    sent = b"GET / HTTP/1.1\r\nA: 1\r\n\r\nbodyPUT /b HTTP/1.1\r\n\r\n"

    def send():
        for start in range(0, len(sent), size):
            peer.sendall(sent[start : start + size])
            time.sleep(0)

    thread = threading.Thread(target=send)
    thread.start()
    stream.wait(within())
    assert stream.read_head(within()) == b"GET / HTTP/1.1\r\nA: 1"
    assert body(stream, 4).read() == b"body"
    assert stream.read_head(within()) == b"PUT /b HTTP/1.1"
    thread.join()


def test_end_of_the_connection_is_no_head(stream, peer):
    peer.sendall(b"GET / HT")
    peer.close()
    stream.wait(within())
    assert stream.read_head(within()) == b""


def test_head_that_drips_is_cut_at_its_deadline(stream, peer):
    over = threading.Event()
    thread = dripping(peer, b"a", over)
    with pytest.raises(TimeoutError):
        stream.read_head(within(SOON_S))
    over.set()
    thread.join()


@pytest.mark.parametrize(("begin", "status"), [(b"GET /", 414), (b"GET / HTTP/1.1\r\nA: ", 431)])
def test_head_that_is_too_long_is_refused_before_its_end(stream, peer, begin, status):
    peer.sendall(begin + b"a" * HEAD_LIMIT_BYTES)
    with pytest.raises(NotHttp) as caught:
        stream.read_head(within())
    assert caught.value.status == status


def test_tls_is_recognised_by_its_first_bytes(stream, peer):
    peer.sendall(b"\x16\x03\x01\x02\x00")
    with pytest.raises(NotHttp, match="leave out --tls-ca"):
        stream.read_head(within())


def test_body_ends_at_its_length_and_goes_into_the_readers_memory(stream, peer):
    peer.sendall(b"abcdef")
    room = bytearray(10)
    source = body(stream, 4)
    assert source.readinto(room) == 4
    assert room[:5] == b"abcd\0"
    assert source.readinto(room) == 0
    assert body(stream, 2).read() == b"ef"


def test_body_that_is_cut_off_ends_early(stream, peer):
    peer.sendall(b"abc")
    peer.close()
    source = body(stream, 10)
    assert source.read() == b"abc"
    assert source.remaining == 7


def test_body_that_drips_is_too_slow(stream, peer):
    over = threading.Event()
    thread = dripping(peer, b"a", over)
    with pytest.raises(TooSlow, match=r"the body's last [0-9]+ bytes"):
        body(stream, 10**6, SOON_S).readall()
    over.set()
    thread.join()


def test_client_that_waits_is_told_to_continue_when_its_body_is_wanted(stream, peer):
    source = body(stream, 3, awaits_continue=True)
    assert source.is_withheld
    peer.sendall(b"abc")
    assert source.read() == b"abc"
    assert peer.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert not source.is_withheld


def test_discarded_body_leaves_the_next_request(stream, peer):
    peer.sendall(b"abcGET / HTTP/1.1\r\n\r\n")
    assert body(stream, 3).discard(100, within())
    assert stream.read_head(within()) == b"GET / HTTP/1.1"


def test_discarding_has_a_limit_and_a_deadline(stream, peer):
    peer.sendall(b"a" * 100)
    assert not body(stream, 1000).discard(50, within())
    assert not body(stream, 1000).discard(10_000, within(SOON_S))


def test_body_that_was_withheld_is_not_waited_for(stream):
    assert not body(stream, 3, awaits_continue=True).discard(100, within())


def test_sending_to_one_who_does_not_read_ends_in_time(stream):
    with pytest.raises(TimeoutError):
        stream.send(bytes(50_000_000), SOON_S)


def test_lingering_ends_with_the_peer_or_the_limit_or_the_deadline(stream, peer):
    peer.sendall(b"a" * 100)
    stream.linger(50, within())
    assert peer.recv(1) == b""
    with pytest.raises(TimeoutError):
        stream.linger(10_000, within(SOON_S))
    peer.close()
    stream.linger(10_000, within())
