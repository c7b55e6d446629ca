"""The list of paired clients: who may connect.

    clients.json         see ``clientlist``; replaced as a whole
    clients.json.lock    held while it is changed

It is a list of who is let in, so whatever goes wrong with it keeps people out: a client that is not
found is not paired. A damaged list, or a damaged entry in one that can be read otherwise, is set
aside under another name and logged as an error; the entries that are sound stay.

The daemon reads; ``psync-server enroll``, ``revoke`` and the like write, and so does the daemon for
what it admits or renews. It notices by the file's status, so that all meet in the file and nowhere
else.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

import msgspec

from psync.daemon.clientfile import ClientFile, Stamp
from psync.daemon.clientlist import (
    ClientRecord as ClientRecord,
    Damage,
    Role,
    Via,
    check_patterns,
    choose,
    free_name,
)
from psync.errors import NotPaired, TrustError, UsageError
from psync.paths import private_directory
from psync.transport.filelock import LOCK_TIMEOUT
from psync.transport.identity import safe_name

logger = logging.getLogger("psync.access")


class AccessList(ClientFile):
    """The list in the file ``path``, which need not exist.

    Reading costs one ``stat`` while nothing changed. Not for several threads at once.

    Args:
        path: the file.
        patience: seconds to wait for others that change it.
    """

    def __init__(self, path: str, patience: float = LOCK_TIMEOUT) -> None:
        super().__init__(path, patience)
        self._stamp: Stamp | None = None
        self._read_once = False
        self._records: tuple[ClientRecord, ...] = ()
        self._by_fingerprint: dict[str, ClientRecord] = {}
        self._by_id: dict[str, ClientRecord] = {}
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
        if known is not None:
            raise _revoked()
        raise NotPaired("the daemon does not know this client", hint="run: psync pair HOST")

    def still_admitted(self, record: ClientRecord) -> ClientRecord:
        """Return the entry, as it is now, of a client that was admitted as ``record``.

        A certificate that has been renewed since is none the worse for a connection that is open.
        One of an earlier pairing is.

        Raises:
            NotPaired: it may not connect any more.
        """
        self._refresh()
        now = self._by_id.get(record.client_id)
        if now is not None and now.revoked is not None:
            raise _revoked()
        if now is None or now.paired != record.paired:
            raise NotPaired(
                "the daemon does not know this client any more", hint="run: psync pair HOST"
            )
        return now

    def revoked(self, fingerprint: str) -> ClientRecord | None:
        """Return the client with this certificate if it was revoked."""
        self._refresh()
        record = self._by_fingerprint.get(fingerprint)
        return None if record is None or record.revoked is None else record

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

    # -- changing ----------------------------------------------------------------------

    def add(
        self,
        *,
        name: str,
        client_id: str,
        fingerprint: str,
        expires: float,
        role: Role | None = None,
        projects: tuple[str, ...] | None = None,
        via: Via = "ssh",
        address: str = "",
        now: float | None = None,
    ) -> ClientRecord:
        """Add a client, or replace the one with the same ``client_id``, and return its entry.

        A name that another client has gets ``-2``, ``-3`` and so on. A replaced entry's certificate
        is not accepted any more.

        Args:
            name: for people; made safe.
            client_id: its ID.
            fingerprint: of its certificate.
            expires: when that ends.
            role: what it may do; by default what the replaced entry may, else ``run``.
            projects: with which projects; by default as the replaced entry, else all.
            via: how it came here.
            address: from where.
            now: seconds since the epoch, by default the clock's.

        Raises:
            UsageError: a pattern in ``projects`` can match nothing.
            TrustError: the list cannot be read or written, or is a later version's.
            ConfigError: its directory cannot be made, or others may write to it.
        """
        check_patterns(projects or ())
        private_directory(os.path.dirname(self._path))
        with self._locked():
            records = self._read_to_change()
            others = [one for one in records if one.client_id != client_id]
            replaced = next((one for one in records if one.client_id == client_id), None)
            if replaced is not None:  # pairing again is no way out of limits
                role = replaced.role if role is None else role
                projects = replaced.projects if projects is None else projects
            record = ClientRecord(
                name=free_name(safe_name(name), {one.name for one in others}),
                fingerprint=fingerprint,
                client_id=client_id,
                paired=time.time() if now is None else now,
                expires=expires,
                role=role or "run",
                projects=projects or (),
                via=via,
                address=address,
            )
            self._write((*others, record))
        return record

    def certified(
        self, *, name: str, client_id: str, fingerprint: str, expires: float, address: str
    ) -> ClientRecord:
        """Return the entry of a client that one of the user's authorities vouches for.

        It is made where there is none; a certificate that was issued anew is noted.

        Raises:
            NotPaired: it was revoked.
            TrustError: as ``add``.
        """
        private_directory(os.path.dirname(self._path))
        with self._locked():
            records = self._read_to_change()
            old = next((one for one in records if one.client_id == client_id), None)
            if old is None:
                new = ClientRecord(
                    name=free_name(safe_name(name), {one.name for one in records}),
                    fingerprint=fingerprint,
                    client_id=client_id,
                    paired=time.time(),
                    expires=expires,
                    via="certificate",
                    address=address,
                )
            elif old.revoked is not None:
                raise _revoked()
            else:
                new = msgspec.structs.replace(old, fingerprint=fingerprint, expires=expires)
            self._write((*(one for one in records if one is not old), new))
        return new

    def revoke(self, which: str, now: float | None = None) -> ClientRecord:
        """Revoke one client and return its entry; one that is revoked already stays as it is.

        Args:
            which: a name, or the beginning of a fingerprint, with or without ``sha256:``.
            now: seconds since the epoch, by default the clock's.

        Raises:
            UsageError: no client is meant, or more than one.
            TrustError: the list cannot be read or written, or is a later version's.
        """
        when = time.time() if now is None else now

        def revoked(one: ClientRecord) -> ClientRecord:
            return one if one.revoked else msgspec.structs.replace(one, revoked=when)

        return self._change(lambda records: choose(records, which), revoked)

    def rename(self, which: str, name: str) -> tuple[str, ClientRecord]:
        """Give one client another name, made safe; return the old one and its entry.

        Raises:
            UsageError: as ``revoke``; or another client has that name.
            TrustError: as ``revoke``.
        """
        name, before = safe_name(name), ""

        def chosen(records: tuple[ClientRecord, ...]) -> ClientRecord:
            nonlocal before
            one = choose(records, which)
            before = one.name
            if any(other.name == name for other in records if other is not one):
                raise UsageError(
                    f"another client is named {name}", hint="psync-server clients lists them"
                )
            return one

        renamed = self._change(chosen, lambda one: msgspec.structs.replace(one, name=name))
        return before, renamed

    def limit(
        self, which: str, *, role: Role | None = None, projects: tuple[str, ...] | None = None
    ) -> ClientRecord:
        """Change what one client may do, and return its entry; None leaves it as it is.

        Raises:
            UsageError: as ``revoke``; or a pattern in ``projects`` can match nothing.
            TrustError: as ``revoke``.
        """
        check_patterns(projects or ())

        def limited(one: ClientRecord) -> ClientRecord:
            return msgspec.structs.replace(
                one,
                role=one.role if role is None else role,
                projects=one.projects if projects is None else projects,
            )

        return self._change(lambda records: choose(records, which), limited)

    def renewed(
        self, client: ClientRecord, *, fingerprint: str, expires: float, in_use: str
    ) -> ClientRecord:
        """Write down a new certificate of a client that is admitted; the old one stays valid.

        Args:
            client: the client.
            fingerprint: of the new certificate.
            expires: when that ends.
            in_use: fingerprint of the certificate that it asks with. That one stays valid, and not
                one that it was given before and may never have received.

        Raises:
            NotPaired: it was revoked, removed or paired again meanwhile.
            TrustError: the list cannot be read or written.
        """
        return self._change(
            lambda records: _same(records, client),
            lambda one: msgspec.structs.replace(
                one,
                fingerprint=fingerprint,
                expires=expires,
                previous=in_use,
                previous_expires=one.end_of(in_use),
            ),
        )

    def settled(self, client: ClientRecord) -> ClientRecord:
        """Write down that a client's newest certificate is in use; the one before is not valid now.

        Raises as ``renewed``.
        """
        return self._change(
            lambda records: _same(records, client),
            lambda one: (
                msgspec.structs.replace(one, previous=None, previous_expires=0.0)
                if one.fingerprint == client.fingerprint
                else one
            ),
        )

    # -- inside ------------------------------------------------------------------------

    def _change(
        self,
        chosen: Callable[[tuple[ClientRecord, ...]], ClientRecord],
        changed: Callable[[ClientRecord], ClientRecord],
    ) -> ClientRecord:
        """Replace one entry and return the new one. What ``chosen`` raises changes nothing."""
        if not os.path.isdir(os.path.dirname(self._path)):
            chosen(())
        with self._locked():
            records = self._read_to_change()
            old = chosen(records)
            new = changed(old)
            if new != old:
                self._write(tuple(new if one is old else one for one in records))
        return new

    def _refresh(self) -> None:
        try:
            stamp = self._status()
            if self._read_once and stamp == self._stamp:
                return
            # The status from before reading: a change in between is seen by the next refresh.
            self._take(self._read(), stamp)
        except Damage as damage:
            self._repair(damage, stamp)
        except OSError as error:
            # Descriptors or memory ran out, not the list: what was read last still holds.
            self._report(f"cannot read the list of clients, {self._shown}: {error.strerror}")
        except TrustError as error:
            self._take((), stamp)
            self._report(str(error))

    def _take(self, records: tuple[ClientRecord, ...], stamp: Stamp | None) -> None:
        self._records = records
        self._by_fingerprint = {one.previous: one for one in records if one.previous is not None}
        self._by_fingerprint |= {one.fingerprint: one for one in records}
        self._by_id = {one.client_id: one for one in records}
        self._stamp = stamp
        self._read_once = True
        self._generation += 1
        self._trouble = ""

    def _repair(self, damage: Damage, stamp: Stamp | None) -> None:
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

    def _report(self, trouble: str) -> None:
        """Log once what keeps the list from being read; it is looked at twice a second."""
        if trouble != self._trouble:
            self._trouble = trouble
            logger.error("%s", trouble)


def _revoked() -> NotPaired:
    return NotPaired(
        "the daemon has revoked this client's certificate", hint="run: psync pair HOST"
    )


def _same(records: tuple[ClientRecord, ...], client: ClientRecord) -> ClientRecord:
    """Return a client's entry as it is now, if it is still that pairing and not revoked."""
    for one in records:
        if one.client_id == client.client_id and one.paired == client.paired:
            if one.revoked is not None:
                raise _revoked()
            return one
    raise NotPaired("the daemon does not know this client any more", hint="run: psync pair HOST")
