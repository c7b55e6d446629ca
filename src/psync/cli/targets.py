"""``psync targets``: what is configured and what is known of it."""

from __future__ import annotations

import os

from psync.api import target_spec
from psync.cli.arguments import Parser
from psync.cli.output import show
from psync.cli.runs import project_root
from psync.client.targets import LOCAL, TargetFiles, TargetRecord
from psync.config import ClientConfig, TargetConfig, load_client
from psync.errors import PsyncError
from psync.paths import ClientPaths
from psync.text import printable


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = Parser("targets", "[--json]", "List the targets; * marks the one that is the default.")
    parser.add_argument("--json", action="store_true", help="as a JSON list")
    options = parser.parse_args(argv)
    paths = ClientPaths.from_environ(os.environ)
    config = load_client(project_root=project_root(), environ=os.environ)
    rows = [_row(name, config, paths) for name in (*sorted(config.targets), LOCAL)]
    if options.json:
        import json

        show(f"{json.dumps(rows, indent=2)}\n")
        return 0
    name_width = max(len(str(row["name"])) for row in rows)
    host_width = max(len(str(row["host"] or "this machine")) for row in rows)
    lines = []
    for row in rows:
        mark = "*" if row["default"] else " "
        host = printable(str(row["host"] or "this machine"))
        lines.append(f"{mark} {row['name']:{name_width}}  {host:{host_width}}  {row['state']}\n")
    show("".join(lines))
    return 0


def _row(name: str, config: ClientConfig, paths: ClientPaths) -> dict[str, object]:
    target = config.targets.get(name) or TargetConfig(LOCAL, "", config.ssh)
    record: TargetRecord | None = None
    try:
        record = TargetFiles(paths, name).read()
    except PsyncError as error:
        state = str(error)
    else:
        if record is not None:
            facts = record.facts
            state = printable(f"paired: {facts.hostname}, {facts.system} {facts.machine}")
        elif name == LOCAL:
            state = "started on first use"
        else:
            state = f"not paired; {target_spec(target).pair_command}"
    return {
        "name": name,
        "host": target.host,
        "default": name == config.target,
        "connect": target.connect,
        "transport": target.transport,
        "address": None if target.address is None else list(target.address),
        "paired": record is not None,
        "hostname": None if record is None else record.facts.hostname,
        "system": None if record is None else record.facts.system,
        "machine": None if record is None else record.facts.machine,
        "state": state,
    }
