"""The list of paired clients: who may connect.

    clients.json         {"version": 1, "clients": [...]}, replaced as a whole
    clients.json.lock    held while it is changed

It is a list of who is let in, so whatever goes wrong with it keeps people out: a client that is not
found is not paired. A damaged list, or a damaged entry in one that can be read otherwise, is set
aside under another name and logged as an error; the entries that are sound stay.

The daemon reads; ``psync-server enroll`` and ``revoke`` write. The daemon notices by the file's
status, so that both meet in the file and nowhere else.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Literal

import msgspec

from psync.errors import NotPaired, TrustError, UsageError
from psync.paths import free_path, private_directory, write_atomic
from psync.text import printable
from psync.transport.filelock import LOCK_TIMEOUT, FileLock
from psync.transport.identity import safe_name

MAX_SIZE = 16 * 1024 * 1024
"""Largest list that is read, in bytes; some forty thousand clients."""

SHORTEST_PREFIX = 4
"""Hexadecimal digits of a fingerprint that ``revoke`` takes for one."""

logger = logging.getLogger("psync.access")


class ClientRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One paired client. Times are seconds since the epoch.

    Unknown fields make an entry a damaged one: behind one of them ``revoked`` may be hidden.

    Attributes:
        name: unique in the list; for people.
        fingerprint: of its certificate, see ``tls.fingerprint``.
        client_id: see ``identity.read_client_id``.
        paired: when.
        expires: when its certificate ends.
        revoked: when it was, None while it may connect.
    """

    name: str
    fingerprint: str
    client_id: str
    paired: float
    expires: float
    revoked: float | None = None


class _File(msgspec.Struct, frozen=True):
    version: Literal[1]
    clients: list[msgspec.Raw]


class _Versioned(msgspec.Struct, frozen=True):
    version: int


class _Damage(Exception):
    """The list, or part of it, cannot be read; the entries in ``sound`` can."""

    def __init__(self, what: str, sound: tuple[ClientRecord, ...] = ()) -> None:
        super().__init__(what)
        self.sound = sound


_Stamp = tuple[int, int, int, int]


class AccessList:
    """The list in the file ``path``, which need not exist.

    Reading costs one ``stat`` while nothing changed. Not for several threads at once.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp: _Stamp | None = None
        self._read_once = False
        self._records: tuple[ClientRecord, ...] = ()
        self._by_fingerprint: dict[str, ClientRecord] = {}
        self._generation = 0
        self._reported = -1
        self._trouble = ""

    # -- reading -----------------------------------------------------------------------

    def find(self, fingerprint: str) -> ClientRecord | None:
        """Return the client with this certificate, if it may connect: None once it is revoked."""
        self._refresh()
        record = self._by_fingerprint.get(fingerprint)
        return None if record is None or record.revoked is not None else record

    def admit(self, fingerprint: str) -> ClientRecord:
        """Return the client with this certificate.

        Raises:
            NotPaired: it may not connect; the message says why, in words for the client's user.
        """
        record = self.find(fingerprint)
        if record is not None:
            return record
        known = self._by_fingerprint.get(fingerprint)
        if known is not None and known.revoked is not None:
            raise NotPaired(
                "the daemon has revoked this client's certificate", hint="run: psync pair HOST"
            )
        raise NotPaired("the daemon does not know this client", hint="run: psync pair HOST")

    def clients(self) -> tuple[ClientRecord, ...]:
        """Return all clients, also revoked ones, in the order in which they were paired."""
        self._refresh()
        return self._records

    def changed(self) -> bool:
        """Whether the list has changed since this was asked last; True for the first time.

        A daemon asks twice a second and closes the connections of clients it no longer finds.
        """
        self._refresh()
        changed = self._generation != self._reported
        self._reported = self._generation
        return changed

    def damaged(self) -> list[str]:
        """Return the paths of damaged lists that were set aside, oldest first."""
        directory, name = os.path.split(self._path)
        try:
            found = [
                entry for entry in os.listdir(directory) if entry.startswith(f"{name}.damaged-")
            ]
        except OSError:
            return []
        return [os.path.join(directory, entry) for entry in sorted(found)]

    # -- changing ----------------------------------------------------------------------

    def add(
        self,
        *,
        name: str,
        client_id: str,
        fingerprint: str,
        expires: float,
        now: float | None = None,
    ) -> ClientRecord:
        """Add a client, or replace the one with the same ``client_id``, and return its entry.

        A name that another client has gets ``-2``, ``-3`` and so on. A replaced entry's certificate
        is not accepted any more.

        Raises:
            TrustError: the list cannot be read or written, or is a later version's.
            ConfigError: its directory cannot be made, or others may write to it.
        """
        private_directory(os.path.dirname(self._path))
        with self._locked():
            others = [one for one in self._read_to_change() if one.client_id != client_id]
            record = ClientRecord(
                name=_free_name(safe_name(name), {one.name for one in others}),
                fingerprint=fingerprint,
                client_id=client_id,
                paired=time.time() if now is None else now,
                expires=expires,
            )
            self._write((*others, record))
        return record

    def revoke(self, which: str, now: float | None = None) -> ClientRecord:
        """Revoke one client and return its entry; one that is revoked already stays as it is.

        Args:
            which: a name, or the beginning of a fingerprint, with or without ``sha256:``.
            now: seconds since the epoch, by default the clock's.

        Raises:
            UsageError: no client is meant, or more than one.
            TrustError: the list cannot be read or written, or is a later version's.
        """
        if not os.path.isdir(os.path.dirname(self._path)):
            raise _no_such_client(which)
        with self._locked():
            records = self._read_to_change()
            chosen = _choose(records, which)
            if chosen.revoked is not None:
                return chosen
            revoked = msgspec.structs.replace(chosen, revoked=time.time() if now is None else now)
            self._write(tuple(revoked if one is chosen else one for one in records))
        return revoked

    # -- inside ------------------------------------------------------------------------

    def _refresh(self) -> None:
        try:
            stamp = self._status()
            if self._read_once and stamp == self._stamp:
                return
            # The status from before reading: a change in between is seen by the next refresh.
            self._take(self._read(), stamp)
        except _Damage as damage:
            self._repair(damage, stamp)
        except OSError as error:
            # Descriptors or memory ran out, not the list: what was read last still holds.
            self._report(f"cannot read the list of clients, {self._shown}: {error.strerror}")
        except TrustError as error:
            self._take((), stamp)
            self._report(str(error))

    def _take(self, records: tuple[ClientRecord, ...], stamp: _Stamp | None) -> None:
        self._records = records
        self._by_fingerprint = {one.fingerprint: one for one in records}
        self._stamp = stamp
        self._read_once = True
        self._generation += 1
        self._trouble = ""

    def _repair(self, damage: _Damage, stamp: _Stamp | None) -> None:
        """Read the damaged list once more under the lock, and set it aside if it still is."""
        try:
            # The event loop cannot wait; who holds the lock will have mended or replaced the list.
            with self._locked(timeout=0.0):
                records = self._read_to_change()
                self._take(records, self._status())
        except (OSError, TrustError) as error:
            # The disk may be full. What is sound still counts, until the file changes.
            self._take(damage.sound, stamp)
            self._report(f"the list of clients, {self._shown}, is damaged: {damage}; {error}")

    def _read_to_change(self) -> tuple[ClientRecord, ...]:
        """Read the list with its lock held; afterwards the file is sound, or gone."""
        try:
            return self._read()
        except _Damage as damage:
            aside = self._set_aside(damage.sound)
            logger.error(
                "the list of clients, %s, was damaged: %s. It is now %s; %d clients are left, "
                "others have to pair again",
                self._shown,
                damage,
                printable(aside),
                len(damage.sound),
            )
            return damage.sound
        except OSError as error:
            raise TrustError(
                f"cannot read the list of clients, {self._shown}: {error.strerror}"
            ) from error

    def _set_aside(self, sound: tuple[ClientRecord, ...]) -> str:
        """Give the damaged list another name; what is sound in it becomes the list."""
        when = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        aside = free_path(f"{self._path}.damaged-{when}")
        try:
            if sound:
                os.link(self._path, aside)  # and then replaced: there is a list at every moment
                self._write(sound)
            else:
                os.rename(self._path, aside)
        except OSError as error:
            raise TrustError(
                f"cannot set the damaged list of clients, {self._shown}, aside: {error.strerror}"
            ) from error
        return aside

    def _read(self) -> tuple[ClientRecord, ...]:
        try:
            with open(self._path, "rb") as file:
                text = file.read(MAX_SIZE + 1)
        except FileNotFoundError:
            return ()
        if len(text) > MAX_SIZE:
            raise _Damage(f"it is larger than {MAX_SIZE} bytes")
        try:
            version = msgspec.json.decode(text, type=_Versioned).version
            if version > 1:
                raise TrustError(
                    f"the list of clients, {self._shown}, was written by a later psync-server",
                    hint="install that version again; until then nobody can connect",
                )
            entries = msgspec.json.decode(text, type=_File).clients
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _Damage(printable(str(error))) from error
        sound, faults = [], []
        for number, entry in enumerate(entries, 1):
            try:
                sound.append(msgspec.json.decode(entry, type=ClientRecord))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                faults.append(f"client {number}: {printable(str(error))}")
        if faults:
            raise _Damage(", ".join(faults[:5]), tuple(sound))
        return tuple(sound)

    def _write(self, records: tuple[ClientRecord, ...]) -> None:
        text = msgspec.json.encode({"version": 1, "clients": records})
        try:
            write_atomic(self._path, msgspec.json.format(text, indent=1) + b"\n")
        except OSError as error:
            raise TrustError(
                f"cannot write the list of clients, {self._shown}: {error.strerror}"
            ) from error

    def _status(self) -> _Stamp | None:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return None
        return (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)

    def _locked(self, timeout: float = LOCK_TIMEOUT) -> FileLock:
        return FileLock(f"{self._path}.lock", timeout)

    def _report(self, trouble: str) -> None:
        """Log once what keeps the list from being read; it is looked at twice a second."""
        if trouble != self._trouble:
            self._trouble = trouble
            logger.error("%s", trouble)

    @property
    def _shown(self) -> str:
        return printable(self._path)


def _free_name(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _choose(records: tuple[ClientRecord, ...], which: str) -> ClientRecord:
    digits = which.removeprefix("sha256:").lower()
    by_fingerprint = len(digits) >= SHORTEST_PREFIX
    # A client chooses its own name, also one that looks like another's fingerprint: so both count.
    found = [
        one
        for one in records
        if one.name == which or (by_fingerprint and one.fingerprint.startswith(f"sha256:{digits}"))
    ]
    if not found:
        raise _no_such_client(which)
    if len(found) > 1:
        names = ", ".join(f"{one.name} ({one.fingerprint[:19]}…)" for one in found[:5])
        raise UsageError(
            f"{printable(which)} may mean {len(found)} clients: {names}",
            hint="give more of the fingerprint, with sha256: before it",
        )
    return found[0]


def _no_such_client(which: str) -> UsageError:
    return UsageError(
        f"no client is named {printable(which) or repr('')}, and no fingerprint begins so",
        hint="psync-server clients lists them",
    )
