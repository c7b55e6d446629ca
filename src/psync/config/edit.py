"""Writing targets into the user's configuration, leaving the rest of the file as it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from psync.config import client_schema, values
from psync.config.layers import dotted, shown_path, text_layer
from psync.errors import ConfigError
from psync.paths import home_directory, private_directory, write_atomic

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


def add_target(path: str, name: str, settings: Mapping[str, str]) -> None:
    """Write ``[targets.NAME]`` into the configuration file ``path``, which need not exist.

    A target of that name keeps the settings that are not given here; comments and order stay. The
    file is replaced whole and afterwards is readable by its owner alone.

    Args:
        path: the user's configuration file.
        name: a name that a target can have.
        settings: ``host``, ``ssh``, ``connect``, ``address``, ``transport``, each as it would stand
            in the file.

    Raises:
        UsageError: ``name`` cannot name a target.
        ConfigError: the file is not right as it stands, a setting is wrong, or the file cannot be
            written. It is left as it was.
    """
    values.target_name(name)

    def change(document: TOMLDocument) -> bool:
        import tomlkit
        from tomlkit.items import InlineTable

        if "targets" not in document:
            document["targets"] = tomlkit.table(is_super_table=True)
        targets = document["targets"]
        if name not in targets:
            inline = isinstance(targets, InlineTable)
            targets[name] = tomlkit.inline_table() if inline else tomlkit.table()
        for key, value in settings.items():
            targets[name][key] = value
        return True

    _edit(path, name, change)


def remove_target(path: str, name: str) -> bool:
    """Remove ``[targets.NAME]`` from the configuration file ``path``; return whether it was there.

    Raises:
        ConfigError: the file is not right as it stands, or cannot be written. It is left as it was.
    """

    def change(document: TOMLDocument) -> bool:
        targets = document.get("targets", {})
        if name not in targets:
            return False
        del targets[name]
        return True

    return _edit(path, name, change)


def _edit(path: str, name: str, change: Callable[[TOMLDocument], bool]) -> bool:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    key = f"targets.{dotted((name,))}"
    path = os.path.realpath(path)  # people keep their configuration elsewhere and link to it
    home = home_directory(os.environ)
    shown = shown_path(path, home)
    schema = client_schema(values.command, home)
    with _locked(path):
        data = _read(path, shown)
        text_layer(data, shown, schema)
        try:
            # A new table goes to the end, after an empty line.
            document = tomlkit.parse(data.rstrip() + b"\n\n" if data.strip() else b"")
            if not change(document):
                return False
            new = tomlkit.dumps(document).rstrip().encode() + b"\n"
        except (TOMLKitError, TypeError, KeyError, ValueError) as error:
            raise ConfigError(
                f"{shown}: {key}: cannot be changed in the way this file is written ({error})",
                hint="change it by hand",
            ) from error
        # What is written must be right too, whatever was given and whatever the library did.
        text_layer(new, shown, schema)
        if _others(data, name) != _others(new, name):
            raise ConfigError(
                f"{shown}: {key}: cannot be changed without changing the rest of this file",
                hint="change it by hand",
            )
        try:
            write_atomic(path, new)
        except OSError as error:
            raise ConfigError(f"{shown}: cannot write it: {error.strerror}") from error
    return True


def _others(data: bytes, name: str) -> dict[str, Any]:
    """Return all that a file says, without the target ``name``."""
    import tomllib

    document = tomllib.loads(data.decode())
    targets = document.pop("targets", {})
    targets.pop(name, None)
    return {**document, "targets": targets}


def _read(path: str, shown: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigError(f"{shown}: cannot read it: {error.strerror}") from error


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Let one psync at a time read, change and replace the file ``path``.

    The lock is on the file's directory, because the file itself is replaced.
    """
    import fcntl

    directory = os.open(private_directory(os.path.dirname(path)), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
