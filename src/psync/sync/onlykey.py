"""An ssh command that logs in with one key and nothing else, whatever the user's ssh would offer.

``-i`` only adds a key to those of the user's configuration, and with IdentitiesOnly and no agent
ssh still offers these. So ssh is asked (``ssh -G``, which connects nowhere) what the configuration
comes to for this destination, and gets the part that says where the host is and how it is known as
options, in place of the configuration. Hosts on the way there (ProxyJump) are the user's own
business: they are reached with the whole configuration, agent and all.

Another program than OpenSSH's own ``ssh`` (a wrapper of the user's) is not second-guessed: it gets
the options that OpenSSH would need.
"""

from __future__ import annotations

import os

from psync.sync.destination import SSHTarget
from psync.sync.process import Child
from psync.sync.shell import quote

ASK_TIMEOUT = 10.0
"""Seconds for ``ssh -G``; a ``Match exec`` in the configuration may take some of them."""

_KEPT = frozenset(
    """
    addressfamily batchmode bindaddress bindinterface casignaturealgorithms checkhostip ciphers
    compression connectionattempts fingerprinthash globalknownhostsfile hashknownhosts
    hostkeyalgorithms hostkeyalias hostname ipqos kexalgorithms knownhostscommand macs
    nohostauthenticationforlocalhost port proxycommand pubkeyacceptedalgorithms rekeylimit
    requiredrsasize revokedhostkeys sendenv setenv stricthostkeychecking tcpkeepalive
    updatehostkeys user userknownhostsfile verifyhostkeydns visualhostkey
    """.split()  # noqa: SIM905 - to be read, not to be fast
)
"""Options of ssh_config(5), as ``ssh -G`` prints them, that say where and who the host is."""


def only_key_command(target: SSHTarget) -> tuple[str, ...]:
    """Return the ssh command with its options that offers ``target.key`` and nothing else.

    Blocks while ssh reads its configuration.
    """
    assert target.key is not None
    own = (
        f'-oIdentityFile="{target.key.replace("%", "%%")}"',
        "-oIdentitiesOnly=yes",
        "-oIdentityAgent=none",
        "-oAddKeysToAgent=no",
        "-oPreferredAuthentications=publickey",
    )
    settings = _settings(target)
    if settings is None:
        return (*target.command, *own)
    return (target.command[0], "-F", "none", *own, *settings)


def _settings(target: SSHTarget) -> list[str] | None:
    """Return what the configuration comes to, as options; None where it cannot be asked."""
    if os.path.basename(target.command[0]) != "ssh":
        return None
    output = bytearray()
    argv = [*target.command, *target.port_options, "-G", "--", target.address]
    try:
        status = Child(argv, detached=True).wait(output.extend, lambda data: None, ASK_TIMEOUT)
    except (OSError, TimeoutError):
        return None
    if status != 0:
        return None
    return settings_of(bytes(output), target.command)


def settings_of(said: bytes, command: tuple[str, ...]) -> list[str] | None:
    """Return the options to take from the output of ``ssh -G``; None if it is something else.

    Args:
        said: the output.
        command: the ssh command, which leads to hosts on the way.
    """
    found = []
    known = False
    for line in said.splitlines():
        name, _, value = os.fsdecode(line).partition(" ")
        known = known or name == "hostname"
        if name in _KEPT and value:
            found.append(f"-o{name}={value}")
        elif name == "proxyjump" and value and value != "none":
            found.append(f"-oproxycommand={_jump(value, command)}")
    return found if known else None


def _jump(hosts: str, command: tuple[str, ...]) -> str:
    """Return the ProxyCommand that a ProxyJump amounts to: by way of all but the last to it."""
    *before, last = hosts.split(",")
    words = [*command]
    if before:
        words += ["-J", ",".join(before)]
    if "://" not in last and ":" in last:
        last = f"ssh://{last}"
    quoted = b" ".join(quote(os.fsencode(word)) for word in (*words, "-W"))
    text = os.fsdecode(quoted).replace("%", "%%")
    return f"{text} '[%h]:%p' -- {os.fsdecode(quote(os.fsencode(last)))}"
