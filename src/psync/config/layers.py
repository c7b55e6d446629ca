"""One layer of configuration: a TOML file checked against a table of known keys, or single values.

A layer is flat: ``("sync", "include") -> value``, converted to its final type, and knows where each
value came from. Everything unknown or wrong is a ``ConfigError`` that names file, line and key.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

from psync.errors import ConfigError, UsageError

Key = tuple[str, ...]
Convert = Callable[[Any], Any]
# Names to converters or, for a table, to another schema. In a table whose keys are the user's to
# choose, Names holds what checks a name; its other half says what stands under each.
Schema = dict[str, "Convert | Schema | Names"]


class Names:
    """A table whose keys the user chooses: ``check`` for each key, ``then`` for what it holds."""

    def __init__(self, check: Convert, then: Convert | Schema) -> None:
        self.check = check
        self.then = then


class Layer:
    """Values by key, and where each came from.

    Attributes:
        values: the converted values; only keys that were given.
        tables: the tables of a file, the empty ones too.
    """

    def __init__(self, origin: Callable[[Key], str]) -> None:
        self.values: dict[Key, Any] = {}
        self.tables: set[Key] = set()
        self.origin = origin


def file_layer(path: str, shown: str, schema: Schema) -> Layer | None:
    """Read the TOML file ``path``; None when there is none.

    Args:
        path: the file.
        shown: its name in messages.
        schema: the keys it may have.

    Raises:
        ConfigError: it cannot be read, is not TOML, or holds a key or value that it may not.
    """
    try:
        # not blocking: opening a named pipe would wait for somebody to write
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as f:
            if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
                raise ConfigError(f"{shown}: cannot read it: it is not a regular file")
            data = f.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{shown}: cannot read it: {error.strerror}") from error
    return text_layer(data, shown, schema)


def text_layer(data: bytes, shown: str, schema: Schema) -> Layer:
    """Check the TOML document ``data``; see ``file_layer``."""
    import tomllib

    try:
        text = data.decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{shown}:{line}: not UTF-8 text, so not valid TOML") from None
    except tomllib.TOMLDecodeError as error:
        problem, _, place = str(error).partition(" (at ")
        words = place.replace(",", "").rstrip(")").split()
        line = int(words[1]) if words[:1] == ["line"] else max(1, len(data.splitlines()))
        raise ConfigError(f"{shown}:{line}: not valid TOML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{shown}: not valid TOML: nested too deeply") from None

    def origin(key: Key) -> str:
        from psync.config.lines import line_of

        return f"{shown}:{line_of(text, key)}"

    layer = Layer(origin)
    _check(layer, document, schema, (), schema)
    return layer


def single_layer(
    given: Mapping[str, object], keys: Mapping[str, tuple[Key, Convert]], label: str = ""
) -> Layer:
    """Return a layer of single values: environment variables or flags.

    Args:
        given: all there are; those not in ``keys``, None and "" are left out.
        keys: which of them stands for which key, and how to convert it.
        label: what to put before a name to say where a value came from.

    Raises:
        ConfigError: a value is wrong; the message names where it came from.
    """
    sources: dict[Key, str] = {}
    layer = Layer(lambda key: sources[key])
    for name, (key, convert) in keys.items():
        value = given.get(name)
        if value in (None, "", [], ()):
            continue
        sources[key] = f"{label}{name}"
        try:
            layer.values[key] = convert(value)
        except UsageError as error:
            raise ConfigError(f"{sources[key]}: {error.message}", hint=error.hint) from None
    return layer


def shown_path(path: str, home: str) -> str:
    """Return ``path`` as a message shows it: relative to the working directory, or to ``~``."""
    for base, instead in ((_working_directory(), ""), (home, "~/")):
        if base != "/" and path.startswith(f"{base}/"):
            return instead + path[len(base) + 1 :]
    return path


def dotted(key: Key) -> str:
    """Return a key as it is written in TOML."""
    return ".".join(
        name if name.replace("-", "a").replace("_", "a").isalnum() and name.isascii() else _q(name)
        for name in key
    )


def _q(name: str) -> str:
    inner = name if name.isprintable() and '"' not in name else ascii(name)[1:-1]
    return f'"{inner}"'


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed under us
        return "/"


def _check(
    layer: Layer, table: dict[str, Any], known: Schema | Names, at: Key, top: Schema
) -> None:
    layer.tables.add(at)
    for name, value in table.items():
        key = (*at, name)
        try:
            if isinstance(known, Names):
                known.check(name)
                rule: Convert | Schema | Names = known.then
            elif name in known:
                rule = known[name]
            else:
                raise UsageError("unknown key", hint=_suggest(name, at, known, top))
            if callable(rule):
                layer.values[key] = rule(value)
                continue
            if not isinstance(value, dict):
                from psync.config.values import kind

                raise UsageError(f"must be a table, not {kind(value)}")
        except UsageError as error:
            raise ConfigError(
                f"{layer.origin(key)}: {dotted(key)}: {error.message}", hint=error.hint
            ) from None
        _check(layer, value, rule, key, top)


def _suggest(name: str, at: Key, known: Schema, top: Schema) -> str:
    """Return "did you mean …?": a near key of this table, else the same or a near one elsewhere."""
    from difflib import get_close_matches

    here = get_close_matches(name, known, 1)
    if here:
        return f"did you mean {dotted((*at, here[0]))}?"
    everywhere = {key[-1]: key for key in _all_keys(top, ())}
    near = get_close_matches(name, everywhere, 1)
    if near:
        return f"did you mean {'.'.join(everywhere[near[0]])}?"
    return f"known here: {', '.join(known)}"


def _all_keys(schema: Schema, at: Key) -> list[Key]:
    found: list[Key] = []
    for name, rule in schema.items():
        key = (*at, name)
        found.append(key)
        if isinstance(rule, Names):
            rule, key = rule.then, (*key, "NAME")
        if isinstance(rule, dict):
            found += _all_keys(rule, key)
    return found


def stack(*layers: Layer | None) -> tuple[Layer, ...]:
    """Return the layers there are, the winning ones first."""
    return tuple(layer for layer in layers if layer is not None)


def get(layers: tuple[Layer, ...], key: Key, default: Any) -> Any:
    """Return the value of ``key`` from the first layer that has it."""
    for layer in layers:
        if key in layer.values:
            return layer.values[key]
    return default


def origin_of(layers: tuple[Layer, ...], key: str) -> str:
    """Return where the value of a dotted key came from, ``default`` where no layer has it."""
    parts = key.split(".")
    if parts[0] == "targets" and parts[-1] == "ssh" and get(layers, ("ssh",), None):
        key = "ssh"  # PSYNC_SSH stands above every target's own
    for layer in layers:
        for known in (*layer.values, *layer.tables):
            if ".".join(known) == key:
                return layer.origin(known)
    return "default"
