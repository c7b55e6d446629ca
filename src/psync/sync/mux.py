"""OpenSSH's multiplexing protocol: the requests psync makes of its shared connection.

Asking the master over its control socket takes a fraction of a millisecond; ``ssh -O check`` costs
a process. It also adds a forwarding without those of the user's ssh configuration, which
``ssh -O forward`` would open too.

The format is that of ``PROTOCOL.mux`` in OpenSSH's sources, version 4, unchanged since OpenSSH 5.6:
a packet is a 32-bit length and a body, a body begins with a 32-bit type, a string is a 32-bit
length and bytes; all numbers are big-endian.
"""

from __future__ import annotations

import socket
import struct

_VERSION = 4
_HELLO = 0x00000001
_ALIVE_CHECK = 0x10000004
_TERMINATE = 0x10000005
_OPEN_FORWARD = 0x10000006
_CLOSE_FORWARD = 0x10000007
_OK = 0x80000001
_ALIVE = 0x80000005
_LOCAL = 1
_UNIX_SOCKET = 0xFFFFFFFE  # the port number that makes an address a path (PORT_STREAMLOCAL)
_LONGEST = 256 * 1024


class MuxError(Exception):
    """The master did not answer, or said no."""


def alive(control: bytes, timeout: float) -> int:
    """Return the process ID of the master that listens at ``control``.

    Raises:
        MuxError: nobody listens there, or nobody answers within ``timeout`` seconds.
    """
    kind, body = _ask(control, struct.pack(">II", _ALIVE_CHECK, 0), timeout)
    if kind != _ALIVE or len(body) < 8:
        raise MuxError(f"unexpected answer {kind:#x}")
    pid: int = struct.unpack_from(">I", body, 4)[0]
    return pid


def forward(control: bytes, path: bytes, host: bytes, port: int, timeout: float) -> None:
    """Have the master forward connections to the unix socket ``path`` to ``host:port`` over there.

    Asking for one that exists already changes nothing.

    Raises:
        MuxError: the master refused, or did not answer.
    """
    _change(control, _OPEN_FORWARD, path, host, port, timeout)


def cancel(control: bytes, path: bytes, host: bytes, port: int, timeout: float) -> None:
    """Take a forwarding back; connections made through it stay open.

    Raises:
        MuxError: there is no such forwarding, or the master did not answer.
    """
    _change(control, _CLOSE_FORWARD, path, host, port, timeout)


def terminate(control: bytes, timeout: float) -> None:
    """Have the master close the connection with all that goes over it, and exit.

    Raises:
        MuxError: the master did not answer.
    """
    _expect_ok(_ask(control, struct.pack(">II", _TERMINATE, 0), timeout))


def _change(
    control: bytes, request: int, path: bytes, host: bytes, port: int, timeout: float
) -> None:
    listen = _string(path) + struct.pack(">I", _UNIX_SOCKET)
    connect = _string(host) + struct.pack(">I", port)
    _expect_ok(_ask(control, struct.pack(">III", request, 0, _LOCAL) + listen + connect, timeout))


def _expect_ok(answer: tuple[int, bytes]) -> None:
    kind, body = answer
    if kind != _OK:
        length = struct.unpack_from(">I", body, 4)[0] if len(body) >= 8 else 0
        raise MuxError(body[8 : 8 + length].decode("utf-8", "replace") or f"answer {kind:#x}")


def _ask(control: bytes, request: bytes, timeout: float) -> tuple[int, bytes]:
    """Greet, ask once, return type and body of the answer."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(control)
            connection.sendall(_string(struct.pack(">II", _HELLO, _VERSION)) + _string(request))
            kind, body = _packet(connection)
            if kind != _HELLO or body[:4] != struct.pack(">I", _VERSION):
                raise MuxError("not an ssh master of a known version")
            return _packet(connection)
    except OSError as error:
        raise MuxError(str(error)) from error


def _packet(connection: socket.socket) -> tuple[int, bytes]:
    length = struct.unpack(">I", _exactly(connection, 4))[0]
    if not 4 <= length <= _LONGEST:
        raise MuxError("not an ssh master")
    packet = _exactly(connection, length)
    return struct.unpack_from(">I", packet)[0], packet[4:]


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise MuxError("the ssh master closed its control socket")
        data += chunk
    return data


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
