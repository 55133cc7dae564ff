"""Configuration of a service: model, output, access, limits and storage."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from acestep.constants import MAX_SOURCE_SECONDS
from acestep.errors import RequestError
from pipeline.catalogue.presets import Preset
from pipeline.cluster.spec import ClusterSpec
from pipeline.metrics.spec import MetricsSpec
from pipeline.service.hosts import parse_host, parse_origin


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of all together.

    upload_mb: size of a request's body with files, and of a file fetched from a URL, in 10^6 bytes.
    body_kb: size of a JSON body, in 10^3 bytes.
    source_seconds: duration of a source or a reference.
    caption_characters, lyrics_characters: length of each text; the model itself uses fewer (see its notes).
    stages: number of stages of one request.
    waiting: number of covers in the queue; further requests are refused with 429.
    wait_s: how long a request without ``async`` is kept open, in seconds.
    fetch_s: timeout for fetching a URL, in seconds.
    header_s, body_s: timeouts for receiving the header and the body of a request, in seconds.
    idle_s: how long a client may send or receive nothing (less than 1 kB a second), in seconds.
    source_timeout_s: how long reading a source from a folder or bucket may stall, in seconds.
    """

    upload_mb: float = 200.0
    body_kb: float = 1000.0
    source_seconds: float = MAX_SOURCE_SECONDS
    caption_characters: int = 5_000
    lyrics_characters: int = 20_000
    stages: int = 8
    waiting: int = 100
    wait_s: float = 3600.0
    fetch_s: float = 60.0
    header_s: float = 20.0
    body_s: float = 1800.0
    idle_s: float = 30.0
    source_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise RequestError("out_of_range", "must be above zero", field=f"limits.{name}", value=value)
        if self.source_seconds > MAX_SOURCE_SECONDS:
            remedy = f"at most {MAX_SOURCE_SECONDS:g}"
            reason = "is more than the models know"
            raise RequestError("out_of_range", reason, remedy, "limits.source_seconds", self.source_seconds)


@dataclass(frozen=True)
class Access:
    """Sources that a request may name, and hosts and web pages that may use the service.

    roots: readable folders of this machine, or URIs such as ``s3://bucket/music``; none by default.
    url_hosts: hosts that ``http`` and ``https`` sources may come from, as ``host`` or ``host:port``.
    hosts: names of the service besides those of loopback. If any is listed, or on loopback without keys, requests
        under other names are refused.
    origins: origins of other web pages, as ``https://host:port``, that may use the service from a browser.
    """

    roots: tuple[str, ...] = ()
    url_hosts: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if not all(value.strip() for value in values):
                remedy = "is a shell variable not set?"
                raise RequestError("invalid_value", "holds an empty name", remedy, f"access.{name}")
        for name in ("url_hosts", "hosts"):
            _each(name, getattr(self, name), parse_host, "host or host:port")
        _each("origins", self.origins, parse_origin, "https://host or https://host:port")


def _each(name: str, values: tuple[str, ...], parse: Callable[[str], object], form: str) -> None:
    for value in values:
        try:
            parse(value)
        except ValueError:
            reason = f"access.{name}: {value!r} is not understood"
            raise RequestError("invalid_value", reason, f"write {form}") from None


@dataclass(frozen=True)
class StoreSpec:
    """Limits of the files that a service keeps: uploads, covers, request records, batches.

    The least recently used file is removed first; files in use are never removed.

    max_gb: total size, in 10^9 bytes; less on a smaller disk.
    keep_days: after the last use; None for no limit.
    """

    max_gb: float = 50.0
    keep_days: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise RequestError("out_of_range", "must be above zero", field=f"store.{name}", value=value)

    @property
    def max_bytes(self) -> float:
        return self.max_gb * 1e9

    @property
    def keep_s(self) -> float:
        return math.inf if self.keep_days is None else self.keep_days * 86_400


@dataclass(frozen=True)
class ServiceSpec:
    """Configuration of a service.

    output: folder of uploads, covers, result rows and requests; any location that a job's output may have.
    host, port: listening address; any host but loopback is reachable from other machines.
    page: serve the Cover page as well, which needs the extra ``ui``.
    repair: move damaged result files aside, and recover their covers when they are requested.
    presets: offered on the page.
    """

    output: str
    model: str = "demo"
    variant: str | None = None
    adapter: str | None = None
    adapter_scale: float = 1.0
    compiled: bool = False
    language_model: str | None = None
    device: str | None = None
    dtype: str | None = None
    host: str = "127.0.0.1"
    port: int = 8001
    page: bool = True
    max_attempts: int = 3
    repair: bool = False
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    store: StoreSpec = field(default_factory=StoreSpec)
    cluster: ClusterSpec = field(default_factory=ClusterSpec)
    metrics: MetricsSpec = field(default_factory=MetricsSpec)
    presets: tuple[Preset, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65_535:
            raise RequestError("out_of_range", field="port", value=self.port, allowed="1..65535")
        try:
            parse_host(self.host)
        except ValueError:
            remedy = "write one such as 127.0.0.1 or ::1"
            raise RequestError("invalid_value", "is no address", remedy, "host", self.host) from None
        if self.max_attempts < 2:
            reason = "is too small: a death may be a neighbour's fault"
            raise RequestError("invalid_value", reason, "allow at least 2", "max_attempts", self.max_attempts)
