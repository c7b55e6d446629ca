"""A daemon's configuration: ``server.toml``, ``PSYNC_LISTEN`` and ``--listen``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import TypeVar

import msgspec

from psync.config import values
from psync.config.layers import (
    Layer,
    Schema,
    file_layer,
    get,
    origin_of,
    shown_path,
    single_layer,
    stack,
)
from psync.paths import ServerPaths, home_directory

_Table = TypeVar("_Table", bound=msgspec.Struct)

_SERVER_ENVIRONMENT = {"PSYNC_LISTEN": (("listen",), values.listen)}
_SERVER_FLAGS = {"--listen": (("listen",), values.listen)}


class LimitsConfig(msgspec.Struct, frozen=True):
    """What a daemon lets others take up (``[limits]``).

    Attributes:
        handshake: seconds from the TCP connection to the end of the TLS and websocket handshakes.
        strangers: sockets that are not authenticated yet, in all.
        strangers_per_address: the same from one address.
        attempts: attempts to pair by invitation in a second, over all strangers.
        failures: failed handshakes that an address has for nothing.
        penalty: longest time for which one that goes on failing is shut out, in seconds; 0 is none.
        exempt: networks without penalties.
        message: largest control message, in bytes.
        arguments: largest sum of arguments and environment of a run, in bytes.
        words: most arguments, and most variables of its environment.
        connections: open connections of one client.
        runs: active runs of one client.
        starts: runs that one client may start in a minute.
    """

    handshake: float = 5.0
    strangers: int = 32
    strangers_per_address: int = 8
    attempts: int = 4
    failures: int = 10
    penalty: float = 64.0
    exempt: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    message: int = 256 << 10
    arguments: int = 64 << 10
    words: int = 1024
    connections: int = 64
    runs: int = 1024
    starts: int = 6000


class RetentionConfig(msgspec.Struct, frozen=True):
    """Which finished runs a daemon keeps (``[retention]``); the oldest go first.

    Attributes:
        runs: how many.
        age: seconds since their end, None for ever.
        size: bytes that all of them take on disk, None for as many as there are.
    """

    runs: int = 200
    age: float | None = None
    size: int | None = 4 << 30


class ServerConfig(msgspec.Struct, frozen=True):
    """Everything configured for a daemon.

    Attributes:
        listen: addresses and ports (``listen``); port 0 is a free one.
        origins: the web origins that may open a websocket (``origins``).
        projects: the directory of the mirrors (``projects``).
        log_keep: bytes of a run's output that stay on disk after clients have read them.
        log_limit: bytes of unread output after which a run blocks.
        cert: certificate chain (PEM) to show instead of one by psync's own CA (``cert``).
        key: its private key (``key``).
        client_ca: authorities whose clients are let in besides the paired ones (``client_ca``).
        limits: what others may take up.
        retention: which finished runs are kept.
    """

    listen: tuple[tuple[str, int], ...]
    origins: tuple[str, ...]
    projects: bytes
    log_keep: int
    log_limit: int
    cert: bytes | None
    key: bytes | None
    client_ca: bytes | None
    limits: LimitsConfig
    retention: RetentionConfig
    layers: tuple[Layer, ...]

    def origin(self, key: str) -> str:
        """Return where the value of a key came from; see ``ClientConfig.origin``."""
        return origin_of(self.layers, key)


def server_schema(home: str) -> Schema:
    """Return the keys of ``server.toml``."""
    return {
        "listen": values.listen,
        "origins": values.origins,
        "projects": partial(values.directory, home=home),
        "log_keep": values.size,
        "log_limit": values.size,
        "cert": partial(values.directory, home=home),
        "key": partial(values.directory, home=home),
        "client_ca": partial(values.directory, home=home),
        "limits": {
            "handshake": values.duration,
            "strangers": values.count,
            "strangers_per_address": values.count,
            "attempts": values.count,
            "failures": values.count,
            "penalty": values.duration,
            "exempt": values.networks,
            "message": values.size,
            "arguments": values.size,
            "words": values.count,
            "connections": values.count,
            "runs": values.count,
            "starts": values.count,
        },
        "retention": {"runs": values.count, "age": values.duration, "size": values.size},
    }


def load_server(
    *, environ: Mapping[str, str], flags: Mapping[str, object] | None = None
) -> ServerConfig:
    """Read a daemon's configuration.

    Args:
        environ: the environment.
        flags: values of ``--listen``, one string or a list; None and "" mean not given.

    Raises:
        ConfigError: something in it is wrong; the message names file, line and key.
    """
    home = home_directory(environ)
    paths = ServerPaths.from_environ(environ)
    layers = stack(
        single_layer(flags or {}, _SERVER_FLAGS),
        single_layer(environ, _SERVER_ENVIRONMENT, "environment "),
        file_layer(paths.config_file, shown_path(paths.config_file, home), server_schema(home)),
    )
    return ServerConfig(
        listen=get(layers, ("listen",), (("127.0.0.1", 0),)),
        origins=get(layers, ("origins",), ()),
        projects=get(layers, ("projects",), os.fsencode(paths.projects)),
        log_keep=get(layers, ("log_keep",), 64 << 20),
        log_limit=get(layers, ("log_limit",), 1 << 30),
        cert=get(layers, ("cert",), None),
        key=get(layers, ("key",), None),
        client_ca=get(layers, ("client_ca",), None),
        limits=_table(layers, "limits", LimitsConfig()),
        retention=_table(layers, "retention", RetentionConfig()),
        layers=layers,
    )


def _table(layers: tuple[Layer, ...], name: str, defaults: _Table) -> _Table:
    """Return ``defaults`` with what a table of the configuration says otherwise."""
    given = {
        field: value
        for field in defaults.__struct_fields__
        if (value := get(layers, (name, field), None)) is not None
    }
    return msgspec.structs.replace(defaults, **given)
