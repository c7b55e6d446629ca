"""Imports that are left out are left out, and nobody is kept from them afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("call", "wanted", "left_out"),
    [
        ("import_msgspec", "msgspec", "typing_extensions"),
        ("import_picows", "picows", "python_socks"),
    ],
)
def test_what_is_left_out_can_still_be_imported(call: str, wanted: str, left_out: str) -> None:
    code = f"""
import sys
from psync.cli.imports import {call}
{call}()
{call}()
print({wanted!r} in sys.modules, {left_out!r} in sys.modules)
import {left_out}
print({left_out}.__file__.endswith("__init__.py") or {left_out}.__file__.endswith("extensions.py"))
"""
    assert run(code).split() == ["True", "False", "True"]


def test_a_picows_that_wants_more_gets_the_real_thing(tmp_path: Path) -> None:
    (tmp_path / "picows").mkdir()
    (tmp_path / "picows" / "__init__.py").write_text("from python_socks import ProxyType\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from psync.cli.imports import import_picows
import_picows()
print("picows" in sys.modules)
import picows
print(picows.ProxyType.__module__.startswith("python_socks"))
"""
    assert run(code).split() == ["False", "True"]


def test_the_library_imports_everything_as_it_is() -> None:
    code = "import sys, psync; psync.connect; import picows; print('python_socks' in sys.modules)"
    assert run(code) == "True"
