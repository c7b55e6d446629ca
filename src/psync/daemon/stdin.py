"""The stdin of one run: whose it is, which bytes have come, and who is told.

Offsets count what the program is sent by all holders together. A new holder begins where the last
one's bytes end, and is told so once the program's pipe has taken all of those: so what is on its
way is never more than one window, and nobody's bytes pass for another's.

A holder that comes back on another connection sends again what was not acknowledged; what the run
has is dropped by its offset. What others send is ignored, since it may have been on its way. One
that does not come back in time loses it to the one that has waited longest, who is told.

    stdin.json     who holds it, from which offset, and who waits, for the next daemon. There is
                   none as long as only the attachment that started the run has ever wanted it
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable
from contextlib import suppress

import msgspec

from psync.daemon.holders import Holders, Who
from psync.daemon.viewer import Viewer
from psync.errors import ConnectionLost, ProtocolError
from psync.paths import private
from psync.protocol import messages as m
from psync.protocol.flow import Inbound
from psync.supervisor import wire
from psync.text import printable

NAME = "stdin.json"

PATIENCE = 300.0
"""Seconds for which stdin is kept for a holder whose connection is lost, where the run itself lives
without a client for ever. Else it is as long as the run does."""

logger = logging.getLogger("psync.run")

_nameless = itertools.count()


class _Record(msgspec.Struct, frozen=True):
    """What ``stdin.json`` holds."""

    holder: Who | None
    name: str
    base: int
    waiting: tuple[Who, ...]


class Stdin:
    """See the module.

    Args:
        directory: the run's.
        send: sends a frame to the supervisor.
        starter: the attachment that started the run, where an earlier daemon was asked for it.
        patience: seconds that a holder whose connection is lost has to come back, while somebody
            else waits for stdin; None for ``PATIENCE``.

    Attributes:
        taken: everything below is in the program's pipe.
        closed: the program has closed it.
    """

    def __init__(
        self,
        directory: str,
        send: Callable[[wire.Frame], None],
        starter: Who | None = None,
        patience: float | None = None,
    ) -> None:
        self.taken = 0
        self.closed = False
        self._send = send
        self._path = os.path.join(directory, NAME)
        self._inbound = Inbound()
        self._ended = False
        self._starter = starter
        self._base = 0  # where the holder's own bytes begin
        self._name = ""  # the holder's, for people
        self._former = ""  # that of the holder before it, whose bytes may be on their way
        self._granted = True  # they are not: the holder may send
        self._viewers: dict[Who, Viewer] = {}  # of each attachment but those that only look
        self._told: dict[Viewer, tuple[bool, str | None]] = {}  # what ``_view`` was then
        self._saved: _Record | None = None
        self._patience = PATIENCE if patience is None else patience
        self._away: asyncio.TimerHandle | None = None  # until the holder has been away for too long
        self._overdue = False  # it has
        self._holders = Holders(starter)
        if starter is not None:
            self._restore()

    # -- who is attached ---------------------------------------------------------------

    def who(self, client: str, viewer: str | None) -> tuple[Who, bool]:
        """Return which attachment a client's is, and whether it can come back as the same.

        Version 0.1.0 does not say which it is. It attaches only to go on with what it started.
        """
        if viewer is not None:
            return Who(client, viewer), True
        starter = self._starter
        if starter is not None and starter.client == client:
            current = self._viewers.get(starter)
            if current is None or not current.shares:
                return starter, True
        return Who(client, f"*{next(_nameless)}"), False

    def join(self, viewer: Viewer) -> Viewer | None:
        """A client has attached; ``welcome`` says when it is told.

        Returns:
            The viewer that was this attachment's up to now: its client has another connection.
        """
        if viewer.read_only:
            return None
        if self._starter is None:
            self._starter = viewer.who
        before = self._viewers.get(viewer.who)
        former = self._holders.holder
        if former is not None and former in self._viewers and not self._viewers[former].link.open:
            self._holders.lose(former)  # as its connection will tell in a moment
        self._viewers[viewer.who] = viewer
        self._holders.attach(viewer.who, waits=viewer.shares)
        if self._overdue:
            self._holders.expire()
        self._changed(former)
        if viewer.who == self._holders.holder:
            self._name = viewer.name  # it may have another one by now
        return before

    def leave(self, viewer: Viewer, *, lost: bool) -> None:
        """It has detached, or its connection is ``lost``."""
        self._told.pop(viewer, None)
        if self._viewers.get(viewer.who) is not viewer:
            return  # it only looked, or has come back on another connection already
        del self._viewers[viewer.who]
        former = self._holders.holder
        if lost and viewer.lasting:
            self._holders.lose(viewer.who)
        else:
            self._holders.detach(viewer.who)
        self._changed(former)

    def welcome(self, viewer: Viewer) -> tuple[int, str | None]:
        """Return what ``Attached`` tells it: where stdin goes on, and who else holds it."""
        self._told[viewer] = holds, name = self._view(viewer)
        if holds:
            return max(self.taken, self._base), None
        # Version 0.1.0 takes the offset for an acknowledgement of what it has sent itself.
        return (self._inbound.offset, name) if viewer.shares else (0, None)

    def closed_for(self, viewer: Viewer) -> bool:
        """Whether nothing that it could send would come to the program."""
        return self.closed or (self._ended and not self._holds(viewer))

    def close(self) -> None:
        """Wait for nobody any more: the run is over, or the daemon leaves."""
        self._overdue = False
        if self._away is not None:
            self._away.cancel()
            self._away = None

    # -- what clients send -------------------------------------------------------------

    def write(self, viewer: Viewer, offset: int, data: bytes) -> None:
        """Hand stdin on.

        Raises:
            ProtocolError: more than the window allows is on its way, or bytes before are missing.
        """
        if not self._holds(viewer):
            return
        if offset + len(data) > self.taken + m.WINDOW_STDIN:
            raise ProtocolError("more stdin than the window allows")
        news = self._inbound.accept(offset, data)
        offset = self._inbound.offset - len(news)
        for at in range(0, len(news), wire.MAX_STDIN):
            self._send(wire.Stdin(offset + at, news[at : at + wire.MAX_STDIN]))

    def end(self, viewer: Viewer, offset: int) -> None:
        """Stdin ends at ``offset``.

        Raises:
            ProtocolError: that is not where its bytes end.
        """
        if not self._holds(viewer):
            return
        if offset != self._inbound.offset:
            raise ProtocolError(f"stdin ends at {offset}, and came up to {self._inbound.offset}")
        self._send(wire.StdinEof(offset))
        if not self._ended:
            self._ended = True
            self._holders.freeze()
            for other in self._told:
                if other is not viewer:
                    _say(other, m.StdinClosed(channel=other.channel))

    # -- what the supervisor says ------------------------------------------------------

    def on_hello(self, frame: wire.Hello, *, estranged: bool) -> None:
        """It is met; or met again, after what was sent to it may have been lost.

        Everybody is to be welcomed afterwards.
        """
        self.taken = frame.stdin_taken
        if estranged:
            self._inbound = Inbound(self.taken)
            self._base = min(self._base, self.taken)
        elif max(self.taken, self._base) > self._inbound.offset:
            self._inbound = Inbound(max(self.taken, self._base))
        self.closed = bool(frame.flags & wire.Hello.STDIN_CLOSED)
        self._granted = self.taken >= self._base
        if frame.flags & wire.Hello.STDIN_EOF:
            self._ended = True
            self._holders.freeze()

    def on_taken(self, frame: wire.StdinTaken) -> None:
        """The program's pipe has taken everything below an offset."""
        self.taken = frame.offset
        if not self._granted and self.taken >= self._base:
            self._granted = True
            self._tell()
        holder = self._holders.holder
        viewer = None if holder is None else self._viewers.get(holder)
        if viewer is not None and viewer in self._told and self._holds(viewer):
            _say(viewer, m.Ack(viewer.channel, self.taken))

    def on_closed(self) -> None:
        """The program has closed it."""
        self.closed = True
        for viewer in self._told:
            _say(viewer, m.StdinClosed(channel=viewer.channel))

    # -- inside ------------------------------------------------------------------------

    def _holds(self, viewer: Viewer) -> bool:
        return (
            self._granted
            and viewer.who == self._holders.holder
            and self._viewers.get(viewer.who) is viewer
        )

    def _view(self, viewer: Viewer) -> tuple[bool, str | None]:
        """Whether this viewer holds stdin, and who does where it does not; None for nobody."""
        if self._holds(viewer):
            return True, None
        if self._holders.holder is None:
            return False, None
        return False, (self._name if self._granted else self._former)[:200]

    def _changed(self, former: Who | None) -> None:
        """See what it comes to that an attachment came or went."""
        holder = self._holders.holder
        if holder is not None and holder != former:
            if self._granted:
                self._former = self._name
            self._name = self._viewers[holder].name
            self._base = self._inbound.offset
            self._granted = self.taken >= self._base
        self._tell()
        self._save()
        self._watch()

    def _watch(self) -> None:
        """See whether the holder is away, and since when."""
        holders = self._holders
        if holders.frozen or holders.holder is None or holders.present(holders.holder):
            self.close()
        elif self._away is None and not self._overdue:
            self._away = asyncio.get_running_loop().call_later(self._patience, self._expire)

    def _expire(self) -> None:
        self._away, self._overdue = None, True
        former = self._holders.holder
        self._holders.expire()
        if self._holders.holder != former:
            self._changed(former)

    def _tell(self) -> None:
        """Tell everybody who was told something else."""
        for viewer, told in list(self._told.items()):
            view = self._view(viewer)
            if view == told:
                continue
            self._told[viewer] = view
            holds, name = view
            if not viewer.shares or viewer.read_only or view == (False, None):
                continue
            offset = self._base if holds else self._inbound.offset
            _say(viewer, m.StdinHolder(channel=viewer.channel, offset=offset, holder=name))
            if holds and self.closed:
                _say(viewer, m.StdinClosed(channel=viewer.channel))

    # -- for the next daemon -----------------------------------------------------------

    def _save(self) -> None:
        holders = self._holders
        record = _Record(holders.holder, self._name, self._base, holders.waiting)
        plain = not record.waiting and record.holder in (None, self._starter)
        if record == self._saved or (plain and self._saved is None):
            return
        self._saved = record
        new = f"{self._path}.new"
        try:
            with open(new, "wb", opener=private) as file:
                file.write(msgspec.json.encode(record))
            os.replace(new, self._path)
        except FileNotFoundError:
            pass  # the run is over and being removed
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._path, error.strerror)
            with suppress(OSError):
                os.unlink(new)

    def _restore(self) -> None:
        try:
            with open(self._path, "rb") as file:
                record = msgspec.json.decode(file.read(), type=_Record)
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            logger.error("%s cannot be read: %s", self._path, printable(str(error)))
            return
        self._saved, self._name, self._base = record, record.name, max(0, record.base)
        self._holders = Holders(record.holder, record.waiting)


def _say(viewer: Viewer, message: m.Message) -> None:
    with suppress(ConnectionLost):  # its connection tells its owner, who detaches it
        viewer.link.send(message)
