from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from psync.daemon.access import AccessList, ClientRecord
from psync.errors import ConfigError, NotPaired, TrustError, UsageError
from psync.paths import write_atomic
from psync.transport.filelock import FileLock


def mark(digit: str) -> str:
    return f"sha256:{digit * 64}"


def identify(digit: str) -> str:
    return f"host-{digit * 16}"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "data/clients.json")


@pytest.fixture
def access(path: str) -> AccessList:
    return AccessList(path)


def add(access: AccessList, digit: str, name: str = "desk", **more: Any) -> ClientRecord:
    fields: dict[str, Any] = {
        "fingerprint": mark(digit),
        "client_id": identify(digit),
        "expires": 2e9,
    } | more
    return access.add(name=name, **fields)


# -- who is in it ----------------------------------------------------------------------------------


def test_nobody_is_paired_at_first(access: AccessList, path: str) -> None:
    assert access.clients() == ()
    assert access.find(mark("a")) is None
    assert access.damaged() == []
    assert not os.path.exists(os.path.dirname(path))  # looking creates nothing


def test_a_client_is_found_by_its_certificate(access: AccessList, path: str) -> None:
    made = add(access, "a", now=5.0)
    assert made == ClientRecord("desk", mark("a"), identify("a"), 5.0, 2e9)
    for reader in (access, AccessList(path)):
        assert reader.find(mark("a")) == made
        assert reader.admit(mark("a")) == made
        assert reader.find(mark("b")) is None
        assert reader.clients() == (made,)


def test_a_stranger_is_told_so(access: AccessList) -> None:
    add(access, "a")
    with pytest.raises(NotPaired, match="does not know") as caught:
        access.admit(mark("b"))
    assert "psync pair" in caught.value.hint


def test_the_file_is_private(access: AccessList, path: str) -> None:
    old = os.umask(0)
    try:
        add(access, "a")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


def test_a_directory_that_others_write_to_is_refused(access: AccessList, path: str) -> None:
    os.mkdir(os.path.dirname(path))
    os.chmod(os.path.dirname(path), 0o777)
    with pytest.raises(ConfigError, match="others may write"):
        add(access, "a")


def test_pairing_again_replaces(access: AccessList) -> None:
    add(access, "a")
    add(access, "b", "other")
    again = add(access, "a", fingerprint=mark("c"))
    assert again.name == "desk"
    assert [one.name for one in access.clients()] == ["other", "desk"]
    assert access.find(mark("a")) is None
    assert access.find(mark("c")) == again


def test_names_are_unique_and_safe(access: AccessList) -> None:
    names = [add(access, digit, "Zoë's desk").name for digit in "abc"]
    assert names == ["Zo-s-desk", "Zo-s-desk-2", "Zo-s-desk-3"]
    # pairing again with the old name keeps it
    assert add(access, "b", "Zo-s-desk").name == "Zo-s-desk-2"
    assert add(access, "a", "new").name == "new"
    assert add(access, "b", "Zo-s-desk").name == "Zo-s-desk"


# -- revoking --------------------------------------------------------------------------------------


def test_a_revoked_client_is_not_found(access: AccessList, path: str) -> None:
    add(access, "a")
    reader = AccessList(path)
    assert reader.find(mark("a")) is not None
    revoked = access.revoke("desk", now=7.0)
    assert revoked.revoked == 7.0
    assert reader.find(mark("a")) is None
    with pytest.raises(NotPaired, match="revoked"):
        reader.admit(mark("a"))
    assert reader.clients() == (revoked,)
    assert access.revoke("desk", now=8.0) == revoked


def test_a_revoked_client_can_be_paired_again(access: AccessList) -> None:
    add(access, "a")
    access.revoke("desk")
    add(access, "a", fingerprint=mark("b"))
    assert access.find(mark("b")) is not None
    assert access.find(mark("a")) is None


@pytest.mark.parametrize("which", ["aaaa", "sha256:aaaa", "AAAA", mark("a"), "desk"])
def test_who_is_meant(access: AccessList, which: str) -> None:
    add(access, "a")
    add(access, "b", "other")
    assert access.revoke(which).client_id == identify("a")
    assert access.find(mark("b")) is not None


@pytest.mark.parametrize("which", ["", "a", "aaa", "des", "DESK", "sha256:", "sha256:c", "*"])
def test_nobody_is_meant(access: AccessList, which: str) -> None:
    add(access, "a")
    with pytest.raises(UsageError) as caught:
        access.revoke(which)
    assert "psync-server clients" in caught.value.hint
    assert access.find(mark("a")) is not None


def test_nobody_can_be_meant_where_nobody_is(access: AccessList, path: str) -> None:
    with pytest.raises(UsageError, match="desk"):
        access.revoke("desk")
    assert not os.path.exists(os.path.dirname(path))


def test_ambiguity_is_an_error(access: AccessList) -> None:
    add(access, "a")
    add(access, "b", "other", fingerprint=f"sha256:aaaaaa{'b' * 58}")
    with pytest.raises(UsageError, match="may mean 2 clients") as caught:
        access.revoke("aaaa")
    assert "desk" in caught.value.message
    assert "other" in caught.value.message
    # a client cannot hide behind a name that looks like another's fingerprint
    add(access, "c", "b" * 12, fingerprint=mark("c"))
    add(access, "d", "victim", fingerprint=mark("b"))
    with pytest.raises(UsageError, match="may mean 2 clients"):
        access.revoke("b" * 12)
    assert access.revoke(f"sha256:{'b' * 12}").name == "victim"


# -- noticing --------------------------------------------------------------------------------------


def test_changes_are_noticed_once(access: AccessList, path: str) -> None:
    reader = AccessList(path)
    assert reader.changed()
    assert not reader.changed()
    add(access, "a")
    assert reader.find(mark("a")) is not None  # that it was read by now is no excuse
    assert reader.changed()
    assert not reader.changed()
    access.revoke("desk")
    assert reader.changed()
    os.unlink(path)
    assert reader.changed()
    assert reader.clients() == ()
    assert not reader.changed()


def test_an_unchanged_file_is_not_read(
    access: AccessList, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(access, "a")
    reader = AccessList(path)
    reads: list[str] = []
    read = reader._read

    def counted() -> tuple[ClientRecord, ...]:
        reads.append("read")
        return read()

    monkeypatch.setattr(reader, "_read", counted)
    for _ in range(5):
        assert reader.find(mark("a")) is not None
        reader.changed()
    assert len(reads) == 1


def test_the_same_moment_and_size_is_still_a_change(access: AccessList, path: str) -> None:
    add(access, "a")
    before = os.stat(path)
    assert access.find(mark("a")) is not None
    text = Path(path).read_bytes().replace(b"a" * 64, b"b" * 64)
    write_atomic(path, text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert access.find(mark("a")) is None
    assert access.find(mark("b")) is not None


# -- damage ----------------------------------------------------------------------------------------


def edit(path: str, change: Callable[[dict[str, Any]], None]) -> None:
    loaded = json.loads(Path(path).read_bytes())
    change(loaded)
    write_atomic(path, json.dumps(loaded).encode())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"garbage",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"version": 1}',
        b'{"version": 0, "clients": []}',
        b'{"version": "1", "clients": []}',
        b'{"version": 1, "clients": {}}',
        b'{"version": 1, "clients": [',
        b'{"version": 1, "x": ' + b"[" * 100_000,
    ],
)
def test_a_damaged_list_lets_nobody_in_and_says_so(
    access: AccessList, path: str, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    add(access, "a")
    assert access.find(mark("a")) is not None
    write_atomic(path, text)
    with caplog.at_level(logging.ERROR):
        assert access.find(mark("a")) is None
    (aside,) = access.damaged()
    assert Path(aside).read_bytes() == text
    assert aside.startswith(f"{path}.damaged-2")
    (record,) = caplog.records
    assert path in record.getMessage()
    assert aside in record.getMessage()
    assert access.changed()
    # and pairing goes on from there
    add(access, "b")
    assert AccessList(path).find(mark("b")) is not None
    assert len(caplog.records) == 1


def test_damage_is_set_aside_by_who_writes_too(access: AccessList, path: str) -> None:
    add(access, "a")
    write_atomic(path, b"garbage")
    add(access, "b")
    write_atomic(path, b"more garbage")
    with pytest.raises(UsageError):
        access.revoke("desk")
    assert [Path(aside).read_bytes() for aside in access.damaged()] == [b"garbage", b"more garbage"]


def test_one_damaged_entry_leaves_the_others(
    access: AccessList, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    for digit in "abc":
        add(access, digit, digit)
    access.revoke("c")
    edit(path, lambda file: file["clients"][1].pop("fingerprint"))
    damaged = Path(path).read_bytes()
    reader = AccessList(path)
    with caplog.at_level(logging.ERROR):
        assert [one.name for one in reader.clients()] == ["a", "c"]
    assert reader.find(mark("a")) is not None
    assert reader.find(mark("c")) is None
    assert "client 2" in caplog.text
    (aside,) = reader.damaged()
    assert Path(aside).read_bytes() == damaged
    assert [one.name for one in AccessList(path).clients()] == ["a", "c"]
    assert len(caplog.records) == 1


def test_damage_while_somebody_writes_does_not_stop_the_daemon(
    access: AccessList, path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(_seconds: float) -> None:
        raise AssertionError("the event loop waits for a lock")

    add(access, "a")
    with FileLock(f"{path}.lock"), monkeypatch.context() as patched:
        patched.setattr(time, "sleep", sleep)
        write_atomic(path, b"garbage")
        assert access.find(mark("a")) is None
        assert access.find(mark("a")) is None
        assert access.damaged() == []
    assert "damaged" in caplog.text
    add(access, "b")  # the writer puts it right
    assert access.find(mark("b")) is not None
    assert len(access.damaged()) == 1


def test_a_later_versions_list_is_left_alone(
    access: AccessList, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = b'{"version": 3, "people": []}'
    add(access, "a")
    write_atomic(path, text)
    assert access.find(mark("a")) is None
    assert access.clients() == ()
    with pytest.raises(TrustError, match="later psync-server"):
        add(access, "b")
    with pytest.raises(TrustError, match="later psync-server"):
        access.revoke("desk")
    assert Path(path).read_bytes() == text
    assert access.damaged() == []
    assert "later psync-server" in caplog.text


def test_damage_revives_nobody(access: AccessList, path: str) -> None:
    add(access, "a")
    access.revoke("desk")
    write_atomic(path, Path(path).read_bytes().replace(b"revoked", b"rewoked"))
    assert access.find(mark("a")) is None
    assert AccessList(path).find(mark("a")) is None
    assert len(access.damaged()) == 1


def test_what_cannot_be_read_for_now_still_holds(
    access: AccessList, path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors ran out: paired clients keep their connections, and it is said once."""
    import resource

    add(access, "a")
    assert access.find(mark("a")) is not None
    add(AccessList(path), "b", "other")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        assert access.find(mark("a")) is not None
        assert access.find(mark("b")) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len([one for one in caplog.records if "cannot read" in one.getMessage()]) == 1
    assert access.find(mark("b")) is not None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_damage_lets_anybody_in_or_gets_out(path: str, data: st.DataObject) -> None:
    Path(path).unlink(missing_ok=True)
    access = AccessList(path)
    add(access, "a", now=1.0)
    add(access, "b", "other", now=2.0)
    access.revoke("b" * 8, now=3.0)
    text = Path(path).read_bytes()
    at = data.draw(st.integers(0, len(text)))
    write_atomic(path, text[:at] + data.draw(st.binary(max_size=8)) + text[at + 3 :])
    assert access.find(mark("b")) is None
    assert access.find(mark("c")) is None
    for one in access.clients():
        assert isinstance(one, ClientRecord)


# -- several at once -------------------------------------------------------------------------------

PAIR = """
import sys
import time
from psync.daemon.access import AccessList
print("ready", flush=True)
sys.stdin.read(1)
for number in range(25):
    digits = f"{sys.argv[2]}{number}"
    AccessList(sys.argv[1]).add(
        name="desk", client_id=f"x-{digits}", fingerprint=f"sha256:{digits}", expires=1.0
    )
"""


def test_writers_lose_nothing_of_each_others(access: AccessList, path: str) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PAIR, path, digit],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for digit in "abcd"
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    for process in started:
        with process:
            assert process.wait(50) == 0
    assert len(access.clients()) == 100
    assert len({one.name for one in access.clients()}) == 100
    assert access.damaged() == []


def test_a_look_needs_neither_cryptography_nor_ssl(access: AccessList, path: str) -> None:
    add(access, "a")
    code = (
        "import sys; from psync.daemon.access import AccessList; "
        "print(AccessList(sys.argv[1]).find(sys.argv[2]).name); "
        "print([n for n in ('cryptography', 'ssl', 'asyncio') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, mark("a")],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
        text=True,
    )
    assert done.stdout.split("\n")[:2] == ["desk", "[]"]


# -- rights and renewed certificates ---------------------------------------------------------------


def test_rights_are_kept_when_a_client_pairs_again(access: AccessList) -> None:
    add(access, "a", role="view", projects=("game-*",), via="invitation", address="192.0.2.7")
    again = add(access, "a", fingerprint=mark("b"))
    assert (again.role, again.projects, again.via) == ("view", ("game-*",), "ssh")
    assert add(access, "a", role="run", projects=()).projects == ()
    with pytest.raises(UsageError, match="matches"):
        add(access, "a", projects=("a b",))


def test_a_change_of_rights_is_noticed(access: AccessList, path: str) -> None:
    record = add(access, "a")
    assert access.changed()
    AccessList(path).limit("desk", role="view")
    assert access.changed()
    assert access.still_admitted(record).role == "view"
    AccessList(path).limit("desk", projects=("x",))
    assert access.still_admitted(record) == access.find(mark("a"))


def test_both_certificates_count_until_the_new_one_is_used(access: AccessList) -> None:
    record = add(access, "a", expires=10.0)
    new = access.renewed(record, fingerprint=mark("b"), expires=20.0, in_use=mark("a"))
    assert access.admit(mark("a")) == access.admit(mark("b")) == new
    assert (new.end_of(mark("a")), new.end_of(mark("b"))) == (10.0, 20.0)
    # the answer got lost: the one in use stays, and not the one that nobody has
    newer = access.renewed(new, fingerprint=mark("c"), expires=30.0, in_use=mark("a"))
    assert access.find(mark("b")) is None
    assert (newer.end_of(mark("a")), newer.previous) == (10.0, mark("a"))
    access.settled(new)  # somebody late, about one that is not the newest any more
    assert access.find(mark("a")) is not None
    access.settled(newer)
    assert access.find(mark("a")) is None
    assert access.find(mark("c")) is not None
    assert access.still_admitted(record).fingerprint == mark("c")


def test_a_revoked_client_renews_and_settles_nothing(access: AccessList) -> None:
    record = add(access, "a")
    new = access.renewed(record, fingerprint=mark("b"), expires=20.0, in_use=mark("a"))
    access.revoke("desk")
    for digit in "ab":
        assert access.revoked(mark(digit))
        with pytest.raises(NotPaired, match="revoked"):
            access.admit(mark(digit))
    with pytest.raises(NotPaired, match="revoked"):
        access.renewed(new, fingerprint=mark("c"), expires=20.0, in_use=mark("b"))
    with pytest.raises(NotPaired, match="revoked"):
        access.settled(new)
    with pytest.raises(NotPaired, match="revoked"):
        access.still_admitted(record)


def test_an_earlier_pairing_counts_no_more(access: AccessList) -> None:
    record = add(access, "a", now=1.0)
    add(access, "a", fingerprint=mark("b"), now=2.0)
    with pytest.raises(NotPaired, match="any more"):
        access.still_admitted(record)
    with pytest.raises(NotPaired, match="any more"):
        access.renewed(record, fingerprint=mark("c"), expires=20.0, in_use=mark("a"))


def test_a_client_of_another_authority(access: AccessList) -> None:
    fields: dict[str, Any] = {"client_id": identify("a"), "expires": 9.0, "address": "::1"}
    first = access.certified(name="anna", fingerprint=mark("a"), **fields)
    assert (first.via, first.role) == ("certificate", "run")
    access.limit("anna", role="view")
    second = access.certified(name="other", fingerprint=mark("b"), **fields)
    assert (second.name, second.role, second.paired) == ("anna", "view", first.paired)
    assert access.still_admitted(first).fingerprint == mark("b")
    access.revoke("anna")
    with pytest.raises(NotPaired, match="revoked"):
        access.certified(name="anna", fingerprint=mark("c"), **fields)
    assert len(access.clients()) == 1


def test_renaming(access: AccessList) -> None:
    add(access, "a")
    add(access, "b", "laptop")
    assert access.rename("desk", "büro\x1b")[0] == "desk"
    with pytest.raises(UsageError, match="another client is named laptop"):
        access.rename("sha256:aaaa", "laptop")
    assert [one.name for one in access.clients()] == ["b-ro", "laptop"]
