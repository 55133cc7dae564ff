"""Hosts and origins of HTTP headers and settings."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)\.?(:(?P<port>[0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True)
class Host:
    """A normalized host (lower case, no trailing dot, IPv6 compressed without brackets) and its port."""

    name: str
    port: int | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether the name always means this machine, without a DNS lookup."""
        try:
            return _canonical(self.name).is_loopback
        except ValueError:
            return self.name == "localhost" or self.name.endswith(".localhost")


@dataclass(frozen=True)
class Origin:
    """The origin of a web page."""

    scheme: str
    name: str
    port: int

    def __str__(self) -> str:
        """The origin as browsers write it."""
        shown = f"[{self.name}]" if ":" in self.name else self.name
        return f"{self.scheme}://{shown}" + (f":{self.port}" if self.port != DEFAULT_PORTS[self.scheme] else "")

    def is_at(self, host: Host) -> bool:
        """Whether the origin is the server's own, reached as ``host``. Schemes are not compared, since a TLS proxy
        speaks plain HTTP to the service."""
        return (self.name, self.port) == (host.name, host.port or DEFAULT_PORTS[self.scheme])


def parse_host(text: str) -> Host:
    """Parse a host with or without a port: ``music.example``, ``music.example:8001``, ``[::1]:8001``, ``::1``.

    Raises:
        ValueError: the text is not a host.
    """
    lowered = text.lower()
    try:
        return Host(str(_canonical(lowered)))
    except ValueError:
        pass
    found = _HOST.fullmatch(lowered)
    if found is None:
        raise ValueError(f"{text!r} is no host")
    name, port = found["name"], int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 65_536:
        raise ValueError(f"{text!r}: port {port} is out of range")
    try:
        name = str(_canonical(name.strip("[]")))
    except ValueError:
        if name.startswith("["):
            raise
    return Host(name, port)


def parse_origin(text: str) -> Origin:
    """Parse an origin such as ``https://music.example`` or ``http://localhost:3000``.

    Raises:
        ValueError: the text is not an origin; nor is ``null``, which sandboxed pages send.
    """
    parts = urlsplit(text)
    scheme = parts.scheme.lower()
    if scheme not in DEFAULT_PORTS or text.lower() != f"{scheme}://{parts.netloc.lower()}":
        raise ValueError(f"{text!r} is no origin")
    host = parse_host(parts.netloc)
    return Origin(scheme, host.name, host.port or DEFAULT_PORTS[scheme])


def _canonical(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
