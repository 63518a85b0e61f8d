"""A network for the client that gives the answers it was given: no socket is opened."""

import io
import json
import socket

import urllib3
from param_server import wire
from param_server.client import Client
from param_server.errors import problem

from tests.store_rig import make_push, make_store, ones


class Answer:
    """An HTTP answer as it comes over the connection."""

    def __init__(self, status=200, body=b"", *, cut_off=0, header=""):
        head = f"HTTP/1.1 {status} \r\nContent-Length: {len(body)}\r\n{header}\r\n"
        self.body = body
        self.text = head.encode() + body[: len(body) - cut_off]


class Line:
    """A socket to the network below; its file number is that of a real, silent one."""

    def __init__(self, network):
        self._network = network
        self._sent = []
        self._ends = socket.socketpair()
        self.fileno = self._ends[0].fileno

    def settimeout(self, timeout_s):
        self._network.timeouts.add(timeout_s)

    def sendall(self, part):
        if self._network.breaks is not None and isinstance(part, memoryview):
            raise self._network.breaks
        self._sent.append(part)

    def makefile(self, _):
        head, _, body = b"".join(self._sent).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        headers = dict(line.split(": ", 1) for line in lines)
        request = {"method": method, "path": path, "headers": headers, "body": body}
        self._network.requests.append({**request, "parts": self._sent})
        self._sent = []
        answer = self._network.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return io.BytesIO(answer.text)

    def close(self):
        for end in self._ends:
            end.close()
        self._network.closed += 1


class Network:
    """Takes requests below urllib3 and gives the answers it was given, or raises them."""

    def __init__(self):
        self.answers = []
        self.requests = []
        self.opened = []
        self.options = []
        self.timeouts = set()
        self.lines = []
        self.closed = 0
        self.breaks = None  # what sending a gradient raises
        self.refuses = None  # what opening a connection raises

    def connect(self, address, timeout, *, source_address, socket_options):
        self.opened.append(address)
        if self.refuses is not None:
            raise self.refuses
        self.options.append(socket_options)
        self.timeouts.add(timeout)
        self.lines.append(Line(self))
        return self.lines[-1]

    def hang_up(self):
        """Close the last connection from the server's side."""
        self.lines[-1]._ends[1].close()


def connecting(monkeypatch):
    """Yield what makes a client, its network, and the list of the pauses it makes; a fixture."""
    network, clients = Network(), []
    monkeypatch.setattr(urllib3.util.connection, "create_connection", network.connect)

    def make(*answers, address="box:5500", **options):
        pauses = []
        settings = {"retry_s": 60.0, "sleep": pauses.append, **options}
        clients.append(Client(address, "tok", **settings))
        network.answers += answers
        return clients[-1], network, pauses

    yield make
    for client in clients:
        client.close()


def refusal(kind, status, *, header="", **members):
    return Answer(
        status, json.dumps(problem(kind, status, "why", **members)).encode(), header=header
    )


def answered(push=None, dtype=wire.DTYPE):
    """Return what a server answers to a push."""
    answer, model = make_store().exchange(push or make_push(), ones(), out=ones())
    payload = bytes(wire.payload_bytes(model.weights, dtype))
    return Answer(200, wire.encode_answer(answer, model, dtype) + payload)


def latest(dtype=wire.DTYPE):
    model = make_store(values=ones(value=1.5)).read(out=ones())
    payload = bytes(wire.payload_bytes(model.weights, dtype))
    return Answer(200, wire.encode_model(model, dtype) + payload)
