"""Commands for a remote shell, and answers from behind one.

A remote shell takes one string and may print whatever its start-up files contain; neither may
change what psync's own commands get and say.
"""

from __future__ import annotations

import re

from psync.errors import SSHError, UsageError
from psync.text import printable


def quote(word: bytes) -> bytes:
    """Return ``word`` so that a remote shell of any kind takes it as one word (``shlex.quote``)."""
    if re.fullmatch(rb"[A-Za-z0-9_@%+=:,./-]+", word):
        return word
    return b"'" + word.replace(b"'", b"'\"'\"'") + b"'"


def ssh_command(text: str | None) -> tuple[str, ...]:
    """Return the ssh command that ``PSYNC_SSH`` names, ``("ssh",)`` for None or nothing.

    Raises:
        UsageError: a quote in it is not closed.
    """
    if not text or not text.strip():
        return ("ssh",)
    import shlex

    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(
            f"the ssh command {printable(text)} cannot be understood: {error}",
            hint="write it as for a shell, with closed quotes",
        ) from error


def marker(nonce: bytes) -> bytes:
    """Return the line, without its end, that a command prints before and after what it says."""
    return b"--8<-- psync " + nonce


def framed(output: bytes, nonce: bytes) -> bytes:
    """Return what stands between the two marker lines of ``nonce`` in a remote command's output.

    What start-up files print before and after does not matter, also without a line end.

    Raises:
        SSHError: there are no two such lines.
    """
    line = marker(nonce)
    _, first, rest = output.partition(line)
    inside, second, _ = rest.partition(line)
    if not first or not second:
        lines = [text.strip() for text in output.splitlines() if text.strip()]
        reason = f" but: {printable(lines[-1][:200])}" if lines else ""
        raise SSHError(f"the command over ssh did not answer as psync expects{reason}")
    return inside.removeprefix(b"\r").removeprefix(b"\n")
