"""How commands of psync's own get to a daemon host: over ssh, or straight on this machine.

They do what no daemon can be asked for: pair a client, start a daemon that is not running. They
block; ``cancel`` may be called from any thread. What they print arrives framed, see
``transport.enrolment``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from psync.client.restricted import key_of, refusal
from psync.client.targets import TargetSpec
from psync.errors import Interrupted, ProtocolError, PsyncError, ToolMissing
from psync.paths import ClientPaths
from psync.sync.process import Child, Tail
from psync.sync.ssh import RemoteCommandFailed, SharedConnection, SSHTarget
from psync.text import printable

if TYPE_CHECKING:
    from psync.transport.enrolment import EnrolAnswer, EnrolRequest
    from psync.transport.whereabouts import Whereabouts

COMMAND_TIMEOUT = 60.0
"""Seconds for one command; making keys and starting a daemon on a slow board is the longest."""

# ssh starts commands in the home directory, so this is ~/.local/bin, where pip and pipx install.
USUAL_PLACES = ("psync-server", ".local/bin/psync-server")

_ASK_TIMEOUT = 10.0


class Host(Protocol):
    """A way to run ``psync-server`` on a daemon host."""

    def server(self, words: Sequence[str], *, input: bytes = b"") -> bytes:
        """Run ``psync-server WORDS…`` there; return what it printed, with whatever is around it."""

    def cancel(self) -> None:
        """Have a command that is going on give up."""


class SSHHost:
    """A daemon host behind ssh.

    Args:
        spec: the target.
        paths: the client's directories; control sockets are in its runtime directory.
        server: path of ``psync-server`` there, None to look in the usual places.
        own: use the user's own ssh, also where the target has a restricted key.
    """

    def __init__(
        self, spec: TargetSpec, paths: ClientPaths, server: str | None, *, own: bool = False
    ) -> None:
        self.connection = shared_connection(spec, paths, own=own)
        self._spec = spec
        self._name = spec.host
        self._places = USUAL_PLACES if server is None else (server,)

    def server(self, words: Sequence[str], *, input: bytes = b"") -> bytes:
        """See ``Host``.

        Raises:
            SSHError: ssh failed.
            ToolMissing: there is no ssh here or no ``psync-server`` there.
            NotPaired: psync's restricted key is not accepted any more.
        """
        self.connection.open()
        failure: RemoteCommandFailed | None = None
        for place in self._places:
            try:
                return self.connection.run([place, *words], input=input, timeout=COMMAND_TIMEOUT)
            except RemoteCommandFailed as error:
                if refused := refusal(error.stderr, self._spec):
                    raise refused from error
                if not _not_found(error):
                    return _output_of(error)
                failure = failure or error
        named = self._places[0]
        raise ToolMissing(
            f"{printable(named)} was not found on {printable(self._name)}",
            hint="install psync there, or say where it is with --server PATH",
        ) from failure

    def cancel(self) -> None:
        """See ``Host``."""
        self.connection.cancel()

    def hostname(self) -> str:
        """Return the name or address that the user's ssh configuration makes of the destination.

        Asks ``ssh -G``, which connects nowhere. Another ssh than OpenSSH may not know it; then it
        is the destination without its user.
        """
        target = self.connection.target
        plain = target.address.rpartition("@")[2]
        argv = [*target.command, *target.port_options, "-G", "--", target.address]
        output = bytearray()
        try:
            Child(argv, detached=True).wait(output.extend, lambda data: None, _ASK_TIMEOUT)
        except (OSError, TimeoutError):
            return plain
        for line in bytes(output).splitlines():
            word, _, value = line.partition(b" ")
            if word == b"hostname" and value:
                return value.decode("utf-8", "replace")
        return plain


class LocalHost:
    """This machine, with the daemon's files in the client's own data directory.

    Args:
        paths: the client's directories.
    """

    def __init__(self, paths: ClientPaths) -> None:
        self._home = paths.local
        self._child: Child | None = None
        self._cancelled = False

    def server(self, words: Sequence[str], *, input: bytes = b"") -> bytes:
        """See ``Host``; raises PsyncError when it fails without saying why in a frame."""
        output = bytearray()
        said = Tail()
        # -P: modules in the working directory are the user's, not psync's
        argv = [sys.executable, "-P", "-m", "psync.cli.server", *words]
        environ = {**os.environ, "PSYNC_SERVER_HOME": self._home}
        try:
            self._child = Child(argv, env=environ, feed=input, detached=True)
            if self._cancelled:
                self._child.cancel()
            status = self._child.wait(output.extend, said.feed, COMMAND_TIMEOUT)
        except TimeoutError:
            raise PsyncError(
                f"psync-server {words[0]} took more than {COMMAND_TIMEOUT:.0f} seconds"
            ) from None
        finally:
            self._child = None
        if self._cancelled:
            raise Interrupted("interrupted while the local daemon was started")
        if status != 0 and b"psync-answer-begin" not in output:
            lines = said.value().strip().splitlines() or [b"no reason given"]
            words_of_it = printable(lines[-1]).removeprefix("psync-server: ")
            raise PsyncError(f"the local daemon cannot be used: {words_of_it}")
        return bytes(output)

    def cancel(self) -> None:
        """See ``Host``."""
        self._cancelled = True
        if self._child is not None:
            self._child.cancel()


def shared_connection(
    spec: TargetSpec, paths: ClientPaths, *, own: bool = False
) -> SharedConnection:
    """Return psync's shared ssh connection to a target; nothing is opened.

    Where the target was paired with a restricted key, ssh uses that and nothing else, unless it is
    to be the user's ``own`` ssh, for pairing.

    Raises:
        UsageError: the target's host is no ssh destination.
    """
    key = None if own else key_of(paths, spec.name)
    return SharedConnection(SSHTarget(spec.host, spec.ssh, os.fsencode(paths.runtime), key))


def enrol(host: Host, request: EnrolRequest, where: str) -> EnrolAnswer:
    """Pair with the daemon of ``host``.

    Args:
        host: the way to it.
        request: who this client is.
        where: what to call the host in messages.

    Raises:
        PsyncError: ssh failed, or the daemon said no, in its own words.
        ProtocolError: something else than an answer came back.
    """
    from psync.transport.enrolment import decode_answer, encode, unframe

    nonce = _nonce()
    output = host.server(["enroll", f"--nonce={nonce}"], input=encode(request))
    payload = unframe(output, nonce)
    try:
        return decode_answer(payload)
    except ProtocolError:
        raise
    except PsyncError as error:  # files and addresses that it names are the other host's
        raise type(error)(f"psync-server on {where}: {error.message}", hint=error.hint) from error


def start_daemon(host: Host) -> Whereabouts:
    """Have the daemon of ``host`` run, and return where it listens.

    Raises:
        PsyncError: ssh failed, or the daemon cannot start, in its own words.
        ProtocolError: something else than an answer came back.
    """
    from psync.transport.enrolment import unframe
    from psync.transport.whereabouts import decode_whereabouts

    nonce = _nonce()
    return decode_whereabouts(unframe(host.server(["start", f"--nonce={nonce}"]), nonce))


def _nonce() -> str:
    """Return 128 random bits as hexadecimal digits; ``secrets`` would cost five milliseconds."""
    return os.urandom(16).hex()


def _not_found(error: RemoteCommandFailed) -> bool:
    """Whether the remote shell, of whatever kind, says that there is no such command."""
    if error.status in (126, 127):
        return True
    return b"ommand not found" in error.stderr or b"Unknown command" in error.stderr


def _output_of(error: RemoteCommandFailed) -> bytes:
    """Return what a failed psync-server printed: it says why in a frame, as far as it can."""
    if b"psync-answer-begin" in error.stdout:
        return error.stdout
    raise error
