"""A model of a mirror: whatever is other than at the end of the sync is told, the rest is not."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from psync.daemon.seals import Checked, Seals

DIRECTORIES = ("d", "d/e", "g")
FILES = ("a", "b", "d/a", "d/b", "d/e/a", "g/a")
NAMES = (*DIRECTORIES, *FILES)
OLD = 10**18 + 5 * 10**8
SPARES = itertools.count()

DEEDS = (
    *("write", "append", "rewrite", "replace", "chmod", "delete", "mkdir", "touch", "rename"),
    *("link", "unlink", "hard link"),
)
deeds = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(DEEDS)), max_size=8)


def state(top: Path, name: str) -> object:
    """What matters of a path in a mirror: kind, mode, content. None if it is not in it."""
    path = top / name
    if any((top / parent).is_symlink() for parent in Path(name).parents):
        return None
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(path)
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        return status.st_mode, content
    except (FileNotFoundError, NotADirectoryError):
        return None


def send(path: Path, content: bytes) -> None:
    """As rsync does it: under another name, with the time that it has at its source."""
    other = path.with_name(".other")
    other.write_bytes(content)
    os.utime(other, ns=(OLD, OLD))
    other.replace(path)


def do(top: Path, name: str, deed: str) -> bool:
    """Do something to a path, as a program might; False if it cannot be done."""
    path, away = top / name, top.parent / "away"
    if state(top, name) is None and deed not in ("write", "mkdir"):
        return False
    if not path.parent.is_dir() or any((top / one).is_symlink() for one in Path(name).parents):
        return False
    here = path.lstat() if os.path.lexists(path) else None
    times = (here.st_atime_ns, here.st_mtime_ns) if here else (0, 0)
    regular = here is not None and stat.S_ISREG(here.st_mode)
    away.mkdir(exist_ok=True)
    spare = away / str(next(SPARES))
    if deed == "mkdir" and here is None:
        path.mkdir()
    elif deed == "write" and (here is None or regular):
        path.write_bytes(b"written")
    elif deed == "append" and regular:
        with path.open("ab") as file:
            file.write(b"more")
    elif deed == "rewrite" and regular:
        path.write_bytes(path.read_bytes().swapcase())
        os.utime(path, ns=times)
    elif deed == "replace" and regular:
        spare.write_bytes(path.read_bytes().swapcase())
        os.utime(spare, ns=times)
        spare.replace(path)
    elif deed == "chmod" and here is not None and not stat.S_ISLNK(here.st_mode):
        path.chmod(stat.S_IMODE(here.st_mode) ^ 0o050)
    elif deed == "touch" and regular:
        path.touch()
    elif deed == "delete" and here is not None:
        shutil.rmtree(path) if stat.S_ISDIR(here.st_mode) else path.unlink()
    elif deed == "rename":
        path.rename(spare)
    elif deed == "link":
        path.rename(spare)
        path.symlink_to(spare)
    elif deed == "unlink" and here is not None and stat.S_ISLNK(here.st_mode):
        target = Path(os.readlink(path))
        path.unlink()
        target.rename(path)
    elif deed == "hard link" and regular:
        os.link(path, spare)
        spare.write_bytes(path.read_bytes().swapcase())
        os.utime(spare, ns=times)
    else:
        return False
    return True


def make(directory: Path) -> Path:
    top = directory / "tree"
    for name in DIRECTORIES:
        (top / name).mkdir(parents=True)
    for name in FILES:
        send(top / name, b"content of " + name.encode())
    return top


def told(checked: Checked) -> set[str]:
    assert checked.known
    assert not checked.more
    return {os.fsdecode(path).removeprefix("tree/") for path in checked.changed}


def related(name: str, touched: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}/") for one in touched)


def judge(top: Path, before: dict[str, object], found: set[str], touched: set[str]) -> None:
    for name in NAMES:
        if before[name] is not None and state(top, name) != before[name]:
            assert name in found, name
        if not related(name, touched):
            assert name not in found, name


async def _after_one_sync(directory: Path, changes: list[tuple[str, str]]) -> None:
    known = Seals()
    known.begin(str(directory))
    top = make(directory)
    known.finish(str(directory))
    seal = await known.end(str(directory), "", ())
    before = {name: state(top, name) for name in NAMES}
    touched = {name for name, deed in changes if do(top, name, deed)}
    judge(top, before, told(await known.check(str(directory), seal)), touched)
    await known.close()
    # the next daemon reads it
    judge(top, before, told(await Seals().check(str(directory), seal)), touched)


async def _after_a_second_sync(
    directory: Path,
    earlier: list[tuple[str, str]],
    sent: set[str],
    later: list[tuple[str, str]],
) -> None:
    known = Seals()
    known.begin(str(directory))
    top = make(directory)
    known.finish(str(directory))
    base = await known.end(str(directory), "", ())
    before = {name: state(top, name) for name in NAMES}
    touched = {name for name, deed in earlier if do(top, name, deed)}
    known.begin(str(directory))
    sent = {name for name in sent if state(top, str(Path(name).parent)) is not None}
    sent = {name for name in sent if (top / name).parent.is_dir() and not (top / name).is_dir()}
    for name in sent:
        send(top / name, b"sent again")
        before[name] = state(top, name)
        touched.discard(name)
    known.finish(str(directory))
    seal = await known.end(str(directory), base, [f"tree/{name}".encode() for name in sent])
    touched |= {name for name, deed in later if do(top, name, deed)}
    judge(top, before, told(await known.check(str(directory), seal)), touched)
    await known.close()


slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)


@slow
@given(changes=deeds)
def test_whatever_is_other_is_told(
    changes: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("mirror")
    asyncio.run(_after_one_sync(directory, changes))
    shutil.rmtree(directory)


@slow
@given(earlier=deeds, sent=st.sets(st.sampled_from(FILES)), later=deeds)
def test_whatever_is_other_and_was_not_sent_is_told(
    earlier: list[tuple[str, str]],
    sent: set[str],
    later: list[tuple[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("mirror")
    asyncio.run(_after_a_second_sync(directory, earlier, sent, later))
    shutil.rmtree(directory)
