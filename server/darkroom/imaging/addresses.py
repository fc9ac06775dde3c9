"""From a checked URL to the IP addresses that may be connected to."""

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Sequence

from darkroom.domain import errors
from darkroom.domain.work import Watch
from darkroom.imaging.sources import CheckedUrl

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""Host and port to numeric addresses; raises `OSError`."""

_POLL_SECONDS = 0.1

# `is_global` of the standard library lets these through: tunnelled IPv4 (6to4 and its relay,
# Teredo), where the address inside is not looked at, and what is only written about (RFC 9637).
_CLOSED = tuple(
    ipaddress.ip_network(network)
    for network in ("2002::/16", "2001::/32", "192.88.99.0/24", "3fff::/20")
)
_PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
"""All that IANA has given out for use in public; NAT64 and old site-local addresses are not."""
_UNIQUE_LOCAL = ipaddress.ip_network("fc00::/7")
_CARRIER_NAT = ipaddress.ip_network("100.64.0.0/10")


def resolve(host: str, port: int) -> Sequence[str]:
    """The system's resolver. Raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(entry[4][0]) for entry in found]


def may_connect(address: Address, private_allowed: bool) -> bool:
    """Whether a host name may lead to this address.

    Never: multicast, unspecified, link-local (where clouds keep their metadata service),
    site-local, reserved, and tunnels that hide another address. Private, loopback and carrier-NAT
    addresses only where `private_allowed`, which is for hosts that the operator listed.
    """
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        return False
    if address.is_loopback:
        return private_allowed
    if any(address in network for network in _CLOSED if network.version == address.version):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address in _PUBLIC_IPV6:
            return address.is_global
        return private_allowed and address in _UNIQUE_LOCAL
    if address.is_global:
        return not address.is_reserved
    return private_allowed and (_is_rfc1918(address) or address in _CARRIER_NAT)


def _is_rfc1918(address: ipaddress.IPv4Address) -> bool:
    return any(
        address in ipaddress.ip_network(network)
        for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    )


def addresses_of(
    url: CheckedUrl, timeout_seconds: float, watch: Watch, resolver: Resolve = resolve
) -> list[str]:
    """Resolve once and judge every answer; connections then use these numbers, not the name.

    One forbidden answer refuses them all: a name that leads there at all is not to be trusted.
    A host that is an address got past the allow-list under exactly that address, so the operator
    asked for it; only multicast and the unspecified address stay closed.
    Raises `Failure` SOURCE_ADDRESS_NOT_ALLOWED or SOURCE_UNREACHABLE, and `Interrupted`.
    """
    if url.is_address:
        literal = ipaddress.ip_address(url.host)
        if literal.is_multicast or literal.is_unspecified:
            raise errors.source_address_not_allowed(url.host)
        return [str(literal)]
    found = _resolve_in_time(url, timeout_seconds, watch, resolver)
    addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
    if not addresses:
        raise errors.source_unreachable(url.shown, "its host has no address")
    if not all(may_connect(address, url.private_allowed) for address in addresses):
        raise errors.source_address_not_allowed(url.host)
    return list(dict.fromkeys(str(address) for address in addresses))


def _resolve_in_time(
    url: CheckedUrl, timeout_seconds: float, watch: Watch, resolver: Resolve
) -> Sequence[str]:
    # The C resolver can be neither interrupted nor given a time limit. Its thread may outlive
    # this call; it holds nothing but its own result.
    answers: list[Sequence[str]] = []

    def ask() -> None:
        try:
            answers.append(resolver(url.host, url.port))
        except (OSError, UnicodeError):
            answers.append(())

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    deadline = time.monotonic() + timeout_seconds
    while thread.is_alive() and time.monotonic() < deadline:
        watch.check()
        thread.join(_POLL_SECONDS)
    if not answers or not answers[0]:
        raise errors.source_unreachable(url.shown, "its host name cannot be resolved")
    return answers[0]
