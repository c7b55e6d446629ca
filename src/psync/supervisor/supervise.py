"""One run, from its start to its exit record.

    running   the program lives; the daemon's wishes are carried out
    draining  the program has ended; its descendants get half a second to finish their output
    sweeping  every descendant is killed, again and again until the supervisor has no children
    emptying  nobody can write any more; what the pipes hold goes into the log
    ended     exit.json is written, the daemon told, the supervisor gone

A run is over when its program is, as in a container: what it left in the background is killed. The
output of all of them is kept to the last byte, unless the log is full (or the disk) and the run was
killed: then nobody may ever make room, and the rest is dropped.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time

from psync.supervisor import channel, record, wire
from psync.supervisor.logwriter import LogWriter
from psync.supervisor.loop import Loop
from psync.supervisor.outputs import Outputs
from psync.supervisor.program import Program, explain, start
from psync.supervisor.stdinfeed import StdinFeed
from psync.supervisor.tree import become_subreaper, signal_tree, sweep

TERMINATE_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL for the whole tree."""

HANGUP_GRACE = 5.0
"""Seconds between SIGHUP (or SIGTERM to the supervisor) and SIGTERM for the whole tree."""

FIRST_CLIENT = 2.0
"""Seconds that a run has at least before its first client counts as missing: the daemon has to
connect and to say that there is one, however short the grace."""

DRAIN = 0.5
"""Seconds that descendants may go on writing after the program has ended."""

SWEEP_LIMIT = 10.0
"""Seconds after which what cannot be killed is left alive, and counted in the exit record."""

_RETRY = 0.5


class Supervisor:
    """Owns one run. ``run`` returns when it is over.

    Args:
        run_dir: absolute path.
        spec: what to run.
        listener: the listening ``ctl``.
        log: the run's log.
    """

    def __init__(
        self, run_dir: str, spec: record.Spec, listener: socket.socket, log: LogWriter
    ) -> None:
        self._dir = run_dir
        self._spec = spec
        self._log = log
        self._loop = Loop()
        self._loop.on_signal(signal.SIGCHLD, self._on_child)
        self._loop.on_signal(signal.SIGTERM, self._on_sigterm)
        self._viewers = 0
        self._grace = spec.disconnect_grace
        self._seen = False  # whether a client was attached, ever
        self._reason = "exited"
        self._stopping = False
        self._status: int | None = None  # of the program, as waitpid gave it
        self._failure: record.ExecFailure | None = None
        self._executed = False
        self._report = b""
        self._reporting = True  # not known yet whether the program could be executed
        self._childless = False
        self._sweeping = False
        self._emptying = False
        self._swept_since = 0.0
        self._survivors = 0
        self._over = False
        self._started = time.time()
        self._began = time.monotonic()
        self._ended = self._started
        self._duration = 0.0
        self._program: Program = start(spec)
        self._stdin = StdinFeed(self._loop, self._program.stdin)
        self._outputs = Outputs(
            self._loop, log, self._program.stdout, self._program.stderr, self._on_drained
        )
        self._loop.watch(self._program.report, select.POLLIN, self._on_report)
        self._channel = channel.Channel(
            self._loop,
            listener,
            greet=self._greet,
            receive=self._on_frame,
            lost=self._on_connection_lost,
        )
        self._apply_policy()

    @property
    def program_pid(self) -> int:
        """Process ID of the program."""
        return self._program.pid

    def run(self) -> None:
        """Serve until the run is over and its exit record written; sync that to the disk."""
        loop, outputs = self._loop, self._outputs
        stdin_closed = False
        while not self._over:
            loop.run_once()
            if self._stdin.closed and not stdin_closed:
                stdin_closed = True
                self._channel.send(wire.StdinClosed())
            taken = self._stdin.taken
            if taken != self._log.cursor.stdin_taken:
                self._log.cursor.stdin_taken = taken
            self._channel.update(grew=outputs.grew, stdin_taken=taken)
            outputs.grew = False
        self._channel.close()
        try:
            os.unlink(f"{self._dir}/{record.CTL}")
            record.sync_exit(self._dir)
        except OSError:
            pass  # the record is there; what is missing is its safety against a power cut

    # What the daemon says

    def _greet(self) -> wire.Frame:
        flags = wire.Hello.KEEPS
        if self._grace is None:
            flags |= wire.Hello.KEPT
        if self._executed:
            flags |= wire.Hello.STARTED
        if self._stdin.closed:
            flags |= wire.Hello.STDIN_CLOSED
        if self._stdin.ended:
            flags |= wire.Hello.STDIN_EOF
        if self._stopping or self._status is not None:
            flags |= wire.Hello.STOPPING
        return wire.Hello(self._program.pid, self._stdin.taken, flags)

    def _on_frame(self, frame: wire.Frame) -> None:
        match frame:
            case wire.Stdin():
                self._stdin.accept(frame)
            case wire.Floor():
                self._log.raise_floor(frame.offset)
                self._outputs.resume()
            case wire.Lead():
                if not self._emptying:
                    self._log.lead = frame.offset
                    self._outputs.resume()
            case wire.Viewers():
                self._viewers = frame.count
                self._apply_policy()
            case wire.StdinEof():
                self._stdin.accept_eof(frame)
            case wire.Signal():
                self._signal_group(frame.signum)
            case wire.Terminate():
                self._note_stop("stopped")
                self._signal_tree(signal.SIGTERM)
            case wire.Kill():
                self._note_stop("stopped")
                self._kill()
            case wire.Stop():
                self._stop("stopped", frame.signum, frame.grace_ms / 1000)
            case wire.Keep():
                self._grace = None
                self._loop.cancel("disconnect")
            case wire.CloseOutput():
                self._outputs.close_stream(frame.stream)

    def _on_connection_lost(self) -> None:
        self._viewers = 0
        self._apply_policy()

    # Stopping

    def _apply_policy(self) -> None:
        if self._viewers:
            self._seen = True
            self._loop.cancel("disconnect")
            return
        if self._log.lead is not None:
            self._log.lead = None
            self._outputs.resume()
        if self._stopping and self._status is not None:
            self._outputs.give_up()
        if self._grace is not None:
            grace = self._grace if self._seen else max(self._grace, FIRST_CLIENT)
            self._loop.call_in("disconnect", grace, self._on_disconnected)

    def _on_disconnected(self) -> None:
        if self._status is not None:  # only its output is left, and nobody to read it
            self._kill()
        else:
            self._stop("disconnected", signal.SIGHUP, HANGUP_GRACE)

    def _on_sigterm(self) -> None:
        self._stop("stopped", signal.SIGTERM, HANGUP_GRACE)

    def _stop(self, reason: str, signum: int, grace: float) -> None:
        """Run the ladder. Its steps go ahead whatever becomes of the daemon."""
        self._note_stop(reason)
        if self._status is not None:  # it is stuck on a full log; with the kill that is dropped
            self._loop.call_in("kill", grace + TERMINATE_GRACE, self._kill)
            return
        self._signal_group(signum)
        self._signal_group(signal.SIGCONT)  # a stopped process would not notice
        if not self._loop.planned("kill"):
            self._loop.call_in("terminate", grace, self._terminate)

    def _terminate(self) -> None:
        self._signal_tree(signal.SIGTERM)
        self._loop.call_in("kill", TERMINATE_GRACE, self._kill)

    def _kill(self) -> None:
        self._sweep()
        self._outputs.give_up()  # after the kill: it must not be SIGPIPE that ends them

    def _note_stop(self, reason: str) -> None:
        if not self._stopping and self._status is None:
            self._stopping, self._reason = True, reason

    def _signal_group(self, signum: int) -> None:
        if self._status is not None:
            return  # the ID may be another's by now
        try:
            try:
                os.killpg(self._program.pid, signum)
            except ProcessLookupError:  # it has not come to setsid yet
                os.kill(self._program.pid, signum)
        except PermissionError:
            pass

    def _signal_tree(self, signum: int) -> None:
        group = self._program.pid if self._status is None else 0
        signal_tree(os.getpid(), group, signum)
        signal_tree(os.getpid(), group, signal.SIGCONT)

    # The end

    def _on_report(self, events: int) -> None:
        data = os.read(self._program.report, 8192)
        if data:
            self._report += data
            return
        self._loop.unwatch(self._program.report)
        os.close(self._program.report)
        self._reporting = False
        if self._report:
            self._failure = explain(self._report, self._spec)
        else:
            self._executed = True
            self._channel.send(wire.Started())
        self._finish_if_over()

    def _on_child(self) -> None:
        """Reap whoever has ended, the program or an orphan of its tree."""
        ended: int | None = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                break
            if not pid:
                break
            if pid == self._program.pid:
                ended = status
        if ended is not None:
            self._on_program_ended(ended)
        if self._childless:
            self._on_childless()

    def _on_program_ended(self, status: int) -> None:
        self._status = status
        self._ended = time.time()
        self._duration = time.monotonic() - self._began
        self._loop.cancel("terminate")
        self._loop.cancel("kill")
        self._stdin.close()
        self._apply_policy()
        if self._outputs.done:
            self._sweep()
        else:
            self._loop.call_in("drain", DRAIN, self._sweep)

    def _on_drained(self) -> None:
        if self._status is not None:
            self._sweep()
            self._finish_if_over()

    def _sweep(self) -> None:
        """Kill everyone, and come back until nobody is left."""
        self._loop.cancel("drain")
        if self._childless:
            return
        now = time.monotonic()
        if not self._sweeping:
            self._sweeping, self._swept_since = True, now
        group = self._program.pid if self._status is None else 0
        alive = sweep(os.getpid(), group)
        self._on_child()
        if self._childless:
            return
        if alive and now - self._swept_since > SWEEP_LIMIT and self._status is not None:
            self._survivors = alive
            self._on_childless()
            return
        # The kernel needs a moment to take the killed apart; SIGCHLD ends the wait early. What
        # does not go away is looked at less and less often.
        self._loop.call_in("sweep", min(0.5, 0.01 + (now - self._swept_since) / 10), self._sweep)

    def _on_childless(self) -> None:
        """Nobody is left who could write (or could be killed)."""
        if not self._emptying:
            self._emptying = True
            self._loop.cancel("sweep")
            self._loop.cancel("drain")
            self._log.lead = None  # what the pipes hold is little, and nobody is left to wait
            self._outputs.finish()
            self._finish_if_over()

    def _finish_if_over(self) -> None:
        if self._over or not self._emptying or not self._outputs.done or self._reporting:
            return
        self._log.finish()
        try:
            record.write_exit(self._dir, self._exit_record())
        except OSError:
            self._loop.call_in("record", _RETRY, self._finish_if_over)
            return
        self._over = True

    def _exit_record(self) -> record.Exit:
        code: int | None = None
        name: str | None = None
        status = self._status or 0
        if self._failure is not None:
            code, self._reason = self._failure.code, "exec-failed"
        elif os.WIFSIGNALED(status):
            name = signal_name(os.WTERMSIG(status))
        else:
            code = os.WEXITSTATUS(status)
        return record.Exit(
            code=code,
            signal=name,
            exec_error=self._failure,
            reason=self._reason,
            output_end=self._log.end,
            started=self._started,
            ended=self._ended,
            duration=self._duration,
            survivors=self._survivors,
        )


def signal_name(number: int) -> str:
    """Return a signal's name; real-time signals are counted from SIGRTMIN."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def prepare(run_dir: str) -> Supervisor:
    """Start the run in ``run_dir``; from then on a daemon can connect. ``run`` comes next.

    The process becomes a subreaper, and its working directory ``/``. After an exception it should
    end, and the program, if it was forked already, dies with it.

    Raises:
        OSError: no space, no descriptors, no processes.
        RecordError: spec.json is damaged.
    """
    spec = record.read_spec(run_dir)
    become_subreaper()
    record.reserve_exit(run_dir)
    log = LogWriter(run_dir, limit=spec.log_limit, keep=spec.log_keep, drop=spec.overflow == "drop")
    listener = channel.listen(run_dir)
    supervisor = Supervisor(run_dir, spec, listener, log)
    pid, program = os.getpid(), supervisor.program_pid
    start_time = record.process_start_time
    record.write_owner(run_dir, record.Owner(pid, start_time(pid), program, start_time(program)))
    return supervisor
