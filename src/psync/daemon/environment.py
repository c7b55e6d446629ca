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
    user = _user()
    name = os.fsencode(user.pw_name) if user is not None else str(os.getuid()).encode()
    base = {
        b"HOME": _home(user, environ),
        b"USER": name,
        b"LOGNAME": name,
        b"SHELL": os.fsencode((user.pw_shell if user is not None else "") or "/bin/sh"),
        b"PATH": DEFAULT_PATH,
    }
    base.update({k: v for k, v in environ.items() if k in KEPT or k.startswith(b"LC_")})
    return base


def home_directory(environ: Mapping[bytes, bytes]) -> bytes:
    """Return the directory a run starts in that names none: the user's home, ``/`` if it is not
    there, as with ssh."""
    home = _home(_user(), environ)
    return home if os.path.isdir(home) else b"/"


def _user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:  # a container's made-up user
        return None


def _home(user: pwd.struct_passwd | None, environ: Mapping[bytes, bytes]) -> bytes:
    return os.fsencode(user.pw_dir) if user is not None else environ.get(b"HOME", b"/")


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
