"""The text of an invitation: all that a stranger needs to pair with one daemon, once.

    psync1-n5xw…    the mark and version, then base32 in lower case, without padding:

    2 bytes   length of all that follows
    32        SHA-256 of the CA's certificate (DER)
    16        the secret, random
    n         1 byte length and as many of ASCII for each address, ``host:port``
    4         the first bytes of the SHA-256 of all before

Only letters and digits, and the case does not matter: shells leave it alone, and so do chats,
which make dashes of ``--`` and italics of ``_``. The length tells a text that was cut short from
one that was changed. The checksum is for mistakes; what protects is the fingerprint.

No I/O.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

import msgspec

from psync.errors import UsageError

MARK = "psync1-"
"""What every invitation of this format begins with."""

SECRET_SIZE = 16
"""Bytes of a secret; 128 random bits are not guessed."""

MOST_ADDRESSES = 8
LONGEST_ADDRESS = 253 + 6  # a host name (RFC 1035, 2.3.4), a colon and a port

LONGEST = 4096
"""Characters of the longest text that is looked at; no invitation is longer."""

AGAIN = "for a new one, run psync-server invite on that host"
"""What to do about an invitation that is not good."""

_DIGEST = 32
_CHECKSUM = 4
_HEAD = 2 + _DIGEST + SECRET_SIZE


class Invitation(msgspec.Struct, frozen=True):
    """What an invitation says.

    Attributes:
        addresses: (host, port) pairs to try, the likeliest first.
        ca: SHA-256 of the certificate (DER) of the daemon's CA.
        secret: lets one client pair, once.
    """

    addresses: tuple[tuple[str, int], ...]
    ca: bytes
    secret: bytes

    def __repr__(self) -> str:
        # whatever prints or logs one must not give the secret away
        return f"Invitation(addresses={self.addresses!r}, ca={self.ca.hex()!r}, secret=…)"


def write_invitation(invitation: Invitation) -> str:
    """Return the text of ``invitation``.

    Raises:
        UsageError: it has no address, too many, or one that cannot be one.
    """
    if not 0 < len(invitation.addresses) <= MOST_ADDRESSES:
        raise UsageError(f"an invitation holds 1 to {MOST_ADDRESSES} addresses")
    if len(invitation.ca) != _DIGEST or len(invitation.secret) != SECRET_SIZE:
        raise ValueError("a fingerprint or secret of the wrong size")
    body = invitation.ca + invitation.secret
    for host, port in invitation.addresses:
        check_host(host)
        name = f"{host}:{port}".encode("ascii")
        body += bytes((len(name),)) + name
    payload = (len(body) + _CHECKSUM).to_bytes(2, "big") + body
    payload += hashlib.sha256(payload).digest()[:_CHECKSUM]
    return MARK + _encode(payload)


def read_invitation(text: str) -> Invitation:
    """Return what the ``text`` of an invitation says; blanks and line breaks in it do not count.

    Raises:
        UsageError: it is none, was cut short, or changed on the way. The message does not repeat
            it: it may be a good one with a slip.
    """
    if len(text) > LONGEST:
        raise UsageError(f"an invitation is never longer than {LONGEST} characters", hint=_COPY)
    text = "".join(text.split()).lower()
    if not text.startswith(MARK):
        raise _no_invitation(text)
    digits = text[len(MARK) :]
    payload = _decode(digits)
    length = 2 + int.from_bytes(payload[:2], "big")
    if len(payload) < max(length, _HEAD + _CHECKSUM):
        raise _cut()
    if len(payload) > length:
        raise UsageError("there is something behind the end of this invitation", hint=_COPY)
    good = hashlib.sha256(payload[:-_CHECKSUM]).digest()[:_CHECKSUM] == payload[-_CHECKSUM:]
    if not good or _encode(payload) != digits:
        raise _changed()
    return Invitation(
        addresses=_addresses(payload[_HEAD:-_CHECKSUM]),
        ca=payload[2 : 2 + _DIGEST],
        secret=payload[2 + _DIGEST : _HEAD],
    )


def parse_host(text: str, port: int) -> tuple[str, int]:
    """Return host and port of ``HOST`` or ``HOST:PORT``; an IPv6 address may stand in brackets.

    Args:
        text: what somebody typed.
        port: the port where none is given.

    Raises:
        UsageError: it is neither.
    """
    import re

    if text.count(":") > 1 and not text.startswith("["):
        host, given = text, None  # a bare IPv6 address
    else:
        found = re.fullmatch(r"(\[[^\[\]]*:[^\[\]]*\]|[^:\[\]]*)(?::(.*))?", text)
        if found is None:
            raise UsageError(f"{text!r} is no address", hint="write HOST or HOST:PORT")
        host, given = found[1].strip("[]"), found[2]
    if given is not None:
        if not (given.isascii() and given.isdigit() and 0 < int(given[:6]) < 65536):
            raise UsageError(f"{text!r}: {given!r} is no port", hint="write HOST or HOST:PORT")
        port = int(given)
    check_host(host)
    return host, port


def check_host(host: str) -> None:
    """Make sure that ``host`` is a host name or an IP address without a scope.

    Raises:
        UsageError: it is neither.
    """
    if ":" in host:
        import ipaddress

        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise UsageError(f"{host!r} is no address", hint="write HOST or HOST:PORT") from None
        if address.scope_id is not None:
            raise UsageError(
                f"{host!r} means something else on every host", hint="name another address"
            )
        return
    plain = host.replace("-", "").replace(".", "").replace("_", "")
    if not (plain.isascii() and plain.isalnum()) or host[0] in "-." or len(host) > 253:
        raise UsageError(f"{host!r} is neither a host name nor an address")


_COPY = "copy the whole line that psync-server invite printed"


def _encode(payload: bytes) -> str:
    return base64.b32encode(payload).decode("ascii").rstrip("=").lower()


def _decode(digits: str) -> bytes:
    """Return the whole bytes that ``digits`` hold; what is left of a cut one does not count."""
    if not ((digits.isascii() and digits.isalnum()) or not digits):
        raise UsageError("this invitation holds something else than letters and digits", hint=_COPY)
    rest = len(digits) % 8
    dropped = 1 if rest in (1, 3, 6) else 0  # a digit that begins a byte and does not end it
    digits = digits[: len(digits) - dropped]
    try:
        return base64.b32decode(digits.upper() + "=" * (-len(digits) % 8))
    except binascii.Error:
        raise _changed() from None


def _addresses(data: bytes) -> tuple[tuple[str, int], ...]:
    found = []
    while data:
        length = data[0]
        name, data = data[1 : 1 + length], data[1 + length :]
        if len(name) != length:
            raise _changed()
        try:
            host, _, port = name.decode("ascii").rpartition(":")
            check_host(host)
        except (UnicodeDecodeError, UsageError):
            raise _changed() from None
        if not (port.isdigit() and 0 < int(port) < 65536):
            raise _changed()
        found.append((host, int(port)))
    if not 0 < len(found) <= MOST_ADDRESSES:
        raise _changed()
    return tuple(found)


def _no_invitation(text: str) -> UsageError:
    if text and MARK.startswith(text):
        return _cut()
    if text.startswith("psync") and text[5:6].isdigit():
        return UsageError(
            "this invitation is of another version of psync",
            hint="install the same version of psync on both hosts",
        )
    return UsageError(f"this is no invitation: it does not begin with {MARK}", hint=_COPY)


def _cut() -> UsageError:
    return UsageError("this invitation was cut off: its end is missing", hint=_COPY)


def _changed() -> UsageError:
    return UsageError("this invitation was changed on the way: its checksum is wrong", hint=_COPY)
