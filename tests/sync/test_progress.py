import itertools

from hypothesis import given, strategies as st

from psync.sync.progress import OutputParser, Progress

# As rsync 3.5 prints it through a pipe; the middle of a long transfer is shortened.
OUTPUT = (
    b'skipping non-regular file "assets/fifo"\n'
    b'ignoring unsafe symlink "a\\#012b" -> "/etc/passwd"\n'
    b"build/game\n"
    b"\r         32,768   0%    0.00kB/s    0:00:00  "
    b"\r          32768   1%    0.00kB/s    0:00:00  "
    b"\r        2097152  66%    1.50MB/s    0:00:01  "
    b"\r        3145728 100%    2.00GB/s    0:00:02 (xfr#2, to-chk=3/10)\n"
    b"\nNumber of files: 10 (reg: 6, dir: 4)\n"
    b"Number of created files: 1 (reg: 1)\n"
    b"Number of regular files transferred: 2\n"
    b"Total file size: 3145728 bytes\n"
    b"Total bytes sent: 3146900\n"
    b"Total bytes received: 54\n"
)


def test_progress_statistics_and_warnings() -> None:
    parser = OutputParser()
    parser.feed(OUTPUT)
    assert parser.files == 2
    assert parser.bytes_sent == 3146900
    assert parser.warnings == [
        "not sent: assets/fifo is not a regular file",
        "not sent: the link a\\nb -> /etc/passwd leaves the project",
    ]
    assert parser.progress == Progress(
        bytes=3145728, percent=100, rate=2 * 2**30, files=2, checked=7, total=10
    )


def test_progress_within_a_file_keeps_the_count_of_files() -> None:
    parser = OutputParser()
    parser.feed(b"\r 5 1% 0.00kB/s 0:00:00 (xfr#4, ir-chk=2/9)\r 6 2% 1.00kB/s 0:00:00\r")
    assert parser.progress == Progress(bytes=6, percent=2, rate=1024, files=4, checked=7, total=9)


@given(st.lists(st.integers(0, len(OUTPUT)), max_size=20))
def test_pieces_of_any_size_mean_the_same(cuts: list[int]) -> None:
    whole, pieces = OutputParser(), OutputParser()
    whole.feed(OUTPUT)
    edges = [0, *sorted(cuts), len(OUTPUT)]
    for start, end in itertools.pairwise(edges):
        pieces.feed(OUTPUT[start:end])
    assert pieces.progress == whole.progress
    assert pieces.warnings == whole.warnings
    assert (pieces.files, pieces.bytes_sent) == (whole.files, whole.bytes_sent)


@given(st.lists(st.binary(), max_size=20))
def test_nothing_it_prints_breaks_the_parser(chunks: list[bytes]) -> None:
    parser = OutputParser()
    for chunk in chunks:
        parser.feed(chunk)
    assert all(warning.isprintable() for warning in parser.warnings)


def test_a_line_without_end_needs_no_memory() -> None:
    parser = OutputParser()
    for _ in range(100):
        parser.feed(b"x" * 65536)
    assert len(parser._rest) <= 65536
