import pytest

from app.api.client_address import networks, visitor
from app.errors import ConfigurationError


def _visitor(peer: str | None, *forwarded: str, trusted: str = "") -> str:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    scope = {"type": "http", "client": None if peer is None else (peer, 1), "headers": headers}
    return visitor(scope, networks(trusted))


def test_nobody_is_believed_by_default() -> None:
    assert _visitor("10.0.0.7", "6.6.6.6") == "10.0.0.7"
    assert _visitor(None) == "unknown"
    assert _visitor(None, "6.6.6.6") == "unknown"


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ([], "10.0.0.7"),
        (["1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4"], "1.2.3.4"),  # what is left of a stranger, the stranger wrote
        (["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
        (["1.2.3.4, 10.0.0.9"], "1.2.3.4"),
        (["10.0.0.8, 10.0.0.9"], "10.0.0.8"),
        (["1.2.3.4:5678"], "1.2.3.4"),
        (["[2001:db8:1:2:3::4]:80"], "2001:db8:1:2::/64"),
        (["2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        (["::ffff:1.2.3.4"], "1.2.3.4"),
        (["garbage"], "10.0.0.7"),
        (["1.2.3.4, garbage"], "10.0.0.7"),
        (["1.2.3.4, 10.0.0.9, "], "10.0.0.7"),
        (["\xe9, 1.2.3.4"], "1.2.3.4"),
        (["1.2.3.4" + ", 10.0.0.9" * 1000], "10.0.0.9"),
        (["0x1020304"], "10.0.0.7"),
        (["fe80::1%eth0"], "fe80::/64"),
    ],
    ids=str,
)
def test_a_trusted_proxy_names_the_client(forwarded: list[str], expected: str) -> None:
    assert _visitor("10.0.0.7", *forwarded, trusted="10.0.0.0/24") == expected


def test_a_stranger_is_not_believed() -> None:
    assert _visitor("9.9.9.9", "1.2.3.4", trusted="10.0.0.0/24, ::1") == "9.9.9.9"


def test_behind_a_proxy_on_a_unix_socket() -> None:
    assert _visitor(None, "1.2.3.4", trusted="127.0.0.1") == "1.2.3.4"


def test_one_network_is_one_visitor() -> None:
    assert _visitor("2001:db8::1") == _visitor("2001:db8::ffff:1") != _visitor("2001:db8:0:1::1")


@pytest.mark.parametrize("setting", ["*", "0.0.0.0/0", "::/0", "proxy.local", "10.0.0.1/8", "10.0.0.0/33", "1.2.3"])
def test_what_cannot_be_trusted(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="TRUSTED_PROXIES"):
        networks(setting)
