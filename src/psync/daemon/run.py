"""One run as the daemon sees it: the supervisor's socket on one side, viewers on the other.

The daemon holds nothing of a run that is not also in its directory: it can be killed at any moment
and the next one adopts the run from there.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Protocol

from psync.daemon.ending import Ending, read_ending
from psync.daemon.supervised import SupervisorLink
from psync.daemon.viewer import LEAD, Viewer
from psync.errors import ConnectionLost, ProtocolError, PsyncError
from psync.model import RunState, Stream
from psync.protocol import messages as m
from psync.protocol.flow import Inbound
from psync.supervisor import wire

logger = logging.getLogger("psync.run")

FLOOR_STEP = 1024 * 1024
"""Bytes that must have been acknowledged before the supervisor is told again. It recycles the log
in segments of 16 MiB, so finer news would only cost wake-ups."""

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
        adopted: another daemon started it.

    Attributes:
        state: where it is in its life.
    """

    def __init__(self, run_id: str, directory: str, owner: Owner, *, adopted: bool = False) -> None:
        self.id = run_id
        self.directory = directory
        self.state = RunState.STARTING
        self._owner = owner
        self._supervisor = SupervisorLink()
        # Whether a supervisor has said hello, ever; before that there is nothing to tell viewers.
        self._met = False
        # Whether it was spoken to, by an earlier daemon or over a connection that is closed now: how
        # much of stdin it has is not known then.
        self._estranged = adopted
        self._viewers: dict[Viewer, None] = {}  # in the order in which they came
        self._ending: Ending | None = None
        self._stdin = Inbound()
        self._stdin_taken = 0
        self._stdin_closed = False
        self._floor = 0
        self._first: int | None = None  # how far the first viewer is, as the supervisor knows it

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
        self.state = RunState.LOST if self._ending.status.lost else RunState.EXITED
        self._supervisor.close()
        for viewer in list(self._viewers):
            if self._met:
                viewer.end(self._ending)
            else:  # the run was over before its supervisor could be spoken to
                self._welcome(viewer)
        self._owner.on_final(self)

    def close(self) -> None:
        """Let go of the supervisor; the run goes on without this daemon."""
        self._supervisor.close()

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
        self._tell_viewers()
        if self._met or self.state.final:
            self._welcome(viewer)

    def leave(self, viewer: Viewer) -> None:
        """Detach a viewer and close it."""
        viewer.close()
        if viewer not in self._viewers:
            return
        del self._viewers[viewer]
        self._tell_viewers()
        if self._viewers:
            self.acknowledged()  # it may have been the slowest, and the run waiting for it
        else:
            self._owner.on_unwatched(self)

    def acknowledged(self) -> None:
        """Some viewer's client has written output out: tell the supervisor what may go, or come."""
        floor = min((viewer.acked for viewer in self._viewers), default=self._floor)
        if floor - self._floor >= FLOOR_STEP:
            self._floor = floor
            self._supervisor.send(wire.Floor(floor).encode())
        first = max((viewer.acked for viewer in self._viewers if viewer.caught_up), default=-1)
        if first >= 0 and (self._first is None or first - self._first >= FLOOR_STEP):
            self._first = first
            self._supervisor.send(wire.Lead(first + LEAD).encode())

    def _tell_viewers(self) -> None:
        self._supervisor.send(wire.Viewers(len(self._viewers)).encode())
        if not self._viewers:
            self._first = None  # the supervisor forgets it too

    def _welcome(self, viewer: Viewer) -> None:
        viewer.begin()
        if viewer.done:
            return  # there is nothing it could show
        self.acknowledged()
        try:
            viewer.link.send(
                m.Attached(
                    channel=viewer.channel,
                    run=self.id,
                    state=self.state,
                    stdin=self._stdin_taken,
                )
            )
            if self._stdin_closed:
                viewer.link.send(m.StdinClosed(channel=viewer.channel))
        except ConnectionLost:
            return
        if self._ending is not None:
            viewer.end(self._ending)
        else:
            viewer.pump()

    # -- what clients ask for ----------------------------------------------------------

    def write_stdin(self, offset: int, data: bytes) -> None:
        """Hand stdin on.

        Raises:
            ProtocolError: more than the window allows is on its way, or bytes before are missing.
        """
        if self._estranged or self.state.final:
            return  # the client sends it again once it is told where to begin
        if offset + len(data) > self._stdin_taken + m.WINDOW_STDIN:
            raise ProtocolError("more stdin than the window allows")
        news = self._stdin.accept(offset, data)
        if news:
            self._supervisor.send(wire.Stdin(self._stdin.offset - len(news), news).encode())

    def end_stdin(self, offset: int) -> None:
        """Stdin ends at ``offset``.

        Raises:
            ProtocolError: that is not where its bytes end.
        """
        if self._estranged or self.state.final:
            return
        if offset != self._stdin.offset:
            raise ProtocolError(f"stdin ends at {offset}, and came up to {self._stdin.offset}")
        self._supervisor.send(wire.StdinEof(offset).encode())

    def close_output(self, stream: Stream) -> None:
        """Nobody reads this stream any more."""
        self._supervisor.send(wire.CloseOutput(int(stream)).encode())

    def signal(self, name: str) -> None:
        """Send a signal to the program's process group; one this host does not know is ignored.

        Systems differ in their signals, and what ends a client's connection takes all its runs
        along: a signal that cannot be sent is worth neither that nor the run.
        """
        number = _number_of(name)
        if number is None:
            logger.warning("run %s: there is no signal %s on this host", self.id, name)
        else:
            self._supervisor.send(wire.Signal(number).encode())

    def terminate(self) -> None:
        """Send SIGTERM to every process of the run."""
        self._stopping(wire.Terminate())

    def kill(self) -> None:
        """Kill until no process of the run is left."""
        self._stopping(wire.Kill())

    def stop(self, signum: int, grace: float = STOP_GRACE) -> None:
        """Let the supervisor climb down the ladder: ``signum``, after ``grace`` seconds SIGTERM to
        the tree, then SIGKILL."""
        self._stopping(wire.Stop(signum, int(grace * 1000)))

    def _stopping(self, frame: wire.Frame) -> None:
        if self.state in (RunState.STARTING, RunState.RUNNING):
            self.state = RunState.STOPPING
        self._supervisor.send(frame.encode())

    # -- what the supervisor says ------------------------------------------------------

    def _on_frame(self, frame: wire.Frame) -> None:
        match frame:
            case wire.Grew():
                for viewer in list(self._viewers):
                    viewer.pump()
            case wire.StdinTaken():
                self._stdin_taken = frame.offset
                self._send_all(lambda viewer: m.Ack(viewer.channel, frame.offset))
            case wire.StdinClosed():
                self._stdin_closed = True
                self._send_all(lambda viewer: m.StdinClosed(channel=viewer.channel))
            case wire.Hello():
                self._on_hello(frame)
            case wire.Exited():
                try:
                    self.finish()
                except OSError:
                    pass  # the connection ends next, and its end is the owner's to deal with

    def _on_hello(self, frame: wire.Hello) -> None:
        self._stdin_taken = frame.stdin_taken
        if self._estranged or frame.stdin_taken > self._stdin.offset:
            self._stdin = Inbound(frame.stdin_taken)
        self._stdin_closed = bool(frame.flags & wire.Hello.STDIN_CLOSED)
        stopping = frame.flags & wire.Hello.STOPPING or self.state is RunState.STOPPING
        self.state = RunState.STOPPING if stopping else RunState.RUNNING
        self._met, self._estranged = True, False
        for viewer in list(self._viewers):
            self._welcome(viewer)

    def _supervisor_gone(self) -> None:
        if self.state.final:
            return
        self._supervisor = SupervisorLink()
        self._estranged = self._estranged or self._met
        self._owner.on_gone(self)

    def _send_all(self, message: Callable[[Viewer], m.Message]) -> None:
        for viewer in list(self._viewers):
            try:
                viewer.link.send(message(viewer))
            except ConnectionLost:
                continue  # its connection tells its owner, who detaches it


def _number_of(name: str) -> int | None:
    base, plus, count = name.partition("+")
    try:
        number = signal.Signals[base] + (int(count) if plus else 0)
    except (KeyError, ValueError):
        return None
    real_time = signal.SIGRTMIN <= number <= signal.SIGRTMAX
    return number if real_time or not plus else None
