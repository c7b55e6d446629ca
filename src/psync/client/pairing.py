"""First trust: a certificate for this client, fetched over a way that is trusted already."""

from __future__ import annotations

import os

from psync.client.hosts import Host, LocalHost, SSHHost, enrol
from psync.client.restricted import restrict, unrestrict
from psync.client.targets import FORMAT, TargetFiles, TargetRecord, TargetSpec, paired_names
from psync.errors import PsyncError, TrustError
from psync.paths import ClientPaths
from psync.transport.enrolment import EnrolAnswer, EnrolRequest
from psync.transport.identity import ClientIdentity


def pair(
    spec: TargetSpec,
    paths: ClientPaths,
    *,
    server: str | None = None,
    restrict_ssh: bool = False,
) -> TargetRecord:
    """Pair with the daemon of a target, over the user's own ssh. Blocking.

    A daemon that does not run is started, so that the first run finds it. Doing it again replaces
    the certificate; the identity stays.

    Args:
        spec: the target; only its name, host and ssh command matter.
        paths: the client's directories.
        server: path of ``psync-server`` there, None to look in the usual places.
        restrict_ssh: from now on, reach the target with an ssh key of psync's own that is allowed
            only what psync needs; without, with the user's own ssh (again).

    Returns:
        What is known of the target now; it is on disk.

    Raises:
        SSHError: ssh could not log in or run the command.
        ToolMissing: there is no ssh here, or no ``psync-server`` there.
        PsyncError: the daemon refused or could not start, in its own words.
        TrustError: this client's own key cannot be used.
        ConfigError: a directory cannot be made, or is not private.

    Until everything has arrived, nothing of an earlier pairing is changed.
    """
    host = SSHHost(spec, paths, server, own=True)
    record = complete(host, spec, paths, hostname=host.hostname())
    client_id = ClientIdentity.load_or_create(paths.identity).client_id
    if restrict_ssh:
        restrict(host, spec, paths, client_id)
    else:
        unrestrict(host, spec, paths, client_id)
    return record


def pair_local(spec: TargetSpec, paths: ClientPaths, host: LocalHost) -> TargetRecord:
    """Pair with psync's own daemon on this machine; raises as ``pair``, ssh's errors excepted."""
    return complete(host, spec, paths, hostname="127.0.0.1")


def complete(host: Host, spec: TargetSpec, paths: ClientPaths, *, hostname: str) -> TargetRecord:
    """Exchange request and answer over ``host`` and write down what came of it."""
    answer = enrol(host, new_request(paths), spec.host or "this machine")
    return keep(answer, spec, paths, hostname=hostname)


def new_request(paths: ClientPaths) -> EnrolRequest:
    """Return what this client asks of a daemon; its identity is made where there is none.

    Raises:
        TrustError: this client's own key cannot be used.
        ConfigError: a directory cannot be made, or is not private.
    """
    identity = ClientIdentity.load_or_create(paths.identity)
    name = os.uname().nodename or "client"
    return EnrolRequest(name=name[:200], client_id=identity.client_id, csr=identity.csr(name))


def keep(
    answer: EnrolAnswer, spec: TargetSpec, paths: ClientPaths, *, hostname: str
) -> TargetRecord:
    """Write down what a pairing brought.

    Args:
        answer: the daemon's.
        spec: the target; only its name and host matter.
        paths: the client's directories.
        hostname: the name or address for direct connections.

    Raises:
        PsyncError: it cannot be written.
        ConfigError: a directory cannot be made, or is not private.
    """
    record = _record(answer, spec, hostname)
    files = TargetFiles(paths, spec.name)
    try:
        files.write_certificates(ca=answer.ca_cert, certificate=answer.client_cert)
        files.write(record)
        for other in same_daemon(paths, record):
            other.write_certificates(ca=answer.ca_cert, certificate=answer.client_cert)
    except OSError as error:
        raise PsyncError(
            f"what pairing brought cannot be written to {files.directory}: {error.strerror}",
            hint="make room or make it writable, then pair again",
        ) from error
    return record


def same_daemon(paths: ClientPaths, record: TargetRecord) -> list[TargetFiles]:
    """Return the other targets that lead to the same daemon, under other names.

    A daemon accepts only the newest certificate of a client, so they need it too.
    """
    found = []
    for name in paired_names(paths):
        files = TargetFiles(paths, name)
        try:
            known = files.read()
        except TrustError:
            continue  # damaged: nothing to keep alive; using it says so
        if known is not None and known.server_name == record.server_name:
            found.append(files)
    return found


def _record(answer: EnrolAnswer, spec: TargetSpec, hostname: str) -> TargetRecord:
    return TargetRecord(
        format=FORMAT,
        host=spec.host,
        hostname=hostname,
        server=answer.facts.server,
        server_name=answer.server_name,
        port=answer.port,
        listen=answer.listen,
        facts=answer.facts,
    )
