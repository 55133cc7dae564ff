"""Whether an IP address belongs to the public internet, including IPv6 addresses that embed IPv4 hosts."""

import ipaddress
from collections.abc import Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# The only block that IANA has assigned to global unicast. Addresses outside of it (site-local, IPv4-compatible,
# -translated, NAT64 for local use) are routed by the local network, if at all.
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # upper half of an interface identifier whose lower half is an IPv4 address


def is_public(address: Address) -> bool:
    """Whether a packet to an address reaches the public internet, through any tunnel or translator."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in NAT64:
        return is_public(_ipv4(int(address)))
    return address in GLOBAL_UNICAST and address.is_global and all(map(is_public, _embedded(address)))


def _embedded(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 hosts that a packet to the address may be tunnelled to."""
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if int(address) >> 32 & 0xFFFF_FFFF in ISATAP:
        yield _ipv4(int(address))


def _ipv4(number: int) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(number & 0xFFFF_FFFF)
