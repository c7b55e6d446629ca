import pytest

from psync.errors import UsageError
from psync.sync.destination import SSHTarget


@pytest.mark.parametrize(
    "destination", ["", "-oProxyCommand=x", "u@-x", "@h", "a b", "h\n", "ssh://", "ssh://h:x"]
)
def test_what_is_no_destination(destination: str) -> None:
    with pytest.raises(UsageError, match="not an ssh destination"):
        SSHTarget(destination, ("ssh",), b"/c")


@pytest.mark.parametrize(
    ("destination", "address", "options"),
    [
        ("laptop", "laptop", ()),
        ("u@laptop.lan", "u@laptop.lan", ()),
        ("u@::1", "u@::1", ()),
        ("ssh://u@laptop:2222", "u@laptop", ("-p", "2222")),
        ("ssh://[::1]:22/", "::1", ("-p", "22")),
        ("ssh://laptop", "laptop", ()),
    ],
)
def test_what_is_one(destination: str, address: str, options: tuple[str, ...]) -> None:
    target = SSHTarget(destination, ("ssh",), b"/c")
    assert (target.address, target.port_options) == (address, options)
