"""What is sent, given what is known of both sides."""

import stat

from hypothesis import given, strategies as st

from psync.protocol.transfers import MOST_NAMES
from psync.sync.keeper import Checked
from psync.sync.known import Known
from psync.sync.listing import Stat
from psync.sync.plan import Tree
from psync.sync.selection import Part, Selection, merge, select

FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755


def file(size: int = 10, mtime: int = 1, ctime: int = 1, inode: int = 1) -> Stat:
    return (FILE, size, mtime, ctime, inode)


def part(stats: dict[bytes, Stat], links: tuple[bytes, ...] = ()) -> Part:
    entries = tuple(sorted(n for n, s in stats.items() if len(s) != 1 and n not in links))
    return Part(Tree(b"/base", (b".",), b"tree"), entries, links, stats)


def chosen(selection: Selection) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """What is sent by size and time, by content, and through a link."""
    plain, checked, followed = (
        [name for tree in trees for name in tree.entries]
        for trees in (selection.plain, selection.checked, selection.followed)
    )
    assert all(tree.checksum for tree in selection.checked)
    assert all(tree.follow for tree in selection.followed)
    return plain, checked, followed


HOLDS = Checked(known=True)


def known(stats: dict[bytes, Stat]) -> Known:
    return Known("seal", "", {b"tree": stats})


def test_nothing_known_sends_all_that_is_listed() -> None:
    stats = {b"a": file(), b"d": (DIRECTORY,), b"d/b": file()}
    selection = select([part(stats)], Known(), Checked())
    assert chosen(selection) == ([b"a", b"d/b"], [], [])
    assert not selection.partial
    assert selection.size == 20


def test_nothing_changed_sends_nothing() -> None:
    stats = {b"a": file(), b"d": (DIRECTORY,)}
    selection = select([part(stats)], known(stats), HOLDS)
    assert selection.empty
    assert selection.partial
    assert selection.names == ()


def test_what_changed_here_is_sent() -> None:
    before = {b"a": file(), b"b": file(), b"d": (DIRECTORY,)}
    now = {**before, b"a": file(size=11, mtime=2, ctime=2), b"new": file()}
    selection = select([part(now)], known(before), HOLDS)
    assert chosen(selection) == ([b"a", b"new"], [], [])
    assert set(selection.names) == {b"tree/a", b"tree/new"}
    assert selection.size == 21


def test_a_directory_with_another_mode_is_sent() -> None:
    before: dict[bytes, Stat] = {b"d": (DIRECTORY,)}
    selection = select([part({b"d": (DIRECTORY | 0o20,)})], known(before), HOLDS)
    assert chosen(selection) == ([b"d"], [], [])


def test_size_and_time_that_do_not_tell_are_not_believed() -> None:
    before = {b"a": file(), b"b": file(), b"young": ()}
    now = {b"a": file(ctime=9), b"b": file(inode=9), b"young": file()}
    assert chosen(select([part(now)], known(before), HOLDS)) == ([], [b"a", b"b", b"young"], [])
    # nor where the mirror is unknown
    assert chosen(select([part(now)], known(before), Checked()))[1] == [b"a", b"b", b"young"]


def test_what_changed_there_is_compared_by_content() -> None:
    stats = {b"a": file(), b"b": file()}
    checked = Checked(known=True, changed=(b"tree/a", b"tree/save", b"outside/b"))
    assert chosen(select([part(stats)], known(stats), checked)) == ([], [b"a"], [])


def test_a_mirror_in_which_much_changed_is_compared_by_content() -> None:
    stats = {b"a": file(), b"b": file()}
    selection = select([part(stats)], known(stats), Checked(known=True, many=True))
    assert chosen(selection) == ([], [b"a", b"b"], [])
    assert not selection.partial


def test_more_than_can_be_named_sends_all_of_it() -> None:
    """What else was changed there meanwhile, nobody would notice any more."""
    stats = {b"%d" % number: file() for number in range(MOST_NAMES + 10)}
    before = {b"0": file(), b"1": file(), b"2": file(ctime=9)}
    checked = Checked(known=True, changed=(b"tree/1",))
    selection = select([part(stats)], known(before), checked)
    assert not selection.partial
    plain, compared, _ = chosen(selection)
    assert compared == [b"1", b"2"]
    assert len(plain) == len(stats) - 2
    few = {name: stats[name] for name in list(stats)[:5]}
    gone = [b"tree/gone%d" % number for number in range(MOST_NAMES)]
    assert select([part(few)], known(few), HOLDS).partial
    assert not select([part(few)], known(few), HOLDS, gone=(*gone, b"tree/x")).partial


def test_checksum_compares_everything() -> None:
    stats = {b"a": file(), b"b": file()}
    selection = select([part(stats)], known(stats), HOLDS, checksum=True)
    assert chosen(selection) == ([], [b"a", b"b"], [])


def test_links_that_were_named_are_followed() -> None:
    stats: dict[bytes, Stat] = {b"a": file(), b"to-file": file(), b"to-directory": ()}
    one = part(stats, (b"to-file", b"to-directory"))
    assert chosen(select([one], Known(), Checked()))[2] == [b"to-directory", b"to-file"]
    # what a directory behind a link holds, nobody has looked at
    assert chosen(select([one], known(stats), HOLDS))[2] == [b"to-directory"]


def test_other_files_that_other_commands_sent_stay_known() -> None:
    before = known({b"a": file(), b"gone": file(), b"b": file()})
    parts = merge(
        before, {b"tree": {b"b": file(size=5)}, b"outside": {b"x": file()}}, [b"tree/gone"]
    )
    assert parts == {b"tree": {b"a": file(), b"b": file(size=5)}, b"outside": {b"x": file()}}
    assert before.parts == parts


stats_of = st.dictionaries(
    st.binary(min_size=1, max_size=3).filter(lambda n: b"/" not in n and b"\0" not in n),
    st.builds(file, *[st.integers(0, 2)] * 4) | st.just(()) | st.just((DIRECTORY,)),
    max_size=6,
)


@given(stats_of, stats_of)
def test_whatever_differs_is_sent_and_nothing_else(
    before: dict[bytes, Stat], now: dict[bytes, Stat]
) -> None:
    selection = select([part(now)], known(before), HOLDS)
    sent = [name for names in chosen(selection) for name in names]
    assert len(sent) == len(set(sent))
    assert set(sent) == {name for name, one in now.items() if not one or before.get(name) != one}
