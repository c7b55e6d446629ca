"""psync's configuration, and where each value came from.

Layers, the later ones win: defaults, the user's file (``$XDG_CONFIG_HOME/psync/config.toml``), the
project's (``psync.toml`` at its root), the environment (``PSYNC_…``), flags. Single variables of
``[run.env]`` are settings of their own. There is one exception: a target that the user's file
defines hides one of the same name in the project's file as a whole. The personal one was paired and
may be the only one that works here, and a project that was merely downloaded must not be able to
redirect it. For the same reason a project's file may name neither ssh commands nor files outside of
the project.

Reading is strict: what is not known, of a wrong type or not TOML is a ``ConfigError`` naming file,
line and key. Only the command line imports this; the engine gets plain values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from psync.config import values
from psync.config.layers import (
    Layer,
    Names,
    Schema,
    file_layer,
    get,
    origin_of,
    shown_path,
    single_layer,
    stack,
)
from psync.config.server import LimitsConfig, RetentionConfig, ServerConfig, load_server
from psync.config.values import (
    DEFAULT_SSH,
    parse_address,
    parse_duration,
    parse_listen,
    parse_on_disconnect,
    parse_size,
)
from psync.errors import UnknownTarget, UsageError
from psync.paths import ClientPaths, home_directory

__all__ = [
    "ClientConfig",
    "LimitsConfig",
    "RetentionConfig",
    "ServerConfig",
    "TargetConfig",
    "load_client",
    "load_server",
    "parse_address",
    "parse_duration",
    "parse_listen",
    "parse_on_disconnect",
    "parse_size",
]

PROJECT_FILE = "psync.toml"


class TargetConfig(msgspec.Struct, frozen=True):
    """How to reach a target.

    Attributes:
        name: its name; ``local`` is psync's own daemon on this machine.
        host: what ssh is told to reach; the target's name unless set, empty for ``local``.
        ssh: the ssh command and its options.
        connect: ``auto``, ``direct`` or ``ssh``.
        address: host and port of the daemon for a direct connection, where it is configured.
        ca: file with the authorities (PEM) that may vouch for the daemon, instead of pairing.
        cert: file with this client's certificate, and its chain if it has one.
        key: file with its private key.
        server_name: the name in the daemon's certificate, by default the host of ``address``.
        transport: ``ssh`` or ``websocket``: what carries the files. Unless set it is ssh, or the
            websocket where there are certificates instead of a pairing.
    """

    name: str
    host: str
    ssh: tuple[bytes, ...] = DEFAULT_SSH
    connect: str = "auto"
    address: tuple[str, int] | None = None
    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = None
    server_name: str | None = None
    transport: str = "ssh"


class ClientConfig(msgspec.Struct, frozen=True):
    """Everything configured for a client.

    Attributes:
        target: the name of the target to use (``target``); not checked, see ``find``.
        targets: the configured ones by name (``targets.NAME``), ``local`` not among them.
        ssh: the ssh command for hosts that are no target yet (``PSYNC_SSH``).
        include: paths that a sync sends besides the program (``sync.include``).
        exclude: patterns of what is left out of directories (``sync.exclude``).
        strip: ``debug`` or ``none``: what is left out of the program that is sent (``sync.strip``).
        env: names and values for the program's environment (``run.env``).
        assets: paths that every run's sync sends (``run.assets``).
        on_disconnect: ``keep`` or ``stop:DURATION`` where configured (``run.on_disconnect``).
        overflow: ``block`` or ``drop`` (``run.overflow``).
    """

    target: str
    targets: dict[str, TargetConfig]
    ssh: tuple[bytes, ...]
    include: tuple[bytes, ...]
    exclude: tuple[bytes, ...]
    strip: str
    env: tuple[tuple[bytes, bytes], ...]
    assets: tuple[bytes, ...]
    on_disconnect: str | None
    overflow: str
    layers: tuple[Layer, ...]

    def origin(self, key: str) -> str:
        """Return where the value of a dotted key came from.

        ``psync.toml:12``, ``environment PSYNC_TARGET``, ``--on``, or ``default``.
        """
        return origin_of(self.layers, key)

    def disconnect_grace(self, *, detached: bool) -> float | None:
        """Return for how many seconds a run waits for its client, None for ever.

        Unless configured a foreground run waits for five minutes, a detached one for ever.
        """
        if self.on_disconnect is None:
            return None if detached else 300.0
        return parse_on_disconnect(self.on_disconnect)

    def find(self, name: str | None = None) -> TargetConfig:
        """Return the target ``name``, or the one that the configuration chose.

        Raises:
            UnknownTarget: there is none of that name.
        """
        chosen = self.target if name is None else name
        if chosen == "local":
            return TargetConfig("local", "", self.ssh)
        if chosen in self.targets:
            return self.targets[chosen]
        from difflib import get_close_matches

        near = get_close_matches(chosen, [*self.targets, "local"], 1)
        origin = "default" if name is not None else self.origin("target")
        where = "" if origin == "default" else f"{origin}: "
        raise UnknownTarget(
            f"{where}no target named {chosen!r}",
            hint=f"did you mean {near[0]}?" if near else f"psync pair {chosen} makes one",
        )


def _refuse_ssh(value: object) -> None:
    raise UsageError(
        "a project may not say which command reaches a host",
        hint="put it into your own configuration, ~/.config/psync/config.toml, or into PSYNC_SSH",
    )


def _refuse_own(value: object) -> None:
    raise UsageError(
        "a project may not say which certificates count",
        hint="put it into your own configuration, ~/.config/psync/config.toml",
    )


def client_schema(ssh: Any, home: str | None = None, paths: Any = values.paths) -> Schema:
    """Return the keys of a client's file.

    Args:
        ssh: checks a target's ssh command.
        home: what ``~/`` stands for in a target's files; None where there may be none.
        paths: checks what is to be sent.
    """
    own = _refuse_own if home is None else partial(values.directory, home=home)
    return {
        "target": values.string,
        "targets": Names(
            values.target_name,
            {
                "host": values.destination,
                "ssh": ssh,
                "connect": values.connect,
                "transport": values.transport,
                "address": values.address,
                "ca": own,
                "cert": own,
                "key": own,
                "server_name": _refuse_own if home is None else values.dns_name,
            },
        ),
        "sync": {"include": paths, "exclude": values.patterns, "strip": values.strip},
        "run": {
            "env": Names(values.variable_name, values.variable),
            "on_disconnect": values.on_disconnect,
            "overflow": values.overflow,
            "assets": paths,
        },
    }


_CLIENT_ENVIRONMENT = {
    "PSYNC_TARGET": (("target",), values.string),
    "PSYNC_SSH": (("ssh",), values.command),
    "PSYNC_ON_DISCONNECT": (("run", "on_disconnect"), values.on_disconnect),
    "PSYNC_OVERFLOW": (("run", "overflow"), values.overflow),
}
_CLIENT_FLAGS = {
    "--on": (("target",), values.string),
    "--on-disconnect": (("run", "on_disconnect"), values.on_disconnect),
    "--overflow": (("run", "overflow"), values.overflow),
    "--strip": (("sync", "strip"), values.strip),
}


def load_client(
    *,
    project_root: bytes | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object] | None = None,
) -> ClientConfig:
    """Read a client's configuration.

    Args:
        project_root: absolute path of the project's root, None outside of any project.
        environ: the environment.
        flags: values of ``--on``, ``--on-disconnect``, ``--overflow``, ``--strip``; None, "" mean
            not given.

    Raises:
        ConfigError: something in it is wrong; the message names file, line and key.
    """
    home = home_directory(environ)
    personal = ClientPaths.from_environ(environ).config_file
    user = file_layer(personal, shown_path(personal, home), client_schema(values.command, home))
    project = None
    if project_root is not None:
        shared = f"{os.fsdecode(project_root).rstrip('/')}/{PROJECT_FILE}"
        inside = partial(values.paths_inside, root=project_root)
        schema = client_schema(_refuse_ssh, paths=inside)
        project = file_layer(shared, shown_path(shared, home), schema)
    if user and project:
        _hide_targets(project, user)
    layers = stack(
        single_layer(flags or {}, _CLIENT_FLAGS),
        single_layer(environ, _CLIENT_ENVIRONMENT, "environment "),
        project,
        user,
    )
    ssh = get(layers, ("ssh",), None)
    targets = {}
    for name in sorted({k[1] for la in layers for k in la.tables if k[:-1] == ("targets",)}):
        at = ("targets", name)
        default_transport = "ssh" if get(layers, (*at, "ca"), None) is None else "websocket"
        targets[name] = TargetConfig(
            name=name,
            host=get(layers, (*at, "host"), name),
            ssh=ssh or get(layers, (*at, "ssh"), DEFAULT_SSH),
            connect=get(layers, (*at, "connect"), "auto"),
            address=get(layers, (*at, "address"), None),
            ca=get(layers, (*at, "ca"), None),
            cert=get(layers, (*at, "cert"), None),
            key=get(layers, (*at, "key"), None),
            server_name=get(layers, (*at, "server_name"), None),
            transport=get(layers, (*at, "transport"), default_transport),
        )
    variables = {k[2] for la in layers for k in la.values if k[:2] == ("run", "env")}
    return ClientConfig(
        target=get(layers, ("target",), "local"),
        targets=targets,
        ssh=ssh or DEFAULT_SSH,
        include=get(layers, ("sync", "include"), ()),
        exclude=get(layers, ("sync", "exclude"), ()),
        strip=get(layers, ("sync", "strip"), "none"),
        env=tuple(
            (os.fsencode(name), get(layers, ("run", "env", name), b""))
            for name in sorted(variables)
        ),
        assets=get(layers, ("run", "assets"), ()),
        on_disconnect=get(layers, ("run", "on_disconnect"), None),
        overflow=get(layers, ("run", "overflow"), "block"),
        layers=layers,
    )


def _hide_targets(project: Layer, user: Layer) -> None:
    """Drop from ``project`` the targets that ``user`` defines too."""
    for keys in (project.values, project.tables):
        for key in [k for k in keys if k[:1] == ("targets",) and k[:2] in user.tables and k[1:]]:
            if isinstance(keys, dict):
                del keys[key]
            else:
                keys.discard(key)
