"""What rsync starts as its remote shell where the connection to the daemon carries the files.

    rsync -e 'python -I -S -E remote_shell.py FD' … → remote_shell.py FD HOST rsync --server …

It hands rsync's two ends to psync over the inherited socket FD, and waits for an exit status::

    FD ──▶           HOST NUL rsync NUL --server NUL … NUL NUL, and three descriptors:
                     stdin, stdout, a socket
    that socket ──▶  nothing; it ends when this process does
    that socket ◀──  one byte, the exit status

A script of its own, which imports next to nothing, because it is started for every transfer: with
``-I -S -E`` that takes ten milliseconds. stderr stays rsync's own.
"""

import os
import sys
from _socket import SCM_RIGHTS, SOL_SOCKET, socket, socketpair

PSYNC_GONE = 255
"""Exit status when psync ended without giving one, as ssh has it for a broken connection."""


def main(argv: list[bytes]) -> int:
    """Hand the descriptors over; return the exit status.

    Args:
        argv: the number of the socket, then what rsync wants to be run.
    """
    mine, handed = socketpair()
    descriptors = (0, 1, handed.fileno())
    rights = b"".join(one.to_bytes(4, sys.byteorder) for one in descriptors)
    try:
        with_psync = socket(fileno=int(argv[0]))
        words = b"".join(word + b"\0" for word in argv[1:]) + b"\0"
        with_psync.sendmsg([words], [(SOL_SOCKET, SCM_RIGHTS, rights)])
        # From here on rsync must notice when psync closes them.
        handed.close()
        os.close(0)
        os.close(1)
        status = mine.recv(1)
    except OSError:
        return PSYNC_GONE
    return status[0] if status else PSYNC_GONE


if __name__ == "__main__":
    os._exit(main([os.fsencode(word) for word in sys.argv[1:]]))  # there is nothing to clean up
