"""TLS: the server's certificate, whom a client trusts, and what a failed handshake means.

A client trusts what one file vouches for and nothing else: that of an authority, or the server's
own certificate.  Names are checked against the address as the user wrote it.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, NoReturn

from param_server.errors import Untrusted, UserMistake

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# X509_V_ERR of OpenSSL.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME, _OTHER_ADDRESS = 62, 64
# What OpenSSL makes of an answer that is no TLS.
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"}


def server_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return what makes a server speak TLS (1.2 or later), None where no file is named.

    Args:
        cert: The server's certificate, then those that lead to its authority; PEM.
        key: Its private key, not encrypted, PEM; None if it is in the same file.

    Raises:
        UserMistake: If one is missing, cannot be read, is of another kind, or does not fit.
    """
    if cert is None:
        if key is not None:
            raise UserMistake("--tls-key is the key of a certificate: --tls-cert is needed too")
        return None
    _require_pem("--tls-cert", cert, "CERTIFICATE")
    _require_pem("--tls-key", key or cert, "PRIVATE KEY")

    def no_password() -> NoReturn:
        raise UserMistake(f"--tls-key {key or cert}: it is encrypted; nobody is there to be asked")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UserMistake(f"--tls-key {key} is not the key of --tls-cert {cert}") from error
        raise UserMistake(f"--tls-cert {cert}, --tls-key {key or cert}: {_said(error)}") from error
    return context


def client_context(ca: str | Path) -> ssl.SSLContext:
    """Return what makes a client trust the certificates in a PEM file, and no others.

    Raises:
        UserMistake: If it cannot be read or holds none.
    """
    _require_pem("--tls-ca", ca, "CERTIFICATE")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the chain and the name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the file may be the server's own
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise UserMistake(f"--tls-ca {ca}: {_said(error)}") from error
    return context


def distrust(
    failure: ssl.SSLError, address: str, *, peer: tuple[str, int], host: str, ca: str | Path
) -> Untrusted:
    """Return what a handshake's failure means to a user.

    Args:
        failure: What the handshake raised.
        address: HOST:PORT as the user wrote it.
        peer: Where the server is, to be asked for which names its certificate is.
        host: The name that was expected.
        ca: The PEM file that was trusted.
    """
    if not isinstance(failure, ssl.SSLCertVerificationError):
        if failure.reason in _NO_TLS:
            return Untrusted(f"the server at {address} does not speak TLS: leave out --tls-ca")
        return Untrusted(f"no TLS with the server at {address}: {_said(failure)}")
    whose = f"the certificate of the server at {address}"
    if failure.verify_code in {_OTHER_NAME, _OTHER_ADDRESS}:
        return Untrusted(f"{whose} is for {_names(peer, ca)}, not for {host}")
    if failure.verify_code == _EXPIRED:
        return Untrusted(f"{whose} has expired")
    if failure.verify_code == _NOT_YET_VALID:
        return Untrusted(f"{whose} is not valid yet: compare the clocks")
    return Untrusted(f"{whose} is not vouched for by {ca}: {failure.verify_message}")


def handshake_failure(failure: BaseException) -> ssl.SSLError | None:
    """Return the handshake's error that a failed request wraps, None if it was not that.

    A connection that merely ended within a handshake is lost like any other.
    """
    todo = [failure]
    while todo:
        error = todo.pop()
        if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return None
        if isinstance(error, ssl.SSLError):
            return error
        todo += [
            inner
            for inner in (error.__cause__, error.__context__, *error.args)
            if isinstance(inner, BaseException)
        ]
    return None


def _require_pem(option: str, path: str | Path, kind: str) -> None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path or a string
            content = file.read(1 << 20)
    except OSError as error:
        raise UserMistake(f"{option} {path}: {error.strerror}") from error
    if f"{kind}-----".encode() not in content:
        raise UserMistake(f"{option} {path}: it holds no {kind.lower()} in PEM")


def _names(peer: tuple[str, int], ca: str | Path, timeout_s: float = 5.0) -> str:
    """Ask a server for the names in its certificate, which is vouched for all the same."""
    context = client_context(ca)
    context.check_hostname = False
    try:
        with (
            socket.create_connection(peer, timeout_s) as plain,
            context.wrap_socket(plain) as connection,
        ):
            certificate: Mapping[str, object] = connection.getpeercert() or {}
    except OSError:
        return "another name"
    names = certificate.get("subjectAltName", ())
    return ", ".join(name for _, name in names) or "no name at all"  # type: ignore[attr-defined]


def _said(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason in words."""
    return (error.reason or str(error)).lower().replace("_", " ")
