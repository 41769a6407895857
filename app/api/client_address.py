"""Who is the client? The address of the peer, unless the peer is a proxy that we trust to name it."""

import ipaddress
import re
from collections.abc import Sequence
from typing import TypeAlias

from starlette.datastructures import Headers
from starlette.types import Scope

from app.errors import ConfigurationError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_IPV6 = 6
_SUBNET = 64
"""A customer gets a network of this length at least, and can use any address in it."""
_LONGEST_CHAIN = 32
_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?")


def networks(setting: str) -> tuple[Network, ...]:
    """The proxies that TRUSTED_PROXIES names. Raises ConfigurationError."""
    found = []
    for name in filter(None, (part.strip() for part in setting.split(","))):
        try:
            network = ipaddress.ip_network(name)
        except ValueError:
            raise ConfigurationError(
                "TRUSTED_PROXIES: must be addresses or networks like 10.0.0.7,10.1.0.0/16; names are not looked up"
            ) from None
        if network.prefixlen == 0:
            raise ConfigurationError("TRUSTED_PROXIES: to trust everybody is to let each caller choose its address")
        found.append(network)
    return tuple(found)


def visitor(scope: Scope, trusted: Sequence[Network]) -> str:
    """The client as limits count it: an IPv4 address, or an IPv6 network."""
    address = _client(scope, trusted)
    if address is None:
        return "unknown"
    if address.version == _IPV6:
        return str(ipaddress.ip_network((address, _SUBNET), strict=False))
    return str(address)


def _client(scope: Scope, trusted: Sequence[Network]) -> Address | None:
    peer = _parse(scope["client"][0]) if scope.get("client") else None
    if not trusted or not (peer is None or _is_in(peer, trusted)):  # a Unix socket has no address, and only local peers
        return peer
    # The right-most address is what the proxy next to us saw; left of the first stranger anybody may have written
    # anything.
    client = peer
    chain = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
    for part in reversed(chain[-_LONGEST_CHAIN:]):
        address = _parse(part.strip())
        if address is None:
            break
        client = address
        if not _is_in(address, trusted):
            break
    return client


def _parse(text: str) -> Address | None:
    match = _WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address((match[1] or match[2]) if match else text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


def _is_in(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)
