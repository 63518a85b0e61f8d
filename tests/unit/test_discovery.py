"""Records of standalone servers: private, removed when stale, believed only after an answer."""

import json
import os
import socket
import subprocess
import sys

import pytest
from param_server import discovery
from param_server.discovery import StandaloneServer, find_standalone, record_path, write_record

from tests.server_rig import TOKEN, running
from tests.store_rig import LAYOUT, make_store


@pytest.fixture(scope="module")
def server():
    with running(make_store()) as service:
        yield StandaloneServer(service.server.address, TOKEN, os.getpid(), LAYOUT.digest, "catch")


def test_server_that_answers_is_found(server, tmp_path):
    write_record(record_path(tmp_path, 5500), server)
    assert find_standalone(tmp_path) == server
    assert find_standalone(tmp_path, lambda found: found.layout == LAYOUT.digest) == server


def test_server_that_does_not_fit_is_not(server, tmp_path):
    write_record(record_path(tmp_path, 5500), server)
    assert find_standalone(tmp_path, lambda found: found.game != "catch") is None
    assert record_path(tmp_path, 5500).exists()


def test_record_is_for_its_owner_only(server, tmp_path):
    path = record_path(tmp_path, 5500)
    write_record(path, server)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["param-server-5500.json"]


def test_last_started_of_several_is_found(server, tmp_path):
    for port, age in ((1, 100), (2, 50)):
        path = record_path(tmp_path, port)
        write_record(path, StandaloneServer(**{**vars(server), "game": str(port)}))
        os.utime(path, (1000 - age, 1000 - age))
    assert find_standalone(tmp_path).game == "2"


def test_record_of_a_process_that_is_gone_is_removed(server, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path = record_path(tmp_path, 5500)
    write_record(path, StandaloneServer(**{**vars(server), "pid": gone.pid}))
    assert find_standalone(tmp_path) is None
    assert not path.exists()


def test_record_whose_port_nobody_listens_on_is_removed(server, tmp_path):
    path = record_path(tmp_path, 5500)
    write_record(path, StandaloneServer(**{**vars(server), "address": "127.0.0.1:1"}))
    assert find_standalone(tmp_path) is None
    assert not path.exists()


def test_server_that_hangs_is_left_out_and_keeps_its_record(server, tmp_path, monkeypatch):
    monkeypatch.setattr(discovery, "_ASK_S", 0.1)
    path = record_path(tmp_path, 5500)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        write_record(path, StandaloneServer(**{**vars(server), "address": address}))
        assert find_standalone(tmp_path) is None
    assert path.exists()


def test_another_process_at_the_address_is_not_the_server(server, tmp_path):
    path = record_path(tmp_path, 5500)
    write_record(path, StandaloneServer(**{**vars(server), "pid": os.getppid()}))
    assert find_standalone(tmp_path) is None
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"address": "x"})])
def test_record_that_is_none_is_passed_over(tmp_path, text):
    record_path(tmp_path, 5500).write_text(text)
    assert find_standalone(tmp_path) is None


def test_folder_that_is_not_there_has_none(tmp_path):
    assert find_standalone(tmp_path / "nothing") is None


def test_record_of_another_process_is_not_removed(server, tmp_path):
    path = record_path(tmp_path, 5500)
    write_record(path, server)
    discovery.remove_record(path, server.pid + 1)
    assert path.exists()
    discovery.remove_record(path, server.pid)
    assert not path.exists()
