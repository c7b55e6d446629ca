"""Where a daemon listens: the answer of ``psync-server start --nonce``, over ssh like pairing's.

The same frame as in ``enrolment`` keeps it apart from what a login shell prints.
"""

from __future__ import annotations

import msgspec

from psync.errors import ProtocolError
from psync.model import HostFacts
from psync.transport.enrolment import EnrolRefused


class Whereabouts(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type",
    tag="whereabouts",
):  # fmt: skip
    """A daemon runs.

    Attributes:
        pid: its process ID.
        port: the port of its first address.
        listen: the addresses it listens on, as ``host:port``.
        started: whether it had to be started just now.
        facts: what the daemon says about its host.
    """

    pid: int
    port: int
    listen: tuple[str, ...]
    started: bool
    facts: HostFacts


def decode_whereabouts(payload: bytes) -> Whereabouts:
    """Return the whereabouts in the payload of a framed answer.

    Raises:
        PsyncError: the daemon could not be started; it is the error it named.
        ProtocolError: the payload is no answer.
    """
    try:
        answer = msgspec.json.decode(payload, type=Whereabouts | EnrolRefused)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("a damaged answer of psync-server start") from error
    if isinstance(answer, EnrolRefused):
        raise answer.error()
    return answer
