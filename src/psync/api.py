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

from psync.client.targets import TargetSpec
from psync.config import load_client
from psync.errors import PsyncError
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
        on_connection=on_connection,
    )


def target_spec(config: TargetConfig) -> TargetSpec:
    """Return what the engine has to know of a configured target."""
    return TargetSpec(
        name=config.name,
        host=config.host,
        ssh=tuple(os.fsdecode(word) for word in config.ssh),
        connect=config.connect,
        address=config.address,
    )
