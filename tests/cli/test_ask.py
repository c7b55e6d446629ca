"""A question on the terminal."""

import os
from collections.abc import Iterator

import pytest

from psync.cli.ask import confirm
from psync.errors import Interrupted


@pytest.fixture
def stdin() -> Iterator[int]:
    """The other end of stdin."""
    before = os.dup(0)
    read, write = os.pipe()
    os.dup2(read, 0)
    os.close(read)
    yield write
    os.dup2(before, 0)
    os.close(before)
    try:
        os.close(write)
    except OSError:
        pass  # the test has


@pytest.mark.parametrize(
    ("said", "answer"),
    [(b"y\n", True), (b"  Yes\n", True), (b"n\n", False), (b"\n", False), (b"maybe\n", False)],
)
def test_an_answer(
    stdin: int, said: bytes, answer: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    os.write(stdin, said + b"more")
    assert confirm("remove it?", lambda: False) is answer
    assert capsys.readouterr().err == "remove it? [y/N] "
    assert os.read(0, 100) == b"more"


def test_the_end_of_stdin_is_no(stdin: int) -> None:
    os.close(stdin)
    assert confirm("remove it?", lambda: False) is False


def test_it_can_be_given_up(stdin: int) -> None:
    with pytest.raises(Interrupted, match="nothing was removed"):
        confirm("remove it?", lambda: True)
