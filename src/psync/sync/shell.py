"""Words quoted for a remote shell, and for rsync's own idea of one."""

from __future__ import annotations

import re


def quote(word: bytes) -> bytes:
    """Return ``word`` so that a remote shell of any kind takes it as one word (``shlex.quote``)."""
    if re.fullmatch(rb"[A-Za-z0-9_@%+=:,./-]+", word):
        return word
    return b"'" + word.replace(b"'", b"'\"'\"'") + b"'"


def rsh_word(word: bytes) -> bytes:
    """Quote a word for rsync's parser of ``-e``: quotes, doubled inside, and no backslashes."""
    if re.fullmatch(rb"[^\s'\"]+", word):
        return word
    return b"'" + word.replace(b"'", b"''") + b"'"
