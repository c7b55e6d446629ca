import os

import pytest
from hypothesis import given, strategies as st

from psync.errors import UsageError
from psync.sync.plan import OUTSIDE, TREE, SyncPlan, Tree, mirror_path, plan_sync
from psync.sync.project import Project

PROJECT = Project(id="game-0", root=b"/home/u/game", name="game")

parts = st.sampled_from([b"home", b"u", b"game", b"a", b"b", b"..", b".", b"-x", b"a b", b"\xff\n"])
absolute = st.lists(parts, max_size=6).map(lambda words: b"/" + b"/".join(words))
relative = st.lists(parts, min_size=1, max_size=5).map(b"/".join)


def plan(
    cwd: bytes = PROJECT.root,
    program: bytes | None = None,
    assets: tuple[bytes, ...] = (),
    include: tuple[bytes, ...] = (),
    project: Project = PROJECT,
) -> SyncPlan:
    return plan_sync(project, cwd=cwd, program=program, assets=assets, include=include)


def test_the_program_and_its_assets_keep_their_places() -> None:
    made = plan(program=b"/home/u/game/build/game", assets=(b"assets", b"/usr/share/fonts"))
    assert made.trees == (
        Tree(b"/home/u/game", (b"assets", b"build/game"), TREE),
        Tree(b"/", (b"usr/share/fonts",), OUTSIDE),
    )
    assert made.program == b"tree/build/game"
    assert made.cwd == b"tree"


def test_assets_are_relative_to_the_cwd_and_includes_to_the_root() -> None:
    made = plan(cwd=b"/home/u/game/sub", assets=(b"x", b"../y"), include=(b"x",))
    assert made.trees == (Tree(b"/home/u/game", (b"sub/x", b"x", b"y"), TREE),)
    assert made.cwd == b"tree/sub"


def test_a_bare_command_with_nothing_named_sends_the_whole_tree() -> None:
    assert plan().trees == (Tree(b"/home/u/game", (b".",), TREE),)


def test_a_bare_command_with_an_include_sends_only_that() -> None:
    assert plan(include=(b"data",)).trees == (Tree(b"/home/u/game", (b"data",), TREE),)


def test_what_lies_inside_something_else_is_not_sent_twice() -> None:
    made = plan(assets=(b"a", b"a/b/c", b"a-b", b"a/b", b"./a/"))
    inner = (b"a/b", b"a/b/c")  # but it is known that it was named
    assert made.trees == (Tree(b"/home/u/game", (b"a", b"a-b"), TREE, inner=inner),)


def test_a_program_outside_the_root_goes_to_the_reserved_folder() -> None:
    made = plan(program=b"/nix/store/x/bin/game")
    assert made.trees == (Tree(b"/", (b"nix/store/x/bin/game",), OUTSIDE),)
    assert made.program == b"outside/nix/store/x/bin/game"
    assert made.cwd == b"tree"


def test_patterns_to_leave_out_are_handed_on() -> None:
    made = plan_sync(
        PROJECT, cwd=PROJECT.root, program=None, assets=[], include=[], exclude=[b"*.o"]
    )
    assert made.exclude == (b"*.o",)


def test_a_working_directory_that_nothing_implies_is_made_empty() -> None:
    made = plan(cwd=b"/home/u/game/crates/x", program=b"/home/u/game/target/x")
    assert made.trees == (Tree(b"/home/u/game", (b"target/x",), TREE, empty=(b"crates/x",)),)
    outside = plan(cwd=b"/srv", program=b"/home/u/game/x")
    assert outside.trees[1] == Tree(b"/", (), OUTSIDE, empty=(b"srv",))
    assert outside.cwd == b"outside/srv"


def test_the_home_directory_is_not_sent_whole_by_accident() -> None:
    home = Project(id="u-0", root=b"/home/u", name="u", unbounded=True)
    with pytest.raises(UsageError, match="home directory") as caught:
        plan(cwd=b"/home/u", project=home)
    assert "--no-sync" in caught.value.hint
    assert plan(cwd=b"/home/u", program=b"/home/u/x", project=home).trees[0].entries == (b"x",)


def test_a_relative_path_where_an_absolute_one_belongs_is_refused() -> None:
    with pytest.raises(ValueError, match="absolute"):
        mirror_path(b"/a", b"b")


@given(absolute, absolute)
def test_no_path_leaves_the_mirror(root: bytes, path: bytes) -> None:
    place = mirror_path(root, path)
    assert place.split(b"/")[0] in (TREE, OUTSIDE)
    assert os.path.normpath(place) == place
    assert b".." not in place.split(b"/")


@given(absolute, absolute, absolute)
def test_different_paths_have_different_places(root: bytes, one: bytes, other: bytes) -> None:
    same = os.path.realpath(b"/x" + one) == os.path.realpath(b"/x" + other)
    if not same and os.path.normpath(one).lstrip(b"/") != os.path.normpath(other).lstrip(b"/"):
        assert mirror_path(root, one) != mirror_path(root, other)


@given(absolute, relative, relative)
def test_relative_paths_within_the_root_stay(root: bytes, one: bytes, other: bytes) -> None:
    base = os.path.normpath(b"/" + root.lstrip(b"/"))
    paths = [os.path.normpath(os.path.join(base, path)) for path in (one, other)]
    if all(path == base or path.startswith(base.rstrip(b"/") + b"/") for path in paths):
        here = os.path.relpath(paths[0], paths[1])
        there = os.path.relpath(mirror_path(base, paths[0]), mirror_path(base, paths[1]))
        assert here == there


@given(
    absolute,
    absolute,
    st.none() | absolute,
    st.lists(absolute | relative, max_size=5),
    st.lists(relative, max_size=5),
)
def test_everything_named_is_sent_once_to_its_place(
    root: bytes, cwd: bytes, program: bytes | None, assets: list[bytes], include: list[bytes]
) -> None:
    project = Project(id="p-0", root=os.path.normpath(b"/" + root.lstrip(b"/")), name="p")
    made = plan_sync(project, cwd=cwd, program=program, assets=assets, include=include)

    sent = {}
    for tree in made.trees:
        for entry in tree.entries:
            source = os.path.normpath(os.path.join(tree.base, entry))
            place = os.path.normpath(os.path.join(tree.destination, entry))
            assert b".." not in entry.split(b"/")
            assert not entry.startswith(b"/")
            assert place == mirror_path(project.root, source)
            sent[source] = place

    wanted = [os.path.join(b"/", cwd, path) for path in assets]
    wanted += [os.path.join(project.root, path) for path in include]
    wanted += [program] if program is not None else []
    if not wanted:
        wanted = [project.root]
    for path in wanted:
        normal = os.path.normpath(b"/" + path.lstrip(b"/"))
        holders = [
            source
            for source in sent
            if normal == source or normal.startswith(source.rstrip(b"/") + b"/")
        ]
        # once, except that a directory above the root holds the root's tree too
        inside = mirror_path(project.root, normal).startswith(TREE)
        ours = [s for s in holders if sent[s].startswith(TREE) == inside]
        assert len(ours) == 1

    again = plan_sync(
        project, cwd=cwd, program=program, assets=assets[::-1] * 2, include=include[::-1]
    )
    assert again == made
