"""The driver's link to the parameter server: joined, or started and kept alive.

Three ways to a server: the one that `--server` names; a standalone one that this user has started
on this machine for the same model; else one of our own (embedded), which lives and dies with this
driver.  A run never uses another run's embedded server: only standalone servers leave a file by
which they are found.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.client import Client, split_address
from param_server.discovery import read_record
from param_server.errors import ParamServerError, ServerStartError, Unauthorized, WrongRun
from param_server.launch import EmbeddedServer, find_standalone, start_embedded
from param_server.network import same_net

from barista.driver.run_folder import bring
from barista.playing.evaluation import Written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from param_server.discovery import StandaloneServer
    from param_server.wire import Model

    from barista.playing.evaluation import Score

DEFAULT_PORT = 5500
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
SILENT_S = 25.0  # a server that has not answered for so long is given up
TOUCH_S = 5.0  # well within any lease, and before the server is thought to be silent
NEWS_S = 5.0  # a server that has answered since is told what happens
MAX_REVIVALS = 3
_CERTIFICATE = re.compile(r"-----BEGIN ([A-Z0-9 ]*CERTIFICATE)-----.+?-----END \1-----", re.DOTALL)
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 (compared with, not bound to)


class ServerLinkError(RuntimeError):
    """There is no server to work with; `exit_code` is 2 where the user can mend it."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Wish(NamedTuple):
    """What a run wants of its server."""

    run: str
    game: str
    net: str  # prototxt: the servers that hold it fit
    arguments: list[str]  # of an embedded server: the solver's file, then options with values
    logs: Path  # where standalone servers leave their records
    address: str | None  # HOST:PORT of the one to use
    may_join: bool  # whether a standalone server may be used unasked
    host: str  # by which workers reach this machine
    ca: Path | None = None  # PEM: whom to trust, where the server speaks TLS


class Own(NamedTuple):
    """An embedded server, and how to start it again."""

    process: EmbeddedServer
    arguments: list[str]
    start: Callable[[list[str]], EmbeddedServer]


class ServerLink:
    """One server, seen from the driver.  Not thread-safe."""

    def __init__(
        self,
        address: str,
        token: str,
        run: str,
        *,
        own: Own | None = None,
        ca: Path | None = None,
    ) -> None:
        self.address = address
        self.token = token
        self.ca = ca
        self.note = ""  # what the user should know of how it was chosen
        self._own = own
        self._revivals = 0
        self._finished = False
        self._client = Client(address, token, run=run, timeout_s=5, retry_s=0, tls_ca=ca)
        self._patient = Client(address, token, run=run, tls_ca=ca)
        self._heard = time.monotonic()
        self.about = self._client.prototxt()

    @classmethod
    def open(cls, wish: Wish) -> ServerLink:
        """Join a server, or start one.

        Raises:
            ServerLinkError: If there is none, it does not fit, or it does not start.
        """
        try:
            if wish.address is not None:
                token, ca = _credentials(wish.address, wish)
                return cls._join(wish.address, token, ca, wish)
            note = ""
            found = find_standalone(wish.logs, partial(_fits, wish)) if wish.may_join else None
            if found is not None:
                try:
                    ca = Path(found.tls_ca) if found.tls_ca else None
                    return cls._join(found.address, found.token, ca, wish)
                except WrongRun:
                    note = f", as {found.address} is busy with another run"
            link = cls._start(wish)
        except ServerStartError as error:
            raise _start_error(error) from error
        except Unauthorized as error:
            raise ServerLinkError(
                f"{wish.address} refuses the token: put its token into DDQ_TOKEN ({error})"
            ) from error
        except (ParamServerError, ValueError) as error:
            raise ServerLinkError(str(error)) from error
        link.note = note
        return link

    @classmethod
    def _join(cls, address: str, token: str, ca: Path | None, wish: Wish) -> ServerLink:
        link = cls(address, token, wish.run, ca=ca)
        if not same_net(link.about.net, wish.net):
            raise ServerLinkError(f"the server at {address} holds another network than this run's")
        if link.about.game not in {"", wish.game}:
            raise ServerLinkError(f"the server at {address} is for {link.about.game}")
        link._patient.open_run()
        return link

    @classmethod
    def _start(cls, wish: Wish) -> ServerLink:
        token = secrets.token_urlsafe(24)
        log = wish.logs / "param-server.log"
        start = partial(start_embedded, token=token, log_path=log, timeout_s=START_TIMEOUT_S)
        own = Own(start(wish.arguments), wish.arguments, start)
        host, port = split_address(own.process.address)
        address = f"{wish.host}:{port}" if host in WILDCARDS else own.process.address
        try:
            return cls(address, token, wish.run, own=own, ca=wish.ca)
        except BaseException:
            own.process.stop(STOP_TIMEOUT_S)
            raise

    @property
    def parameters(self) -> int:
        """How many are learned."""
        return self.about.layout.size

    def describe(self) -> str:
        """Return what the plan says: a line, and another where not all is as usual."""
        status = self.status() or {}
        if self._own is None:
            version = status.get("version", "?")
            line = f"joined {self.address} at version {version}, with its own solver"
        else:
            port = split_address(self.address)[1]
            asked = "--port" in self._own.arguments
            taken = "" if asked or port == DEFAULT_PORT else f" (port {DEFAULT_PORT} is taken)"
            line = f"{self.address}{taken}, this run's own{self.note}"
        sigmas = (status.get("outliers") or {}).get("sigmas", 0)
        unusual = [
            f"{name} {value}"
            for name, value, usual in (
                ("staleness", status.get("staleness_policy", "accept"), "accept"),
                ("outliers", f"{sigmas:g}", "0"),
                ("durability", status.get("durability", "interval"), "interval"),
            )
            if value != usual
        ]
        more = [", ".join(unusual)] if unusual else []
        if self.ca is not None:
            more.append(f"https://{self.address}/current_status")
        return "\n           ".join([line, *more])

    def trusted(self) -> str:
        """Return the PEM text that vouches for the server, "" where it does not speak TLS.

        Certificates only: the file of a server of our own may hold its private key too.
        """
        text = self.ca.read_text() if self.ca is not None else ""
        return "".join(f"{found[0]}\n" for found in _CERTIFICATE.finditer(text))

    def status(self) -> dict[str, Any] | None:
        """Return status_data, None when the server does not answer just now."""
        try:
            status = self._client.status()
        except ParamServerError:
            return None
        self._heard = time.monotonic()
        return status

    def model(self) -> Model:
        """Return the newest weights.

        Raises:
            ParamServerError: If the server does not answer.
        """
        model = self._patient.pull()
        assert model is not None  # nothing was known, so there is something newer
        return model

    def snapshot(self) -> Written | None:
        """Have a snapshot written; None if none can be, the server says why in its status."""
        try:
            written = self._patient.snapshot()
        except ParamServerError:
            return None
        return Written(Path(str(written["path"])), int(written["epoch"]), int(written["version"]))

    def report(self, score: Score) -> None:
        """Tell the server how good a version is, so that it keeps the best.

        Raises:
            ParamServerError: If it does not take the score.
        """
        result = score.to_json()
        result["return_se"] = result["return_se"] or 0.0  # of one episode nothing better is known
        self._client.evaluation(result.pop("version"), result)

    def incident(self, text: str) -> None:
        """Have the dashboard show what has become of a worker or a server."""
        if time.monotonic() - self._heard < NEWS_S:  # else each line would wait for an answer
            with suppress(ParamServerError):  # it is in the log too
                self._client.incident(text)

    @contextmanager
    def kept_in_touch(self) -> Iterator[None]:
        """Ask for the status every few seconds while the block is busy with something else.

        A joined server lets another run in when it has not heard of this one for a lease.
        """
        over = threading.Event()

        def touch() -> None:
            while not over.wait(TOUCH_S):
                self.status()
            self._client.close()  # this thread's connection

        thread = threading.Thread(target=touch, name="in touch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def revive(self) -> str | None:
        """Start an embedded server that is dead or silent again: newest snapshot, same port.

        Returns:
            A line about it, or None if all is well.

        Raises:
            RuntimeError: If it cannot be started or dies again and again, or if a server that is
                not ours to start has been silent for too long.
        """
        silent_s = time.monotonic() - self._heard
        if self._own is None:
            if silent_s > SILENT_S:
                raise RuntimeError(
                    f"the parameter server at {self.address} has not answered for {silent_s:.0f} s"
                )
            return None
        if self._own.process.alive() and silent_s < SILENT_S:
            return None
        end = self._own.process.stop(0)
        if self._revivals >= MAX_REVIVALS:
            raise RuntimeError(
                f"the parameter server died ({end}) again; see logs/param-server.log"
            )
        self._revivals += 1
        try:
            process = self._own.start(self._restart_arguments())
        except ParamServerError as error:
            raise RuntimeError(f"the parameter server died, and starts no more: {error}") from error
        self._own = self._own._replace(process=process)
        return f"the parameter server died ({end}) and was restarted {_from_where(self.status())}"

    def _restart_arguments(self) -> list[str]:
        """Return the command line for the same port and, where there is one, the last snapshot."""
        assert self._own is not None
        changed = {"--port": [str(split_address(self.address)[1])]}
        snapshots = Path(_value(self._own.arguments, "--snapshot-dir"))
        if any(folder.name.isdecimal() for folder in snapshots.iterdir()):
            changed |= {"--resume": [str(snapshots.parent)], "--weights": []}
        return _with_options(self._own.arguments, changed)

    def finish(self, snapshots: Path) -> Path | None:
        """Have the final snapshot written, into `snapshots` too, and leave the server.

        Returns:
            The snapshot's folder, or None if none could be written.
        """
        written = self.snapshot()
        self.close()
        return None if written is None else bring(written.path, snapshots)

    def close(self) -> None:
        """Leave the server: an embedded one ends (after a snapshot of its own if need be)."""
        if self._finished:
            return
        self._finished = True
        if self._own is not None:
            self._own.process.stop(STOP_TIMEOUT_S)
            return
        try:
            self._client.close_run()
        except ParamServerError:
            return


def _from_where(status: dict[str, Any] | None) -> str:
    """Say where a restarted server goes on, and what it has lost."""
    status = status or {}
    where = f"from version {status.get('version', '?')}"
    lost = (status.get("resumed") or {}).get("lost_updates")
    if lost is None:
        return where
    if not lost:
        return f"{where}; nothing acknowledged is lost"
    return f"{where}; {lost} acknowledged update{'s are' if lost > 1 else ' is'} gone"


def _value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def _with_options(arguments: list[str], changed: dict[str, list[str]]) -> list[str]:
    """Return a command line with some options' values changed; without a value, they are gone.

    An option is what begins with two dashes, its values what follows up to the next.
    """
    kept: list[str] = []
    name = ""
    for part in arguments:
        name = part if part.startswith("--") else name
        if name not in changed:
            kept.append(part)
    return kept + [part for key, values in changed.items() if values for part in (key, *values)]


def _start_error(error: ServerStartError) -> ServerLinkError:
    lines = error.last_lines.splitlines()
    if error.exit_code != 2 or not lines:
        return ServerLinkError(str(error), exit_code=1)
    # The user's mistake, in one line of the server's own, with the option's name of ddq.py.
    line = lines[-1].removeprefix("param-server: ")
    return ServerLinkError(line.replace("--port", "--server-port"))


def _credentials(address: str, wish: Wish) -> tuple[str, Path | None]:
    """Return the token of a named server, and whom to trust, if it speaks TLS.

    What the user has not given is taken from what the server has left for this user.
    """
    token, ca = os.environ.get("DDQ_TOKEN"), wish.ca
    record = read_record(wish.logs, split_address(address)[1])
    if record is not None and split_address(record.address) == split_address(address):
        token = token or record.token
        ca = ca or (Path(record.tls_ca) if record.tls_ca else None)
    if not token:
        raise ServerLinkError(f"--server {address}: its token is needed in DDQ_TOKEN")
    return token, ca


def _fits(wish: Wish, server: StandaloneServer) -> bool:
    """Say whether a server is for the game and the network that are wanted."""
    if server.game not in {"", wish.game}:
        return False
    client = Client(
        server.address,
        server.token,
        run=wish.run,
        timeout_s=5,
        retry_s=0,
        tls_ca=server.tls_ca or None,
    )
    try:
        return same_net(client.prototxt().net, wish.net)
    finally:
        client.close()
