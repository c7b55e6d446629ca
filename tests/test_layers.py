"""Who may import whom: the design's rules, read from the sources and from a started interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent.parent / "src" / "psync"

MODEL = {"errors", "model", "text", "paths"}

# Part of psync -> the parts it may import, besides itself. Whoever adds a part says here where it
# belongs. "" is the package itself: lazy, so that it may hold the public names.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "model": {"errors"},
    "text": {"errors"},
    "paths": {"errors"},
    "terminal": set(),
    "protocol": MODEL,
    "transport": MODEL | {"protocol"},
    "sync": MODEL | {"protocol"},
    "client": MODEL | {"protocol", "transport", "sync"},
    "daemon": MODEL | {"protocol", "transport", "sync", "supervisor"},
    "supervisor": set(),
    "config": MODEL,
    "cli": MODEL
    | {"api", "client", "config", "daemon", "protocol", "supervisor", "sync", "terminal"}
    | {"transport"},
    "api": MODEL | {"client", "config"},
    "": {"errors", "model", "sync", "client", "api"},
}

# These compute and do nothing else.
PURE = ("psync.errors", "psync.model", "psync.protocol", "psync.sync.plan")
IMPURE = {
    *("asyncio", "datetime", "fcntl", "io", "mmap", "multiprocessing", "os", "pathlib", "picows"),
    *("random", "select", "selectors", "shutil", "socket", "ssl", "subprocess", "sys", "tempfile"),
    *("threading", "time"),
}
IMPURE_CALLS = {"open", "print", "input", "exit"}


def part_of(module: str) -> str:
    """``psync.sync.plan`` is of the part ``sync``."""
    return [*module.split("."), ""][1]


def module_name(path: Path, root: Path) -> str:
    parts = ["psync", *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, package: str) -> Iterator[tuple[int, str]]:
    """Every import in the file, also inside functions, as line and absolute name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                # `from psync import client` imports a part, `from psync import __version__` none.
                from_top = base == "psync" and not alias.name.startswith("__")
                yield node.lineno, f"psync.{alias.name}" if from_top else base


def violations(root: Path) -> list[str]:
    """Check every module below ``root``, which holds the package psync; one line for each fault."""
    found = []
    for path in sorted(root.rglob("*.py")):
        module = module_name(path, root)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        part = part_of(module)
        where = path.relative_to(root)
        if part not in ALLOWED:
            found.append(f"{where}: the part {part!r} has no place in the table of layers")
            continue
        tree = ast.parse(path.read_bytes(), str(path))
        pure = any(f"{module}.".startswith(f"{name}.") for name in PURE)
        for line, name in imports(tree, module, package):
            top = name.partition(".")[0]
            other = part_of(name)
            if top == "psync":
                bare = name == "psync" and part != "supervisor"
                if other != part and not bare and other not in ALLOWED[part]:
                    found.append(f"{where}:{line}: {part or 'psync'} imports {name}")
            elif part == "supervisor" and top not in sys.stdlib_module_names:
                found.append(f"{where}:{line}: the supervisor imports {name}, not of the library")
            elif pure and top in IMPURE and name != "os.path":
                found.append(f"{where}:{line}: {module} does no I/O, but imports {name}")
        if pure:
            found += [
                f"{where}:{node.lineno}: {module} does no I/O, but calls {node.func.id}"
                for node in ast.walk(tree)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in IMPURE_CALLS
            ]
    return found


def test_the_layers_hold() -> None:
    assert violations(SOURCES) == []


def test_the_whole_package_is_read() -> None:
    assert {"errors.py", "model.py", "paths.py"} <= {path.name for path in SOURCES.glob("*.py")}


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("client/a.py", "import psync.daemon.runs", "client imports psync.daemon.runs"),
        ("daemon/a.py", "from psync.client import x", "daemon imports psync.client"),
        ("daemon/a.py", "from ..client import x", "daemon imports psync.client"),
        ("daemon/a/b.py", "from ...client.c import x", "daemon imports psync.client.c"),
        ("daemon/__init__.py", "from ..client import x", "daemon imports psync.client"),
        ("sync/a.py", "from .. import transport", "sync imports psync.transport"),
        ("sync/a.py", "from psync import connect", "sync imports psync.connect"),
        ("transport/a.py", "def f():\n    from psync.sync import rsync", "imports psync.sync"),
        ("protocol/a.py", "import psync.transport.tls", "protocol imports psync.transport.tls"),
        ("model.py", "from psync.protocol import x", "model imports psync.protocol"),
        ("errors.py", "import psync.model", "errors imports psync.model"),
        ("client/a.py", "from psync.config import load_client", "client imports psync.config"),
        ("client/a.py", "import psync.cli.main", "client imports psync.cli.main"),
        ("config/a.py", "import psync.client", "config imports psync.client"),
        ("supervisor/a.py", "import psync.errors", "supervisor imports psync.errors"),
        ("supervisor/a.py", "from psync import __version__", "supervisor imports psync"),
        ("supervisor/a.py", "import msgspec", "the supervisor imports msgspec"),
        ("client/a.py", "import psync.supervisor.log", "client imports psync.supervisor.log"),
        ("protocol/a.py", "def f():\n    import asyncio", "does no I/O, but imports asyncio"),
        ("protocol/a.py", "from time import monotonic", "does no I/O, but imports time"),
        ("model.py", "import os", "does no I/O, but imports os"),
        ("sync/plan.py", "from pathlib import Path", "does no I/O, but imports pathlib"),
        ("sync/plan/a.py", "x = open('file')", "does no I/O, but calls open"),
        ("other/a.py", "", "the part 'other' has no place"),
    ],
)
def test_a_violation_is_caught(tmp_path: Path, file: str, text: str, fault: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    (found,) = violations(tmp_path)
    assert file in found
    assert fault in found


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("daemon/a.py", "from psync import __version__\nimport psync.supervisor.log"),
        ("sync/plan.py", "import posixpath, os.path\nfrom .other import x"),
        ("sync/planner.py", "import os"),
        ("supervisor/a.py", "import os, struct\nfrom . import wire\nimport psync.supervisor.log"),
        ("cli/a.py", "import psync.daemon.serve, psync.client, psync.config, rich"),
        ("__init__.py", "from psync.client import connect"),
    ],
)
def test_what_is_allowed_is_not_caught(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert violations(tmp_path) == []


HEAVY = {"asyncio", "ssl", "picows", "cryptography", "rich", "tomlkit"}

# Entry module -> what its import must not bring along: start-up time is a feature.
STARTS_WITHOUT: dict[str, set[str]] = {
    "psync": HEAVY | {"msgspec", "typing", "re", "subprocess"},
    "psync.errors": HEAVY | {"msgspec", "subprocess"},
    "psync.model": HEAVY | {"subprocess"},
    "psync.text": HEAVY | {"subprocess"},
    "psync.paths": HEAVY | {"subprocess", "pwd"},
    "psync.sync.plan": HEAVY | {"subprocess"},
    "psync.config": HEAVY | {"subprocess", "tomllib", "difflib", "shlex", "ipaddress", "fcntl"},
}


@pytest.mark.parametrize("entry", STARTS_WITHOUT)
def test_start_up_imports_nothing_heavy(entry: str) -> None:
    # What site-packages bring to every interpreter by themselves does not count.
    code = f"import sys; before = set(sys.modules); import {entry}; print(*set(sys.modules)-before)"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert entry in loaded
    assert loaded & STARTS_WITHOUT[entry] == set()
