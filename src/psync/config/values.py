"""From what a person wrote to what psync needs: durations, sizes, addresses, commands, names.

Every function here takes one value, from TOML or from a string, and either returns it in its final
type or raises ``UsageError`` with what is wrong in words. Whoever calls adds where it stood.
"""

from __future__ import annotations

import os

from psync.errors import UsageError

DEFAULT_SSH = (b"ssh",)

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _BYTES[f"{_letter}b"] = 1000**_power
    _BYTES[f"{_letter}ib"] = 1024**_power
_KINDS: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


def kind(value: object) -> str:
    """Return what a value from TOML is, in words."""
    return _KINDS.get(type(value), "a date or time")


def parse_duration(text: str) -> float:
    """Return the seconds that ``30s``, ``5m``, ``1h30m``, ``500ms``, ``1.5h`` or ``2d`` stand for.

    Raises:
        UsageError: it is none of these.
    """
    rest, seconds = text.strip(), 0.0
    if not rest:
        raise _no_duration(text)
    while rest:
        number = _leading(rest, "0123456789.")
        rest = rest[len(number) :]
        unit = _leading(rest, "abcdefghijklmnopqrstuvwxyz")
        rest = rest[len(unit) :]
        if unit not in _SECONDS or number.count(".") > 1 or not number.strip("."):
            raise _no_duration(text)
        seconds += float(number) * _SECONDS[unit]
    if seconds > 1e10:  # some three centuries; no clock takes much more
        raise _no_duration(text)
    return seconds


def parse_on_disconnect(text: str) -> float | None:
    """Return for how many seconds a run waits for its client: ``stop:DURATION``, or None: ``keep``.

    Raises:
        UsageError: it is neither.
    """
    word, colon, duration = text.partition(":")
    if word == "keep" and not colon:
        return None
    if word == "stop" and colon:
        return parse_duration(duration)
    raise UsageError(
        f"{text!r} is neither keep nor stop:DURATION", hint="write for example stop:5m"
    )


def parse_size(value: str | int) -> int:
    """Return the bytes that ``256MiB``, ``1GiB``, ``10MB``, ``4096`` or a plain number stand for.

    ``KiB`` and so on count by 1024, ``kB`` and so on by 1000.

    Raises:
        UsageError: it is no size, or negative.
    """
    text = str(value).strip()
    number = _leading(text, "0123456789")
    unit = text[len(number) :].strip().lower()
    if not 0 < len(number) < 16 or unit not in _BYTES or isinstance(value, bool):
        raise UsageError(f"{value!r} is not a size", hint="write for example 256MiB or 1GiB")
    return int(number) * _BYTES[unit]


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``192.0.2.1:port`` or ``[2001:db8::1]:port``.

    Raises:
        UsageError: it is none of these, or the port is not between 1 and 65535.
    """
    host, port = _host_and_port(text)
    if not port:
        raise UsageError(f"{text!r}: 0 is no port to connect to", hint="write host:PORT")
    return host, port


def parse_listen(text: str) -> tuple[str, int]:
    """Return address and port of ``127.0.0.1:8722``, ``[::1]:8722`` or ``localhost:8722``.

    Port 0 stands for a free port. An IPv6 address loses its brackets.

    Raises:
        UsageError: it is none of these; the message says which part is wrong.
    """
    host, port = _host_and_port(text)
    if host in ("", "*"):
        raise UsageError(
            f"{text!r} names no address",
            hint=f"0.0.0.0:{port} listens on every IPv4 address, [::]:{port} on every IPv6 one",
        )
    if ":" not in host and not host.strip("0123456789."):
        import ipaddress

        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise UsageError(
                f"{text!r}: {host!r} is not an IPv4 address", hint="write for example 127.0.0.1:0"
            ) from None
    return host, port


def string(value: object) -> str:
    """Return a string that is not empty and holds no control characters."""
    if not isinstance(value, str):
        raise UsageError(f"must be a string, not {kind(value)}")
    if not value or any(c < " " or "\x7f" <= c <= "\x9f" for c in value):
        raise UsageError("must not be empty nor hold control characters")
    return value


def target_name(value: object) -> str:
    """Return a name that a target can be given; it becomes the name of a directory."""
    name = value if isinstance(value, str) else string(value)
    good = name.replace("-", "").replace("_", "").replace(".", "")
    if not (good.isascii() and good.isalnum()) or name[0] in "-." or len(name) > 64:
        raise UsageError(
            f"{name!r} cannot name a target",
            hint="take up to 64 letters, digits, '-', '_' and '.', a letter or digit first",
        )
    if name == "local":
        raise UsageError(
            "local is psync's own daemon on this machine and cannot be changed",
            hint="take another name",
        )
    return name


def destination(value: object) -> str:
    """Return what ssh is told to reach: ``host``, ``user@host`` or a name of the ssh configuration.

    One that starts with a dash would be an option to ssh, and options can run commands.
    """
    host = string(value)
    if host.startswith("-") or "@-" in host or any(c.isspace() for c in host):
        raise UsageError(f"{host!r} is not a host that ssh can reach", hint="write [USER@]HOST")
    return host


def dns_name(value: object) -> str:
    """Return a name or address that a certificate can be for."""
    name = string(value)
    if not name.isascii() or not name.isprintable() or any(c in name for c in " /@,*[]"):
        raise UsageError(f"{name!r} is not the name in a certificate", hint="write a host's name")
    return name


def command(value: object) -> tuple[bytes, ...]:
    """Return the words of a command with options, split as a shell would, run without one."""
    import shlex

    text = string(value)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text!r}: {str(error).lower()}", hint="close the quotation") from None
    if not words or not words[0]:
        raise UsageError("names no command", hint="write for example ssh -p 2222")
    return tuple(os.fsencode(word) for word in words)


def connect(value: object) -> str:
    """Return ``auto``, ``direct`` or ``ssh``."""
    word = string(value)
    if word not in ("auto", "direct", "ssh"):
        raise UsageError(f"{word!r} is none of auto, direct and ssh")
    return word


def transport(value: object) -> str:
    """Return ``ssh`` or ``websocket``."""
    word = string(value)
    if word not in ("ssh", "websocket"):
        raise UsageError(f"{word!r} is neither ssh nor websocket")
    return word


def address(value: object) -> tuple[str, int]:
    """Return host and port of an address to connect to."""
    return parse_address(string(value))


def on_disconnect(value: object) -> str:
    """Return ``keep`` or ``stop:DURATION`` as it stands, once it is known to be right."""
    text = string(value)
    parse_on_disconnect(text)
    return text


def overflow(value: object) -> str:
    """Return ``block`` or ``drop``."""
    word = string(value)
    if word not in ("block", "drop"):
        raise UsageError(f"{word!r} is neither block nor drop")
    return word


def strip(value: object) -> str:
    """Return ``debug`` or ``none``."""
    word = string(value)
    if word not in ("debug", "none"):
        raise UsageError(f"{word!r} is neither debug nor none")
    return word


def duration(value: object) -> float:
    """Return the seconds that a duration such as ``5s`` stands for."""
    return parse_duration(string(value))


def count(value: object) -> int:
    """Return a number of things: a whole number from 0 to a billion."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"must be a number, not {kind(value)}")
    if not 0 <= value <= 10**9:
        raise UsageError(f"{value} is not between 0 and a billion")
    return value


def paths(value: object) -> tuple[bytes, ...]:
    """Return a list of paths as bytes."""
    found = tuple(variable(item) for item in _items(value, "paths"))
    if b"" in found:
        raise UsageError("a path must not be empty", hint='"." is the directory itself')
    return found


def patterns(value: object) -> tuple[bytes, ...]:
    """Return a list of patterns as bytes, each of one line."""
    found = tuple(variable(item) for item in _items(value, "patterns"))
    if any(b"\n" in item or not item.strip() for item in found):
        raise UsageError("a pattern must be one line", hint='such as "*.o" or "/build/"')
    return found


def paths_inside(value: object, root: bytes) -> tuple[bytes, ...]:
    """Return a list of paths that lead to something in the directory ``root``, links followed."""
    found = paths(value)
    top = os.path.realpath(root).rstrip(b"/")
    for path in found:
        if not (os.path.realpath(os.path.join(root, path)) + b"/").startswith(top + b"/"):
            raise UsageError(
                f"{os.fsdecode(path)!r} leads out of the project",
                hint="a project may not say which other files of yours are sent; "
                "name it with --assets, or in ~/.config/psync/config.toml",
            )
    return found


def directory(value: object, home: str) -> bytes:
    """Return an absolute directory; ``~/`` stands for ``home``."""
    path = string(value)
    if path.startswith("~/"):
        path = home.rstrip("/") + path[1:]
    if not path.startswith("/"):
        raise UsageError(f"{path!r} is not an absolute path", hint="start it with / or ~/")
    return os.fsencode(path.rstrip("/") or "/")


def variable(value: object) -> bytes:
    """Return the value of an environment variable; it may be empty and hold newlines."""
    if not isinstance(value, str):
        raise UsageError(f"must be a string, not {kind(value)}")
    if "\0" in value:
        raise UsageError("must not hold a NUL character")
    return os.fsencode(value)


def variable_name(value: object) -> str:
    """Return a name that an environment variable can have."""
    if not isinstance(value, str) or not value or "=" in value or "\0" in value:
        raise UsageError(f"{value!r} cannot name an environment variable")
    return value


def listen(value: object) -> tuple[tuple[str, int], ...]:
    """Return the addresses to listen on, from a string or a list of strings."""
    items = [value] if isinstance(value, str) else _strings(value, "addresses")
    if not items:
        raise UsageError("names no address", hint='the default is "127.0.0.1:0"')
    return tuple(parse_listen(item) for item in items)


def origins(value: object) -> tuple[str, ...]:
    """Return the web origins to let in, each ``SCHEME://HOST[:PORT]`` as browsers send it."""
    found = []
    for item in _strings(value, "origins"):
        scheme, colon, rest = item.partition("://")
        if not colon or not scheme or not rest or any(c in rest for c in "/ *?#@"):
            raise UsageError(
                f"{item!r} is not an origin", hint="write for example https://example.org"
            )
        found.append(item.lower())
    return tuple(found)


def networks(value: object) -> tuple[str, ...]:
    """Return a list of networks, such as ``192.0.2.0/24`` or ``2001:db8::/32``."""
    import ipaddress

    found = _strings(value, "networks")
    for item in found:
        try:
            ipaddress.ip_network(item)
        except ValueError:
            raise UsageError(
                f"{item!r} is not a network", hint="write for example 192.168.1.0/24"
            ) from None
    return tuple(found)


def size(value: object) -> int:
    """Return a number of bytes."""
    if not isinstance(value, (str, int)):
        raise UsageError(f"must be a size, not {kind(value)}", hint='write for example "256MiB"')
    return parse_size(value)


def _items(value: object, what: str) -> list[object]:
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"must be a list of {what}, not {kind(value)}")
    return list(value)


def _strings(value: object, what: str) -> list[str]:
    return [string(item) for item in _items(value, what)]


def _leading(text: str, characters: str) -> str:
    return text[: len(text) - len(text.lstrip(characters))]


def _no_duration(text: str) -> UsageError:
    return UsageError(f"{text!r} is not a duration", hint="write for example 30s, 5m or 1h30m")


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise UsageError(f"{text!r} has no port", hint=f"write {text}:PORT")
    if host.startswith("["):
        host, bracket = host[1:], host[-1]
        import ipaddress

        try:
            if bracket != "]":
                raise ValueError(host)
            host = host[:-1]
            ipaddress.IPv6Address(host)
        except ValueError:
            raise UsageError(
                f"{text!r}: {host!r} is not an IPv6 address", hint="write for example [::1]:8722"
            ) from None
    elif ":" in host:
        raise UsageError(
            f"{text!r}: an IPv6 address stands in brackets", hint=f"write [{host}]:{port}"
        )
    elif host.startswith("-") or any(c.isspace() or not c.isprintable() for c in host):
        raise UsageError(f"{text!r}: {host!r} is not the name of a host")
    if not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        raise UsageError(
            f"{text!r}: {port!r} is not a port", hint="a port is a number from 0 to 65535"
        )
    return host, int(port)
