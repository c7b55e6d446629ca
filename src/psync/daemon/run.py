"""One run as the daemon sees it: the supervisor's socket on one side, viewers on the other.

The daemon holds nothing of a run that is not also in its directory: it can be killed at any moment
and the next one adopts the run from there.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

from psync.daemon.ending import Ending, read_ending
from psync.daemon.supervised import SupervisorLink
from psync.daemon.viewer import Viewer
from psync.errors import ConnectionLost, ProtocolError, PsyncError
from psync.model import RunState, Stream
from psync.protocol import messages as m
from psync.supervisor import wire

logger = logging.getLogger("psync.run")

FLOOR_STEP = 1024 * 1024
"""Bytes that must have been acknowledged before the supervisor is told again. It recycles the log
in segments of 16 MiB, so finer news would only cost wake-ups."""

STOP_GRACE = 10.0
"""Seconds between asking a run to stop and terminating its whole tree."""

OnFailed = Callable[[PsyncError], None]


class Run:
    """A run in the daemon's registry.

    Args:
        run_id: its ID.
        directory: absolute path of its directory.
        on_final: called once when the run is over.

    Attributes:
        state: where it is in its life.
    """

    def __init__(self, run_id: str, directory: str, on_final: Callable[[Run], None]) -> None:
        self.id = run_id
        self.directory = directory
        self.state = RunState.STARTING
        self._on_final = on_final
        self._supervisor = SupervisorLink()
        self._supervisor.on_frame = self._on_frame
        self._supervisor.on_closed = self._supervisor_gone
        self._viewers: dict[Viewer, OnFailed] = {}
        self._ending: Ending | None = None
        self._stdin_taken = 0
        self._stdin_closed = False
        self._floor = 0

    # -- life --------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect to the supervisor, which has the control socket open by now.

        Raises:
            OSError: there is no supervisor.
        """
        await self._supervisor.connect(self.directory)
        self._tell_viewers()

    def failed(self, error: PsyncError) -> None:
        """There is no supervisor and never was one; tell whoever waits for the run."""
        viewers, self._viewers = self._viewers, {}
        self.state = RunState.LOST
        for viewer, on_failed in viewers.items():
            viewer.close()
            on_failed(error)

    def finish(self) -> None:
        """Read how the run ended and tell everybody; without a record it is lost."""
        if self.state.final:
            return
        self._ending = read_ending(self.directory)
        met = self.state is not RunState.STARTING
        self.state = RunState.LOST if self._ending.status.lost else RunState.EXITED
        for viewer in list(self._viewers):
            if met:
                viewer.end(self._ending)
            else:  # the run was over before its supervisor could be spoken to
                self._welcome(viewer)
        self._on_final(self)

    def close(self) -> None:
        """Let go of the supervisor; the run goes on without this daemon."""
        self._supervisor.on_closed = lambda: None
        self._supervisor.close()

    # -- viewers -----------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        """Whether any client is attached."""
        return bool(self._viewers)

    def join(self, viewer: Viewer, on_failed: OnFailed) -> None:
        """Attach a viewer; ``on_failed`` is called instead of output if the run cannot start."""
        self._viewers[viewer] = on_failed
        self._tell_viewers()
        if self.state is not RunState.STARTING:
            self._welcome(viewer)

    def leave(self, viewer: Viewer) -> None:
        """Detach a viewer and close it."""
        if self._viewers.pop(viewer, None) is not None:
            self._tell_viewers()
        viewer.close()

    def acknowledged(self) -> None:
        """Some viewer's client has written output out: tell the supervisor what may go."""
        floor = min((viewer.acked for viewer in self._viewers), default=self._floor)
        if floor - self._floor >= FLOOR_STEP:
            self._floor = floor
            self._supervisor.send(wire.Floor(floor).encode())

    def _tell_viewers(self) -> None:
        self._supervisor.send(wire.Viewers(len(self._viewers)).encode())

    def _welcome(self, viewer: Viewer) -> None:
        viewer.begin()
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
            ProtocolError: more than the window allows is on its way.
        """
        if offset + len(data) > self._stdin_taken + m.WINDOW_STDIN:
            raise ProtocolError("more stdin than the window allows")
        if data:
            self._supervisor.send(wire.Stdin(offset, data).encode())

    def end_stdin(self, offset: int) -> None:
        """Stdin ends at ``offset``."""
        self._supervisor.send(wire.StdinEof(offset).encode())

    def close_output(self, stream: Stream) -> None:
        """Nobody reads this stream any more."""
        self._supervisor.send(wire.CloseOutput(int(stream)).encode())

    def signal(self, name: str) -> None:
        """Send a signal to the program's process group.

        Raises:
            PsyncError: this host knows no signal of that name.
        """
        try:
            number = signal.Signals[name]
        except KeyError:
            raise PsyncError(f"there is no signal {name} on the daemon host") from None
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
                self._stdin_taken = frame.stdin_taken
                self._stdin_closed = bool(frame.flags & wire.Hello.STDIN_CLOSED)
                stopping = frame.flags & wire.Hello.STOPPING
                self.state = RunState.STOPPING if stopping else RunState.RUNNING
                for viewer in list(self._viewers):
                    self._welcome(viewer)
            case wire.Exited():
                self.finish()

    def _supervisor_gone(self) -> None:
        self.finish()

    def _send_all(self, message: Callable[[Viewer], m.Message]) -> None:
        for viewer in list(self._viewers):
            try:
                viewer.link.send(message(viewer))
            except ConnectionLost:
                continue  # its connection tells its owner, who detaches it
