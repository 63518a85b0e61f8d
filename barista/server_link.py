"""The driver's link to the parameter server: joined, or started and kept alive.

Three ways to a server: the one that `--server` names; a standalone one that this user has started
on this machine for the same model; else one of our own (embedded), which lives and dies with this
driver.  A run never uses another run's embedded server: only standalone servers leave a file by
which they are found.
"""

from __future__ import annotations

import os
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.client import Client, split_address
from param_server.errors import ParamServerError, ServerStartError, Unauthorized
from param_server.launch import EmbeddedServer, find_standalone, start_embedded
from param_server.wire import Layout

import caffe

if TYPE_CHECKING:
    from collections.abc import Callable

    from param_server.wire import Float32

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
MAX_REVIVALS = 3


class ServerLinkError(RuntimeError):
    """There is no server to work with; `exit_code` is 2 where the user can mend it."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Own(NamedTuple):
    """An embedded server, and how to start it again."""

    process: EmbeddedServer
    arguments: list[str]  # the solver's file, then options with a value each
    start: Callable[[list[str]], EmbeddedServer]


class ServerLink:
    """One server, seen from the driver.  Not thread-safe."""

    def __init__(self, address: str, token: str, run: str, own: Own | None) -> None:
        self.address = address
        self.token = token
        self._own = own
        self._revivals = 0
        self._finished: str | None = None
        self._client = Client(address, token, run=run, timeout_s=10, retry_s=0)
        self._patient = Client(address, token, run=run)
        self._layout = self._client.prototxt().layout

    @classmethod
    def open(
        cls,
        address: str | None,
        arguments: list[str],
        *,
        solver: Path,
        run: str,
        logs: Path,
        may_join: bool,
    ) -> ServerLink:
        """Join a server, or start one.

        Args:
            address: HOST:PORT of a server to use, or None.
            arguments: The command line of an embedded server.
            solver: The solver's file, whose net says which servers fit.
            run: This run's identity.
            logs: The folder of logs, where standalone servers leave their files.
            may_join: Whether a standalone server may be used unasked.

        Raises:
            ServerLinkError: If there is none, it does not fit, or it does not start.
        """
        try:
            if address is not None:
                return cls._join(address, _token_for(address, logs), run, solver)
            # Building the network to compare costs seconds: only where there is a server at all.
            if may_join and find_standalone(logs) is not None:
                found = find_standalone(logs, _layout(solver).digest)
                if found is not None:
                    return cls._join(found.address, found.token, run, solver)
            return cls._start(arguments, run, logs)
        except ServerStartError as error:
            if error.exit_code == 2:  # the user's mistake, in one line of the server's own
                line = error.last_lines.splitlines()[-1].removeprefix("param-server: ")
                line = line.replace("--port", "--server-port")  # as it is called here
                raise ServerLinkError(line) from error
            raise ServerLinkError(str(error), exit_code=1) from error
        except Unauthorized as error:
            raise ServerLinkError(
                f"{address} refuses the token: put its token into DDQ_TOKEN ({error})"
            ) from error
        except (ParamServerError, ValueError) as error:
            raise ServerLinkError(str(error)) from error

    @classmethod
    def _join(cls, address: str, token: str, run: str, solver: Path) -> ServerLink:
        split_address(address)
        link = cls(address, token, run, None)
        if link._layout != _layout(solver):
            raise ServerLinkError(f"the server at {address} holds another network than {solver}")
        link._patient.open_run()
        return link

    @classmethod
    def _start(cls, arguments: list[str], run: str, logs: Path) -> ServerLink:
        token = secrets.token_urlsafe(24)
        start = partial(
            start_embedded,
            token=token,
            log_path=logs / "param-server.log",
            timeout_s=START_TIMEOUT_S,
        )
        own = Own(start(arguments), arguments, start)
        try:
            return cls(own.process.address, token, run, own)
        except BaseException:
            own.process.stop(STOP_TIMEOUT_S)
            raise

    @property
    def layout_size(self) -> int:
        """Number of learnable parameters."""
        return self._layout.size

    def describe(self) -> str:
        """Return a line for the plan."""
        if self._own is not None:
            return f"{self.address}, this run's own"
        status = self.status() or {}
        return f"joined {self.address} at version {status.get('version', '?')}"

    def status(self) -> dict[str, Any] | None:
        """Return status_data, None when the server does not answer just now."""
        try:
            return self._client.status()
        except ParamServerError:
            return None

    def weights(self) -> Float32:
        """Return the newest weights, flat float32 [P]."""
        model = self._patient.pull()
        assert model is not None  # nothing was known, so there is something newer
        return model.weights

    def revive(self) -> str | None:
        """Start a dead embedded server again, from its newest snapshot, on the same port.

        Returns:
            A line about it, or None if it lives (or is not ours to start).

        Raises:
            RuntimeError: If it cannot be started, or dies again and again.
        """
        if self._own is None or self._own.process.alive():
            return None
        end = self._own.process.stop(0)
        if self._revivals >= MAX_REVIVALS:
            raise RuntimeError(
                f"the parameter server died ({end}) again; see logs/param-server.log"
            )
        self._revivals += 1
        arguments = self._restart_arguments(self._own.arguments)
        try:
            self._own = self._own._replace(process=self._own.start(arguments))
        except ParamServerError as error:
            raise RuntimeError(f"the parameter server died, and starts no more: {error}") from error
        version = (self.status() or {}).get("version", "?")
        return f"the parameter server died ({end}) and was restarted from version {version}"

    def _restart_arguments(self, arguments: list[str]) -> list[str]:
        """Return the command line for the same port and, where there is one, the last snapshot."""
        given = dict(zip(arguments[1::2], arguments[2::2], strict=True))
        given["--port"] = str(split_address(self.address)[1])
        snapshots = Path(given["--snapshot-dir"])
        if any(folder.name.isdecimal() for folder in snapshots.iterdir()):
            given["--resume"] = str(snapshots.parent)
            given.pop("--weights", None)
        return [arguments[0], *(part for pair in given.items() for part in pair)]

    def finish(self) -> str | None:
        """Have the final snapshot written; an embedded server ends with it.

        Returns:
            The snapshot's folder, or None if none could be written.
        """
        if self._finished is None:
            try:
                self._finished = str(self._patient.snapshot()["path"])
            except ParamServerError:
                self._finished = None
            self.close()
        return self._finished

    def close(self) -> None:
        """Leave the server: an embedded one ends (after a snapshot of its own if need be)."""
        if self._own is not None:
            self._own.process.stop(STOP_TIMEOUT_S)
            return
        try:
            self._client.close_run()
        except ParamServerError:
            return


def _token_for(address: str, logs: Path) -> str:
    """Return the token of a named server: DDQ_TOKEN, or what it left for this user."""
    token = os.environ.get("DDQ_TOKEN")
    if token:
        return token
    wanted = split_address(address)
    server = find_standalone(logs)
    if server is not None and split_address(server.address) == wanted:
        return server.token
    raise ServerLinkError(f"--server {address}: its token is needed in DDQ_TOKEN")


def _layout(solver: Path) -> Layout:
    return Layout.from_arena(caffe.get_solver(str(solver)).net.arena_layout)
