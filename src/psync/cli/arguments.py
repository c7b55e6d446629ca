"""What the parsers of all commands share."""

from __future__ import annotations

import argparse
import os
from typing import NoReturn

from psync.cli.output import show
from psync.errors import UsageError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are psync's own, in one line.

    Args:
        command: the command's name, ``psync COMMAND``.
        usage: what follows it.
        description: what the command does.
    """

    def __init__(self, command: str, usage: str, description: str) -> None:
        super().__init__(
            prog=f"psync {command}",
            usage=f"psync {command} {usage}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def _print_message(self, message: str, file: object = None) -> None:
        """Print the help text as everything else is printed; argparse would hide a failure."""
        show(message)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print and exit with."""
        raise UsageError(message, hint=f"see {self.prog} --help")


def path(word: str) -> bytes:
    """Return a path from the command line; an empty one is some variable that is not set."""
    if not word:
        raise argparse.ArgumentTypeError("must not be empty")
    return os.fsencode(word)


def add_target_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--on`` to a parser or a group."""
    parser.add_argument(
        "--on", metavar="TARGET", help="the target (default: PSYNC_TARGET, psync.toml, local)"
    )


def add_sync_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which project and which files."""
    parser.add_argument(
        "-A",
        "--assets",
        metavar="PATH",
        action="append",
        default=[],
        type=path,
        help="send this file or directory too (repeatable)",
    )
    parser.add_argument(
        "--project",
        metavar="DIR",
        type=path,
        help="the project's root (default: nearest psync.toml, VCS root, the program's directory)",
    )
    parser.add_argument(
        "--checksum",
        action="store_true",
        help="compare all files by content, whatever their size and time say",
    )
    parser.add_argument(
        "--strip",
        metavar="debug|none",
        help="send copies without what only debuggers need, of PROGRAM, or with psync sync of the "
        "programs that are named (default: none)",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say more about what is being done"
    )


def add_escape_option(parser: argparse.ArgumentParser) -> None:
    """Add ``-E``; the value is one byte, or None for none."""
    parser.add_argument(
        "-E",
        "--escape",
        metavar="CHAR|none",
        type=_escape,
        default=b"~",
        help="the escape character on a terminal, such as ^] (default: ~)",
    )


def _escape(word: str) -> bytes | None:
    from psync.client.escape import parse_escape

    return parse_escape(word)
