import itertools

from hypothesis import given, strategies as st

from psync.sync.progress import OutputParser, Progress, Tally

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
    b"Total transferred file size: 3145728 bytes\n"
    b"Literal data: 1048576 bytes\n"
    b"Total bytes sent: 3146900\n"
    b"Total bytes received: 54\n"
)


def test_progress_statistics_and_warnings() -> None:
    parser = OutputParser()
    parser.feed(OUTPUT)
    assert parser.files == 2
    assert parser.bytes_sent == 3146900
    assert (parser.content, parser.literal, parser.created) == (3145728, 1048576, True)
    assert parser.warnings == [
        "not sent: assets/fifo is not a regular file",
        "not sent: the link a\\nb -> /etc/passwd leaves the project",
    ]
    assert parser.progress == Progress(
        bytes=3145728,
        percent=100,
        rate=2 * 2**30,
        files=2,
        checked=7,
        total=10,
        file=b"build/game",
    )


def test_progress_within_a_file_keeps_the_count_of_files() -> None:
    parser = OutputParser()
    parser.feed(b"\r 5 1% 0.00kB/s 0:00:00 (xfr#4, ir-chk=2/9)\r 6 2% 1.00kB/s 0:00:00\r")
    assert parser.progress == Progress(bytes=6, percent=2, rate=1024, files=4, checked=7, total=9)


def sent_names(*lines: bytes) -> list[bytes]:
    """Return the file of each progress that is told while rsync prints lines and progress."""
    parser = OutputParser()
    found = []
    for line in lines:
        parser.feed(line + b"\n\r 5 1% 0.00kB/s 0:00:00\r 5 1% 0.00kB/s 0:00:00\n")
        assert parser.progress is not None
        found.append(parser.progress.file)
    return found


def test_the_current_file_is_told_and_directories_and_links_are_none() -> None:
    assert sent_names(b"a file", b"dir/", b"link -> a file", b"b\\#012\\#377\xff") == [
        b"a file",
        b"a file",
        b"a file",
        b"b\n\xff\xff",
    ]


def test_a_name_that_looks_like_progress_is_a_name() -> None:
    parser = OutputParser()
    parser.feed(b"      7 5% 1.00kB/s 0:00:01\n\r 9 6% 1.00kB/s 0:00:01\n")
    parser.feed(b"x\n")
    assert parser.progress is not None
    assert parser.progress.bytes == 9
    assert parser.progress.file == b"      7 5% 1.00kB/s 0:00:01"


def test_what_is_printed_at_the_end_is_no_name() -> None:
    assert sent_names(b"a", b"\nNumber of files: 1 (reg: 1)\nsent 5 bytes", b"total size is 5") == [
        b"a",
        b"a",
        b"a",
    ]


def test_nothing_was_created_where_rsync_does_not_say_so() -> None:
    parser = OutputParser()
    parser.feed(b"Number of created files: 0\nNumber of regular files transferred: 1\n")
    assert not parser.created


def test_transfers_are_added_up() -> None:
    told: list[Progress] = []
    tally = Tally(told.append, 1000)
    first, second = tally.transfer(), tally.transfer()
    first(Progress(100, 10, 50.0, 1, 2, 4, b"a"))
    second(Progress(300, 30, 25.0, 2, 3, 6, b"b"))
    assert told[-1] == Progress(400, 10, 75.0, 3, 5, 10, b"b", 1000)
    assert told[-1].left == 8.0
    third = tally.transfer()
    first(Progress(200, 100, 50.0))
    second(Progress(500, 100, 25.0))
    third(Progress(10, 5, 10.0))
    assert told[-1].bytes == 710
    assert told[-1].rate == 10.0  # of what goes on


def test_more_than_was_expected_makes_the_end_unknown() -> None:
    told: list[Progress] = []
    report = Tally(told.append, 100).transfer()
    report(Progress(101, 50, 5.0))
    assert (told[-1].expected, told[-1].left) == (None, None)


def test_without_a_rate_nobody_knows_how_long() -> None:
    assert Progress(1, 1, 0.0, expected=100).left is None


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
