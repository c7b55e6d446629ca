"""The requests are tested against a real master in test_ssh; here, what is no master."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from psync.sync import mux

HELLO = struct.pack(">III", 8, 1, 4)


@contextmanager
def impostor(path: Path, answer: bytes, close: bool = True) -> Iterator[bytes]:
    """Something that listens at ``path``, says ``answer``, and then hangs up or waits."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(answer)
                if close:
                    connection.shutdown(socket.SHUT_WR)
                done.wait(30)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield str(path).encode()
        finally:
            done.set()
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xff\xff\xff",
        HELLO[:5],
        struct.pack(">III", 8, 1, 3),
        HELLO,
        HELLO + struct.pack(">II", 4, 0x80000005),
        HELLO + struct.pack(">IIII", 12, 0x80000003, 0, 99),
    ],
)
def test_an_impostor_is_noticed(tmp_path: Path, answer: bytes) -> None:
    with impostor(tmp_path / "s", answer) as path, pytest.raises(mux.MuxError):
        mux.alive(path, 10)


def test_silence_is_not_waited_for(tmp_path: Path) -> None:
    silent = impostor(tmp_path / "s", b"", close=False)
    with silent as path, pytest.raises(mux.MuxError, match="timed out"):
        mux.alive(path, 0.05)


def test_a_refusal_carries_the_masters_words(tmp_path: Path) -> None:
    words = b"Port forwarding failed"
    body = struct.pack(">III", 0x80000003, 0, len(words)) + words
    unwilling = impostor(tmp_path / "s", HELLO + struct.pack(">I", len(body)) + body)
    with unwilling as path, pytest.raises(mux.MuxError, match=r"^Port forwarding failed$"):
        mux.forward(path, b"/x", b"127.0.0.1", 1, 10)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(mux.MuxError):
        mux.alive(str(tmp_path / "nothing").encode(), 10)
    with pytest.raises(mux.MuxError):
        mux.alive(b"/" + b"long" * 100, 10)
