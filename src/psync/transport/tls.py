"""TLS as psync uses it: version 1.3, certificates on both sides, the daemon's CA and no other.

Only ``ssl`` is imported. Making certificates is the business of ``authority`` and ``identity``.
"""

from __future__ import annotations

import ssl

from psync.errors import ConnectError, NotPaired, ProtocolError, PsyncError, TrustError, WrongDaemon
from psync.text import printable
from psync.transport.keyfile import check_key_file

_PAIR = "run: psync pair HOST"
_WHERE = "check the target's host and port"
_CLOCKS = "compare the clocks of both hosts"

# What X509_verify_cert found (error.verify_code), from OpenSSL's x509_vfy.h.
_NOT_YET_VALID = 9
_EXPIRED = 10
_NO_CHAIN = (2, 18, 19, 20, 21)  # no issuer, self-signed leaf, self-signed root, no local issuer, …
_WRONG_PURPOSE = (26, 79, 80)  # purpose, and what X509_V_FLAG_X509_STRICT finds in CA and key usage
_WRONG_NAME = (62, 64)  # host name, IP address

# The alert of a daemon that does not take this client's certificate, as part of OpenSSL's reason;
# what stands before it ("SSLV3_ALERT_", "TLSV13_ALERT_", "SSL/TLS_ALERT_") differs by version.
_REFUSED = {
    "CERTIFICATE_REQUIRED": "the daemon wants a certificate and got none",
    "UNKNOWN_CA": "the daemon does not know the authority behind this client's certificate",
    "CERTIFICATE_EXPIRED": "this client's certificate has expired",
    "CERTIFICATE_REVOKED": "the daemon has revoked this client's certificate",
    "UNSUPPORTED_CERTIFICATE": "the daemon does not take a certificate of this kind",
    "BAD_CERTIFICATE": "the daemon does not accept this client's certificate",
    "CERTIFICATE_UNKNOWN": "the daemon does not accept this client's certificate",
    "DECRYPT_ERROR": "the daemon could not verify this client's certificate",
}

# What the daemon's door says before TLS has begun (see ``door``). Both pass.
_TURNED_AWAY = {
    "ALERT_ACCESS_DENIED": (
        "refuses this address for a while after too many failed attempts",
        "wait a minute",
    ),
    "ALERT_INTERNAL_ERROR": ("has too many strangers at its door", "try again"),
}

# Other TLS servers: older versions, no common ciphers, a name they do not serve, ALPN of their own.
_OTHER_TLS = (
    "ALERT_PROTOCOL_VERSION",
    "UNSUPPORTED_PROTOCOL",
    "ALERT_HANDSHAKE_FAILURE",
    "ALERT_INSUFFICIENT_SECURITY",
    "UNRECOGNIZED_NAME",
    "NO_APPLICATION_PROTOCOL",
    "ALERT_MISSING_EXTENSION",
)

# What strangers do to a daemon, for its log.
_STRANGERS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "HTTP_REQUEST": "it speaks plain HTTP",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "it speaks an older TLS only",
    "UNEXPECTED_EOF": "it hung up during the TLS handshake",
    "ALERT_UNKNOWN_CA": "it does not trust this daemon's certificate",
    "ALERT_BAD_CERTIFICATE": "it does not accept this daemon's certificate",
}

# Damage on the way and trouble of the peer's own: the next connection may be better.
_PASSING = ("BAD_RECORD_MAC",)


def client_context(ca: str, cert: str, key: str, *, own: bool = False) -> ssl.SSLContext:
    """Return the context with which a client connects to one daemon.

    The daemon's chain and name are verified always; the name is the ``server_hostname`` of the
    connection. The system's certificate authorities are not trusted.

    Args:
        ca: file with the daemon's CA certificate (PEM), the only trusted one.
        cert: file with this client's certificate for that daemon.
        key: file with this client's private key.
        own: these are files of the user's own PKI and not psync's. RFC 5280's finer points
            (``X509_STRICT``, such as key identifiers) are not insisted on then, because much of
            what real authorities issue fails there; chain, name, purpose and dates are verified
            all the same. ``cert`` may hold a chain, ``ca`` several authorities.

    Raises:
        NotPaired: one of the files does not exist.
        TrustError: one of them is damaged or cannot be read, the key is not private or not that of
            the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname
    context.hostname_checks_common_name = False
    try:
        _load(context, cert=cert, key=key, authorities=(ca,), strict=not own)
    except FileNotFoundError as error:
        if own:
            raise TrustError(f"{printable(str(error.filename))} is missing") from error
        raise NotPaired(
            f"this client is not paired: {printable(str(error.filename))} is missing", hint=_PAIR
        ) from error
    return context


def server_context(
    cert: str, key: str, ca: str, *, demand: bool = True, client_ca: str | None = None
) -> ssl.SSLContext:
    """Return the context with which a daemon listens.

    A client certificate is demanded and verified in the handshake. There are no session tickets: a
    resumed connection would skip that.

    Args:
        cert: file with the daemon's certificate (PEM), and its chain if it has one.
        key: file with its private key.
        ca: file with the CA that signs clients' certificates, the only trusted one.
        demand: whether a peer without a certificate is refused in the handshake. A certificate that
            is not valid is refused always.
        client_ca: file with more authorities for clients' certificates; see ``contexts``.

    Raises:
        TrustError: a file is missing, damaged or cannot be read, the key is not private or not that
            of the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED if demand else ssl.CERT_OPTIONAL
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        authorities = (ca,) if client_ca is None else (ca, client_ca)
        _load(context, cert=cert, key=key, authorities=authorities, strict=client_ca is None)
    except FileNotFoundError as error:
        raise TrustError(f"{printable(str(error.filename))} is missing") from error
    return context


def fingerprint(der: bytes) -> str:
    """Return the fingerprint of a certificate (DER): ``sha256:`` and 64 hexadecimal digits."""
    import hashlib

    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def explain(error: Exception, peer: str = "the other side") -> PsyncError | None:
    """Say what a failed or broken TLS connection of the client's means.

    Under TLS 1.3 a client's handshake is over before the daemon has seen its certificate, so a
    refusal arrives with the first read, as an alert, and belongs here too. A write may fail before:
    read once more after it, or the reason is lost and this says that the connection was cut.

    Args:
        error: what ssl, the socket or an event loop raised.
        peer: what to call who was spoken to.

    Returns:
        WrongDaemon: the certificate is not that of the paired daemon (or the clocks disagree).
        NotPaired: the daemon does not accept this client's certificate.
        ProtocolError: something else than a psync daemon answers; trying again is no use.
        ConnectError: the connection was cut or is silent; trying again may help.
        None: the error is none of TLS's.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_verification(error)
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)):
        return _cut(peer)
    if isinstance(error, ssl.SSLError):
        return _explain_reason(error, peer)
    if isinstance(error, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)):
        return _cut(peer)
    if isinstance(error, TimeoutError):
        return ConnectError(f"{peer} accepted the connection and does not answer")
    return None


def failed_handshake(error: OSError) -> str:
    """Say in a few words for the daemon's log how a stranger's TLS handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {printable(error.verify_message or str(error))}"
    if isinstance(error, ssl.SSLError):
        reason = (getattr(error, "reason", None) or str(error)).upper().replace(" ", "_")
        for word, meaning in _STRANGERS.items():
            if word in reason:
                return meaning
        return f"TLS failed: {printable(reason.lower().replace('_', ' '))[:200]}"
    return "it hung up during the TLS handshake"


def _load(
    context: ssl.SSLContext, *, cert: str, key: str, authorities: tuple[str, ...], strict: bool
) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    else:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13 may have set it
    current = cert
    try:
        # One by one and by name: ssl's own errors do not say which file they are about.
        for current in (*authorities, cert, key):
            with open(current, "rb"):
                pass
        check_key_file(key)
        for current in authorities:
            context.load_verify_locations(cafile=current)
        current = cert
        context.load_cert_chain(cert, key, password=_no_password)
    except FileNotFoundError:
        raise
    except ssl.SSLError as error:
        name = printable(current)
        if error.reason == "KEY_VALUES_MISMATCH":
            what = (
                f"the certificate {name} does not belong to the private key {printable(key)} "
                "(the first one in the file must)"
            )
        elif current == cert:
            what = f"the certificate {name} or its key {printable(key)} is damaged"
        else:
            what = f"the certificate {name} is damaged"
        raise TrustError(what, hint=_PAIR if _is_client(context) else "") from error
    except OSError as error:
        raise TrustError(f"cannot read {printable(current)}: {error.strerror}") from error


def _no_password() -> str:
    # without this OpenSSL would ask on the terminal for the passphrase of an encrypted key
    raise TrustError("the private key is protected by a passphrase", hint="store it without one")


def _is_client(context: ssl.SSLContext) -> bool:
    return context.check_hostname


def _explain_verification(error: ssl.SSLCertVerificationError) -> PsyncError:
    code = error.verify_code
    if code == _NOT_YET_VALID:
        return WrongDaemon("the daemon's certificate is not valid yet", hint=_CLOCKS)
    if code == _EXPIRED:
        return WrongDaemon(
            "the daemon's certificate has expired",
            hint=f"{_CLOCKS}, then restart the daemon: it renews its certificate",
        )
    again = f"if the daemon was set up anew, {_PAIR}"
    if code in _WRONG_NAME:
        return WrongDaemon(
            "what answers is another daemon than the one this client was paired with", hint=again
        )
    if code in _WRONG_PURPOSE:
        return WrongDaemon("what answers shows a certificate that is not a daemon's", hint=again)
    if code in _NO_CHAIN:
        return WrongDaemon(
            "what answers is not the daemon this client was paired with: its certificate is from "
            "another authority",
            hint=again,
        )
    reason = printable(error.verify_message or "it is not valid")
    return WrongDaemon(f"the daemon's certificate was not accepted: {reason}", hint=again)


def _explain_reason(error: ssl.SSLError, peer: str) -> PsyncError:
    # An SSLError that Python code made has no reason, nor has one that Python knows no word for.
    reason = (getattr(error, "reason", None) or str(error)).upper().replace(" ", "_")
    if "ALERT_" in reason or "CERTIFICATE_REQUIRED" in reason:
        for word, meaning in _REFUSED.items():
            if word in reason:
                return NotPaired(meaning, hint=_PAIR)
    for word, (what, next_step) in _TURNED_AWAY.items():
        if word in reason:
            return ConnectError(f"the daemon {what}", hint=next_step)
    if "UNEXPECTED_EOF" in reason:
        return _cut(peer)
    words = printable(reason.lower().replace("_", " "))
    if any(word in reason for word in _PASSING):
        return ConnectError(f"the TLS connection to {peer} failed: {words}")
    if any(word in reason for word in _OTHER_TLS):
        return ProtocolError(f"{peer} speaks TLS, but not as a psync daemon does", hint=_WHERE)
    # HTTP, ssh's greeting and noise end as "wrong version number", "record layer failure" and more
    return ProtocolError(f"{peer} is not a psync daemon ({words})", hint=_WHERE)


def _cut(peer: str) -> ConnectError:
    return ConnectError(f"{peer} closed the connection before it was secured", hint=_WHERE)
