"""The record a standalone server leaves in the logs folder, and how a driver finds it.

``param-server-<port>.json`` holds address, token, pid, layout and game, readable by its owner
only.  A server removes its own; one that was killed cannot, so a finder checks the pid, then asks.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from param_server.errors import UserMistake
from param_server.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_ASK_S = 2.0


@dataclass(frozen=True)
class StandaloneServer:
    """A server that was started on its own and answers."""

    address: str
    token: str
    pid: int
    layout: str  # digest
    game: str
    tls_ca: str = ""  # path of the PEM file that vouches for it, if it speaks TLS


def record_path(logs: Path, port: int) -> Path:
    """Return where the server of a port leaves its record."""
    return logs / f"param-server-{port}.json"


def write_record(path: Path, server: StandaloneServer) -> None:
    """Write a record that only its owner can read, whole or not at all."""
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        unfinished.unlink()
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(server), file)
    unfinished.replace(path)


def read_record(logs: Path, port: int) -> StandaloneServer | None:
    """Return what the server of a port has left, if it has left anything."""
    return _read(record_path(logs, port))


def remove_record(path: Path, pid: int) -> None:
    """Remove the record of a process, unless another has taken its place."""
    server = _read(path)
    if server is not None and server.pid == pid:
        path.unlink(missing_ok=True)


def find_standalone(
    logs: Path, fits: Callable[[StandaloneServer], bool] = lambda _: True
) -> StandaloneServer | None:
    """Return a server of this user that answers and fits.

    Of several, the one started last.  Records of servers that are gone are removed.
    """
    records = [path for path in logs.glob("param-server-*.json") if path.is_file()]
    for path in sorted(records, key=lambda path: path.stat().st_mtime, reverse=True):
        server = _read(path)
        if server is None:
            continue
        answered = _is_running(server.pid) and _answers(server)
        if answered is False:
            remove_record(path, server.pid)
        if answered and fits(server):
            return server
    return None


def _read(path: Path) -> StandaloneServer | None:
    try:
        return StandaloneServer(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _answers(server: StandaloneServer) -> bool | None:
    """Whether the server of a record answers; None if that cannot be told."""
    host, _, port = server.address.rpartition(":")
    peer = host.strip("[]"), int(port)
    connection: http.client.HTTPConnection
    if server.tls_ca:
        try:
            trusted = client_context(server.tls_ca)
        except UserMistake:  # the certificate is gone
            return None
        connection = http.client.HTTPSConnection(*peer, timeout=_ASK_S, context=trusted)
    else:
        connection = http.client.HTTPConnection(*peer, timeout=_ASK_S)
    try:
        headers = {"Authorization": f"Bearer {server.token}"}
        connection.request("GET", "/healthz", headers=headers)
        response = connection.getresponse()
        return response.status == 200 and json.load(response).get("pid") == server.pid
    except ConnectionRefusedError:
        return False
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
