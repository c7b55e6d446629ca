"""The real thing on one machine: pair, sync, run, stream, Ctrl-C, detach, stop. ``make demo``.

A private sshd on loopback plays the other machine, with keys, directories and a daemon of its own;
nothing of yours is read or changed, and all of it is gone afterwards.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.sshd import PrivateSSHD  # noqa: E402 - after the path is known

BIN = Path(sys.executable).parent
TIME_LIMIT = 60.0

GAME_C = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;
static void on_interrupt(int signum) { (void)signum; interrupted = 1; }

int main(int argc, char **argv)
{
    char level[64] = "";
    FILE *asset = fopen("assets/level.txt", "r");
    if (!asset || !fgets(level, sizeof level, asset)) {
        fprintf(stderr, "no assets/level.txt here\n");
        return 1;
    }
    level[strcspn(level, "\n")] = 0;
    signal(SIGINT, on_interrupt);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("game: playing \"%s\" as process %d\n", level, (int)getpid());
    fprintf(stderr, "game: this line went to stderr\n");
    int frames = argc > 1 ? atoi(argv[1]) : 3;
    for (int frame = 1; frame <= frames && !interrupted; frame++) {
        printf("game: frame %d\n", frame);
        usleep(200000);
    }
    if (interrupted) {
        printf("game: Ctrl-C reached me, saving and leaving with 3\n");
        return 3;
    }
    return 0;
}
"""

GAME_SH = """\
#!/bin/sh
level=$(cat assets/level.txt) || exit 1
trap 'echo "game: Ctrl-C reached me, saving and leaving with 3"; exit 3' INT
echo "game: playing \\"$level\\" as process $$"
echo "game: this line went to stderr" >&2
frame=1
while [ "$frame" -le "${1:-3}" ]; do
    echo "game: frame $frame"
    frame=$((frame + 1))
    sleep 0.2
done
"""


class Demo:
    """The demonstration: a client's home and a daemon host's, in one temporary directory."""

    def __init__(self, directory: Path, sshd: PrivateSSHD) -> None:
        self.project = directory / "client" / "game"
        self.server_home = directory / "host"
        runtime = directory / "run"
        runtime.mkdir(mode=0o700)
        self.project.mkdir(parents=True)
        self.sshd = sshd
        self.env = {
            "HOME": str(directory / "client"),
            "PATH": f"{BIN}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(runtime),
            "PSYNC_SSH": sshd.psync_ssh,
        }

    def build(self) -> None:
        """Make a small program and an asset."""
        (self.project / "assets").mkdir()
        (self.project / "assets" / "level.txt").write_text("The Caves of Loopback\n")
        (self.project / "psync.toml").write_text('[run]\nassets = ["assets"]\n')
        program = self.project / "game"
        compiler = shutil.which("cc")
        if compiler:
            (self.project / "game.c").write_text(GAME_C)
            self.show("cc -o game game.c")
            subprocess.run([compiler, "-o", "game", "game.c"], cwd=self.project, check=True)
        else:
            program.write_text(GAME_SH)
            program.chmod(0o755)

    def show(self, command: str) -> None:
        """Print a command as if it were typed."""
        print(f"\n\033[1m{self.sshd.alias}-client$ {command}\033[0m", flush=True)

    def type(self, command: str, expected: int = 0) -> None:
        """Run a command of the client's and check its exit status."""
        self.show(command)
        argv = shlex.split(command)
        done = subprocess.run(argv, cwd=self.project, env=self.env, timeout=TIME_LIMIT, check=False)
        self.check(done.returncode, expected)

    def interrupt(self, command: str) -> None:
        """Run a command, press Ctrl-C once its third frame is here, expect exit status 3."""
        self.show(command)
        with subprocess.Popen(
            shlex.split(command), cwd=self.project, env=self.env, stdout=subprocess.PIPE, text=True
        ) as process:
            watchdog = threading.Timer(TIME_LIMIT, process.kill)
            watchdog.start()
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                if "frame 3" in line:
                    print("^C", flush=True)
                    process.send_signal(signal.SIGINT)
            watchdog.cancel()
        self.check(process.returncode, 3)

    @staticmethod
    def check(status: int, expected: int) -> None:
        """Say the exit status; end the demonstration if it is another than expected."""
        print(f"(exit status {status})", flush=True)
        if status != expected:
            sys.exit(f"demo: expected exit status {expected}")

    def stop_daemon(self) -> None:
        """End the daemon that pairing started."""
        presence = self.server_home / "state" / "daemon.json"
        if presence.exists():
            os.kill(json.loads(presence.read_bytes())["pid"], signal.SIGTERM)


def say(text: str) -> None:
    """Print one line of explanation."""
    print(f"\n# {text}", flush=True)


def main() -> int:
    """Run the demonstration; exit status 0 when everything went as it should."""
    start = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="psync-demo-"))
    host_env = {
        "PATH": f"{BIN}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        "PSYNC_SERVER_HOME": str(directory / "host"),
    }
    try:
        with PrivateSSHD(env=host_env, alias="handheld") as sshd:
            demo = Demo(directory, sshd)
            try:
                _play(demo)
            finally:
                demo.stop_daemon()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"\nDone in {time.monotonic() - start:.0f} s; everything is cleaned up.")
    return 0


def _play(demo: Demo) -> None:
    say("A private sshd on this machine plays the other host, called 'handheld'.")
    say("Once per host: psync pair uses your ssh to exchange certificates and starts the daemon.")
    demo.type("psync pair handheld")
    say("Build a small program here; it wants assets/level.txt beside it.")
    demo.build()
    say("One command: sync program and assets, run there, stream stdout and stderr here.")
    demo.type("psync run --on handheld ./game")
    say("Again with nothing changed, and with arguments of the program's own.")
    demo.type("psync run --on handheld ./game 1")
    say("Ctrl-C goes to the program over there; what it does with it is its own affair.")
    demo.interrupt("psync run --on handheld ./game 1000")
    say("A command of the other host's, and its exit status.")
    demo.type("psync run --on handheld sh -c 'echo I run beside $PWD; exit 42'", expected=42)
    say("Runs outlive this terminal: start one, look at it, stop it.")
    demo.type("psync run --on handheld --detach --name long ./game 1000")
    demo.type("psync ps --on handheld -a")
    demo.type("psync stop --on handheld --signal INT long")
    demo.type("psync logs --on handheld --timestamps --lines 2 long")
    say("Who may connect is listed over there, and can be revoked.")
    demo.show("ssh handheld psync-server clients")
    subprocess.run(
        [*demo.sshd.ssh, demo.sshd.alias, "psync-server", "clients"],
        env=demo.env, timeout=TIME_LIMIT, check=True,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
