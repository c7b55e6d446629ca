import shlex
import subprocess

from hypothesis import given, settings, strategies as st

from psync.sync.shell import quote, rsh_word

words = st.binary().filter(lambda word: b"\0" not in word)


@settings(max_examples=30)
@given(st.lists(words, max_size=4))
def test_a_shell_gets_the_words_as_they_are(given_words: list[bytes]) -> None:
    command = b"printf '%s\\0' " + b" ".join(map(quote, given_words))
    output = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, check=True).stdout
    assert output.split(b"\0")[:-1] == (given_words or [b""])


@given(st.text(alphabet=st.characters(max_codepoint=126)))
def test_it_is_shlex_for_bytes(word: str) -> None:
    assert shlex.split(quote(word.encode()).decode()) == [word]


def split_as_rsync(line: bytes) -> list[bytes]:
    """The parser of -e in rsync's main.c, do_cmd()."""
    found: list[bytes] = []
    at = 0
    while at < len(line):
        if line[at : at + 1] == b" ":
            at += 1
            continue
        word, quoted = b"", b""
        while at < len(line) and (line[at : at + 1] != b" " or quoted):
            char = line[at : at + 1]
            if char in (b"'", b'"'):
                if not quoted:
                    quoted = char
                    at += 1
                    continue
                if char == quoted:
                    at += 1
                    if line[at : at + 1] != quoted:
                        quoted = b""
                        continue
            word += line[at : at + 1]
            at += 1
        found.append(word)
    return found


@given(st.lists(words, max_size=4))
def test_rsync_gets_the_words_as_they_are(given_words: list[bytes]) -> None:
    assert split_as_rsync(b" ".join(map(rsh_word, given_words))) == given_words
