"""One run as the daemon sees it: the supervisor's socket on one side, viewers on the other.

The daemon holds nothing of a run that is not also in its directory: it can be killed at any moment
and the next one adopts the run from there.
"""

from __future__ import annotations

import logging
import signal
import time
from typing import Protocol

import msgspec

from psync.daemon.ending import Ending, read_ending
from psync.daemon.holders import Who
from psync.daemon.stdin import Stdin
from psync.daemon.supervised import SupervisorLink
from psync.daemon.viewer import Viewer
from psync.errors import ConnectionLost, PsyncError, Refused
from psync.model import RunState, Stream
from psync.protocol import messages as m
from psync.supervisor import wire

logger = logging.getLogger("psync.run")

FLOOR_STEP = 1024 * 1024
"""Bytes that must have been acknowledged before the supervisor is told again. It recycles the log
in segments of 16 MiB, so finer news would only cost wake-ups."""

LONGEST_GRACE = (2**32 - 1) / 1000
"""Seconds between the steps of stopping that can be told to a supervisor: seven weeks."""

STOP_GRACE = 10.0
"""Seconds between asking a run to stop and terminating its whole tree."""


class Owner(Protocol):
    """Who is told what becomes of a run."""

    def on_gone(self, run: Run) -> None:
        """The supervisor closed the connection: the run is over, or is to be met again."""

    def on_final(self, run: Run) -> None:
        """The run is over; called once."""

    def on_unwatched(self, run: Run) -> None:
        """The last viewer has left."""


class Run:
    """A run in the daemon's registry.

    Args:
        run_id: its ID.
        directory: absolute path of its directory.
        owner: who is told what becomes of it.
        starter: the attachment that started it, where that was with an earlier daemon.
        grace: seconds for which it waits for a client, None for ever.

    Attributes:
        state: where it is in its life.
        kept: it needs no client, as its supervisor knows it.
        stdin: its stdin, and whose that is.
    """

    def __init__(
        self,
        run_id: str,
        directory: str,
        owner: Owner,
        starter: Who | None = None,
        grace: float | None = None,
    ) -> None:
        self.id = run_id
        self.directory = directory
        self.state = RunState.STARTING
        self.kept = False
        self._owner = owner
        self._supervisor = SupervisorLink()
        # Whether a supervisor has said hello, ever; before that there is nothing to tell viewers.
        self._met = False
        # Whether it was spoken to by an earlier daemon, or over a connection that is closed: then
        # nobody knows how much of stdin it has.
        self._estranged = starter is not None
        self._viewers: dict[Viewer, None] = {}  # in the order in which they came
        self._ending: Ending | None = None
        self.stdin = Stdin(directory, self._tell, starter, grace)
        self._stale: set[Viewer] = set()  # their clients have come back on another connection
        self._floor = 0
        self._lead: int | None = None  # how far the program may write, as the supervisor knows it

    # -- life --------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect to the supervisor, which has the control socket open by now.

        Raises:
            OSError: there is no supervisor.
        """
        self._supervisor.on_frame = self._on_frame
        self._supervisor.on_closed = self._supervisor_gone
        await self._supervisor.connect(self.directory)
        self._tell_viewers()

    def failed(self, error: PsyncError) -> None:
        """There is no supervisor and never was one; tell whoever waits for the run."""
        self.state = RunState.LOST
        self._supervisor.close()
        for viewer in list(self._viewers):
            viewer.fail(error)

    def finish(self) -> None:
        """Read how the run ended and tell everybody; without a record it is lost.

        Raises:
            OSError: the record cannot be read now; to be called again.
        """
        if self.state.final:
            return
        self._ending = read_ending(self.directory)
        if self._ending.status.lost and self._met:  # it was alive a moment ago
            self._ending = msgspec.structs.replace(self._ending, ended=time.time())
        self.state = RunState.LOST if self._ending.status.lost else RunState.EXITED
        self._supervisor.close()
        self.stdin.close()
        for viewer in list(self._viewers):
            if self._met:
                viewer.end(self._ending)
            else:  # the run was over before its supervisor could be spoken to
                self._welcome(viewer)
        self._owner.on_final(self)

    def close(self) -> None:
        """Let go of the supervisor; the run goes on without this daemon."""
        self._supervisor.close()
        self.stdin.close()

    # -- viewers -----------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        """Whether any client is attached."""
        return bool(self._viewers)

    @property
    def viewers(self) -> int:
        """How many clients are attached."""
        return len(self._viewers)

    @property
    def ending(self) -> Ending | None:
        """How it ended, None as long as it has not."""
        return self._ending

    def join(self, viewer: Viewer) -> None:
        """Attach a viewer; it fails instead of showing output if the run cannot start."""
        self._viewers[viewer] = None
        before = self.stdin.join(viewer)
        if before is not None and before.link is not viewer.link:
            self._stale.add(before)
        self._tell_viewers()
        if self._met or self.state.final:
            self._welcome(viewer)

    def leave(self, viewer: Viewer, *, lost: bool = False) -> None:
        """Detach a viewer and close it; ``lost`` says that its client did not mean to."""
        viewer.close()
        if viewer not in self._viewers:
            return
        del self._viewers[viewer]
        self._stale.discard(viewer)
        self.stdin.leave(viewer, lost=lost)
        self._tell_viewers()
        if self._viewers:
            self.acknowledged()  # it may have been the slowest, and the run waiting for it
        else:
            self._owner.on_unwatched(self)

    def acknowledged(self) -> None:
        """Some viewer's client has written output out: tell the supervisor what may go, or come."""
        active = self._active()
        floor = min((viewer.acked for viewer in active), default=self._floor)
        if floor - self._floor >= FLOOR_STEP:
            self._floor = floor
            self._tell(wire.Floor(floor))
        first = max((v for v in active if v.caught_up), key=lambda v: v.acked, default=None)
        if first is not None:
            lead = first.acked + first.lead
            if self._lead is None or abs(lead - self._lead) >= min(FLOOR_STEP, first.lead // 4):
                self._lead = lead
                self._tell(wire.Lead(lead))

    def _active(self) -> list[Viewer]:
        """Those that the run waits for and lives for."""
        return [v for v in self._viewers if not v.read_only and v not in self._stale]

    def _tell_viewers(self) -> None:
        count = len(self._active())
        self._tell(wire.Viewers(count))
        if not count:
            self._lead = None  # the supervisor forgets it too

    def _welcome(self, viewer: Viewer) -> None:
        viewer.begin()
        if viewer.done:
            return  # there is nothing it could show
        self.acknowledged()
        offset, holder = self.stdin.welcome(viewer)
        try:
            viewer.link.send(
                m.Attached(
                    channel=viewer.channel,
                    run=self.id,
                    state=self.state,
                    stdin=offset,
                    # what version 0.1.0 does not know it would end the connection for
                    end=viewer.end_of_log if viewer.shares else 0,
                    holder=holder,
                )
            )
            if self.stdin.closed_for(viewer):
                viewer.link.send(m.StdinClosed(channel=viewer.channel))
        except ConnectionLost:
            return
        if self._ending is not None:
            viewer.end(self._ending)
        else:
            viewer.pump()

    # -- what clients ask for ----------------------------------------------------------

    def write_stdin(self, viewer: Viewer, offset: int, data: bytes) -> None:
        """Hand stdin on; that of a viewer that does not hold it is ignored.

        Raises:
            ProtocolError: more than the window allows is on its way, or bytes before are missing.
        """
        if not self._estranged and not self.state.final:
            self.stdin.write(viewer, offset, data)
        # else the client sends it again once it is told where to begin

    def end_stdin(self, viewer: Viewer, offset: int) -> None:
        """Stdin ends at ``offset``; what a viewer says that does not hold it is ignored.

        Raises:
            ProtocolError: that is not where its bytes end.
        """
        if not self._estranged and not self.state.final:
            self.stdin.end(viewer, offset)

    def close_output(self, stream: Stream) -> None:
        """Nobody reads this stream any more."""
        self._tell(wire.CloseOutput(int(stream)))

    def signal(self, name: str) -> None:
        """Send a signal to the program's process group; one this host does not know is ignored.

        Systems differ in their signals, and what ends a client's connection takes all its runs
        along: a signal that cannot be sent is worth neither that nor the run.
        """
        number = _number_of(name)
        if number is None:
            logger.warning("run %s: there is no signal %s on this host", self.id, name)
        else:
            self._tell(wire.Signal(number))

    def keep(self) -> None:
        """From now on the run needs no client; a supervisor of 0.1 keeps to what it was told."""
        if self._keeps:
            self.kept = True
            self._supervisor.send(wire.Keep().encode())

    def terminate(self) -> None:
        """Send SIGTERM to every process of the run."""
        self._stopping(wire.Terminate())

    def kill(self) -> None:
        """Kill until no process of the run is left."""
        self._stopping(wire.Kill())

    def stop(self, signum: int, grace: float = STOP_GRACE) -> None:
        """Let the supervisor climb down the ladder: ``signum``, after ``grace`` seconds SIGTERM to
        the tree, then SIGKILL."""
        self._stopping(wire.Stop(signum, int(min(grace, LONGEST_GRACE) * 1000)))

    def stop_by(self, name: str, grace: float) -> None:
        """The same with a signal's name.

        Raises:
            Refused: there is no such signal on this host.
        """
        number = _number_of(name)
        if number is None:
            raise Refused(f"there is no signal {name} on the daemon host", hint="try SIGTERM")
        self.stop(number, grace)

    def _stopping(self, frame: wire.Frame) -> None:
        if self.state in (RunState.STARTING, RunState.RUNNING):
            self.state = RunState.STOPPING
        self._tell(frame)

    def _tell(self, frame: wire.Frame) -> None:
        self._supervisor.send(frame.encode())

    # -- what the supervisor says ------------------------------------------------------

    def _on_frame(self, frame: wire.Frame) -> None:
        match frame:
            case wire.Grew():
                for viewer in list(self._viewers):
                    viewer.pump()
            case wire.StdinTaken():
                self.stdin.on_taken(frame)
            case wire.StdinClosed():
                self.stdin.on_closed()
            case wire.Hello():
                self._on_hello(frame)
            case wire.Exited():
                try:
                    self.finish()
                except OSError:
                    pass  # the connection ends next, and its end is the owner's to deal with

    def _on_hello(self, frame: wire.Hello) -> None:
        self.stdin.on_hello(frame, estranged=self._estranged and self._met)
        self._keeps = bool(frame.flags & wire.Hello.KEEPS)
        self.kept = bool(frame.flags & wire.Hello.KEPT)
        stopping = frame.flags & wire.Hello.STOPPING or self.state is RunState.STOPPING
        self.state = RunState.STOPPING if stopping else RunState.RUNNING
        self._met, self._estranged = True, False
        for viewer in list(self._viewers):
            self._welcome(viewer)

    def _supervisor_gone(self) -> None:
        if self.state.final:
            return
        self._supervisor = SupervisorLink()
        self._lead = None  # it forgets that with the connection
        self._estranged = self._estranged or self._met
        self._owner.on_gone(self)


def _number_of(name: str) -> int | None:
    base, plus, count = name.partition("+")
    try:
        number = signal.Signals[base] + (int(count) if plus else 0)
    except (KeyError, ValueError):
        return None
    real_time = signal.SIGRTMIN <= number <= signal.SIGRTMAX
    return number if real_time or not plus else None
