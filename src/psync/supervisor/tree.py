"""Everything a run has started: finding it, signalling it, and leaving nobody alive.

The supervisor is a child subreaper (Linux): whoever loses its parent anywhere below becomes its
child. So no descendant can leave the tree, whatever sessions, groups or double forks it makes, and
a supervisor without children has no descendants. On systems without /proc the program's process
group is all that is found.

A process that forks while others are being killed is met by stopping first: SIGSTOP for everyone
found until a look around finds nobody new, and only then SIGKILL. No signal goes to a process that
was not seen as a descendant an instant ago; for its ID to belong to somebody else by then, all IDs
of the system would have to be used up in that instant.
"""

from __future__ import annotations

import os
import signal

from psync.supervisor.record import process_start_time

TYPE_CHECKING = False  # what typing has under this name, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable

    Processes = dict[int, tuple[int, int, int, bool]]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36  # both from linux/prctl.h

_LOOKS = 50  # around, for one ``sweep``; what is still ahead then meets the next one


def become_subreaper() -> None:
    """Make orphaned descendants children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, even by SIGKILL."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants(root: int) -> list[int]:
    """List the descendants of ``root``, parents before their children, zombies too.

    One look at /proc by parent IDs. The ``children`` files would be quicker, but not every kernel
    has them, and neither way is a snapshot.
    """
    return _below(_processes(), [root])


def signal_tree(root: int, group: int, signum: int) -> None:
    """Send a signal once to the process group ``group`` and to every descendant outside of it."""
    processes = _processes()
    _killpg(group, signum)
    for pid in _below(processes, [root]):
        if processes[pid][1] != group:
            _kill(pid, signum)


def sweep(root: int, group: int) -> int:
    """Kill all descendants of ``root``; return how many were seen that were no zombies.

    Those that could not be killed, or were started meanwhile, are left for the next call. The
    caller reaps; it is done when it has no children any more.

    Args:
        root: the subreaper.
        group: the program's process group, or 0 if that ID is not its own any more.
    """
    if not os.path.isdir("/proc/self"):
        _killpg(group, signal.SIGKILL)
        return 1
    return _freeze_and_kill(lambda processes: _below(processes, [root]))


def sweep_lost(program_pid: int, program_start_time: int, mark: bytes) -> int:
    """Kill what is left of a run whose supervisor is dead; return how many processes were found.

    For the daemon: call it again, with a pause, until it returns 0. A run's processes are known by
    the program's session, by ``mark`` in their environment, and by descent from one of these. (A
    process that has cleared its environment, made a session of its own *and* lost its parents is
    not found; the program itself dies with its supervisor.)

    Args:
        program_pid: from ``record.Owner``; 0 if there was no program yet.
        program_start_time: from ``record.Owner``.
        mark: a whole entry of the environment that only this run has, such as ``PSYNC_RUN=…``.
    """
    # The session's ID is its own, unless a stranger has got that process ID since.
    known = program_start_time and process_start_time(program_pid) in (0, program_start_time)
    session = program_pid if known else 0
    myself = os.getpid()

    def belongs(processes: Processes) -> list[int]:
        tops = [
            pid
            for pid, (_, _, sid, _) in processes.items()
            if pid != myself and ((session and sid == session) or mark in _environment(pid))
        ]
        return list(dict.fromkeys(tops + _below(processes, tops)))

    return _freeze_and_kill(belongs)


def _freeze_and_kill(
    find: Callable[[Processes], list[int]],
) -> int:
    seen: set[int] = set()
    alive: set[int] = set()
    for _ in range(_LOOKS):
        processes = _processes()
        new = [pid for pid in find(processes) if pid not in seen]
        if not new:
            break
        seen.update(new)
        for pid in new:
            if not processes[pid][3]:
                alive.add(pid)
                _kill(pid, signal.SIGSTOP)
    for pid in alive:
        _kill(pid, signal.SIGKILL)
    return len(alive)


def _below(processes: Processes, roots: list[int]) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process[0], []).append(pid)
    found = [child for root in roots for child in children.get(root, ())]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _processes() -> Processes:
    """Return parent, group, session and whether it is a zombie of every process (proc(5), stat)."""
    processes = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return {}
    for name in names:
        if not name.isdecimal():
            continue
        try:
            fd = os.open(f"/proc/{name}/stat", os.O_RDONLY)
        except OSError:
            continue
        try:
            stat = os.read(fd, 512)
        except OSError:  # it ended just now
            continue
        finally:
            os.close(fd)
        # The name may hold anything, also spaces and parentheses.
        fields = stat[stat.rfind(b")") + 2 :].split(None, 4)
        dead = fields[0] in (b"Z", b"X")
        processes[int(name)] = (int(fields[1]), int(fields[2]), int(fields[3]), dead)
    return processes


def _environment(pid: int) -> list[bytes]:
    """Return the entries a process was started with; none of one that is not ours to look at."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _kill(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        pass


def _killpg(group: int, signum: int) -> None:
    if group:
        try:
            os.killpg(group, signum)
        except (ProcessLookupError, PermissionError):
            pass


def _prctl(option: int, argument: int) -> None:
    """Call prctl(2); a system that has none does without."""
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(option, argument, 0, 0, 0)
