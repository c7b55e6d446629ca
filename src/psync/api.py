"""psync for programs: connect to a target, sync, start a run, read its output, wait for its end.

    async with psync.connect("handheld") as target:
        await target.sync(b"./game", assets=[b"assets"])
        run = await target.start([b"./game", b"--level", b"3"])
        async for piece in run.output():
            ...
        status = await run.wait()

This is where the configuration meets the engine, which gets plain values only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from psync.client.targets import OwnFiles, TargetSpec
from psync.config import load_client
from psync.errors import ConfigError, PsyncError
from psync.paths import ClientPaths

if TYPE_CHECKING:
    from psync.client.target import Target
    from psync.config import TargetConfig


def connect(
    target: str | None = None,
    *,
    project: bytes | None = None,
    environ: Mapping[str, str] | None = None,
    on_connection: Callable[[PsyncError | None], None] = lambda _error: None,
) -> Target:
    """Return a target; entering it (``async with``) connects.

    Args:
        target: its name; None takes what the configuration or ``PSYNC_TARGET`` names, else
            ``local``, a daemon on this machine that is started on demand.
        project: absolute path of the project whose ``psync.toml`` counts, None for none.
        environ: the environment to configure from, None for this process's.
        on_connection: called with the error when the connection was lost while runs were attached,
            and with None when it is there again.

    Raises:
        ConfigError: something in the configuration is wrong; names file, line and key.
        UnknownTarget: there is no target of that name.
        NotPaired: the target was never paired.

    Nothing is connected or started before the target is entered.
    """
    from psync.client.target import Target

    environ = os.environ if environ is None else environ
    config = load_client(project_root=project, environ=environ)
    return Target(
        target_spec(config.find(target)),
        ClientPaths.from_environ(environ),
        include=config.include,
        exclude=config.exclude,
        strip=config.strip == "debug",
        on_connection=on_connection,
    )


def target_spec(config: TargetConfig) -> TargetSpec:
    """Return what the engine has to know of a configured target.

    Raises:
        ConfigError: it has some of the settings for certificates of the user's own, and not all.
    """
    return TargetSpec(
        name=config.name,
        host=config.host,
        ssh=tuple(os.fsdecode(word) for word in config.ssh),
        connect=config.connect,
        address=config.address,
        own=_own_files(config),
        transport=config.transport,
    )


def _own_files(config: TargetConfig) -> OwnFiles | None:
    files = {"ca": config.ca, "cert": config.cert, "key": config.key}
    given = [name for name, path in files.items() if path is not None]
    if config.server_name is not None:
        given.append("server_name")
    if not given:
        return None
    for name, value in (*files.items(), ("address", config.address)):
        if value is None:
            raise ConfigError(
                f"targets.{config.name} sets {' and '.join(given)}, and not {name}",
                hint="ca, cert, key and address belong together; psync pair needs none of them",
            )
    assert config.ca is not None and config.cert is not None and config.key is not None
    assert config.address is not None
    return OwnFiles(
        ca=os.fsdecode(config.ca),
        cert=os.fsdecode(config.cert),
        key=os.fsdecode(config.key),
        server_name=config.server_name or config.address[0],
    )
