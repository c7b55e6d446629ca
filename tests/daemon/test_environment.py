"""The environment of runs."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest
from tests.support.daemon import Home
from tests.support.field import SOURCES

from psync.daemon.environment import DEFAULT_PATH, home_directory, login_environment

USER = pwd.getpwuid(os.getuid())


def test_a_login_like_base_and_nothing_of_the_daemons_own() -> None:
    daemon = {
        b"HOME": b"/daemon",
        b"PATH": b"/a:/b",
        b"LC_TIME": b"C",
        b"WAYLAND_DISPLAY": b"w",
        b"PYTHONPATH": b"/x",
        b"SECRET": b"s",
        b"PSYNC_SERVER_HOME": b"/y",
    }
    assert login_environment(daemon) == {
        b"HOME": os.fsencode(USER.pw_dir),
        b"USER": os.fsencode(USER.pw_name),
        b"LOGNAME": os.fsencode(USER.pw_name),
        b"SHELL": os.fsencode(USER.pw_shell or "/bin/sh"),
        b"PATH": b"/a:/b",
        b"LC_TIME": b"C",
        b"WAYLAND_DISPLAY": b"w",
    }
    assert login_environment({})[b"PATH"] == DEFAULT_PATH


async def test_the_clients_values_win_and_arrive_exactly(shared: Home) -> None:
    own = ((b"LC_ALL", b"\xff=\n"), (b"EMPTY", b""), (b"HOME", b"/nowhere"), (b"PSYNC_RUN", b"x"))
    async with shared.client() as client:
        run = client.start("env", "-0", env=own)
        assert (await run.ended()).status.code == 0
        got = dict(entry.split(b"=", 1) for entry in run.output.split(b"\0")[:-1])
        assert got == {
            **login_environment({b"PATH": shared.env["PATH"].encode()}),
            **dict(own),
            b"PSYNC_RUN": (await run.running()).encode(),
        }
        # without a project it starts at home, whatever the client calls its home
        run = client.start("pwd", "-P", env=own)
        await run.ended()
        assert run.output.rstrip(b"\n") == os.path.realpath(home_directory(os.environb))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_a_user_without_an_entry_in_the_list_of_users() -> None:
    assert not any(entry.pw_uid == 54321 for entry in pwd.getpwall())
    code = (  # imported before, because the checkout may be private
        "import os\n"
        "from psync.daemon.environment import home_directory, login_environment\n"
        "os.setuid(54321)\n"
        "print(login_environment({b'HOME': b'/tmp'}), home_directory({b'HOME': b'/tmp'}),"
        " home_directory({b'HOME': b'/nowhere'}), home_directory({}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": SOURCES}, capture_output=True, text=True
    )
    assert "b'HOME': b'/tmp', b'USER': b'54321'" in done.stdout, done.stderr
    assert done.stdout.endswith("b'/tmp' b'/' b'/'\n")
