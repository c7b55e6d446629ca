"""What ssh and rsync say when they fail, told as psync's errors. No I/O.

Both are run in the C locale, so their words can be matched. Where nothing matches, the last thing
that was said stands in the message: no failure ends without a reason.
"""

from __future__ import annotations

import re
import signal

from psync.errors import DestinationError, SSHError, SyncError, ToolMissing
from psync.text import printable


class MirrorMissing(DestinationError):
    """The project has no directory on the daemon host yet; the daemon makes it when asked."""

    code = "mirror-missing"


class DiskFull(DestinationError):
    """The daemon host has no space left for the files, or not for that user."""


class FilesVanished(SyncError):
    """Files that were to be sent went away or shrank; looking again finds what is there now."""


_SHOWN = 5  # files named in one message

# rsync 3.2 says which side speaks; before, only what it was doing tells.
_FILE = re.compile(
    rb'^rsync: (?:\[(?P<side>\w+)\] )?(?P<what>[^"]*)"(?P<name>.*)"(?P<rest>.*?)'
    rb"(?:failed)?: (?P<reason>[^:]*) \((?P<errno>\d+)\)$"
)
_SENDING = re.compile(rb"send_files|link_stat|opendir|readlink_stat|change_dir|readdir|read errors")
_ESCAPE = re.compile(rb"\\#([0-7]{3})")
_BLOCKED = re.compile(rb"^could not make way for new [^:]*: (.*)$", re.MULTILINE)
_NO_REFERENT = re.compile(rb'symlink has no referent: "(.*)"')

_REFUSED = re.compile(rb"^psync-server: this key may only [^:]*: (.*)$", re.MULTILINE)
_NO_SSH = re.compile(rb"Failed to exec (.*): ([^:]*) \(\d+\)$", re.MULTILINE)
_HOST_KEY_CHANGED = re.compile(rb"REMOTE HOST IDENTIFICATION HAS CHANGED")
_REMOVE_WITH = re.compile(rb"^\s*(ssh-keygen .*-R .*?)\s*$", re.MULTILINE)
_NETWORK = re.compile(
    rb"Connection refused|timed out|No route to host|Network is unreachable|Host is down"
    rb"|Connection reset|Connection closed|not responding|Broken pipe"
)


def ssh_error(said: bytes, destination: str) -> SSHError:
    """Return what went wrong when ssh ended with 255.

    Args:
        said: ssh's stderr; lines of rsync in it are skipped.
        destination: where ssh went, for the message.
    """
    lines = [
        line.strip()
        for line in said.splitlines()
        if line.strip() and not line.startswith((b"rsync", b"debug"))
    ]
    last = printable(lines[-1].removeprefix(b"ssh: ")) if lines else "no reason given"
    if _HOST_KEY_CHANGED.search(said):
        remove = _REMOVE_WITH.search(said)
        command = printable(remove[1]) if remove else f"ssh-keygen -R {destination}"
        return SSHError(
            f"ssh refuses {destination}: its host key is not the one that is known, so it may be "
            "another machine",
            hint=f"if you know why the key changed: {command}",
        )
    if b"Host key verification failed" in said:
        return SSHError(
            f"ssh does not know the host key of {destination}",
            hint=f"connect once by hand and check the fingerprint: ssh {destination}",
        )
    message = f"ssh to {destination} failed: {last}"
    if b"Permission denied" in last.encode():
        return SSHError(message, hint=f"make this work first: ssh {destination} true")
    if b"Could not resolve hostname" in said:
        return SSHError(message, hint="check the name, or add it to ~/.ssh/config")
    if _NETWORK.search(said):
        return SSHError(message, hint="check that the host is up and its ssh server reachable")
    return SSHError(message, hint=f"try it by hand: ssh {destination} true")


def rsync_error(
    status: int,
    said: bytes,
    *,
    mirror: bytes,
    host: str | None,
    destination: str = "",
    ssh: bool = True,
) -> SyncError | SSHError:
    """Return what went wrong when rsync ended with something else than 0.

    Args:
        status: rsync's exit status, -n where signal n ended it.
        said: its stderr, or the first and last part of it.
        mirror: the project's directory on the daemon host.
        host: the name of the daemon host, None where it is this machine.
        destination: what ssh calls it, where that is not the same.
        ssh: it was ssh that carried the bytes there.
    """
    place = f"on {host}" if host else "on this machine"
    where = f"{printable(mirror)} {place}"
    reason = _last_reason(said)
    if status < 0:
        return SyncError(f"rsync was ended by {_signal_name(-status)}", hint="run it again")
    failures = _file_failures(said)
    theirs = [failure for failure in failures if not failure.sending]

    if found := _NO_SSH.search(said):  # status 14, or 12 where the parent notices first
        return ToolMissing(
            f"ssh cannot be started on this machine: {printable(found[1])}: {printable(found[2])}",
            hint="install it, for example: sudo apt install openssh-client; or correct PSYNC_SSH",
        )
    if refused := _REFUSED.search(said):
        hint = "pair again with psync pair --restrict-ssh, and the same psync on both sides"
        if refused[1].startswith(b"its client may"):
            hint = (
                "on that host: psync-server clients says what it may, psync-server limit changes it"
            )
        return SyncError(
            f"psync-server {place} refuses to take the files: {printable(refused[1])}", hint=hint
        )
    if status in (126, 127) or _shell_found_no_rsync(said):
        return ToolMissing(
            f"rsync cannot be started {place}: {reason}",
            hint=f"install rsync {place}, for example: sudo apt install rsync",
        )
    for failure in theirs:
        if failure.errno == 122:  # EDQUOT
            return DiskFull(
                f"the quota is used up {place}: {failure.reason} for {failure.name}",
                hint=f"remove something there, not only in {printable(mirror)}, or have the quota "
                "raised, and run it again",
            )
        if failure.errno == 28:  # ENOSPC
            return DiskFull(
                f"the disk is full {place}: {failure.reason} for {failure.name}",
                hint=f"free some space there (df -h {printable(mirror)}) and run it again",
            )
        if failure.what.startswith("mkdir") and failure.errno == 2:
            return MirrorMissing(
                f"the project's directory {where} does not exist",
                hint="ask the daemon to make it, then sync again",
            )
        if failure.errno in (1, 13, 30):  # EPERM, EACCES, EROFS
            return DestinationError(
                f"{where} is not writable: {failure.reason} for {failure.name}",
                hint="give the daemon's user the right to write there",
            )
    if status in (23, 24, 3) and failures and not theirs:
        return _not_sent(failures)
    if blocked := _BLOCKED.search(said):
        return DestinationError(
            f"{where} has a directory that is not empty where {unescape(blocked[1])} belongs",
            hint="move it away there, if it is not needed, and run it again",
        )
    if status in (11, 23) and theirs:
        return DestinationError(
            f"{where} could not take {theirs[0].name}: {theirs[0].reason}",
            hint="look at that path there; removing it and syncing again is safe",
        )
    if status == 24:
        return FilesVanished(
            f"files vanished while they were sent: {reason}",
            hint="wait until the build is done, then run it again",
        )
    if status in (1, 2, 4):
        if b"is your shell clean" in said:
            return SSHError(
                f"the shell start-up files {place} print text, which breaks rsync's protocol",
                hint=f"this must print nothing: ssh {destination or host} true",
            )
        return ToolMissing(
            f"rsync here and rsync {place} do not understand each other: {reason}",
            hint="install rsync 3.1.3 or newer on both sides",
        )
    if status == 20:
        return SyncError("rsync was interrupted", hint="run it again")
    if host and status in (10, 12, 30, 35, 255):
        words = b"\n".join(line for line in said.splitlines() if not line.startswith(b"rsync"))
        if not ssh:
            return SyncError(
                f"the transfer to {host} broke: {reason}",
                hint="run it again; what arrived is kept and not sent twice",
            )
        if words.strip():
            return ssh_error(words, destination or host)
        return SSHError(
            f"the connection to {host} broke while files were sent: {reason}",
            hint="run it again; what arrived is kept and not sent twice",
        )
    return SyncError(f"rsync failed with status {status} {place}: {reason}", hint="run it again")


def dangling_links(said: bytes) -> tuple[str, ...] | None:
    """Return the links without a target that stderr names, if it complains of nothing else.

    rsync ends with 23 for them; they are no reason not to run.
    """
    found = []
    for line in said.splitlines():
        link = _NO_REFERENT.fullmatch(line.strip())
        if link:
            found.append(unescape(link[1]))
        elif line.strip() and not line.startswith(b"rsync error: some files/attrs were not"):
            return None
    return tuple(found) or None


def unescape(name: bytes) -> str:
    """Return a file name that rsync printed, for a message: it writes odd bytes as ``\\#ooo``."""
    return printable(unescaped(name))


def unescaped(name: bytes) -> bytes:
    """Return the file name that rsync printed."""
    return _ESCAPE.sub(lambda found: bytes((int(found[1], 8) & 255,)), name)


class _Failure:
    __slots__ = ("errno", "name", "reason", "sending", "what")

    def __init__(self, found: re.Match[bytes]) -> None:
        side = (found["side"] or b"").lower()
        self.what = found["what"].decode("ascii", "replace")
        self.name = unescape(found["name"])
        self.reason = printable(found["reason"])
        self.errno = int(found["errno"])
        self.sending = side == b"sender" if side else bool(_SENDING.match(found["what"]))


def _file_failures(said: bytes) -> list[_Failure]:
    return [_Failure(found) for line in said.splitlines() if (found := _FILE.match(line.strip()))]


def _not_sent(failures: list[_Failure]) -> SyncError:
    named = [f"{failure.name} ({failure.reason})" for failure in failures[:_SHOWN]]
    more = f" and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
    message = f"could not send {', '.join(named)}{more}"
    if all(failure.errno in (2, 61) for failure in failures):  # ENOENT; ENODATA: it has shrunk
        hint = "wait until the build is done, or correct what is to be sent"
        return FilesVanished(message, hint=hint)
    return SyncError(message, hint="make them readable, or do not send them")


def _shell_found_no_rsync(said: bytes) -> bool:
    """Whether the remote shell, in its many dialects, says that there is no such command."""
    for line in said.splitlines():
        if line.startswith(b"rsync:"):
            continue
        if b"rsync" in line and (
            b"not found" in line.lower() or line.endswith(b"No such file or directory")
        ):
            return True
    return False


def _last_reason(said: bytes) -> str:
    """Return the last line that gives a reason; rsync's closing line only repeats the status."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(b"rsync error:")] or lines
    return unescape(reasons[-1]) if reasons else "no reason given"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
