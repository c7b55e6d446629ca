"""Configuration in layers: who wins, where each value came from, what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from psync.config import LimitsConfig, client_schema, load_client, load_server
from psync.config.layers import Names, Schema
from psync.config.server import server_schema
from psync.errors import ConfigError, UnknownTarget


class Home:
    """A user with a home directory and a project in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.project = path / "game"
        self.project.mkdir()
        self.environ = {"HOME": str(path)}

    def user(self, text: str) -> None:
        self.write(".config/psync/config.toml", text)

    def server(self, text: str) -> None:
        self.write(".config/psync/server.toml", text)

    def shared(self, text: str) -> None:
        self.write("game/psync.toml", text)

    def write(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def client(self, **flags: str | None):  # type: ignore[no-untyped-def]
        return load_client(
            project_root=os.fsencode(self.project),
            environ=self.environ,
            flags={f"--{name.replace('_', '-')}": value for name, value in flags.items()},
        )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_defaults_without_any_file() -> None:
    config = load_client(project_root=None, environ={"HOME": "/nowhere"})
    assert config.target == "local"
    assert config.targets == {}
    assert config.ssh == (b"ssh",)
    assert (config.include, config.env, config.assets) == ((), (), ())
    assert config.origin("target") == config.origin("run.env.A") == "default"
    assert config.find().name == "local"
    assert config.find().host == ""


def test_each_layer_wins_over_the_one_before(home: Home) -> None:
    home.user('# mine\ntarget = "mine"')
    config = home.client(on=None)
    assert (config.target, config.origin("target")) == ("mine", "~/.config/psync/config.toml:2")
    home.shared('\n\ntarget = "shared"')
    config = home.client(on="")
    assert (config.target, config.origin("target")) == ("shared", "~/game/psync.toml:3")
    home.environ["PSYNC_TARGET"] = "deck"
    config = home.client()
    assert (config.target, config.origin("target")) == ("deck", "environment PSYNC_TARGET")
    config = home.client(on="board")
    assert (config.target, config.origin("target")) == ("board", "--on")


def test_an_empty_variable_is_not_set(home: Home) -> None:
    home.environ["PSYNC_TARGET"] = ""
    assert home.client().target == "local"


def test_files_below_the_working_directory_are_named_from_there(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.project)
    home.shared("[sync]\ninclude = ['assets']")
    assert home.client().origin("sync.include") == "psync.toml:2"
    home.shared("[sync]\nexclude = ['*.o', '!x']")
    assert home.client().exclude == (b"*.o", b"!x")


def test_everything_a_client_can_be_told(home: Home) -> None:
    home.user(
        """
        [targets.deck]
        host = "deck@deck.lan"
        ssh = "ssh -p 2222 -o 'User Name=x'"
        connect = "direct"
        transport = "websocket"
        address = "deck.lan:8722"
        [targets.pi]
        """
    )
    home.shared(
        """
        [sync]
        include = ["assets", "données"]
        [run]
        on_disconnect = "stop:1h"
        assets = ["levels"]
        env.GREETING = "hello\\nworld"
        env."odd.name" = ""
        """
    )
    config = home.client()
    deck = config.find("deck")
    assert (deck.name, deck.host, deck.connect) == ("deck", "deck@deck.lan", "direct")
    assert deck.ssh == (b"ssh", b"-p", b"2222", b"-o", b"User Name=x")
    assert deck.address == ("deck.lan", 8722)
    assert deck.transport == "websocket"
    pi = config.find("pi")
    assert (pi.host, pi.ssh, pi.connect, pi.address) == ("pi", (b"ssh",), "auto", None)
    assert pi.transport == "ssh"
    assert config.include == (b"assets", "données".encode())
    assert config.assets == (b"levels",)
    assert config.env == ((b"GREETING", b"hello\nworld"), (b"odd.name", b""))
    assert config.origin("run.env.odd.name") == "~/game/psync.toml:8"
    assert config.origin("targets.deck.ssh") == "~/.config/psync/config.toml:4"
    assert config.origin("targets.pi") == "~/.config/psync/config.toml:8"
    assert config.origin("targets.pi.connect") == "default"


def test_variables_of_the_program_are_merged_one_by_one(home: Home) -> None:
    home.user('[run.env]\nA = "user"\nB = "user"')
    home.shared('[run.env]\nB = "project"\nC = "project"')
    assert home.client().env == ((b"A", b"user"), (b"B", b"project"), (b"C", b"project"))


def test_certificates_of_the_users_own_need_no_ssh(home: Home) -> None:
    own = 'address = "a:1"\nca = "/ca"\ncert = "/cert"\nkey = "/key"\n'
    home.user(f'[targets.a]\n{own}[targets.b]\n{own}transport = "ssh"')
    config = home.client()
    assert config.find("a").transport == "websocket"
    assert config.origin("targets.a.transport") == "default"
    assert config.find("b").transport == "ssh"


def test_psync_ssh_stands_above_every_target(home: Home) -> None:
    home.user('[targets.deck]\nssh = "ssh -v"')
    home.environ["PSYNC_SSH"] = "ssh -F 'my config'"
    config = home.client()
    assert config.ssh == config.find("deck").ssh == (b"ssh", b"-F", b"my config")
    assert config.find("local").ssh == config.ssh
    assert config.origin("targets.deck.ssh") == "environment PSYNC_SSH"


def test_a_project_cannot_redirect_a_target_of_the_user(home: Home) -> None:
    home.user('[targets.deck]\nhost = "mine"')
    home.shared('[targets.deck]\nhost = "theirs"\naddress = "theirs:1"\n[targets.board]')
    config = home.client()
    assert (config.find("deck").host, config.find("deck").address) == ("mine", None)
    assert config.find("board").host == "board"
    assert config.origin("targets.deck.address") == "default"


def test_a_project_may_not_name_ssh_commands(home: Home) -> None:
    home.shared('[targets.deck]\nhost = "deck"\nssh = "sh -c evil"')
    with pytest.raises(ConfigError) as caught:
        home.client()
    assert caught.value.message == (
        "~/game/psync.toml:3: targets.deck.ssh: a project may not say which command reaches a host"
    )
    assert "config.toml" in caught.value.hint


@pytest.mark.parametrize(
    ("configured", "detached", "grace"),
    [
        (None, False, 300.0),
        (None, True, None),
        ("keep", False, None),
        ("stop:2s", True, 2.0),
        ("stop:0s", False, 0.0),
    ],
)
def test_what_happens_on_disconnect(
    home: Home, configured: str | None, detached: bool, grace: float | None
) -> None:
    config = home.client(on_disconnect=configured)
    assert config.disconnect_grace(detached=detached) == grace


def test_an_unknown_target_is_named_with_its_origin(home: Home) -> None:
    home.shared('target = "dek"\n[targets.deck]')
    with pytest.raises(UnknownTarget) as caught:
        home.client().find()
    assert str(caught.value) == ("~/game/psync.toml:1: no target named 'dek'; did you mean deck?")
    with pytest.raises(UnknownTarget) as caught:
        home.client().find("board")
    assert str(caught.value) == "no target named 'board'; psync pair board makes one"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("\n[sync]\ninclde = []", "3: sync.inclde: unknown key; did you mean sync.include?"),
        ("include = []", "1: include: unknown key; did you mean sync.include?"),
        ("[run]\ninclude = []", "2: run.include: unknown key; did you mean sync.include?"),
        (
            "[targets.a]\ntransport = 'tcp'",
            "2: targets.a.transport: 'tcp' is neither ssh nor websocket",
        ),
        ("hots = 1", "1: hots: unknown key; did you mean targets.NAME.host?"),
        ("[targets.a]\nhots = 'x'", "2: targets.a.hots: unknown key; did you mean targets.a.host?"),
        ("zzz = 1", "1: zzz: unknown key; known here: target, targets, sync, run"),
        ('[run]\n"a.\\u001b" = 1', '2: run."a.\\x1b": unknown key; known here: '),
        ("[sync]\ninclude = 'x'", "2: sync.include: must be a list of paths, not a string"),
        ("[sync]\ninclude = [\n1]", "2: sync.include: must be a string, not a number"),
        ("[sync]\ninclude = ['']", "2: sync.include: a path must not be empty"),
        ("[sync]\nexclude = '*.o'", "2: sync.exclude: must be a list of patterns, not a string"),
        ("[sync]\nexclude = [' ']", "2: sync.exclude: a pattern must be one line"),
        ('[sync]\nexclude = ["a\\nb"]', "2: sync.exclude: a pattern must be one line"),
        ("sync = true", "1: sync: must be a table, not true or false"),
        ("target = 2020-01-01", "1: target: must be a string, not a date or time"),
        ("target = ''", "1: target: must not be empty nor hold control characters"),
        ("[run]\nenv = {A = 1}", "2: run.env.A: must be a string, not a number"),
        ("[run.env]\n'A=B' = 'x'", "2: run.env.\"A=B\": 'A=B' cannot name an environment variable"),
        ("[run]\non_disconnect = 'stop'", "2: run.on_disconnect: 'stop' is neither keep nor "),
        ("[targets.-x]", "1: targets.-x: '-x' cannot name a target"),
        ("[targets.'../x']", "1: targets.\"../x\": '../x' cannot name a target"),
        ("[targets.local]", "1: targets.local: local is psync's own daemon on this machine"),
        ("targets.a = 'b'", "1: targets.a: must be a table, not a string"),
        ("[targets.a]\nhost = '-oProxyCommand=x'", "2: targets.a.host: '-oProxyCommand=x' is not"),
        ("[targets.a]\nhost = 'a b'", "2: targets.a.host: 'a b' is not a host that ssh can reach"),
        ("[targets.a]\naddress = 'a'", "2: targets.a.address: 'a' has no port; write a:PORT"),
        ("[targets.a]\nconnect = 'x'", "2: targets.a.connect: 'x' is none of auto, direct and ssh"),
        ("target = 'a'\ntarget = 'b'", "2: not valid TOML: "),
        ("a = [\n1,\n", "2: not valid TOML: "),
        ("\n\n= 1", "3: not valid TOML: "),
        ("a = 1 b", "1: not valid TOML: "),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_key(home: Home, text: str, error: str) -> None:
    home.shared(text)
    with pytest.raises(ConfigError) as caught:
        home.client()
    assert str(caught.value).startswith(f"~/game/psync.toml:{error}")


def test_ssh_in_the_users_file_is_split_and_checked(home: Home) -> None:
    home.user('[targets.a]\nssh = "ssh \'x"')
    with pytest.raises(ConfigError, match=r"config\.toml:2: targets\.a\.ssh: .*no closing quot"):
        home.client()


def test_a_file_that_is_not_text(home: Home) -> None:
    home.shared("")
    (home.project / "psync.toml").write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigError, match=r"psync\.toml:2: not UTF-8 text"):
        home.client()


def test_a_directory_in_place_of_the_file(home: Home) -> None:
    (home.project / "psync.toml").mkdir()
    with pytest.raises(ConfigError, match=r"psync\.toml: cannot read it: Is a directory"):
        home.client()


@pytest.mark.parametrize("device", [False, True])
def test_no_regular_file_in_place_of_the_file(home: Home, device: bool) -> None:
    path = home.project / "psync.toml"
    if device:
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)  # opening it would wait for ever
    with pytest.raises(ConfigError, match="it is not a regular file"):
        home.client()


def test_nested_too_deeply(home: Home) -> None:
    home.shared(f"a = {'[' * 100_000}")
    with pytest.raises(ConfigError, match=r"psync\.toml.*: not valid TOML"):
        home.client()


def test_a_wrong_variable_or_flag_is_named(home: Home) -> None:
    with pytest.raises(ConfigError, match=r"^--on-disconnect: 'soon' is neither keep nor"):
        home.client(on_disconnect="soon")
    home.environ["PSYNC_SSH"] = "ssh '"
    with pytest.raises(ConfigError, match=r"^environment PSYNC_SSH: .*no closing quotation"):
        home.client()


def test_server_defaults() -> None:
    config = load_server(environ={"HOME": "/home/ada"})
    assert config.listen == (("127.0.0.1", 0),)
    assert config.origins == ()
    assert config.projects == b"/home/ada/.local/share/psync-server/projects"
    assert (config.log_keep, config.log_limit) == (64 * 1024**2, 1024**3)
    assert config.origin("listen") == "default"


def test_everything_a_server_can_be_told(home: Home) -> None:
    home.server(
        """
        listen = ["0.0.0.0:8722", "[::]:8722"]
        origins = ["https://Example.org:8443"]
        projects = "~/mirrors/"
        log_keep = 4096
        log_limit = "10MiB"
        """
    )
    config = load_server(environ=home.environ)
    assert config.listen == (("0.0.0.0", 8722), ("::", 8722))
    assert config.origins == ("https://example.org:8443",)
    assert config.projects == os.fsencode(home.path / "mirrors")
    assert (config.log_keep, config.log_limit) == (4096, 10 * 1024**2)
    assert config.origin("log_limit") == "~/.config/psync/server.toml:6"
    home.environ["PSYNC_LISTEN"] = "127.0.0.1:1"
    assert load_server(environ=home.environ).listen == (("127.0.0.1", 1),)
    config = load_server(environ=home.environ, flags={"--listen": ["[::1]:2", "127.0.0.1:2"]})
    assert config.listen == (("::1", 2), ("127.0.0.1", 2))
    assert config.origin("listen") == "--listen"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("listen = '::1:80'", "listen: '::1:80': an IPv6 address stands in brackets; write [::1]:"),
        ("listen = []", "listen: names no address; the default is"),
        ("listen = 80", "listen: must be a list of addresses, not a number"),
        ("origins = ['*']", "origins: '*' is not an origin; write for example https://"),
        ("origins = ['https://a/b']", "origins: 'https://a/b' is not an origin"),
        ("projects = 'here'", "projects: 'here' is not an absolute path; start it with"),
        ("log_keep = 1.5", "log_keep: must be a size, not a number"),
        ("log_limit = true", "log_limit: True is not a size"),
        ("lisen = 'x'", "lisen: unknown key; did you mean listen?"),
    ],
)
def test_a_wrong_server_file_is_refused(home: Home, text: str, error: str) -> None:
    home.server(text)
    with pytest.raises(ConfigError) as caught:
        load_server(environ=home.environ)
    assert str(caught.value).startswith(f"~/.config/psync/server.toml:1: {error}")


def test_a_server_home_has_its_own_file(home: Home) -> None:
    home.server("listen = '127.0.0.1:1'")
    home.write("apart/server.toml", "listen = '127.0.0.1:2'")
    environ = {**home.environ, "PSYNC_SERVER_HOME": str(home.path / "apart")}
    config = load_server(environ=environ)
    assert config.listen == (("127.0.0.1", 2),)
    assert config.projects == os.fsencode(home.path / "apart/data/projects")


def keys(schema: Schema) -> Iterator[str]:
    """Yield every key that a file may have, those of tables too."""
    for name, rest in schema.items():
        if isinstance(rest, Names):
            rest = rest.then
        else:
            yield name
        if isinstance(rest, dict):
            yield from keys(rest)


def test_the_page_tells_every_key_and_its_default() -> None:
    page = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text()
    client = set(keys(client_schema(str, "/home/me")))
    server = set(keys(server_schema("/home/me")))
    assert len(client) > 12
    assert len(server) > 20
    assert {
        name for name in client | server if f"`{name}`" not in page and f"[{name}]" not in page
    } == set()
    for field in LimitsConfig.__struct_fields__:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{field}`"))
        value = getattr(LimitsConfig(), field)
        assert isinstance(value, tuple) or str(int(value)) in row or f"{int(value) >> 10}KiB" in row
