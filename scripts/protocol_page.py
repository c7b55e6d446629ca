"""Write docs/protocol.md from the declarations of the messages, so that the two cannot differ.

python scripts/protocol_page.py          write the page
python scripts/protocol_page.py --check  exit 1 if the page is not what it should be
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from psync.model import ExitStatus, RunSpec, RunState, Stream
from psync.protocol import messages as m
from psync.protocol.codec import HEADER, MAX_MESSAGE, encode

PAGE = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"

_CLIENT = frozenset(cls.__name__ for cls in m.FROM_CLIENT)
_DAEMON = frozenset(cls.__name__ for cls in m.FROM_DAEMON)


def page() -> str:
    """Return the text of the page."""
    return "\n".join([_head(), *_tables(), _limits(), _example()])


def _head() -> str:
    layout = inspect.getdoc(m) or ""
    _title, _, layout = layout.partition("\n\n")
    before, _, rest = layout.partition("\n\n    offset")
    table, _, after = ("    offset" + rest).partition("\n\nAll numbers")
    return (
        "# psync.v1\n\n"
        "<!-- made by scripts/protocol_page.py from src/psync/protocol/messages.py -->\n\n"
        f"A TLS 1.3 websocket with certificates on both sides carries it, subprotocol\n"
        f"`{m.SUBPROTOCOL}`, compression off. {before}\n\n"
        f"```text\n{inspect.cleandoc(table)}\n```\n\n"
        f"All numbers{after}\n"
    )


def _tables() -> list[str]:
    rows = [
        "## Messages\n",
        "| Type | Message | Said by | Meaning | Fields |",
        "|---|---|---|---|---|",
    ]
    for cls in sorted(m.Message.__args__, key=lambda cls: int(cls.TYPE)):
        speakers = [
            side
            for side, said in (("client", _CLIENT), ("daemon", _DAEMON))
            if cls.__name__ in said
        ]
        meaning = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
        meaning = meaning.replace("``", "`")
        fields = ", ".join(f"`{name}`" for name in cls.__struct_fields__) or "none"
        cells = (f"`0x{cls.TYPE:02x}`", f"`{cls.__name__}`", ", ".join(speakers), meaning, fields)
        rows.append(f"| {' | '.join(cells)} |")
    rows.append("\nWhat each field means stands in the docstrings of `psync.protocol.messages`.\n")
    return rows


def _limits() -> str:
    return (
        "## Limits\n\n"
        f"* {m.MAX_DATA} bytes of payload in a `Data` message, {m.MAX_PIECE} to a peer that says\n"
        f"  in its hello that it takes as much; {m.MAX_CONTROL} in a JSON one; no message over\n"
        f"  {MAX_MESSAGE} bytes.\n"
        f"* Output: {m.WINDOW_OUTPUT} unacknowledged bytes per channel; stdin: {m.WINDOW_STDIN}.\n"
        f"* A ping after {m.HEARTBEAT_INTERVAL:.0f} s of silence; dead after "
        f"{m.HEARTBEAT_TIMEOUT:.0f} s; hello within {m.HELLO_TIMEOUT:.0f} s.\n"
    )


def _example() -> str:
    start = m.Start(
        channel=1,
        request_id="Zm9yIHRoZSBleGFtcGxl",
        spec=RunSpec(argv=(b"./game",), program=b"tree/game", cwd=b"tree", project="game-1"),
    )
    lines = [
        "## An example\n",
        "A client starts `./game`, gets six bytes of output, acknowledges them, learns the end.",
        "`C` is the client, `D` the daemon; the header in hexadecimal, then the payload.\n",
        "```text",
    ]
    said: list[tuple[str, m.Message]] = [
        ("C", start),
        ("D", m.Attached(channel=1, run="4f1c09ab3e", state=RunState.RUNNING, stdin=0)),
        ("D", m.Data(1, Stream.STDOUT, 0, b"hello\n")),
        ("C", m.Ack(1, 6)),
        ("D", m.Exited(channel=1, end=6, status=ExitStatus(code=0))),
    ]
    for side, message in said:
        raw = encode(message)
        shown = raw[HEADER.size :].decode() if not isinstance(message, m.Data) else "hello\\n"
        lines.append(f"{side} {raw[: HEADER.size].hex(' ')}  {shown}".rstrip())
    return "\n".join([*lines, "```", ""])


def main() -> int:
    """Write or check the page."""
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.read_text() == page() else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
