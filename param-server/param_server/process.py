"""What surrounds the server in its process: log, token, port, signals, stdin."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import logging.handlers
import os
import secrets
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

from param_server.errors import UserMistake
from param_server.options import DEFAULT_PORT
from param_server.ports import holder
from param_server.serving import Server

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

_PORTS_TRIED = 100
_LOG_BYTES = 4 << 20


def start_log(logs: Path) -> None:
    """Send the log to ``param-server.log``, kept bounded by rotation.

    Raises:
        UserMistake: If it cannot be written.
    """
    path = logs / "param-server.log"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=2)
    except OSError as error:
        raise UserMistake(f"cannot write the log {path}: {error.strerror}") from error
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    )
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def token(file: Path | None) -> str:
    """Return the token: the file's content, or DDQ_TOKEN, or a random one.

    Raises:
        UserMistake: If the file cannot be read or is empty.
    """
    if file is None:
        return os.environ.get("DDQ_TOKEN") or secrets.token_urlsafe(32)
    try:
        content = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserMistake(f"--token-file {file}: {error}") from error
    if not (content.isascii() and content.isprintable() and content):
        raise UserMistake(f"--token-file {file}: expected one line of ASCII")
    return content


def bind(host: str, port: int | None, *, tls: ssl.SSLContext | None = None) -> Server:
    """Return a server that listens: on the port, or the first free one from the default.

    With ``tls`` it is an https server.

    Raises:
        UserMistake: If the port is taken (naming its holder) or the host is not ours.
    """
    host = "127.0.0.1" if host == "localhost" else host
    ports = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS_TRIED) if port is None else [port]
    for candidate in ports:
        try:
            return Server(host, candidate, tls=tls)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserMistake(
                    f"cannot bind to {host}, port {candidate}: {error.strerror}"
                ) from error
    if port is not None:
        raise UserMistake(f"port {port} is taken{holder(port)}; choose another with --port")
    raise UserMistake(f"ports {ports[0]} to {ports[-1]} are all taken; choose one with --port")


def set_at_signals(stop: threading.Event) -> None:
    """Set an event at SIGTERM or SIGINT; a second one ends the process at once."""

    def on_signal(number: int, _frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def set_at_end_of_stdin(stop: threading.Event) -> None:
    """Set an event when stdin ends: the driver that holds its other side is gone or done."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        stop.set()

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def announce(address: str, *, epoch: int, version: int) -> None:
    """Print the one line that a driver waits for."""
    line = {
        "ready": True,
        "address": address,
        "pid": os.getpid(),
        "epoch": epoch,
        "version": version,
    }
    say(json.dumps(line))


def say(line: str, *, to: TextIO | None = None) -> None:
    """Write a line for whoever started the process; nobody may be reading any more."""
    stream = to or sys.stdout
    with contextlib.suppress(OSError):
        stream.write(f"{line}\n")
        stream.flush()
