"""The errors of the parameter server and of its client.

* ParamServerError
    * UserMistake              the command line, a file or a port is wrong: one line, exit code 2
    * ServerStartError         an embedded server did not come up
    * SnapshotFailed           a snapshot could not be written, or none can be read
    * JournalFailed            a push could not be made durable, and was not applied
    * ServerUnreachable        no answer, after all retries
    * Untrusted                the server's certificate, or that it has none; repeating cannot help
    * ServerFailed             the server answered 500 or more
    * Refused                  the server answered, and did nothing
        * Unauthorized         401
        * BadRequest           400, and any other refusal that repeating cannot mend
            * WrongHost        403
            * NoSnapshot       404
            * TooSlow          408
            * LengthRequired   411
            * TooLarge         413
        * WrongRun             409, another run is bound to the server
        * LayoutMismatch       409, the gradient belongs to another network
        * EpochChanged         409, the gradient belongs to another life of the server
        * Draining             503, the server is going down
        * Crowded              503, as many are connected as may be
        * TooManyViewers       503, as many are watching the dashboard as may
        * TooEarly             425, the worker is too far ahead of the others

A refusal is raised by the store or a route, travels as problem JSON (RFC 9457), and is raised
again by the client as the same class with the same members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

PROBLEM_PREFIX = "urn:ddq:problem:"


class ParamServerError(Exception):
    """Whatever this package raises on purpose."""


class UserMistake(ParamServerError):  # noqa: N818 - named for what happened
    """A flag, file or port that only the user can put right; one line, exit code 2."""


class ServerStartError(ParamServerError):
    """An embedded server ended or hung before it was ready.

    ``exit_code`` is what it ended with (None when it hung and was killed), ``last_lines`` the end
    of what it wrote to stderr.
    """

    def __init__(self, message: str, *, exit_code: int | None, last_lines: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.last_lines = last_lines


class SnapshotFailed(ParamServerError):  # noqa: N818 - named for what happened
    """A snapshot could not be written or read; snapshots already on disk are untouched."""


class JournalFailed(ParamServerError):  # noqa: N818 - named for what happened
    """A push could not be written to the journal; it was not applied."""


class ServerUnreachable(ParamServerError):  # noqa: N818 - named for what happened
    """Nobody answers at ``address``."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"no parameter server answers at {address}: {reason}")
        self.address = address


class Untrusted(ParamServerError):  # noqa: N818 - named for what happened
    """TLS came to nothing: the certificate is wrong, or one side does not speak TLS."""


class ServerFailed(ParamServerError):  # noqa: N818 - named for what happened
    """The server answered 500 or more; the model is unchanged."""


class Refused(ParamServerError):  # noqa: N818 - named for what happened
    """A request that was answered and changed nothing.

    ``members`` are the extra fields of the problem document.
    """

    status: ClassVar[int] = 400
    kind: ClassVar[str] = "bad-request"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members

    def problem(self) -> dict[str, Any]:
        """Return the problem document that says this over HTTP."""
        return problem(self.kind, self.status, self.detail, **self.members)


class Unauthorized(Refused):
    """The token is missing or wrong."""

    status = 401
    kind = "unauthorized"


class BadRequest(Refused):
    """A request that is wrong in itself: repeating it cannot help."""


class WrongHost(BadRequest):
    """A page was asked for under a host name that is not this server's."""

    status = 403
    kind = "wrong-host"


class NoSnapshot(BadRequest):
    """The version that was asked about has no snapshot."""

    status = 404
    kind = "no-snapshot"


class TooSlow(BadRequest):
    """A body that did not come in the time that its length allows."""

    status = 408
    kind = "too-slow"


class LengthRequired(BadRequest):
    """A push without Content-Length."""

    status = 411
    kind = "length-required"


class TooLarge(BadRequest):
    """A push larger than the network's gradient can be."""

    status = 413
    kind = "too-large"


class WrongRun(Refused):
    """Another run holds the server; ``run`` names it."""

    status = 409
    kind = "wrong-run"

    @property
    def run(self) -> str:
        """The run that holds the server."""
        return str(self.members.get("run", ""))


class LayoutMismatch(Refused):
    """The parameters differ from the server's in name, order or shape."""

    status = 409
    kind = "wrong-layout"


class EpochChanged(Refused):
    """The server restarted or was cleared since the gradient's weights were pulled."""

    status = 409
    kind = "wrong-epoch"

    @property
    def epoch(self) -> int:
        """The server's epoch now."""
        return int(self.members["epoch"])


class Draining(Refused):
    """The server is going down and takes no more pushes."""

    status = 503
    kind = "draining"


class Crowded(Refused):
    """As many connections are open as the server keeps; this one is closed after the answer."""

    status = 503
    kind = "crowded"


class TooManyViewers(Refused):
    """As many viewers are watching the dashboard as the server has threads for."""

    status = 503
    kind = "too-many-viewers"


class TooEarly(Refused):
    """The worker is so far ahead of the others that the policy has it wait.

    The push changed nothing: the same one is to be sent again after Retry-After.
    """

    status = 425
    kind = "too-early"


_BY_KIND: dict[str, type[Refused]] = {
    error.kind: error
    for error in (
        BadRequest,
        Unauthorized,
        WrongHost,
        NoSnapshot,
        TooSlow,
        LengthRequired,
        TooLarge,
        WrongRun,
        LayoutMismatch,
        EpochChanged,
        Draining,
        Crowded,
        TooManyViewers,
        TooEarly,
    )
}
_STANDARD_MEMBERS = frozenset({"type", "title", "status", "detail"})


def problem(kind: str, status: int, detail: str, **members: Any) -> dict[str, Any]:
    """Return a problem document (RFC 9457) of this protocol."""
    title = kind.replace("-", " ")
    return {
        "type": PROBLEM_PREFIX + kind,
        "title": title,
        "status": status,
        "detail": detail,
        **members,
    }


def from_problem(status: int, document: Mapping[str, Any]) -> ParamServerError:
    """Return the error that a problem document stands for.

    A kind that this client does not know becomes a BadRequest, or a ServerFailed from 500 on.
    """
    kind = str(document.get("type", "")).removeprefix(PROBLEM_PREFIX)
    detail = str(document.get("detail", "")) or f"HTTP status {status}"
    error = _BY_KIND.get(kind)
    if error is EpochChanged and not isinstance(document.get("epoch"), int):
        error = None
    if error is None and status >= 500:
        return ServerFailed(detail)
    members = {key: value for key, value in document.items() if key not in _STANDARD_MEMBERS}
    return (error or BadRequest)(detail, **members)
