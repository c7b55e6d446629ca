"""Who may stand at the door: how many strangers, from where, and who has to wait outside.

A stranger is a socket that has not shown yet who it is. There are few places for them. When all are
taken, one loses its place to the newcomer: the one that has come least far, and the oldest of
these. So sockets that are idle or dawdle, however many and however often they come again, never
keep an honest client out, not even from the same address.

An address that keeps failing is refused for a while, twice as long each time. Nothing here does
I/O; the door (``door``) asks and acts.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

REMEMBERED = 4096
"""How many addresses with failures are remembered; beyond that the one that failed longest ago is
forgotten."""


OVERTAKING = 1000.0
"""How many strangers may lose their places in a second, and at once after a quiet time. Were there
no end to it, a place would be lost before an honest client had sent its first byte."""


class GateLimits(msgspec.Struct, frozen=True):
    """What strangers may take up.

    Attributes:
        handshake: seconds from the TCP connection to the end of TLS and websocket handshakes.
        strangers: sockets that are not authenticated yet, in all.
        strangers_per_address: the same from one address (IPv6: from one /64, which is what one
            host gets).
        attempts: attempts to pair by invitation in a second, over all strangers.
        tolerated: failures that an address has for nothing.
        penalty: seconds for which the next failure shuts an address out; doubles with each more.
        longest: the longest penalty, in seconds.
        forgiven: seconds after which an address has one failure less.
        exempt: networks without penalties. Everything that comes through ssh has the loopback's
            address, so one user's failures there would shut out the others.
    """

    handshake: float = 5.0
    strangers: int = 32
    strangers_per_address: int = 8
    attempts: float = 4.0
    tolerated: int = 10
    penalty: float = 1.0
    longest: float = 64.0
    forgiven: float = 30.0
    exempt: tuple[str, ...] = ("127.0.0.0/8", "::1/128")


@lru_cache(maxsize=256)
def source_of(address: str) -> str:
    """Return what ``address`` is counted under: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        parsed = ip_address(address.partition("%")[0])  # the scope of a link-local one
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        if not parsed.is_loopback:
            return str(IPv6Network((parsed, 64), strict=False))
    return str(parsed)


class Progress(IntEnum):
    """How far a stranger has come: not a byte, some, the whole ClientHello, TLS done."""

    SILENT = 0
    BEGUN = 1
    ASKED = 2
    SECURED = 3


class Place:
    """A stranger's place at the door.

    Attributes:
        address: from where it came.
        source: see ``source_of``.
        progress: says how far it has come by now.
        give_up: called when the place goes to somebody else.
    """

    __slots__ = ("address", "give_up", "progress", "source")

    def __init__(
        self,
        address: str,
        source: str,
        progress: Callable[[], Progress],
        give_up: Callable[[], None],
    ) -> None:
        self.address = address
        self.source = source
        self.progress = progress
        self.give_up = give_up


class _Record:
    __slots__ = ("failures", "since", "until")

    def __init__(self, now: float) -> None:
        self.failures = 0.0
        self.since = now
        self.until = now


class _Bucket:
    """So many in a second, and as many at once."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = self._tokens = rate
        self._clock = clock
        self._filled = clock()

    def take(self, *, anyway: bool = False) -> bool:
        now = self._clock()
        self._tokens = min(self._rate, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        enough = self._tokens >= 1
        if enough or anyway:
            self._tokens -= 1
        return enough

    def debt(self) -> float:
        """Seconds until there is a token again."""
        missing = 1 - self._tokens - (self._clock() - self._filled) * self._rate
        return max(0.0, missing / self._rate)


class Gate:
    """Counts strangers and remembers failures; one for all of a daemon's sockets.

    Args:
        limits: what strangers may take up.
        clock: seconds, monotonic.

    Raises:
        ValueError: ``limits.exempt`` holds something that is no network.
    """

    def __init__(
        self, limits: GateLimits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits or GateLimits()
        self._clock = clock
        self._exempt: list[IPv4Network | IPv6Network] = [
            ip_network(network) for network in self.limits.exempt
        ]
        self._exemptions: dict[str, bool] = {}
        self._places: OrderedDict[Place, None] = OrderedDict()  # oldest first
        self._records: OrderedDict[str, _Record] = OrderedDict()  # failed longest ago first
        self._attempts = _Bucket(max(1.0, self.limits.attempts), clock)
        self._overtaking = _Bucket(OVERTAKING, clock)

    # -- places ------------------------------------------------------------------------

    @property
    def strangers(self) -> int:
        """How many places are taken."""
        return len(self._places)

    def enter(
        self, address: str, progress: Callable[[], Progress], give_up: Callable[[], None]
    ) -> Place:
        """Give a newcomer its place; somebody else's ``give_up`` is called where none is free."""
        source = source_of(address)
        neighbours = [place for place in self._places if place.source == source]
        if len(neighbours) >= self.limits.strangers_per_address:
            self._give_up(neighbours)
        elif len(self._places) >= self.limits.strangers:
            self._give_up(list(self._places))
        place = Place(address, source, progress, give_up)
        self._places[place] = None
        return place

    def pause(self) -> float:
        """Return for how many seconds nobody should be let come, because too many did."""
        return self._overtaking.debt()

    def leave(self, place: Place) -> None:
        """Free a place; doing so again does nothing."""
        self._places.pop(place, None)

    def _give_up(self, places: list[Place]) -> None:
        least, chosen = places[0].progress(), places[0]
        for place in places[1:]:
            if least is Progress.SILENT:  # nobody can have come less far; the usual case, and quick
                break
            progress = place.progress()
            if progress < least:
                least, chosen = progress, place
        self.leave(chosen)
        self._overtaking.take(anyway=True)
        if least is Progress.SILENT:  # who connects to say something says it at once
            self.blame(chosen.address)
        chosen.give_up()

    # -- penalties ---------------------------------------------------------------------

    def refused(self, address: str) -> float:
        """Return for how many seconds more ``address`` is refused, 0 if it is not."""
        record = self._records.get(source_of(address))
        return max(0.0, record.until - self._clock()) if record is not None else 0.0

    def blame(self, address: str) -> None:
        """Note a failure: a handshake that failed or took too long, a certificate or an invitation
        that is not valid."""
        if self._is_exempt(address):
            return
        now = self._clock()
        source = source_of(address)
        record = self._records.pop(source, None) or _Record(now)
        self._records[source] = record
        limits = self.limits
        forgotten = max(0.0, now - record.since) / limits.forgiven
        record.failures = max(0.0, record.failures - forgotten) + 1
        record.since = now
        steps = round(record.failures) - limits.tolerated - 1
        if steps >= 0:
            seconds = limits.penalty * 2.0 ** min(steps, 64)
            if seconds > limits.longest:  # more failures than that would take longer to forget
                seconds = limits.longest
                record.failures -= 1
            record.since = record.until = now + seconds  # a penalty is no time of good behaviour
        if len(self._records) > REMEMBERED:
            self._records.popitem(last=False)

    def _is_exempt(self, address: str) -> bool:
        known = self._exemptions.get(address)
        if known is None:
            if len(self._exemptions) >= REMEMBERED:
                self._exemptions.clear()
            known = self._exemptions[address] = self._look_up(address)
        return known

    def _look_up(self, address: str) -> bool:
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._exempt)

    # -- invitations -------------------------------------------------------------------

    def attempt(self) -> bool:
        """Whether a stranger may try an invitation now; counts as an attempt if so."""
        return self._attempts.take()
