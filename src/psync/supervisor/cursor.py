"""The small mapped file that says which part of a run's log is valid, exact at every moment.

Eight 64-bit words in the host's byte order: magic, format, segment size, floor, end, oldest,
stdin taken, seal. The supervisor writes them through a shared mapping, so that they are right even
if it is killed in the middle of a write to the log; aligned words are read and written in one
piece.

The seal is 0 as long as the log may grow. When it is closed it becomes a checksum of the words that
matter from then on; version 0.1.0 left it at 0 and does not look at it.
"""

from __future__ import annotations

import mmap
import os
from binascii import crc32

MAGIC = int.from_bytes(b"psynclog", "little")
FORMAT = 1
SIZE = 64
NAME = "cursor"

_MAGIC, _FORMAT, _SEGMENT, _FLOOR, _END, _OLDEST, _STDIN_TAKEN, _SEAL = range(8)


class LogDamaged(Exception):
    """A file of the log is missing, shorter than it must be, or not of this format."""


class LogNewer(LogDamaged):
    """The log is of a later format."""


class Cursor:
    """The mapped cursor. Use ``create`` (the supervisor, once) or ``open``.

    Attributes:
        segment: bytes in a full segment; fixed for the run.
    """

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self._words = memoryview(mapping).cast("Q")
        self.segment = self._words[_SEGMENT]

    @classmethod
    def create(cls, run_dir: str, segment: int) -> Cursor:
        """Make the file, all offsets 0, and map it for writing.

        Raises:
            OSError: no space, or the run directory is not writable.
        """
        temporary = f"{run_dir}/.{NAME}.tmp"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # Real bytes: writing to a hole through the mapping kills by SIGBUS on a full disk.
            os.write(fd, bytes(SIZE))
            mapping = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)
        words = memoryview(mapping).cast("Q")
        words[_MAGIC], words[_FORMAT], words[_SEGMENT] = MAGIC, FORMAT, segment
        words.release()
        os.rename(temporary, f"{run_dir}/{NAME}")
        return cls(mapping)

    @classmethod
    def open(cls, run_dir: str) -> Cursor:
        """Map an existing file for reading.

        Raises:
            FileNotFoundError: there is none.
            LogNewer: it is of a later format.
            LogDamaged: it is no cursor.
        """
        path = f"{run_dir}/{NAME}"
        fd = os.open(path, os.O_RDONLY)
        try:
            if os.fstat(fd).st_size != SIZE:
                raise LogDamaged(f"{path} is not {SIZE} bytes long")
            mapping = mmap.mmap(fd, SIZE, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
        words = memoryview(mapping).cast("Q")
        fault = _fault_of(words)
        newer = words[_MAGIC] == MAGIC and words[_FORMAT] > FORMAT
        words.release()
        if fault:
            mapping.close()
            raise (LogNewer if newer else LogDamaged)(f"{path} {fault}")
        return cls(mapping)

    def close(self) -> None:
        """Unmap the file; the object is of no more use."""
        self._words.release()
        self._mapping.close()

    def seal(self) -> None:
        """Take note that segment size, end and oldest byte stay as they are."""
        self._words[_SEAL] = _checksum(self._words)

    @property
    def floor(self) -> int:
        """Output below this offset is not needed by any client."""
        return self._words[_FLOOR]

    @floor.setter
    def floor(self, offset: int) -> None:
        self._words[_FLOOR] = offset

    @property
    def end(self) -> int:
        """The log's length: every byte below it is in the files (unless below ``oldest``)."""
        return self._words[_END]

    @end.setter
    def end(self, offset: int) -> None:
        self._words[_END] = offset

    @property
    def oldest(self) -> int:
        """The first offset that can still be read; always the start of a segment."""
        return self._words[_OLDEST]

    @oldest.setter
    def oldest(self, offset: int) -> None:
        self._words[_OLDEST] = offset

    @property
    def stdin_taken(self) -> int:
        """How many bytes of stdin the program's pipe has taken (or were swallowed)."""
        return self._words[_STDIN_TAKEN]

    @stdin_taken.setter
    def stdin_taken(self, offset: int) -> None:
        self._words[_STDIN_TAKEN] = offset


def _fault_of(words: memoryview[int]) -> str:
    """Say what is wrong with a cursor; nothing if nothing is."""
    if words[_MAGIC] != MAGIC or words[_FORMAT] != FORMAT:
        return f"is no cursor of format {FORMAT}"
    segment, oldest, seal = words[_SEGMENT], words[_OLDEST], words[_SEAL]
    # While it is written, ``end`` is to be read after ``oldest``, which never overtakes it.
    if not segment or oldest % segment or oldest > words[_END]:
        return "is damaged"
    if seal and seal != _checksum(words):
        return "is damaged, or was written after the log was closed"
    return ""


def _checksum(words: memoryview[int]) -> int:
    what = b"".join(words[at].to_bytes(8, "little") for at in (_SEGMENT, _END, _OLDEST))
    return crc32(what) or 1
