"""Which of the attachments to a run holds its stdin. Pure: no I/O, no offsets, no connections.

One attachment at a time holds it; the others only look, and wait for it.

    attach     takes it where nobody holds it, or where its holder's connection is lost and the
               attachment is a new one: somebody asked for it. One that comes back asks for nothing
    detach     on purpose: it goes to the one that has waited longest
    lose       its connection is lost: it keeps what it has, and its place among those who wait
    expire     a holder that was lost has not come back for too long: as if it had detached, but
               should it come back after all, it waits
    freeze     stdin has ended: it changes hands no more

An attachment is known by its client's ID and the ID it chose itself, which are the same on each of
its connections.
"""

from __future__ import annotations

from typing import NamedTuple

MOST_AWAY = 64
"""Attachments without a connection that are remembered. One that is forgotten comes back as a new
one, at the end of the queue."""


class Who(NamedTuple):
    """An attachment, whatever its connection.

    Attributes:
        client: ID of its client.
        viewer: ``Start.request_id`` or ``Attach.viewer``.
    """

    client: str
    viewer: str


class Holders:
    """The attachments to a run that want its stdin, and the one that holds it.

    Args:
        holder: who holds it, without a connection for now.
        waiting: who waits for it, without a connection for now; the first comes first.

    Attributes:
        holder: who holds it; None where nobody does.
        frozen: it changes hands no more.
    """

    def __init__(self, holder: Who | None = None, waiting: tuple[Who, ...] = ()) -> None:
        self.holder = holder
        self.frozen = False
        self._present: dict[Who, bool] = {}  # and whether it can be told that stdin is its own
        self._waiting: dict[Who, None] = dict.fromkeys(waiting)

    @property
    def waiting(self) -> tuple[Who, ...]:
        """Who waits for it; the first comes first."""
        return tuple(self._waiting)

    def present(self, who: Who) -> bool:
        """Whether it has a connection."""
        return who in self._present

    def attach(self, who: Who, *, waits: bool = True) -> None:
        """An attachment comes, or comes back.

        Args:
            who: which one.
            waits: whether it can be told later that stdin is its own.
        """
        new = who != self.holder and who not in self._waiting
        self._present[who] = waits
        if not self.frozen and (self.holder is None or (new and not self.present(self.holder))):
            self._hand_over(who)
        elif who != self.holder and waits:
            self._waiting.setdefault(who)
        self._forget()

    def lose(self, who: Who) -> None:
        """Its connection is lost; it may come back."""
        self._present.pop(who, None)
        self._forget()

    def detach(self, who: Who) -> None:
        """It has left, and will not come back."""
        self._present.pop(who, None)
        self._waiting.pop(who, None)
        if who == self.holder and not self.frozen:
            self.holder = None
            heir = self._heir()
            if heir is not None:
                self._hand_over(heir)

    def expire(self) -> None:
        """Its holder has been without a connection for too long; nothing happens if it is not."""
        if self.frozen or self.holder is None or self.present(self.holder):
            return
        heir = self._heir()
        if heir is not None:
            self._hand_over(heir)

    def freeze(self) -> None:
        """Stdin has ended; whoever holds it may still send again what was lost of it."""
        self.frozen = True

    def _heir(self) -> Who | None:
        """Return who has waited longest of those that can be told."""
        return next((one for one in self._waiting if self._present.get(one)), None)

    def _hand_over(self, who: Who) -> None:
        former, self.holder = self.holder, who
        self._waiting.pop(who, None)
        if former is not None:
            self._waiting[former] = None  # it wanted it; when it comes back it waits

    def _forget(self) -> None:
        away = [who for who in self._waiting if who not in self._present]
        for who in away[: max(0, len(away) - MOST_AWAY)]:
            del self._waiting[who]
