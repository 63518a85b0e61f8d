"""Who may do what: the token, the pages' cookie, and the Host header.

The model routes need the token, always.  Read-only pages are open while the server is bound to
loopback, but only under a loopback name: a page of another site that has its own name resolve to
127.0.0.1 (DNS rebinding) reads nothing.  Bound to anything else, pages need the token too.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import TYPE_CHECKING, Any

from param_server.errors import Unauthorized, WrongHost

if TYPE_CHECKING:
    from collections.abc import Mapping

COOKIE = "ddq_session"


class Access:
    """The rules for one token and one bound address.  Immutable, so safe for many threads."""

    def __init__(self, token: str, *, host: str, port: int) -> None:
        assert token
        self._token = token.encode()
        self.is_loopback = is_loopback(host)
        names = ("127.0.0.1", "localhost", "[::1]")
        self._page_hosts = {f"{name}:{port}" for name in names}

    def require_token(self, authorization: str | None) -> None:
        """Let only the bearer of the token pass.

        Raises:
            Unauthorized: If the Authorization header is missing or wrong.
        """
        if not self.holds_token(authorization):
            raise Unauthorized("the token is missing or wrong: Authorization: Bearer TOKEN")

    def require_page(
        self, *, authorization: str | None, cookie: str | None, host: str | None
    ) -> bool:
        """Let those who may read a page pass; return whether they have shown the token.

        The cookie counts as that.  On loopback nobody has to.

        Raises:
            WrongHost: If the server is bound to loopback and the page's host name is not.
            Unauthorized: If it is not, and there is neither token nor cookie.
        """
        if self.holds_token(authorization):
            return True
        has_cookie = hmac.compare_digest((cookie or "").encode(), self.cookie().encode())
        if self.is_loopback:
            if (host or "").lower() not in self._page_hosts:
                raise WrongHost(f"this server has no pages under the name {host!r}")
        elif not has_cookie:
            raise Unauthorized("this page needs the token, or a login")
        return has_cookie

    def holds_token(self, authorization: str | None) -> bool:
        """Whether an Authorization header carries the token."""
        scheme, _, given = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and self.is_token(given.strip())

    def is_token(self, given: str) -> bool:
        """Compare a token in constant time."""
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)

    def cookie(self) -> str:
        """Return the value of the pages' cookie: proof of the token, not the token."""
        return hmac.new(self._token, b"ddq pages", hashlib.sha256).hexdigest()


def recognise(environ: Mapping[str, Any]) -> None:
    """Tell the HTTP server, if it asks, that this request's peer has shown the token.

    Args:
        environ: The request's, of WSGI; see ``serving``.

    Raises:
        Crowded: If as many connections are open as may be.
    """
    if tell := environ.get("ddq.recognise"):
        tell()


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
