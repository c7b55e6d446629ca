"""The public names of the package."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import psync
import psync.errors


def test_every_public_name_resolves() -> None:
    for name in psync.__all__:
        assert getattr(psync, name) is not None
        assert name in dir(psync)


def test_every_error_is_public() -> None:
    for name, value in vars(psync.errors).items():
        if inspect.isclass(value) and issubclass(value, psync.PsyncError):
            assert getattr(psync, name) is value


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_the_kind'"):
        _ = psync.nothing_of_the_kind  # type: ignore[attr-defined]


def test_importing_the_package_imports_none_of_its_modules() -> None:
    code = "import sys, psync; print([m for m in sys.modules if m.startswith('psync.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
