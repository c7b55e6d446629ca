"""``psync``: finds the command and turns errors into one line and an exit status."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

import psync
from psync.cli.imports import import_msgspec
from psync.cli.output import report, show
from psync.errors import Interrupted, PsyncError, UsageError

COMMANDS = ("run", "watch", "sync", "pull", "ps", "logs", "attach", "stop", "pair", "targets")

HELP = """\
usage: psync COMMAND [OPTIONS] …

Build here, run there: sync a program to another host, run it, stream its output back.

  psync run [OPTIONS] PROGRAM [ARGS…]   sync, run there, stream here, exit with its status
  psync watch [OPTIONS] PROGRAM [ARGS…] the same again whenever the build changes
  psync sync [OPTIONS]                  only sync
  psync pull [OPTIONS] PATH…            bring files of the mirror back
  psync ps [-a]                         list the runs that go on; -a: finished ones too
  psync logs [-f] [RUN]                 show a run's output; -f: and what is to come
  psync attach [RUN]                    continue a run that goes on without you
  psync stop RUN…                       end runs with everything they started
  psync pair [USER@]HOST                make a host a target, over ssh; --invite: without it
  psync targets                         list the targets

  psync COMMAND --help                  what a command takes
  psync --version

With nothing configured, programs run on this machine. Exit status: the program's own; 128+n where
signal n ended it; 2 usage; 125 psync failed; 126 not executable; 127 not found; 255 run lost.
"""


def main() -> int:
    """Run psync with this process's arguments; return its exit status."""
    hold_collection()
    _fill_descriptors()
    try:
        status = dispatch(sys.argv[1:])
    except PsyncError as error:
        status = report(error)
    except KeyboardInterrupt:
        status = report(Interrupted("interrupted; nothing was started"))
    except SystemExit as leaving:  # argparse, after --help
        status = leaving.code if isinstance(leaving.code, int) else 0
    except Exception as error:
        if os.environ.get("PSYNC_DEBUG"):
            raise
        defect = f"a defect in psync: {type(error).__name__}: {error}"
        status = report(PsyncError(defect, hint="PSYNC_DEBUG=1 shows where"))
    return _leave(status)


def hold_collection() -> None:
    """Keep the garbage collector from running while modules are imported.

    They make many objects and no garbage: looking for it takes 7 % of a start. ``loop.run`` lets it
    work again; commands without a loop are over before it would matter.
    """
    gc.disable()


def dispatch(argv: Sequence[str]) -> int:
    """Run the command that ``argv`` names; return its exit status.

    Raises:
        PsyncError: it failed.
    """
    word = argv[0] if argv else ""
    if word in ("-h", "--help", "help", ""):
        if word:
            show(HELP)
            return 0
        sys.stderr.write(HELP)
        return 2
    if word in ("-V", "--version"):
        show(f"psync {psync.__version__}\n")
        return 0
    if word not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(word, COMMANDS, 1)
        hint = f"did you mean psync {near[0]}?" if near else "see psync --help"
        raise UsageError(f"there is no command {word!r}", hint=hint)
    from importlib import import_module

    import_msgspec()
    status: int = import_module(f"psync.cli.{word}").main(list(argv[1:]))
    return status


def _fill_descriptors() -> None:
    """Open /dev/null for standard descriptors that are closed, lest a socket should take one."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free one, which is this


def _leave(status: int) -> int:
    """Flush, and end the process without taking the interpreter apart.

    Nothing is owned any more at this point: commands end their processes, close their connections
    and write their files before they return. Tearing modules down would take longer than many a
    program runs.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            pass  # nobody reads it
    os._exit(status & 0xFF)


if __name__ == "__main__":
    sys.exit(main())
