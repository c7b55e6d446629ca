"""The invitations of a daemon: who holds one of their secrets may pair, once.

    invitations.json         {"version": 1, "wrong": 0, "invitations": [...]}, replaced as a whole
    invitations.json.lock    held while it is changed

The secrets are not in it, only their SHA-256. That needs neither salt nor a slow function: those
are for passwords, which can be guessed; nobody guesses 128 random bits.

Whatever goes wrong with the file keeps people out. A damaged one is set aside under another name
and logged as an error, and no invitation is left then. ``psync-server invite`` writes it, and so
does the daemon: what an invitation has become stays in it for a day, so that a client can be told
why it was refused.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
from typing import Annotated, Literal

import msgspec

from psync.daemon.clientlist import Role, check_patterns
from psync.errors import Refused, TrustError, UsageError
from psync.paths import free_path, private_directory, write_atomic
from psync.text import printable
from psync.transport.filelock import LOCK_TIMEOUT, FileLock
from psync.transport.invitation import AGAIN, SECRET_SIZE

MOST = 16
"""Invitations that may be outstanding at the same time."""

WRONG = 10
"""Wrong secrets after which all outstanding invitations are withdrawn: somebody is trying."""

LONGEST_LIFE = 86400.0
"""Seconds that an invitation can be made for at most."""

KEPT = 86400.0
"""Seconds for which it is remembered what an invitation has become."""

SKEW = 60.0
"""Seconds that the clock may be set back without making an invitation one of the future."""

_MOST_KEPT = 64
_MAX_SIZE = 1024 * 1024

logger = logging.getLogger("psync.invitations")


class InvitationRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One invitation. Times are seconds since the epoch.

    Attributes:
        id: for people, to take it back.
        hash: SHA-256 of its secret, as hexadecimal digits.
        created: when.
        expires: when it ends.
        name: what its client will be called; empty for what the client says.
        role: what its client may do, see ``access.ClientRecord``.
        projects: which projects its client may use, see there.
        state: whether it is still good, apart from its end.
    """

    id: str
    hash: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    created: float
    expires: float
    name: str = ""
    role: Role = "run"
    projects: tuple[str, ...] = ()
    state: Literal["open", "used", "withdrawn"] = "open"

    def outstanding(self, now: float) -> bool:
        """Whether it lets somebody in."""
        return self.state == "open" and self.created - SKEW <= now < self.expires


class InvitationRefused(Refused):
    """A secret lets nobody in.

    Attributes:
        withdrawn: the invitations that were withdrawn because this was one wrong secret too many.
    """

    def __init__(self, message: str, withdrawn: tuple[InvitationRecord, ...] = ()) -> None:
        super().__init__(message, hint=AGAIN)
        self.withdrawn = withdrawn


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    wrong: int
    invitations: tuple[InvitationRecord, ...]


class _Versioned(msgspec.Struct, frozen=True):
    version: int


class _Damage(Exception):
    """The file cannot be understood."""


_EMPTY = _File(1, 0, ())
_Stamp = tuple[int, int, int, int]


class Invitations:
    """The invitations in the file ``path``, which need not exist.

    ``open`` keeps what it read and belongs to one thread; everything else reads the file, under its
    lock, and may be called from any.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp: _Stamp | None = None
        self._read_once = False
        self._known: tuple[InvitationRecord, ...] = ()
        self._trouble = ""

    @property
    def open(self) -> bool:
        """Whether an invitation is outstanding now. Costs one ``stat`` while nothing changed."""
        try:
            stamp = self._status()
            if not self._read_once or stamp != self._stamp:
                # The status from before reading: a change in between is seen the next time.
                self._known = self._load(timeout=0.0).invitations  # the event loop cannot wait
                self._stamp, self._read_once, self._trouble = stamp, True, ""
        except (OSError, TrustError) as error:
            self._known, self._read_once = (), False
            if str(error) != self._trouble:  # it is asked for every connection
                self._trouble = str(error)
                logger.error("nobody can pair by invitation: %s", printable(self._trouble))
        now = time.time()
        return any(one.outstanding(now) for one in self._known)

    def outstanding(self, now: float | None = None) -> tuple[InvitationRecord, ...]:
        """Return the invitations that let somebody in, the oldest first.

        Raises:
            TrustError: the file cannot be read, or is a later version's.
        """
        now = time.time() if now is None else now
        return tuple(one for one in self._load().invitations if one.outstanding(now))

    # -- changing ----------------------------------------------------------------------

    def create(
        self,
        *,
        life: float,
        name: str = "",
        role: Role = "run",
        projects: tuple[str, ...] = (),
        now: float | None = None,
    ) -> tuple[InvitationRecord, bytes]:
        """Make an invitation; return it and its secret, which is not kept.

        Args:
            life: seconds for which it is good.
            name: what its client will be called.
            role: what its client may do.
            projects: which projects its client may use; none: all.
            now: seconds since the epoch, by default the clock's.

        Raises:
            UsageError: no invitation is good for so long, or so short; or a pattern in
                ``projects`` can match nothing.
            Refused: too many are outstanding.
            TrustError: the file cannot be read or written.
            ConfigError: its directory cannot be made, or others may write to it.
        """
        if not 1 <= life <= LONGEST_LIFE:
            raise UsageError(
                "an invitation is good for one second to one day", hint="the default is 10m"
            )
        check_patterns(projects)
        now = time.time() if now is None else now
        secret = os.urandom(SECRET_SIZE)
        private_directory(os.path.dirname(self._path))
        with self._locked():
            file = self._read_to_change()
            mine = [one for one in file.invitations if one.outstanding(now)]
            if len(mine) >= MOST:
                raise Refused(
                    f"{MOST} invitations are outstanding already",
                    hint="take them back with: psync-server invite --revoke all",
                )
            taken = {one.id for one in file.invitations}
            record = InvitationRecord(
                id=_free_id(taken),
                hash=_hash(secret),
                created=now,
                expires=now + life,
                name=name,
                role=role,
                projects=projects,
            )
            # where none was outstanding, whoever guessed wrong tried another one
            self._write(file.wrong if mine else 0, (*_kept(file.invitations, now), record))
        return record, secret

    def withdraw(self, which: str, now: float | None = None) -> tuple[InvitationRecord, ...]:
        """Take outstanding invitations back and return them.

        Args:
            which: the ID of one, or ``all``.
            now: seconds since the epoch, by default the clock's.

        Raises:
            UsageError: none has that ID.
            TrustError: the file cannot be read or written.
        """
        now = time.time() if now is None else now
        if not os.path.isdir(os.path.dirname(self._path)):
            return _chosen((), which)
        with self._locked():
            file = self._read_to_change()
            mine = tuple(one for one in file.invitations if one.outstanding(now))
            chosen = _chosen(mine, which)
            if chosen:
                self._write(file.wrong, _ended(file.invitations, chosen, "withdrawn"))
        return chosen

    def redeem(self, secret: bytes, address: str, now: float | None = None) -> InvitationRecord:
        """Use up the invitation with this secret, for good, and return it.

        Of several that try at the same time, also in several processes, one succeeds. What comes
        after it may fail: the invitation is used all the same.

        Args:
            secret: what a stranger says it is.
            address: where the stranger is, for the log.
            now: seconds since the epoch, by default the clock's.

        Raises:
            InvitationRefused: it is none, or no longer one; in words for the stranger's user.
            TrustError: the file cannot be read or written; nothing is used up then.
        """
        now = time.time() if now is None else now
        given = _hash(secret)
        with self._locked():
            file = self._read_to_change()
            found: InvitationRecord | None = None
            for one in file.invitations:  # to the end always: the time tells nothing
                if hmac.compare_digest(one.hash, given):
                    found = one
            if found is None:
                withdrawn = self._note_wrong(file, address, now)
                raise InvitationRefused("the daemon knows no such invitation", withdrawn)
            if not found.outstanding(now):
                raise InvitationRefused(f"this invitation {_why(found)}")
            self._write(file.wrong, _ended(file.invitations, (found,), "used"))
        return found

    # -- inside ------------------------------------------------------------------------

    def _note_wrong(self, file: _File, address: str, now: float) -> tuple[InvitationRecord, ...]:
        """Count a wrong secret; withdraw what is outstanding after too many, and return that."""
        mine = tuple(one for one in file.invitations if one.outstanding(now))
        if not mine:
            return ()
        wrong = file.wrong + 1
        if wrong < WRONG:
            logger.warning("%s tried a wrong invitation (%d of %d)", address, wrong, WRONG)
        try:
            if wrong < WRONG:
                self._write(wrong, file.invitations)
                return ()
            self._write(0, _ended(file.invitations, mine, "withdrawn"))
        except TrustError as error:  # a full disk makes a wrong secret no better
            logger.error("a wrong invitation is not counted: %s", printable(str(error)))
            return ()
        logger.error(
            "withdrew %d invitations after %d wrong ones, the last from %s",
            *(len(mine), wrong, address),
        )
        return mine

    def _load(self, timeout: float = LOCK_TIMEOUT) -> _File:
        """Read the file; a damaged one is set aside."""
        try:
            return self._read()
        except _Damage:
            with self._locked(timeout):
                return self._read_to_change()

    def _read_to_change(self) -> _File:
        """Read the file with its lock held; afterwards it is sound, or gone."""
        try:
            return self._read()
        except _Damage as damage:
            when = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            aside = free_path(f"{self._path}.damaged-{when}")
            try:
                os.rename(self._path, aside)
            except OSError as error:
                raise TrustError(
                    f"cannot set the damaged file of invitations, {self._shown}, aside: "
                    f"{error.strerror}"
                ) from error
            logger.error(
                "the file of invitations, %s, was damaged: %s. It is now %s; no invitation is left",
                self._shown,
                damage,
                printable(aside),
            )
            return _EMPTY
        except OSError as error:
            raise TrustError(
                f"cannot read the file of invitations, {self._shown}: {error.strerror}"
            ) from error

    def _read(self) -> _File:
        try:
            with open(self._path, "rb") as file:
                text = file.read(_MAX_SIZE + 1)
        except FileNotFoundError:
            return _EMPTY
        if len(text) > _MAX_SIZE:
            raise _Damage(f"it is larger than {_MAX_SIZE} bytes")
        try:
            if msgspec.json.decode(text, type=_Versioned).version > 1:
                raise TrustError(
                    f"the file of invitations, {self._shown}, was written by a later psync-server",
                    hint="install that version again, or remove the file",
                )
            return msgspec.json.decode(text, type=_File)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _Damage(printable(str(error))) from error

    def _write(self, wrong: int, records: tuple[InvitationRecord, ...]) -> None:
        text = msgspec.json.encode(_File(1, wrong, records))
        try:
            write_atomic(self._path, msgspec.json.format(text, indent=1) + b"\n")
        except OSError as error:
            raise TrustError(
                f"cannot write the file of invitations, {self._shown}: {error.strerror}"
            ) from error

    def _status(self) -> _Stamp | None:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return None
        return (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)

    def _locked(self, timeout: float = LOCK_TIMEOUT) -> FileLock:
        return FileLock(f"{self._path}.lock", timeout)

    @property
    def _shown(self) -> str:
        return printable(self._path)


def _hash(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _free_id(taken: set[str]) -> str:
    while (found := os.urandom(3).hex()) in taken:
        pass
    return found


def _chosen(mine: tuple[InvitationRecord, ...], which: str) -> tuple[InvitationRecord, ...]:
    if which == "all":
        return mine
    chosen = tuple(one for one in mine if one.id == which)
    if not chosen:
        raise UsageError(
            f"no invitation {printable(which) or repr('')} is outstanding",
            hint="psync-server invite --list lists them",
        )
    return chosen


def _ended(
    records: tuple[InvitationRecord, ...],
    chosen: tuple[InvitationRecord, ...],
    state: Literal["used", "withdrawn"],
) -> tuple[InvitationRecord, ...]:
    return tuple(
        msgspec.structs.replace(one, state=state) if one in chosen else one for one in records
    )


def _kept(records: tuple[InvitationRecord, ...], now: float) -> tuple[InvitationRecord, ...]:
    """Return those worth remembering: what is outstanding, and the newest others."""
    recent = [one for one in records if one.expires > now - KEPT]
    others = [one for one in recent if not one.outstanding(now)]
    forgotten = {one.id for one in others[: -(_MOST_KEPT - MOST)]}
    return tuple(one for one in recent if one.id not in forgotten)


def _why(record: InvitationRecord) -> str:
    if record.state == "used":
        return "was used already"
    if record.state == "withdrawn":
        return "was taken back"
    return "has expired"
