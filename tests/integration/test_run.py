"""``psync run`` from end to end: a real sshd, a real daemon, real rsync, real programs."""

from __future__ import annotations

import hashlib
import os
import pty
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.field import Field, lines, read_until
from tests.support.waiting import alive, wait_until


def tree(field: Field) -> Path:
    """The mirror of the field's project."""
    return field.mirror() / "tree"


# -- targets --------------------------------------------------------------------------------------


def test_one_daemon_under_two_names(field: Field) -> None:
    field.pair("one")
    field.pair("other")
    for name in ("one", "other"):
        done = field.psync("run", "--on", name, "--no-sync", "true")
        assert (done.stderr, done.returncode) == (b"", 0)


# -- files ----------------------------------------------------------------------------------------


def test_program_and_assets_are_there_and_relative_paths_mean_the_same(paired: Field) -> None:
    (paired.project / "assets").mkdir(exist_ok=True)
    (paired.project / "assets" / "level 1.txt").write_text("a level\n")
    paired.script("bin/game", "cat '../assets/level 1.txt'; basename \"$PWD\"\n")
    done = paired.psync("run", "-A", "../assets", "./game", cwd=paired.project / "bin")
    assert (done.stdout, done.stderr, done.returncode) == (b"a level\nbin\n", b"", 0)


def test_a_change_is_sent_before_the_next_run(paired: Field) -> None:
    script = paired.script("changing", "echo one\n")
    assert paired.psync("run", "./changing").stdout == b"one\n"
    # the same size within the same second, which rsync's quick check alone would miss
    script.write_text(script.read_text().replace("one", "two"))
    assert paired.psync("run", "./changing").stdout == b"two\n"


def test_a_program_that_is_running_can_be_replaced(paired: Field) -> None:
    program = paired.project / "sleeper"
    program.write_bytes(Path("/bin/sleep").resolve().read_bytes())
    program.chmod(0o755)
    first = paired.start("run", "./sleeper", "60")
    wait_until(lambda: _running(paired, "sleeper"))
    program.write_bytes(program.read_bytes() + b"\0")
    assert paired.psync("run", "./sleeper", "0").returncode == 0
    first.send_signal(signal.SIGINT)
    assert first.wait(20) == 128 + signal.SIGINT


def _running(field: Field, name: str) -> bool:
    """Whether a process executes ``name`` of a mirror, which need not exist yet."""
    for link in Path("/proc").glob("[0-9]*/exe"):
        try:
            program = Path(os.readlink(link))
        except OSError:
            continue
        if program.name == name and program.is_relative_to(field.server_home):
            return True
    return False


def test_no_sync_runs_what_is_there(paired: Field) -> None:
    script = paired.script("kept", "echo old\n")
    assert paired.psync("run", "./kept").stdout == b"old\n"
    script.write_text("#!/bin/sh\necho new\n")
    assert paired.psync("run", "--no-sync", "./kept").stdout == b"old\n"


def test_no_sync_needs_no_files_for_a_command_of_the_other_host(
    paired: Field, tmp_path: Path
) -> None:
    (tmp_path / "psync.toml").touch()
    (tmp_path / "below").mkdir()
    done = paired.psync("run", "--no-sync", "sh", "-c", "basename $PWD; ls", cwd=tmp_path / "below")
    assert (done.returncode, done.stdout) == (0, b"below\n")


def test_no_sync_of_a_program_that_never_was_synced(paired: Field, tmp_path: Path) -> None:
    (tmp_path / "psync.toml").touch()
    program = tmp_path / "never-sent"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    done = paired.psync("run", "--no-sync", "./never-sent", cwd=tmp_path)
    assert done.returncode == 127
    (line,) = lines(done.stderr)
    assert "never-sent" in line


def test_a_bare_command_is_looked_up_there_and_takes_the_tree_along(paired: Field) -> None:
    (paired.project / "data.txt").write_text("data\n")
    done = paired.psync("run", "cat", "data.txt")
    assert (done.stdout, done.returncode) == (b"data\n", 0)


def test_cwd_names_a_directory_of_this_machine(paired: Field) -> None:
    (paired.project / "deep" / "er").mkdir(parents=True, exist_ok=True)
    paired.script("where", "pwd\n")
    done = paired.psync("run", "--cwd", "deep/er", "./where")
    assert done.stdout.decode().rstrip("\n") == str(tree(paired) / "deep/er")


def test_the_mirror_that_disappeared_is_made_again(paired: Field) -> None:
    paired.script("again", "echo again\n")
    assert paired.psync("run", "./again").returncode == 0
    mirror = paired.mirror()
    mirror.rename(mirror.with_name("moved-away"))
    done = paired.psync("run", "./again")
    assert (done.stdout, done.stderr, done.returncode) == (b"again\n", b"", 0)
    subprocess.run(["rm", "-rf", str(mirror.with_name("moved-away"))], check=True)


def test_sync_alone_sends_the_tree_and_says_so(paired: Field) -> None:
    (paired.project / "sub").mkdir(exist_ok=True)
    (paired.project / "sub" / "new.bin").write_bytes(os.urandom(5000))
    done = paired.psync("sync")
    assert done.returncode == 0
    (line,) = lines(done.stderr)
    assert line.startswith("psync: sent ")
    assert (tree(paired) / "sub/new.bin").read_bytes() == (
        paired.project / "sub/new.bin"
    ).read_bytes()
    again = paired.psync("sync")
    assert lines(again.stderr)[0].startswith("psync: nothing had changed, ")


# -- arguments and environment --------------------------------------------------------------------

SHOW = """\
import os, sys
out = sys.stdout.buffer
for word in sys.argv[1:]:
    out.write(os.fsencode(word) + b"\\0")
out.write(b"\\0")
for name in (b"EMPTY", b"SPACED", b"EQUALS", b"PASSED", b"ABSENT", b"LINES", b"BYTES"):
    out.write(name + b":" + os.environb.get(name, b"(unset)") + b"\\0")
"""


def test_arguments_and_environment_arrive_exactly(paired: Field) -> None:
    paired.python("show", SHOW)
    words = [
        b"", b" ", b"a b", b"'", b'"', b"$HOME", b"`id`", b"\\", b"new\nline", b"tab\t", b"--",
        b"-e", b"--help", b"*", b"~", b"\xff\xfe", "ü".encode(), b"-", b"x=y", b"\x01",
    ]  # fmt: skip
    done = paired.psync(
        "run",
        *("-e", "EMPTY=", "-e", "SPACED= a  b ", "-e", "EQUALS=a=b=c", "-e", "PASSED"),
        *("-e", "ABSENT", "-e", "LINES=one\ntwo", b"-eBYTES=\xff\xc3"),
        "./show",
        *words,
        env={"PASSED": "from here"},
    )
    assert done.returncode == 0, done.stderr
    arguments, _, environment = done.stdout.partition(b"\0\0EMPTY")
    # an empty first argument is two NULs of its own, so compare against what must have been written
    expected = b"".join(word + b"\0" for word in words) + b"\0"
    assert done.stdout.startswith(expected)
    assert done.stdout[len(expected) :].split(b"\0")[:-1] == [
        b"EMPTY:",
        b"SPACED: a  b ",
        b"EQUALS:a=b=c",
        b"PASSED:from here",
        b"ABSENT:(unset)",
        b"LINES:one\ntwo",
        b"BYTES:\xff\xc3",
    ]
    del arguments, environment


def test_a_leading_double_dash_is_ours_and_the_next_one_the_programs(paired: Field) -> None:
    paired.python("show", SHOW)
    done = paired.psync("run", "--", "./show", "--", "x")
    assert done.stdout.startswith(b"--\0x\0\0")


def test_the_configurations_environment_is_set_and_e_wins(paired: Field) -> None:
    (paired.project / "psync.toml").write_text('[run.env]\nFROM_FILE = "file"\nBOTH = "file"\n')
    try:
        done = paired.psync("run", "-e", "BOTH=flag", "sh", "-c", 'echo "$FROM_FILE $BOTH"')
        assert done.stdout == b"file flag\n"
    finally:
        (paired.project / "psync.toml").write_text("")


# -- output and exit statuses ---------------------------------------------------------------------


def test_all_bytes_pass_on_both_streams(paired: Field) -> None:
    paired.python(
        "bytes",
        "import sys\n"
        "everything = bytes(range(256)) * 4\n"
        "sys.stdout.buffer.write(everything)\nsys.stderr.buffer.write(everything[::-1])\n",
    )
    done = paired.psync("run", "./bytes")
    assert done.stdout == bytes(range(256)) * 4
    assert done.stderr == (bytes(range(256)) * 4)[::-1]


def test_a_lot_of_output_is_exact(paired: Field) -> None:
    paired.python(
        "flood",
        "import random, sys\nrng = random.Random(1)\n"
        "for _ in range(300):\n    sys.stdout.buffer.write(rng.randbytes(100_000))\n",
    )
    done = paired.psync("run", "./flood")
    rng = random.Random(1)
    expected = hashlib.sha256()
    for _ in range(300):
        expected.update(rng.randbytes(100_000))
    assert done.returncode == 0
    assert hashlib.sha256(done.stdout).digest() == expected.digest()


def test_a_prompt_without_newline_comes_at_once_and_is_answered(paired: Field) -> None:
    paired.python(
        "ask",
        "import sys\nsys.stdout.write('name? ')\nsys.stdout.flush()\n"
        "print('hello', sys.stdin.readline().strip(), flush=True)\n"
        "print(len(sys.stdin.read()), 'more')\n",
    )
    process = paired.start("run", "./ask")
    assert read_until(process, b"name? ") == b"name? "
    assert process.stdin is not None
    process.stdin.write(b"Ada\n")
    process.stdin.flush()
    assert read_until(process, b"\n") == b"hello Ada\n"
    stdout, stderr = process.communicate(b"the rest", 30)
    assert (stdout, stderr, process.returncode) == (b"8 more\n", b"", 0)


def test_a_large_stdin_arrives_whole(paired: Field) -> None:
    data = random.Random(9).randbytes(5_000_000)
    done = paired.psync("run", "sha256sum", input=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_stdin_that_nobody_reads_keeps_nobody_waiting(paired: Field) -> None:
    done = paired.psync("run", "true", input=bytes(3_000_000))
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("redirection", ["<&-", "</dev/null", "</etc/passwd"])
def test_stdin_closed_or_a_file(paired: Field, redirection: str) -> None:
    command = f'exec "$@" {redirection}'
    done = subprocess.run(
        [
            "sh",
            "-c",
            command,
            "sh",
            sys.executable,
            "-P",
            "-m",
            "psync.cli.main",
            "run",
            "wc",
            "-c",
        ],
        cwd=paired.project,
        env=paired.env,
        capture_output=True,
        timeout=50,
    )
    size = os.stat("/etc/passwd").st_size if "passwd" in redirection else 0
    assert (done.stdout.strip(), done.returncode) == (str(size).encode(), 0)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
        ("kill -SEGV $$", 139),
    ],
)
def test_the_exit_status_is_the_programs(paired: Field, script: str, status: int) -> None:
    done = paired.psync("run", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


def test_a_reader_that_leaves_ends_the_program_as_a_pipe_would(paired: Field) -> None:
    paired.script("endless", "while :; do echo line; done\n")
    command = '"$@" | head -1; echo "${PIPESTATUS[0]}"'
    done = subprocess.run(
        [
            "bash",
            "-c",
            command,
            "bash",
            sys.executable,
            "-P",
            "-m",
            "psync.cli.main",
            "run",
            "./endless",
        ],
        cwd=paired.project,
        env=paired.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=50,
    )
    assert (done.stdout, done.stderr) == (b"line\n141\n", b"")


def test_output_that_nobody_takes_does_not_keep_ctrl_c_waiting(paired: Field) -> None:
    paired.script("endless2", "trap '' INT TERM\nwhile :; do echo a longer line of output; done\n")
    process = paired.start("run", "./endless2")
    read_until(process, b"output\n")  # and from now on nobody reads
    for expected in (b"again stops the whole run", b"again kills it", b"killing"):
        process.send_signal(signal.SIGINT)
        read_until(process, expected, stderr=True)
    assert process.wait(30) == 128 + signal.SIGKILL
    assert process.stderr is not None
    assert b"of output were dropped with the kill" in process.stderr.read()


# -- Ctrl-C ---------------------------------------------------------------------------------------

STUBBORN = """\
import os, signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, f: print(signal.Signals(n).name, flush=True))
child = subprocess.Popen(
    [sys.executable, "-c", "import os, signal, time; os.setsid(); "
     "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
     "print('grandchild', os.getpid(), flush=True); time.sleep(600)"])
while True:
    time.sleep(600)
"""


def test_ctrl_c_reaches_the_program_which_may_handle_it(paired: Field) -> None:
    paired.python(
        "handler",
        "import os, signal, sys, time\n"
        "def stop(n, f):\n    os.write(1, b'saved\\n')\n    sys.exit(5)\n"
        "signal.signal(signal.SIGINT, stop)\nprint('ready', flush=True)\n"
        "while True:\n    time.sleep(600)\n",
    )
    process = paired.start("run", "./handler")
    read_until(process, b"ready\n")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (stdout, stderr, process.returncode) == (b"saved\n", b"", 5)


def test_output_that_could_not_be_written_makes_no_success(paired: Field) -> None:
    for status, expected in ((0, 125), (3, 3)):
        with open("/dev/full", "wb") as full:
            process = paired.start("run", "sh", "-c", f"echo x; exit {status}", stdout=full)
            _, stderr = process.communicate(b"", 50)
        assert process.returncode == expected
        said = "psync: output could not be written: No space left on device"
        assert lines(stderr) == [said]


def test_the_ladder_ends_a_stubborn_tree_with_its_grandchildren(paired: Field) -> None:
    paired.python("stubborn", STUBBORN)
    process = paired.start("run", "./stubborn")
    said = read_until(process, b"grandchild ")
    said += b"" if said.endswith(b"\n") else read_until(process, b"\n")
    grandchild = int(said.split(b"grandchild ")[1].split()[0])
    process.send_signal(signal.SIGINT)
    read_until(process, b"SIGINT\n")
    process.send_signal(signal.SIGINT)
    read_until(process, b"SIGTERM\n")
    assert alive(grandchild)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL
    assert not alive(grandchild)
    assert lines(stderr) == [
        "psync: sent SIGTERM to the whole run; Ctrl-C again kills it",
        "psync: killing the whole run",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_other_signals_are_forwarded_by_name(paired: Field, number: signal.Signals) -> None:
    paired.script("waits", "echo ready; exec sleep 600\n")
    process = paired.start("run", "./waits")
    read_until(process, b"ready")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (128 + number, b"")


def test_a_hangup_that_was_ignored_stays_ignored(paired: Field) -> None:
    paired.script("waits", "echo ready; read line; echo bye\n")
    process = paired.start(
        "run",
        "./waits",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    read_until(process, b"ready")
    process.send_signal(signal.SIGHUP)
    stdout, _ = process.communicate(b"\n", 30)
    assert (stdout.strip(), process.returncode) == (b"bye", 0)


def test_ctrl_c_while_connecting(field: Field) -> None:
    field.pair()
    listener = socket.create_server(("127.0.0.1", 0))  # accepts, and never answers
    port = listener.getsockname()[1]
    config = field.config.read_text()
    field.config.write_text(f'{config}connect = "direct"\naddress = "127.0.0.1:{port}"\n')
    with listener:
        process = field.start("run", "--no-sync", "true")
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(1)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert lines(stderr) == ["psync: interrupted while connecting; nothing was started"]


@pytest.mark.parametrize("known", [False, True], ids=["first sync", "later sync"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_files_are_sent(field: Field, known: bool, number: signal.Signals) -> None:
    field.pair()
    field.script("x", "echo ran\n")
    if known:
        assert field.psync("run", "./x").stdout == b"ran\n"
    # an rsync over there that says where it is and then does nothing
    stuck = field.directory / "bin" / "rsync"
    stuck.parent.mkdir()
    mark = field.directory / "rsync.pid"
    stuck.write_text(
        '#!/bin/sh\ncase "$1" in --version) exec /usr/bin/rsync --version;; esac\n'
        f"echo $$ > '{mark}.new'; mv '{mark}.new' '{mark}'\nexec sleep 600\n"
    )
    stuck.chmod(0o755)
    field.kill_daemon(signal.SIGTERM)
    field.server("start", env={"PATH": f"{stuck.parent}:{field.env['PATH']}"})
    assert field.psync("run", "--no-sync", "true").returncode in (0, 125)  # it says so in its hello
    field.script("x", "echo ran again\n")
    process = field.start("run", "./x")
    wait_until(mark.exists)
    assert process.poll() is None
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, b"")
    assert len(lines(stderr)) == 1, stderr
    (line,) = lines(stderr)
    assert line.startswith("psync: interrupted ")
    assert "nothing was started" in line
    pid = int(mark.read_text())
    os.kill(pid, signal.SIGKILL)  # a shell over ssh does not hear that its client has gone


# -- losing the connection, the daemon ------------------------------------------------------------

COUNTER = """\
import sys, time
for i in range(int(sys.argv[1])):
    print(i, flush=True)
    if i == 10:
        sys.stdin.readline()
print("end of", sys.argv[1], file=sys.stderr)
sys.exit(7)
"""


@pytest.mark.parametrize("blow", ["ssh cut", "daemon killed", "daemon terminated"])
def test_the_run_goes_on_and_nothing_is_lost_or_doubled(field: Field, blow: str) -> None:
    field.pair(connect="ssh")
    assert field.sshd is not None
    field.python("count", COUNTER)
    process = field.start("run", "./count", "50000")
    stdout = read_until(process, b"10\n")
    if blow == "ssh cut":
        field.sshd.cut()
    else:
        field.kill_daemon(signal.SIGKILL if "killed" in blow else signal.SIGTERM)
    stderr = read_until(process, b"connected again", stderr=True)
    assert b"connection lost (" in stderr
    rest, more = process.communicate(b"go on\n", 40)
    assert (stdout + rest) == b"".join(b"%d\n" % i for i in range(50000))
    assert more.endswith(b"end of 50000\n")
    assert process.returncode == 7


def test_ctrl_c_without_a_connection_leaves_the_run_to_its_grace(field: Field) -> None:
    field.pair(connect="ssh")
    assert field.sshd is not None
    field.script("waits", "echo ready; exec sleep 600\n")
    process = field.start("run", "--on-disconnect", "stop:1h", "./waits")
    read_until(process, b"ready")
    field.sshd.stop()
    read_until(process, b"reconnecting", stderr=True)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the run goes on there for up to 3600 seconds" in lines(stderr)[-1]


def test_a_run_nobody_comes_back_to_is_stopped(field: Field) -> None:
    field.pair()
    field.script("waits", 'echo "pid $$"; exec sleep 600\n')
    process = field.start("run", "--on-disconnect", "stop:1s", "./waits")
    pid = int(read_until(process, b"\n").split()[1])
    process.kill()
    wait_until(lambda: not alive(pid))


def test_a_killed_supervisor_means_255(field: Field) -> None:
    field.pair()
    field.script("waits", 'echo "pid $$ $PPID"; exec sleep 600\n')
    process = field.start("run", "./waits")
    _, pid, supervisor = read_until(process, b"\n").split()
    os.kill(int(supervisor), signal.SIGKILL)
    _, stderr = process.communicate(timeout=40)
    assert process.returncode == 255
    assert "lost" in lines(stderr)[-1]
    wait_until(lambda: not alive(int(pid)))


def test_a_daemon_that_is_not_running_is_started(field: Field) -> None:
    field.pair()
    field.kill_daemon(signal.SIGTERM)
    done = field.psync("run", "echo", "up")
    assert (done.stdout, done.stderr, done.returncode) == (b"up\n", b"", 0)


def test_a_daemon_on_another_port_is_found(field: Field) -> None:
    field.pair()
    known = field.daemon()
    assert known is not None
    field.kill_daemon(signal.SIGTERM)
    with socket.socket() as taken:  # somebody else has its port now
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", known["port"]))
        taken.listen()
        taken.settimeout(0)
        field.server("start")
        again = field.daemon()
        assert again is not None
        assert again["port"] != known["port"]
        taken.close()
        done = field.psync("run", "echo", "found")
    assert (done.stdout, done.returncode) == (b"found\n", 0), done.stderr


# -- the target local -----------------------------------------------------------------------------


def test_with_nothing_configured_it_runs_on_this_machine(alone: Field) -> None:
    alone.script("hello", 'echo "hello $1"; exit 4\n')
    first = alone.psync("run", "./hello", "you")
    assert (first.stdout, first.returncode) == (b"hello you\n", 4)
    assert lines(first.stderr) == [
        "psync: running on this machine, the target local; psync pair HOST adds another"
    ]
    again = alone.psync("run", "--on", "local", "./hello", "again")
    assert (again.stdout, again.stderr, again.returncode) == (b"hello again\n", b"", 4)


def test_the_local_daemon_survives_what_happens_to_its_files(alone: Field) -> None:
    assert alone.psync("run", "true").returncode == 0
    alone.kill_daemon(home=alone.local_home)
    assert alone.psync("run", "true").returncode == 0
    alone.stop_daemon(alone.local_home)
    subprocess.run(["rm", "-rf", str(alone.local_home)], check=True)
    assert alone.psync("run", "true").returncode == 0  # paired anew


def test_a_terminal_gets_a_line_about_the_sync(alone: Field) -> None:
    alone.script("hello", "echo hello\n")
    ours, theirs = pty.openpty()
    process = alone.start("run", "./hello", stderr=theirs)
    os.close(theirs)
    stdout, _ = process.communicate(b"", 40)
    said = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break
        if not chunk:
            break
        said += chunk
    os.close(ours)
    assert stdout == b"hello\n"
    assert b"psync: sent 1 file, " in said
