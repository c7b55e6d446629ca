"""What is known of a target: how it is to be reached, and what pairing brought.

    <data>/targets/NAME/target.json     where the daemon is, what it said about its host
    <data>/targets/NAME/ca.crt          the CA of that daemon, the only one trusted for it
    <data>/targets/NAME/client.crt      this client's certificate for it

``target.json`` is written last, so that a pairing that broke half-way is none.
"""

from __future__ import annotations

import os

import msgspec

from psync.errors import NotPaired, TrustError
from psync.model import HostFacts
from psync.paths import ClientPaths, private_directory, write_atomic
from psync.text import printable

FORMAT = 1
"""Version of ``target.json``."""

LOCAL = "local"
"""Name of the target that always exists: a daemon on this machine, started on demand."""


class OwnFiles(msgspec.Struct, frozen=True):
    """Certificates of the user's own, for a daemon that nothing was paired with.

    Attributes:
        ca: file with the authorities that may vouch for the daemon (PEM).
        cert: file with this client's certificate, and its chain.
        key: file with its private key.
        server_name: the name that the daemon's certificate must have.
    """

    ca: str
    cert: str
    key: str
    server_name: str


class TargetSpec(msgspec.Struct, frozen=True):
    """How a target is to be reached, as the configuration has it.

    Attributes:
        name: its name.
        host: what ssh is told to reach; empty for ``local``.
        ssh: the ssh command and its options.
        connect: ``auto``, ``direct`` or ``ssh``.
        address: host and port for direct connections, None to take what pairing found out.
        own: connect with these, and to ``address`` only.
        transport: ``ssh`` or ``websocket``: what carries the files.
    """

    name: str
    host: str = ""
    ssh: tuple[str, ...] = ("ssh",)
    connect: str = "auto"
    address: tuple[str, int] | None = None
    own: OwnFiles | None = None
    transport: str = "ssh"

    @property
    def local(self) -> bool:
        """Whether this is the daemon on this machine that psync itself starts."""
        return self.name == LOCAL

    @property
    def pair_command(self) -> str:
        """What to type to pair it (again)."""
        if self.host == self.name:
            return f"psync pair {self.host}"
        return f"psync pair {self.host} --name {self.name}"


class TargetRecord(msgspec.Struct, frozen=True):
    """What pairing and later connections found out about a target.

    Attributes:
        format: version of this record.
        host: what ssh was told to reach.
        hostname: the name or address that ssh made of it; for direct connections.
        server: absolute path of ``psync-server`` there.
        server_name: the name in the daemon's certificate.
        port: where the daemon listened last.
        listen: the addresses it listened on, as ``host:port``.
        facts: what the daemon says about its host.
    """

    format: int
    host: str
    hostname: str
    server: str
    server_name: str
    port: int
    listen: tuple[str, ...]
    facts: HostFacts


class TargetFiles:
    """The directory of one target. Reading needs no directory to exist.

    Args:
        paths: the client's directories.
        name: the target's name.
    """

    def __init__(self, paths: ClientPaths, name: str) -> None:
        self.name = name
        self.directory = paths.target(name)
        self.ca = f"{self.directory}/ca.crt"
        self.certificate = f"{self.directory}/client.crt"
        self._record = f"{self.directory}/target.json"

    def read(self) -> TargetRecord | None:
        """Return what is known, or None where the target was never paired.

        Raises:
            TrustError: the record is damaged.
        """
        try:
            with open(self._record, "rb") as file:
                record = msgspec.json.decode(file.read(256 * 1024), type=TargetRecord)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise TrustError(
                f"{printable(self._record)} is damaged: {printable(str(error))}",
                hint="pair the target again",
            ) from error
        if record.format != FORMAT:
            raise TrustError(
                f"{printable(self._record)} was written by another version of psync",
                hint="pair the target again",
            )
        return record

    def write(self, record: TargetRecord) -> None:
        """Replace what is known.

        Raises:
            ConfigError: the directory cannot be made, or is not private.
            OSError: it cannot be written; the old record stays.
        """
        private_directory(self.directory)
        write_atomic(self._record, msgspec.json.encode(record))

    def write_certificates(self, *, ca: bytes, certificate: bytes) -> None:
        """Replace what trust is made of; raises as ``write``."""
        private_directory(self.directory)
        write_atomic(self.ca, ca)
        write_atomic(self.certificate, certificate)


def own_record(spec: TargetSpec, known: TargetRecord | None) -> TargetRecord:
    """Return the record of a target with certificates of the user's own.

    Args:
        spec: the target; has ``own`` and ``address``.
        known: what an earlier connection found out.
    """
    assert spec.own is not None and spec.address is not None
    if known is not None:
        return msgspec.structs.replace(known, server_name=spec.own.server_name)
    nothing = HostFacts(spec.address[0], "", "", b"", None, "psync-server", "")
    return TargetRecord(
        format=FORMAT,
        host=spec.host,
        hostname=spec.address[0],
        server=nothing.server,
        server_name=spec.own.server_name,
        port=spec.address[1],
        listen=(),
        facts=nothing,
    )


def paired_names(paths: ClientPaths) -> list[str]:
    """Return the names of all targets that pairing left something of, in order."""
    try:
        return sorted(os.listdir(os.path.dirname(paths.target("-"))))
    except FileNotFoundError:
        return []


def not_paired(spec: TargetSpec) -> NotPaired:
    """Return the error for a target that is configured and was never paired."""
    return NotPaired(f"the target {spec.name} is not paired", hint=spec.pair_command)
