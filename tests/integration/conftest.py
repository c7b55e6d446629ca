"""Fixtures of the tests that put everything together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.field import Field


@pytest.fixture(scope="module")
def paired() -> Iterator[Field]:
    """A paired daemon host for tests that leave it as it was."""
    with Field() as field:
        field.pair()
        yield field


@pytest.fixture
def field() -> Iterator[Field]:
    """A daemon host of this test's own, not yet paired."""
    with Field() as field:
        yield field


@pytest.fixture
def alone() -> Iterator[Field]:
    """A client with no daemon host at all."""
    with Field(sshd=False) as field:
        yield field
