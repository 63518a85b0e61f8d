"""Where the processes of one user on one host find each other: socket files in a private folder.

The design.  A socket's name holds the server's HTTP port, for people, and eight random digits, for
programs: a name is never used twice, so a path that the server hands out over HTTP leads to that
server or nowhere.  With the port alone it could lead to another server, where hosts or containers
have the same port and the same token; and to replace a killed server's file would need a lock.

What a killed server leaves is an empty file.  The next server of this user removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PATH_LIMIT_BYTES = 107  # sockaddr_un has 108, and one is the NUL


class NoPrivateFolder(Exception):  # noqa: N818 - named for what happened
    """There is no folder that only this user can reach."""


def private_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return this user's folder of sockets, made if need be.

    ``$XDG_RUNTIME_DIR/ddq`` if that variable names a folder of ours, else ``ddq-UID`` beside other
    temporary files.

    Raises:
        NoPrivateFolder: If somebody else made it, or can enter it, or its path is too long.
    """
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_ours(Path(runtime)):
        folder = Path(runtime) / "ddq"
        if _has_room(folder):
            return _prepared(folder)
    folder = Path(tempfile.gettempdir()) / f"ddq-{os.geteuid()}"
    if not _has_room(folder):
        raise NoPrivateFolder(f"{folder}: too long for the path of a socket")
    return _prepared(folder)


def new_path(folder: Path, port: int) -> Path:
    """Return a path for a server's socket that no other server has or had."""
    return folder / f"{port}-{secrets.token_hex(4)}.sock"


def remove_leftovers(folder: Path) -> None:
    """Remove the sockets of servers that are gone: those that refuse connections.

    A server that is between its ``bind`` and its ``listen`` just now refuses too.  It would lose
    its file, and its workers use HTTP.
    """
    for path in folder.glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            if probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED:
                with contextlib.suppress(OSError):
                    path.unlink()


def _prepared(folder: Path) -> Path:
    """Make a folder for us alone, or make sure that it is one."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise NoPrivateFolder(f"{folder}: {error.strerror}") from error
    if not _is_ours(folder) or stat.S_IMODE(folder.lstat().st_mode) & 0o077:
        raise NoPrivateFolder(f"{folder}: not a folder that only user {os.geteuid()} can enter")
    return folder


def _is_ours(folder: Path) -> bool:
    """Whether a path is a folder, not a link to one, and ours."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _has_room(folder: Path) -> bool:
    return len(os.fsencode(new_path(folder.absolute(), 65535))) <= PATH_LIMIT_BYTES
