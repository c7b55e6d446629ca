"""The page about the protocol says what the declarations say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_declarations_make() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "scripts/protocol_page.py", "--check"], check=False
    )
    assert checked.returncode == 0, "run python scripts/protocol_page.py and commit the page"
