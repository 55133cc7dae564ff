"""Hosts and origins as HTTP headers and settings write them."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)\.?(:(?P<port>[0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True)
class Host:
    """A host in one spelling (lower case, no trailing dot, IPv6 shortened and without brackets) and its port."""

    name: str
    port: int | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether the name always means this machine; no name server is asked."""
        try:
            return _canonical(self.name).is_loopback
        except ValueError:
            return self.name == "localhost" or self.name.endswith(".localhost")


@dataclass(frozen=True)
class Origin:
    """Where a web page comes from."""

    scheme: str
    name: str
    port: int

    def __str__(self) -> str:
        """As a browser writes it."""
        shown = f"[{self.name}]" if ":" in self.name else self.name
        return f"{self.scheme}://{shown}" + (f":{self.port}" if self.port != DEFAULT_PORTS[self.scheme] else "")

    def is_at(self, host: Host) -> bool:
        """Whether a page of this origin asks its own server, reached as ``host``. The scheme is not compared: a
        proxy with TLS before a service speaks plain HTTP to it."""
        return (self.name, self.port) == (host.name, host.port or DEFAULT_PORTS[self.scheme])


def parse_host(text: str) -> Host:
    """A host with or without a port: ``music.example``, ``music.example:8001``, ``[::1]:8001``, ``::1``.

    Raises:
        ValueError: it is none.
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
    """An origin such as ``https://music.example`` or ``http://localhost:3000``.

    Raises:
        ValueError: it is none; so is ``null``, which every sandboxed page sends.
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
