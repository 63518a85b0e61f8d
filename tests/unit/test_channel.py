"""Frames over a socket: whole ones, the end, and what is neither."""

import os
import socket

import pytest
from param_server import channel, wire
from param_server.channel import Channel, peer_user
from param_server.errors import BadRequest

from tests.same_host_rig import frame, frame_of


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    with near, far:
        yield Channel(near), far


def test_frames_arrive_one_by_one_however_they_were_cut(pair):
    near, far = pair
    both = frame(kind="a") + frame(kind="b")
    far.sendall(both[:5])
    far.sendall(both[5:])
    assert near.receive(wait_s=5)["kind"] == "a"
    assert near.receive(wait_s=5)["kind"] == "b"


def test_the_end_between_two_frames_is_no_error(pair):
    near, far = pair
    far.sendall(frame(kind="a"))
    far.shutdown(socket.SHUT_WR)
    assert near.receive(wait_s=5)["kind"] == "a"
    assert near.receive(wait_s=5) is None


def test_the_end_inside_a_frame_is_one(pair):
    near, far = pair
    far.sendall(frame(kind="a")[:-1])
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(BadRequest, match="ends 1 bytes early"):
        near.receive(wait_s=5)


def test_silence_is_waited_out_and_may_be_waited_out_again(pair):
    near, far = pair
    with pytest.raises(TimeoutError):
        near.receive(wait_s=0.01)
    far.sendall(frame(kind="a"))
    assert near.receive(wait_s=5)["kind"] == "a"


def test_a_frame_that_stays_half_is_refused(pair, monkeypatch):
    monkeypatch.setattr(channel, "FRAME_S", 0.05)
    near, far = pair
    far.sendall(frame(kind="a")[:-1])
    with pytest.raises(BadRequest, match="not complete"):
        near.receive(wait_s=5)


@pytest.mark.parametrize("length", [101, 2**32 - 1])
def test_a_header_over_the_limit_is_refused_before_it_comes(pair, length):
    near, far = pair
    far.sendall(wire.PREFIX.pack(b"DDQ1", length))
    with pytest.raises(BadRequest, match="length"):
        near.receive(wait_s=5, limit=100)


def test_a_header_at_the_limit_passes(pair):
    near, far = pair
    text = b'{"kind":"' + b"a" * 89 + b'"}'
    far.sendall(frame_of(text))
    assert len(text) == 100
    assert near.receive(wait_s=5, limit=100) == {"kind": "a" * 89}


def test_what_is_sent_arrives(pair):
    near, far = pair
    near.send(frame(kind="a"))
    assert far.recv(1000) == frame(kind="a")


def test_a_peer_that_does_not_read_is_given_up(pair, monkeypatch):
    monkeypatch.setattr(channel, "FRAME_S", 0.05)
    near, _far = pair
    with pytest.raises(TimeoutError):
        near.send(b"x" * 10_000_000)


def test_a_peer_that_is_gone_is_an_error(pair):
    near, far = pair
    far.close()
    with pytest.raises(ConnectionError):
        near.send(frame(kind="a"))


def test_the_kernel_says_whose_process_the_peer_is(pair):
    _, far = pair
    assert peer_user(far) == os.geteuid()
