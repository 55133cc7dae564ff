"""Which addresses of a name are public, hosts and origins in every spelling."""

import ipaddress

import pytest

from acestep.errors import RequestError
from pipeline.service.config import Access
from pipeline.service.hosts import Host, Origin, parse_host, parse_origin
from pipeline.service.public_addresses import is_public

PRIVATE = ("127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.1", "100.64.0.1", "0.0.0.0", "224.0.0.1")


def embedded(ipv4: str) -> dict[str, str]:
    """IPv6 addresses by the way in which each stands for an IPv4 host."""
    number = int(ipaddress.IPv4Address(ipv4))
    forms = {
        "mapped": 0xFFFF << 32 | number,
        "NAT64": 0x64_FF9B << 96 | number,
        "6to4": 0x2002 << 112 | number << 80 | 1,
        "ISATAP": 0x2606_4700 << 96 | 0x5EFE << 32 | number,
        "ISATAP, universal": 0x2606_4700 << 96 | 0x0200_5EFE << 32 | number,
    }
    return {name: str(ipaddress.IPv6Address(form)) for name, form in forms.items()}


def never_public(ipv4: str) -> dict[str, str]:
    """Forms that no router of the public internet takes, whatever IPv4 host is in them."""
    number = int(ipaddress.IPv4Address(ipv4))
    forms = {
        "compatible": number,
        "translated": 0xFFFF << 48 | number,
        "NAT64, local use": 0x64_FF9B_0001 << 80 | number,
        "NAT64, local use, /48 layout": 0x64_FF9B_0001 << 80 | number >> 16 << 64 | (number & 0xFFFF) << 40,
        "Teredo": 0x2001 << 112 | 0x0808_0808 << 64 | number ^ 0xFFFF_FFFF,
        "Teredo server": 0x2001 << 112 | number << 64 | 0x0808_0808 ^ 0xFFFF_FFFF,
    }
    return {name: str(ipaddress.IPv6Address(form)) for name, form in forms.items()}


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_host_is_private_in_every_form(address: str) -> None:
    public = {
        form: other
        for form, other in ({"plain": address} | embedded(address) | never_public(address)).items()
        if is_public(ipaddress.ip_address(other))
    }
    assert public == {}


def test_a_public_host_is_public_in_the_forms_that_reach_it() -> None:
    for form, address in ({"plain": "8.8.8.8"} | embedded("8.8.8.8")).items():
        assert is_public(ipaddress.ip_address(address)), form
    for form, address in never_public("8.8.8.8").items():
        assert not is_public(ipaddress.ip_address(address)), form
    assert is_public(ipaddress.ip_address("2606:4700:4700::1111"))


@pytest.mark.parametrize(
    "address", ["::1", "::", "fe80::1", "fec0::1", "fd00::1", "ff02::1", "100::1", "2001:db8::1"]
)
def test_what_is_no_unicast_of_the_internet(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("text", "host", "loopback"),
    [
        ("localhost", Host("localhost"), True),
        ("LOCALHOST.:8001", Host("localhost", 8001), True),
        ("a.localhost", Host("a.localhost"), True),
        ("127.0.0.1:80", Host("127.0.0.1", 80), True),
        ("127.9.9.9", Host("127.9.9.9"), True),
        ("[::1]:8001", Host("::1", 8001), True),
        ("[0:0:0:0:0:0:0:1]", Host("::1"), True),
        ("::1", Host("::1"), True),
        ("[::ffff:127.0.0.1]:1", Host("127.0.0.1", 1), True),
        ("localhost.evil.example", Host("localhost.evil.example"), False),
        ("127.0.0.1.evil.example", Host("127.0.0.1.evil.example"), False),
        ("notlocalhost", Host("notlocalhost"), False),
        ("2130706433", Host("2130706433"), False),
        ("0.0.0.0", Host("0.0.0.0"), False),
        ("8.8.8.8", Host("8.8.8.8"), False),
    ],
)
def test_hosts(text: str, host: Host, loopback: bool) -> None:
    assert parse_host(text) == host
    assert host.is_loopback is loopback


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "a..b", "a b", "a/b", "ä", "a@localhost", "http://localhost", "localhost:8001,evil.example"),
        *("localhost:", "localhost:0", "localhost:65536", "[::1", "[x]", "[localhost]", "::1]:80"),
    ],
)
def test_no_hosts(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_host(text)


def test_origins() -> None:
    assert parse_origin("HTTPS://Music.Example") == Origin("https", "music.example", 443)
    assert parse_origin("http://[::1]:3000") == Origin("http", "::1", 3000)
    for text in (
        "null",
        "",
        "https://",
        "https://a/",
        "https://a/b",
        "https://u@a",
        "ftp://a",
        "a",
        "https://a?",
        "file://",
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_origin(text)
    assert parse_origin("http://localhost:8001").is_at(parse_host("localhost.:8001"))
    assert parse_origin("https://music.example").is_at(parse_host("music.example"))
    assert not parse_origin("http://localhost:8001").is_at(parse_host("localhost:8002"))
    assert not parse_origin("http://localhost").is_at(parse_host("127.0.0.1"))


@pytest.mark.parametrize(
    "listed",
    [{"url_hosts": ("a:0",)}, {"url_hosts": ("http://a",)}, {"hosts": ("a/b",)}, {"origins": ("null",)},
     {"origins": ("a.example",)}, {"origins": ("*",)}, {"hosts": ("*",)}, {"hosts": ("",)}],
)  # fmt: skip
def test_names_that_allow_nothing_are_refused(listed: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(RequestError, match=f"access.{next(iter(listed))}"):
        Access(**listed)
