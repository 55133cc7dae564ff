"""Fetches sources from listed hosts over HTTP, connecting to the very address that was checked."""

import http.client
import ipaddress
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO
from urllib.parse import SplitResult, urlsplit

from pipeline.service.config import Limits
from pipeline.service.problem_details import ProblemError
from pipeline.service.public_addresses import Address, is_public
from pipeline.service.uploads import UnsavedUpload, UploadStore
from pipeline.storage.transient_errors import is_disk_full

PORTS = {"http": 80, "https": 443}
CHUNK_BYTES = 1 << 16
SEND = "send the file instead"


@contextmanager
def fetch(
    field: str, value: str, hosts: Sequence[str], limits: Limits, uploads: UploadStore
) -> Iterator[UnsavedUpload]:
    """Fetch a source as an unsaved upload.

    Args:
        hosts: see ``Access.url_hosts``. An entry that is an IP address may be private; a name must resolve to a
            public address.

    Raises:
        ProblemError: 413 larger than ``limits.upload_mb``; 422 the host is not listed, or the download failed.
    """
    parts, port = _parts(field, value)
    listed = _listed(parts, port, hosts)
    if listed is None:
        reason = f"is at {parts.hostname}:{port}, from which this service fetches nothing"
        remedy = "send the file, or have the host added to access.url_hosts"
        raise ProblemError("not_allowed", reason, remedy, field, value)
    until = time.monotonic() + limits.fetch_s
    address = _address(field, value, parts.hostname or "", port, listed)
    with tempfile.TemporaryFile() as file:
        try:
            _download(field, value, parts, port, str(address), limits, until, file)
        except (http.client.HTTPException, OSError) as error:
            if is_disk_full(error):
                raise  # the service's own disk is full
            late = time.monotonic() >= until
            reason = f"it took longer than {limits.fetch_s:g} s" if late else type(error).__name__
            raise _unreachable(field, value, reason) from None
        with uploads.draft(file) as draft:
            yield draft


def _parts(field: str, value: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(value)
        port = PORTS[parts.scheme] if parts.port is None else parts.port
        plain = port and parts.hostname and parts.username is None and parts.password is None
        if not plain or any(ord(c) <= 32 or ord(c) > 126 for c in value) or "\\" in value:
            raise ValueError
    except (ValueError, KeyError):
        remedy = "write it as https://host/path, without user, password, spaces or port 0"
        raise ProblemError("invalid_value", "is no address of a file", remedy, field, value) from None
    return parts, port


def _listed(parts: SplitResult, port: int, hosts: Sequence[str]) -> str | None:
    """The entry of the list that allows a host, or None."""
    host = (parts.hostname or "").rstrip(".").lower()
    shown = f"[{host}]" if ":" in host else host
    names = {f"{shown}:{port}", *({shown, host} if port == PORTS[parts.scheme] else ())}
    return next((entry for entry in hosts if entry.lower() in names), None)


def _address(field: str, value: str, host: str, port: int, listed: str) -> Address:
    """The address to connect to, resolved once, so that DNS cannot answer twice; 422 where not public."""
    literal = _literal(listed)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _unreachable(field, value, "its name is not known") from None
    addresses = [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found]
    for address in addresses:
        if address == literal or is_public(address):
            return address
    raise ProblemError("not_allowed", f"leads to an address that is not public ({host})", SEND, field, value)


def _literal(listed: str) -> Address | None:
    """The IP address of a list entry, None if the entry is a name."""
    try:
        return ipaddress.ip_address(urlsplit(f"//{listed}").hostname or listed)
    except ValueError:
        return None


def _download(
    field: str,
    value: str,
    parts: SplitResult,
    port: int,
    address: str,
    limits: Limits,
    until: float,
    file: BinaryIO,
) -> None:
    max_bytes = int(limits.upload_mb * 1e6)
    too_large = ProblemError("too_large", f"is larger than {max_bytes} bytes", "cut it", field, value)
    with ExitStack() as stack:
        connection = stack.enter_context(_connected(parts, port, address, until))
        connection.putrequest(
            "GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), skip_host=True
        )
        for name, text in (("Host", parts.netloc), ("User-Agent", "restyle"), ("Connection", "close")):
            connection.putheader(name, text)
        connection.endheaders()
        reply = stack.enter_context(connection.getresponse())
        if 300 <= reply.status < 400:
            raise _unreachable(field, value, "it leads on to another address; give that one")
        if reply.status != 200:
            raise _unreachable(field, value, f"it answers {reply.status}")
        if (reply.length or 0) > max_bytes:
            raise too_large
        read = 0
        while chunk := reply.read1(CHUNK_BYTES):
            read += len(chunk)
            if read > max_bytes:
                raise too_large
            file.write(chunk)
        _left(until)  # a closed connection looks like the end of a body without a length
        if reply.length:
            raise http.client.IncompleteRead(b"", reply.length)


@contextmanager
def _connected(parts: SplitResult, port: int, address: str, until: float) -> Iterator[http.client.HTTPConnection]:
    """A connection that is closed at ``until``; a socket timeout alone would restart with each byte."""
    connection = http.client.HTTPConnection(parts.hostname or "", port)
    stream = socket.create_connection((address, port), timeout=_left(until))

    def end() -> None:
        with suppress(OSError):  # it is over already
            socket.socket.shutdown(stream, socket.SHUT_RDWR)

    ended = threading.Timer(_left(until), end)
    ended.daemon = True
    ended.start()
    try:
        if parts.scheme == "https":
            stream = ssl.create_default_context().wrap_socket(
                stream, server_hostname=parts.hostname, do_handshake_on_connect=False
            )
            stream.do_handshake()
        connection.sock = stream
        yield connection
    finally:
        ended.cancel()
        stream.close()


def _left(until: float) -> float:
    """Seconds until the deadline; raises TimeoutError after it."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _unreachable(field: str, value: str, reason: str) -> ProblemError:
    return ProblemError("unreachable", f"cannot be fetched: {reason}", SEND, field, value.partition("?")[0])
