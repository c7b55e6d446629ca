"""The environment a program starts from: clean and login-like, the same for every run."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Mapping

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

KEPT = frozenset(
    {
        b"PATH",
        b"LANG",
        b"LANGUAGE",
        b"TZ",
        # the desktop session's, where the daemon was started inside one
        b"DISPLAY",
        b"XAUTHORITY",
        b"WAYLAND_DISPLAY",
        b"XDG_RUNTIME_DIR",
        b"XDG_SESSION_TYPE",
        b"XDG_CURRENT_DESKTOP",
        b"DBUS_SESSION_BUS_ADDRESS",
        b"PULSE_SERVER",
        b"PIPEWIRE_REMOTE",
    }
)
"""Variables of the daemon's own environment that a program gets to see, besides ``LC_*``."""


def login_environment(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return what a program of this user starts from.

    Args:
        environ: the daemon's own environment; only ``KEPT`` and ``LC_*`` pass.
    """
    user = pwd.getpwuid(os.getuid())
    base = {
        b"HOME": os.fsencode(user.pw_dir),
        b"USER": os.fsencode(user.pw_name),
        b"LOGNAME": os.fsencode(user.pw_name),
        b"SHELL": os.fsencode(user.pw_shell or "/bin/sh"),
        b"PATH": DEFAULT_PATH,
    }
    base.update({k: v for k, v in environ.items() if k in KEPT or k.startswith(b"LC_")})
    return base


def run_environment(
    environ: Mapping[bytes, bytes], run_id: str, own: Iterable[tuple[bytes, bytes]]
) -> dict[bytes, bytes]:
    """Return the whole environment of one run.

    Args:
        environ: the daemon's own environment.
        run_id: goes into ``PSYNC_RUN``, by which stray processes of a run can be told.
        own: the client's names and values; they win over the base.
    """
    return {**login_environment(environ), **dict(own), b"PSYNC_RUN": run_id.encode()}
